"""Hostile answers for `math`, made by mutation of real ones: no exception, no hang, no growth, nothing touched.

    python -m evals.verifiers.fuzz [--inputs 1000000] [--seed 0] [--data FOLDER]     mutation, one process
    python -m evals.verifiers.fuzz --guided [--inputs 1000000]                       coverage-guided (atheris)

An audit hook fails the run when anything is opened for writing, executed, compiled or started while an answer is
judged, so that an evaluating parser could not hide.
"""

# ruff: noqa: E501

from __future__ import annotations

import argparse
import importlib
import random
import resource
import sys
import time
from typing import Any

from verifiers import Attempt, open_verifier

_SEEDS = r"""
\frac{1}{2} | 3\frac{1}{2} | 1,234,567 | 0.\overline{142857} | 0.333... | 6.02 \times 10^{23} | 50\% | \$1,234.50 | 5\text{ cm}^2
30^\circ | 4:30 p.m. | 3:4 | \sqrt[3]{x^2+1} | \sin^2 x+\cos^{2}(x) | \log_{2} 8 | e^{i\pi} | |x-2| | \binom{5}{2} | 10! | (1, 2] \cup \{5\}
\{x : x > 3\} | x<-1 \text{ or } x \ge 4 | \begin{pmatrix}1&2\\3&4\end{pmatrix} | [[1,2],[3,4]] | k\pi, k \in \mathbb{Z} | 1\pm\sqrt{2}
x=2, y=3 | (p,q)=(3,2) | 2x-y+3=0 | 204_5 | 5 \pmod 7 | \boxed{42} | \boxed{\boxed{1}} | The final answer is $\frac{3}{4}$. | #### 18
<think>\boxed{1}</think> \boxed{2} | 1, 2, \ldots, n | twenty-five | (B) | HHT | \text{Evelyn} | 9^{9^{9^{9}}} | (10^8)! | __import__('os').system('x')
\int_0^1 e^{-x^2} dx | \sum_{k=1}^{n} k | \lfloor 3.7 \rfloor | 2^{1/2} | -\infty | \emptyset | x \neq 2 | f(x)=x^2 | 7 or 8 | \mathbb{R}^+
"""
_TOKEN_TEXT = r"""
\frac \sqrt \boxed \text{ \left( \right) \begin{pmatrix} \end{pmatrix} { } ( ) [ ] | \| ^ _ , ; : & \\ = < > \le \ne \pm \cup \cap \in
\mathbb{Z} \pi \infty e i x y n k sin ln log ! !! % ° \circ $ £ 0 1 2 9 99999999999999999999 0.5 .5 1e9 1e999999 ... - + * / ** or and not
cm m/s √ ² ½ − × ÷ ∞ ≤ ∪ ∅ １ ١ \quad \, \! ~ '
"""
_TOKENS = [
    *_TOKEN_TEXT.split(),
    *(
        " ",
        "\n",
        "\x00",
        "\ud800",
        "\u202e",
        "\ufeff",
        "9" * 50,
        "(" * 30,
        "{" * 100,
        "^{9" * 20,
        "\\frac{" * 30,
    ),
]
_FORBIDDEN = (
    "exec",
    "compile",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "socket.connect",
)
_REFERENCES = [
    "42",
    r"\frac{1}{2}",
    "x^2+1",
    "(1,2)",
    r"\{1,2\}",
    "x>3",
    r"5\text{ cm}",
    r"\begin{pmatrix}1\\2\end{pmatrix}",
    r"k\pi, k\in\mathbb{Z}",
    "3:4",
    r"\text{Evelyn}",
    "B",
    r"50\%",
    "y=2x+3",
    r"1\pm\sqrt2",
    "204_5",
]


def seeds() -> list[str]:
    return [part.strip() for line in _SEEDS.strip().splitlines() for part in line.split(" | ")]


