"""What every training objective teaches the demo-size model at equal compute, on five tasks and several seeds.

  python -m evals.learning --workers 2                     the whole; run it again to go on where it stopped
  python -m evals.learning --table                         the table of what is there, as Markdown
  python -m evals.learning --tasks word --presets grpo dpo --seeds 0 --split dev
  python -m evals.learning --workers 16 --seconds 420 --archive learning.tar.gz

A cold start is made once for a task and seed and shared by all presets. Each finished run leaves one small file in
OUT/results (which is all that ``--archive`` packs, and unpacked into OUT all that ``--table`` reads); a run that was
killed goes on from its last leg. Tasks of reasoning-gym need the extra "gym".
"""

from __future__ import annotations

import argparse
import os
import tarfile
import time
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from evals.learning.settings import PRESETS, TASKS
from evals.learning.table import markdown, read

os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # read by the workers, before torch loads


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m evals.learning",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--split", choices=("test", "dev"), default="test", help="dev: to choose settings")
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--workers", type=int, default=1, help="runs side by side, a thread each")
    parser.add_argument("--seconds", type=float, help="begin no further run after so many seconds")
    parser.add_argument("--archive", type=Path, help="pack the results into this .tar.gz at the end")
    parser.add_argument("--table", action="store_true", help="only print the table of the results that are there")
    arguments = parser.parse_args()
    out = arguments.out / arguments.split
    failed = 0
    if not arguments.table:
        failed = _run_all(arguments, out)
    print(markdown(read(out / "results", arguments.tasks, arguments.presets, arguments.seeds)))
    if arguments.archive:
        with tarfile.open(arguments.archive, "w:gz") as archive:
            for path in sorted((out / "results").glob("*.json")):
                archive.add(path, f"{arguments.split}/results/{path.name}")
    return 1 if failed else 0


def _run_all(arguments: argparse.Namespace, out: Path) -> int:
    """How many runs failed; a failure is printed and leaves the others alone."""
    ends = time.monotonic() + arguments.seconds if arguments.seconds else float("inf")
    grid = [(s, t) for s in arguments.seeds for t in arguments.tasks]
    starts = [(f"{t} {s}: cold start", _cold, (out, t, s)) for s, t in grid]
    runs = [
        (f"{t} {s}: {p}", _preset, (out, t, p, s, arguments.split))
        for s, t in grid
        for p in arguments.presets
    ]
    context = get_context("spawn")
    with ProcessPoolExecutor(arguments.workers, mp_context=context, initializer=_one_thread) as workers:
        return _all_of(workers, starts, ends, arguments.workers) + _all_of(
            workers, runs, ends, arguments.workers
        )


Job = tuple[str, Callable[..., str], tuple[Any, ...]]


def _all_of(workers: ProcessPoolExecutor, jobs: Iterable[Job], ends: float, side_by_side: int) -> int:
    failed, running, waiting = 0, dict[Future[str], str](), list(jobs)
    while running or (waiting and time.monotonic() < ends):
        while waiting and len(running) < side_by_side and time.monotonic() < ends:
            label, function, given = waiting.pop(0)
            running[workers.submit(function, *given)] = label
        for done in wait(running, return_when=FIRST_COMPLETED).done:
            label = running.pop(done)
            error = done.exception()
            if error is None:
                print(f"{label}  {done.result()}", flush=True)
            else:
                failed += 1
                print(f"{label}  FAILED", *traceback.format_exception(error)[-3:], sep="\n", flush=True)
    if waiting:
        print(f"{len(waiting)} not begun in time; the same command goes on.", flush=True)
    return failed


def _one_thread() -> None:
    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.disable_progress_bar()


def _cold(out: Path, task: str, seed: int) -> str:
    from evals.learning.run import cold_start

    return str(cold_start(out, TASKS[task], seed))


def _preset(out: Path, task: str, preset: str, seed: int, split: str) -> str:
    from evals.learning.run import run_preset

    record = run_preset(out, TASKS[task], PRESETS[preset], seed, split)
    before, after = (100 * sum(record[k]) / len(record[k]) for k in ("before", "after"))
    return f"{before:.1f} -> {after:.1f}  {record['cpu_seconds']:.0f} CPU s"


if __name__ == "__main__":
    raise SystemExit(main())
