"""Speed of `math` beside math-verify 0.9 in one interleaved run on one core, corpus by corpus (extra: bench).

    python -m evals.verifiers.speed [--data FOLDER] [--only NAME] [--pairs 1000] [--repeat 3] [--block 20]

Blocks of pairs, one verifier after the other, so that whatever else the machine does falls on both (`--block 1`: pair by
pair, where each finds the processor's caches full of the other's data). Neither sees a pair twice in a repeat, and our
caches are emptied before each repeat. Throughput is processor time; p50, p99 and max are time on the clock.

The peer is used as its guide says: parse the reference, parse the response, verify. The last column is the ratio with the
peer's references parsed only once each, which its guide does not do. Ratios are firm, single times are not.
"""

# ruff: noqa: E501

from __future__ import annotations

import argparse
import logging
import platform
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

from evals.verifiers import corpora
from evals.verifiers.corpora import Pair
from verifiers import Attempt, answers, mathematics, open_verifier, reading
from verifiers.expressions import parser

SETS: dict[str, tuple[Callable[..., list[Pair]], bool | None]] = {
    "GSM8K answers of 44 models": (corpora.gsm8k_answers, None),
    "GSM8K solutions of GPT-3": (corpora.gsm8k_examples, None),
    "MATH x 100 of Qwen2.5-Math, equal": (corpora.qwen_math100, True),
    "MATH x 100 of Qwen2.5-Math, unequal": (corpora.qwen_math100, False),
    "MATH-500 answers of GPT and Qwen3": (corpora.math500_answers, None),
    "MATH-500 each against each, unequal": (corpora.math500_crossed, None),
    "MATH-500 solutions": (corpora.math500_itself, None),
    "AIME24 of Llama-3.2-3B": (corpora.llama_aime24, None),
}


def empty_caches() -> None:
    for function in (
        reading._read,
        parser.parse,
        answers._short,
        answers._short_statement,
        mathematics._short_reference,
        mathematics._remembered_verdict,
    ):
        function.cache_clear()


def peer() -> Callable[[Pair], float]:
    """Judges a pair with math-verify; returns the processor time that parsing the reference took."""
    try:
        from math_verify import parse, verify  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise SystemExit("math-verify is not installed:  pip install 'reasoning-toolkit[bench]'") from None
    logging.disable(logging.ERROR)

    def judged(pair: Pair) -> float:
        marked = "$" in pair.reference or "\\boxed" in pair.reference
        begun = time.thread_time()
        parsed = begun
        try:
            gold = parse(pair.reference if marked else f"${pair.reference}$")
            parsed = time.thread_time()
            verify(gold, parse(pair.response))
        except Exception:  # a crash of the peer is a rejection by it
            return parsed - begun
        return parsed - begun

    return judged


@dataclass
class Clock:
    """cpu: seconds of processor time in all. seconds: of each pair, on the clock."""

    cpu: float = 0.0
    seconds: list[float] = field(default_factory=list)

    def run(self, judge: Callable[[Pair], object], block: Sequence[Pair]) -> list[object]:
        returned = []
        cpu = time.thread_time()
        for pair in block:
            begun = time.perf_counter()
            returned.append(judge(pair))
            self.seconds.append(time.perf_counter() - begun)
        self.cpu += time.thread_time() - cpu
        return returned

    def __str__(self) -> str:
        ordered = sorted(self.seconds)
        n = len(ordered)
        p50, p99 = ordered[n // 2], ordered[min(n - 1, int(0.99 * n))]
        return f"{n / self.cpu:9.0f}/s {1e3 * p50:7.3f} {1e3 * p99:7.2f} {1e3 * ordered[-1]:7.1f}"


def main() -> None:
    parser_ = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser_.add_argument("--data", default="")
    parser_.add_argument("--only", default="", help="sets whose name contains this")
    parser_.add_argument("--pairs", type=int, default=1_000, help="at most this many pairs a set")
    parser_.add_argument("--repeat", type=int, default=3)
    parser_.add_argument("--block", type=int, default=20, help="pairs that one verifier judges in a row")
    options = parser_.parse_args()
    data = corpora.data_folder(options.data)
    verifier = open_verifier("math")
    other = peer()

    def mine(pair: Pair) -> object:
        return verifier.verify([Attempt(response=pair.response, reference=pair.reference)])

    print(f"Python {platform.python_version()}, math-verify {version('math-verify')}, {platform.machine()}")
    print(
        f"{'':36s} {'ours':>11s} {'p50 ms':>7s} {'p99':>7s} {'max':>7s}  {'peer':>11s} {'p50 ms':>7s} {'p99':>7s} {'max':>7s}  ratio   once"
    )
    for name, (load, label) in SETS.items():
        if options.only not in name:
            continue
        pairs = [p for p in load(data) if label is None or p.label == label]
        random.Random(0).shuffle(pairs)
        pairs = pairs[: options.pairs]
        ours, theirs, parsed_again = Clock(), Clock(), 0.0
        mine(pairs[0])
        other(pairs[0])
        for turn in range(options.repeat):
            empty_caches()
            seen: set[str] = set()
            for start in range(0, len(pairs), options.block):
                block = pairs[start : start + options.block]
                first = (start // options.block + turn) % 2
                if first:
                    ours.run(mine, block)
                for pair, spent in zip(block, theirs.run(other, block), strict=True):
                    parsed_again += spent if pair.reference in seen and isinstance(spent, float) else 0.0
                    seen.add(pair.reference)
                if not first:
                    ours.run(mine, block)
        ratio, once = theirs.cpu / ours.cpu, (theirs.cpu - parsed_again) / ours.cpu
        print(f"{name:36s} {ours}  {theirs}  {ratio:5.1f}x {once:5.1f}x", flush=True)


if __name__ == "__main__":
    main()
