"""What the purse and the pool cost while a model samples: their share of the processor time of one `sample` call.

    python -m evals.bench_overhead [--model runs/demo/base/model] [--repeats 5] [--profile]

By default the model has the demo's shape and random weights, so that nothing must be trained first. Its chains are
cut at 50 tokens (about 44 on average), as long as the demo's are. The share depends on that: what the purse and the
pool do they do per chain, and opening a run takes some 4 ms however many there are. A run of 2,048 chains is too
small to be sealed when it is closed; `--problems 640` measures one that is.

Two parts are told apart by processor time on one thread: the engine's part (tokenising the prompts and `generate`),
and all else: keys, the worst case, reserving, storing, settling, opening the run and closing it (a large one is
sealed, in a thread of its own). Reading the clock twice a chain, and freeing the chains, falls on the second part but
is not of the purse and the pool: each repeat measures it in the same way, with the same chains handed to a caller who
keeps as many of them and does nothing, and it is taken off. Full garbage collections fall on either part by chance
and are in neither.

Each repeat has a fresh run folder, problems that the engine has not seen, and a budget in force. The first repeat,
shown apart, also pays for what a process loads once.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import platform
import pstats
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from reasoning.budget import Budget, Ledger
from reasoning.drawing import BATCH_CHAINS
from reasoning.engines import open_engine
from reasoning.pool import Pool
from reasoning.records import Chain, Cost, Draw, Problem, Sampling
from reasoning.sampling import SampleReport, sample
from reasoning.tasks import load_problems
from reasoning.train.fresh import new_model, save_folder


class Timed:
    """An engine whose own time is kept apart."""

    def __init__(self, engine: Any):
        self.engine, self.model, self.shape = engine, engine.model, engine.shape
        self.seconds, self.collected, self.unfinished = 0.0, 0.0, engine.unfinished
        self.profile: cProfile.Profile | None = None

    def generate(self, draws: Sequence[Draw]) -> Iterator[Chain]:
        chains = self.engine.generate(draws)
        while True:
            if self.profile:
                self.profile.disable()
            began = time.thread_time() - self.collected
            chain = next(chains, None)
            self.seconds += time.thread_time() - self.collected - began
            if self.profile:
                self.profile.enable()
            if chain is None:
                return
            yield chain

    def collecting(self, phase: str, info: dict[str, int]) -> None:
        """See `gc.callbacks`."""
        if info["generation"] == 2:
            self.collected += time.thread_time() * (1 if phase == "stop" else -1)

    def worst_case(self, draw: Draw) -> Cost:
        began = time.thread_time()
        self.engine.ask(draw.problem)  # tokenised once, here; with no purse it would be in `generate`
        self.seconds += time.thread_time() - began
        return self.engine.worst_case(draw)

    def close(self) -> None:
        self.engine.close()


def one(
    engine: Any,
    problems: Sequence[Problem],
    n: int,
    sampling: Sampling,
    profile: cProfile.Profile | None = None,
) -> tuple[SampleReport, float, float, float]:
    """(report, processor seconds of the whole, of the engine's part, wall seconds) of sampling into a new run."""
    timed = Timed(engine)
    timed.profile = profile
    gc.callbacks.append(timed.collecting)
    with tempfile.TemporaryDirectory() as folder:
        if profile:
            profile.enable()
        began, wall = time.process_time(), time.monotonic()
        with Pool.open(folder) as pool, Ledger(Budget(tokens=10**9), Path(folder)) as ledger:
            report = sample(problems, timed, pool, ledger, n, sampling)
        total, wall = time.process_time() - began, time.monotonic() - wall
        if profile:
            profile.disable()
    gc.callbacks.remove(timed.collecting)
    return report, total - timed.collected, timed.seconds, wall


def without(engine: Any, problems: Sequence[Problem], n: int, sampling: Sampling) -> float:
    """Processor seconds outside of the engine's part where chains are drawn with neither purse nor pool."""
    timed = Timed(engine)
    gc.callbacks.append(timed.collecting)
    began = time.process_time()
    kept: list[Chain] = []
    for chain in timed.generate([Draw(p, sampling, tuple(range(n))) for p in problems]):
        kept.append(chain)
        if len(kept) == BATCH_CHAINS:
            kept.clear()
    kept.clear()
    total = time.process_time() - began
    gc.callbacks.remove(timed.collecting)
    return total - timed.collected - timed.seconds


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default="", help="model folder (default: the demo's shape, random weights)"
    )
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("-n", type=int, default=32, help="chains of each")
    parser.add_argument("--max-new-tokens", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="what the purse and the pool spend it on")
    options = parser.parse_args()
    torch.set_num_threads(1)
    many = load_problems(f"word:test:n={options.problems * (options.repeats + 1)}")
    with tempfile.TemporaryDirectory() as folder:
        model = options.model
        if not model:
            model = f"{folder}/model"
            save_folder(Path(model), *new_model("new:tiny", [p.prompt for p in many]))
        engine = open_engine(f"transformers:{model}")
    print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, 1 thread"
    )
    profile = cProfile.Profile() if options.profile else None
    shares = []
    for repeat in range(options.repeats + 1):
        problems = many[repeat * options.problems : (repeat + 1) * options.problems]
        sampling = Sampling(max_new_tokens=options.max_new_tokens, seed=repeat)
        report, total, generating, wall = one(
            engine, problems, options.n, sampling, profile if repeat else None
        )
        clock = without(engine, problems, options.n, sampling)
        share = (total - generating - clock) / (total - clock)
        print(
            f"{'first: ' if not repeat else ''}{report.drawn} chains, "
            f"{report.cost.output_tokens / report.drawn:.1f} tokens each: {total:.2f} s of processor time "
            f"({wall:.2f} s wall), engine {generating:.2f} s, purse and pool "
            f"{1e6 * (total - generating - clock) / report.drawn:.1f} us a chain, {share:.2%}; "
            f"measuring {1e6 * clock / report.drawn:.1f} us a chain, not counted"
        )
        shares += [share] if repeat else []
    print(
        f"share of purse and pool: median {statistics.median(shares):.2%}, {min(shares):.2%} to {max(shares):.2%}"
    )
    if profile:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(45)
    return 0


if __name__ == "__main__":
    sys.exit(main())
