"""Runs side by side in processes of one thread each. Knows nothing of what a run is made of."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import Any

from evals.learning.settings import PRESETS, TASKS

Job = tuple[str, Callable[..., str], tuple[Any, ...]]
"""What it is called, a function of this module, its arguments."""


class Workers:
    """Processes, started afresh (never forked: torch has threads)."""

    def __init__(self, count: int):
        self.count = count
        os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # read before torch loads
        self.processes = ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_one_thread)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.processes.shutdown(cancel_futures=True)

    def do(self, jobs: Sequence[Job], ends: float) -> int:
        """Do the jobs, none begun after ``ends`` (of the monotonic clock). How many failed: a failure is printed and
        leaves the others alone."""
        failed, running, waiting = 0, dict[Future[str], str](), list(jobs)
        while running or (waiting and time.monotonic() < ends):
            while waiting and len(running) < self.count and time.monotonic() < ends:
                label, function, given = waiting.pop(0)
                running[self.processes.submit(function, *given)] = label
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                label = running.pop(done)
                error = done.exception()
                failed += error is not None
                said = done.result() if error is None else f"FAILED: {type(error).__name__}: {error}"
                print(f"{label}  {said}", flush=True)
        if waiting:
            print(f"{len(waiting)} not begun in time; the same command goes on.", flush=True)
        return failed


def _one_thread() -> None:
    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.disable_progress_bar()


def cold(out: Path, task: str, seed: int) -> str:
    """The cold start of a task and seed, in words."""
    from evals.learning.run import cold_start

    return str(cold_start(out, TASKS[task], seed))


def preset(out: Path, task: str, name: str, seed: int, split: str) -> str:
    """One run, in words."""
    from evals.learning.run import run_preset

    record = run_preset(out, TASKS[task], PRESETS[name], seed, split)
    before, after = (100 * sum(record[k]) / len(record[k]) for k in ("before", "after"))
    return f"{before:.1f} -> {after:.1f}  {record['cpu_seconds']:.0f} CPU s"
