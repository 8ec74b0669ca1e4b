"""Sealing in the background: a thread turns full write-ahead files into shards while their writer goes on.

Until a segment is sealed its rows are served from memory and its file stays, so a kill loses nothing. This module
knows nothing of what sealing does.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from reasoning.errors import PoolError

S = TypeVar("S")
R = TypeVar("R")

_MOST_WAITING = 4
"""Segments that may wait in memory; a writer that is quicker than the disk for that long waits for it."""


@dataclass(frozen=True, slots=True)
class Job(Generic[S]):
    """A segment, and what to do when it is sealed or given up (its file is let go)."""

    segment: S
    seal: Callable[[], object]
    release: Callable[[], None]


class Sealer(Generic[S]):
    """One thread that lives while there is work. finished: (segment, result) since last asked."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[Job[S]] = deque()
        self._running = False
        self._finished: list[tuple[S, object]] = []
        self._failed: list[tuple[Job[S], Exception]] = []

    def submit(self, job: Job[S]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < _MOST_WAITING)
            self._waiting.append(job)
            self._start()

    def _start(self) -> None:
        if not self._running and self._waiting:
            self._running = True
            threading.Thread(target=self._work, name="pool-sealer").start()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.notify_all()
                if not self._waiting:
                    self._running = False
                    return
                job = self._waiting[0]
            try:
                result = job.seal()
            except Exception as e:
                # A message alone: a traceback would keep the half-written file open.
                said = PoolError(str(e)) if isinstance(e, PoolError) else e
                with self._changed:
                    self._failed.append((self._waiting.popleft(), said))
                continue
            job.release()
            with self._changed:
                self._waiting.popleft()
                self._finished.append((job.segment, result))

    def finished(self) -> list[tuple[S, object]]:
        with self._changed:
            done, self._finished = self._finished, []
        return done

    def wait(self, retry: bool = True) -> list[Exception]:
        """Wait until nothing waits. Returns what failed; those are tried again by the next call."""
        with self._changed:
            if retry:
                self._waiting.extend(job for job, _ in self._failed)
                self._failed = []
            self._start()
            self._changed.wait_for(lambda: not self._running)
            return [e for _, e in self._failed]

    def give_up(self) -> None:
        """Let go of what failed: another process may seal it."""
        with self._changed:
            failed, self._failed = self._failed, []
        for job, _ in failed:
            job.release()
