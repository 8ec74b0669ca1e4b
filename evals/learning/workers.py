"""Runs side by side in processes of one thread each. Knows nothing of what a run is made of."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import Any

from evals.learning.settings import PRESETS, TASKS


@dataclass(frozen=True, slots=True)
class Job:
    """A function of this module and its arguments. after: the name of a job that must have succeeded before."""

    name: str
    function: Callable[..., object]
    arguments: tuple[Any, ...]
    after: str = ""


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
        """Do the jobs, none begun after ``ends`` (of the monotonic clock). How many failed or hang on one that did: a
        failure is printed and leaves the others alone."""
        running: dict[Future[object], str] = {}
        waiting, succeeded, failed = list(jobs), {""}, set[str]()
        while running or (waiting and time.monotonic() < ends):
            failed |= {job.name for job in waiting if job.after in failed}
            waiting = [job for job in waiting if job.after not in failed]
            ready = [job for job in waiting if job.after in succeeded] if time.monotonic() < ends else []
            for job in ready[: self.count - len(running)]:
                waiting.remove(job)
                running[self.processes.submit(job.function, *job.arguments)] = job.name
            for done in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                name, error = running.pop(done), done.exception()
                (succeeded if error is None else failed).add(name)
                said = done.result() if error is None else f"FAILED: {type(error).__name__}: {error}"
                print(f"{name}  {said}", flush=True)
        if waiting:
            print(f"{len(waiting)} not begun in time; the same command goes on.", flush=True)
        return len(failed)


def _one_thread() -> None:
    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.disable_progress_bar()


def cold(out: Path, task: str, seed: int, split: str) -> str:
    """The cold start of a task and seed, in words."""
    from evals.learning.run import beginning

    _, right = beginning(out, TASKS[task], seed, split)
    return f"{100 * sum(right) / len(right):.1f}"


def preset(out: Path, task: str, name: str, seed: int, split: str) -> str:
    """One run, in words."""
    from evals.learning.run import run_preset

    record = run_preset(out, TASKS[task], PRESETS[name], seed, split)
    before, after = (100 * sum(record[k]) / len(record[k]) for k in ("before", "after"))
    return f"{before:.1f} -> {after:.1f}  {record['cpu_seconds']:.0f} CPU s"
