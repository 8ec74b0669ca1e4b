"""Speed of `math` beside math-verify 0.9 in one interleaved run on one core, corpus by corpus (extra: bench).

    python -m evals.verifiers.speed [--data FOLDER] [--pairs 1000] [--repeat 3]

Pair by pair, one verifier after the other, so that whatever else the machine does falls on both. Neither sees a pair
twice in a repeat, and our caches are emptied before each repeat. Ratios are firm, single times are not.
"""

# ruff: noqa: E501

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence

from evals.verifiers import accuracy, corpora
from evals.verifiers.corpora import Pair
from verifiers import Attempt, answers, mathematics, open_verifier, reading
from verifiers.expressions import parser


def unequal_math_tests(data: object) -> list[Pair]:
    return [p for p in corpora.math_verify_tests(data) if p.label is False]  # type: ignore[arg-type]


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


def timed(function: Callable[[Pair], object], pair: Pair) -> float:
    begun = time.perf_counter()
    function(pair)
    return time.perf_counter() - begun


def spread(times: Sequence[float]) -> str:
    ordered = sorted(times)
    p50, p99 = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    return f"{len(times) / sum(times):9.0f}/s {1e3 * p50:7.2f} {1e3 * p99:7.1f} {1e3 * ordered[-1]:7.1f}"


def main() -> None:
    parser_ = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser_.add_argument("--data", default="")
    parser_.add_argument("--pairs", type=int, default=1_000, help="at most this many pairs a set")
    parser_.add_argument("--repeat", type=int, default=3)
    options = parser_.parse_args()
    data = corpora.data_folder(options.data)
    verifier = open_verifier("math")
    other = accuracy.peer()
    if other is None:
        raise SystemExit("math-verify is not installed:  pip install 'reasoning-toolkit[bench]'")

    def mine(pair: Pair) -> object:
        return verifier.verify([Attempt(response=pair.response, reference=pair.reference)])

    print(
        f"{'':38s} {'ours':>11s} {'p50 ms':>7s} {'p99':>7s} {'max':>7s}  {'peer':>11s} {'p50 ms':>7s} {'p99':>7s} {'max':>7s}  ratio"
    )
    for name, (load, label) in SETS.items():
        pairs = [p for p in load(data) if label is None or p.label == label]
        random.Random(0).shuffle(pairs)
        pairs = pairs[: options.pairs]
        ours_seconds: list[float] = []
        peer_seconds: list[float] = []
        timed(mine, pairs[0])
        timed(other, pairs[0])
        for turn in range(options.repeat):
            empty_caches()
            for i, pair in enumerate(pairs):
                if (i + turn) % 2:
                    ours_seconds.append(timed(mine, pair))
                    peer_seconds.append(timed(other, pair))
                else:
                    peer_seconds.append(timed(other, pair))
                    ours_seconds.append(timed(mine, pair))
        ratio = sum(peer_seconds) / sum(ours_seconds)
        print(f"{name:38s} {spread(ours_seconds)}  {spread(peer_seconds)}  {ratio:5.1f}x", flush=True)


if __name__ == "__main__":
    main()
