"""What the purse and the pool cost while a model samples: their share of the processor time of one `sample` call.

  python evals/bench_overhead.py --model runs/demo/base/model --repeats 5

Every call into the Drawer outside of the engine, the ledger and the pool is timed by the thread's processor time
(nested calls once), each repeat in a fresh run folder with a budget in force. Prints the share and its parts.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from reasoning.budget import Budget, Ledger
from reasoning.engines import open_engine
from reasoning.pool import Pool
from reasoning.records import Chain, Cost, Draw, Sampling
from reasoning.sampling import sample
from reasoning.tasks import load_problems


class Timed:
    """An engine whose own time is kept apart."""

    def __init__(self, engine: Any):
        self.engine, self.model, self.shape = engine, engine.model, engine.shape
        self.seconds, self.unfinished = 0.0, engine.unfinished

    def generate(self, draws: Sequence[Draw]) -> Iterator[Chain]:
        chains = self.engine.generate(draws)
        while True:
            began = time.thread_time()
            chain = next(chains, None)
            self.seconds += time.thread_time() - began
            if chain is None:
                return
            yield chain

    def worst_case(self, draw: Draw) -> Cost:
        return self.engine.worst_case(draw)  # part of the purse: it is asked for a reservation

    def close(self) -> None:
        self.engine.close()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="runs/demo/base/model")
    parser.add_argument("--task", default="word:test:n=64")
    parser.add_argument("-n", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    problems = load_problems(options.task)
    engine = open_engine(f"transformers:{options.model}")
    print(
        f"{platform.processor() or platform.machine()}, {options.threads} thread(s), torch {torch.__version__}"
    )
    import pyarrow.parquet  # noqa: F401  loaded once per process, when a pool is first sealed

    shares = []
    for repeat in range(options.repeats):
        timed, sampling = Timed(engine), Sampling(max_new_tokens=options.max_new_tokens, seed=repeat)
        with tempfile.TemporaryDirectory() as folder:
            began, wall = time.thread_time(), time.monotonic()
            with Pool.open(folder) as pool, Ledger(Budget(tokens=10**9), Path(folder)) as ledger:
                report = sample(problems, timed, pool, ledger, options.n, sampling)
            total, wall = time.thread_time() - began, time.monotonic() - wall
        shares.append((total - timed.seconds) / total)
        print(
            f"{report.drawn} chains, {report.cost.output_tokens} tokens: {total:.2f} s of processor time "
            f"({wall:.2f} s wall), engine {timed.seconds:.2f} s, purse and pool {shares[-1]:.2%}"
        )
    print(
        f"share of purse and pool: median {statistics.median(shares):.2%}, {min(shares):.2%} to {max(shares):.2%}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