class Watch:
    """Counts what must not happen while an answer is judged."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in _FORBIDDEN:
            self.seen.append(event)
        elif (
            event == "open"
            and len(arguments) > 1
            and isinstance(arguments[1], str)
            and set(arguments[1]) & set("wax+")
        ):
            self.seen.append(f"open {arguments[0]!r}")


def mutated(rng: random.Random, pool: list[str]) -> str:
    text = rng.choice(pool)
    for _ in range(rng.choice((0, 1, 1, 2, 3, 5, 8))):
        at = rng.randrange(len(text) + 1)
        kind = rng.randrange(7)
        if kind == 0:
            text = text[:at] + rng.choice(_TOKENS) + text[at:]
        elif kind == 1:
            text = text[:at] + text[at + rng.randrange(1, 6) :]
        elif kind == 2:
            other = rng.choice(pool)
            text = text[:at] + other[rng.randrange(len(other) + 1) :]
        elif kind == 3:
            text = text[:at] + text[at:] * rng.choice((2, 3, 10))
        elif kind == 4:
            text = (
                text[:at]
                + chr(rng.choice((rng.randrange(128), rng.randrange(0x3000), rng.randrange(0x110000))))
                + text[at:]
            )
        elif kind == 5:
            text = rng.choice(
                (
                    r"\boxed{%s}",
                    "$%s$",
                    "The answer is %s",
                    "(%s)",
                    r"\frac{%s}{2}",
                    r"\sqrt{%s}",
                    "{%s}^{%s}",
                )
            ).replace("%s", text)
        else:
            text = "".join(rng.choice(_TOKENS) for _ in range(rng.randrange(1, 15)))
        text = text[:20_000]
    return text


def run(inputs: int, seed: int, seconds: float) -> int:
    rng = random.Random(seed)
    pool = seeds()
    verifier = open_verifier("math")
    for text in pool:
        verifier.verify([Attempt(response=text, reference=reference) for reference in _REFERENCES])
    watch = Watch()
    worst, failures, begun, base = (0.0, ""), 0, time.monotonic(), 0
    took: list[float] = []
    for number in range(inputs):
        text, reference = mutated(rng, pool), rng.choice(_REFERENCES)
        if number % 50 == 0:
            reference = mutated(rng, pool)
        watch.on = True
        start = time.process_time()
        try:
            (verdict,) = verifier.verify([Attempt(response=text, reference=reference)])
            trouble = verdict.reason if verdict.status == "error" else ""
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            trouble = f"raised {type(error).__name__}: {error}"
        spent = time.process_time() - start
        watch.on = False
        took.append(spent)
        if spent > worst[0]:
            worst = (spent, f"{text[:200]!r} against {reference[:100]!r}")
        if spent > seconds:
            trouble = trouble or f"took {spent:.2f} s"
        if watch.seen:
            trouble = trouble or f"touched: {watch.seen[:3]}"
            watch.seen.clear()
        if trouble:
            failures += 1
            if failures <= 20:
                print(
                    f"input {number}: {trouble}\n  response {text[:300]!r}\n  reference {reference[:200]!r}",
                    flush=True,
                )
        if number == inputs // 4:
            base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024
    took.sort()
    p99 = took[int(0.99 * len(took))] if took else 0.0
    print(
        f"{inputs} inputs in {time.monotonic() - begun:.0f} s, {failures} failures; p99 {1e3 * p99:.2f} ms, slowest "
        f"{1e3 * worst[0]:.0f} ms ({worst[1]}); peak memory grew by {growth:.1f} MiB over the last three quarters"
    )
    return int(failures > 0)


def guided(inputs: int) -> None:
    try:
        atheris: Any = importlib.import_module("atheris")
    except ImportError:
        sys.exit("atheris is not installed:  pip install atheris")
    for name in [n for n in sys.modules if n == "verifiers" or n.startswith("verifiers.")]:
        del sys.modules[name]
    with atheris.instrument_imports(include=["verifiers"]):
        import verifiers.mathematics as mathematics
    verifier = mathematics.Mathematics()
    for text in seeds():
        verifier.verify([Attempt(response=text, reference=reference) for reference in _REFERENCES])
    watch = Watch()

    def once(data: bytes) -> None:
        provider = atheris.FuzzedDataProvider(data)
        reference = _REFERENCES[provider.ConsumeIntInRange(0, len(_REFERENCES) - 1)]
        text = provider.ConsumeUnicode(4_000)
        watch.on = True
        (verdict,) = verifier.verify([Attempt(response=text, reference=reference)])
        watch.on = False
        if verdict.status == "error" or watch.seen:
            raise RuntimeError(f"{verdict} {watch.seen}")

    atheris.Setup([sys.argv[0], f"-runs={inputs}", "-timeout=2", "-rss_limit_mb=2048", "-max_len=4000"], once)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="a verdict that takes more processor time is a failure"
    )
    parser.add_argument("--guided", action="store_true")
    options = parser.parse_args()
    if options.guided:
        guided(options.inputs)
    else:
        sys.exit(run(options.inputs, options.seed, options.seconds))


if __name__ == "__main__":
    main()
