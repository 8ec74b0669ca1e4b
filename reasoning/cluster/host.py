"""What runs inside an actor: a worker (an engine, a verifier) on a thread of its own, and the one method by which
work comes in and results go out. Knows of no cluster.

A worker is a class made from plain arguments, with

    about() -> dict            "identity" must be the same in all actors of a pool
    work(units, stopped)       units: (number, payload) pairs; yields (number, result) as they come, and looks
                               between them whether ``stopped()``
    close()
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from reasoning.errors import ReasoningError, UserError
from verifiers.errors import VerifierError

FLUSH_SECONDS = 0.05
"""Results that come within so long travel together."""

Failure = tuple[str, str]
""" ("user" or "other", message): errors cross as text, so that the driver needs none of the actor's classes."""


def failure(error: Exception) -> Failure:
    """``error`` as text. What a person has to mend (a wrong spec, a missing file) is "user"."""
    if isinstance(error, UserError | VerifierError):
        return "user", str(error)
    if isinstance(error, ReasoningError):
        return "other", str(error)
    return "other", f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


class Host:
    def __init__(self, worker: Callable[..., Any], arguments: Sequence[Any]):
        self._make = worker
        self._arguments = arguments
        self._worker: Any = None
        self._todo: deque[tuple[int, list[tuple[int, Any]]]] = deque()
        self._said: list[tuple[Any, ...]] = []
        self._since = 0.0
        self._stop_through = -1
        self._changed = threading.Condition()

    def open(self) -> tuple[dict[str, Any] | None, Failure | None]:
        """Make the worker: (what it is, None) or (None, what went wrong)."""
        try:
            self._worker = self._make(*self._arguments)
            about = self._worker.about()
        except Exception as error:  # crosses to the driver as text, which raises it there
            return None, failure(error)
        threading.Thread(target=self._run, name="work", daemon=True).start()
        return about | {"pid": os.getpid(), "host": socket.gethostname()}, None

    def exchange(self, batches: Sequence[tuple[int, list[tuple[int, Any]]]], seconds: float) -> list[tuple]:
        """Take in ``batches`` of (id, units); give what has happened since the last call, waiting up to
        ``seconds`` for something to.

        Events: ("result", batch id, unit number, result) and ("end", batch id, seconds, failure or None).
        """
        until = time.monotonic() + seconds
        with self._changed:
            self._todo.extend(batches)
            self._changed.notify_all()
            while True:
                now = time.monotonic()
                ended = any(event[0] == "end" for event in self._said)
                ripe = bool(self._said) and now - self._since >= FLUSH_SECONDS
                if ended or ripe or now >= until:
                    break
                self._changed.wait(min(until - now, FLUSH_SECONDS if self._said else seconds))
            said, self._said = self._said, []
        return said

    def stop(self, through: int) -> None:
        """Leave off the batches up to the id ``through``, the one under way included; each still says "end"."""
        self._stop_through = max(through, self._stop_through)

    def call(self, name: str, *arguments: Any) -> Any:
        """A method of the worker, beside its work."""
        return getattr(self._worker, name)(*arguments)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._todo:
                    self._changed.wait()
                batch, units = self._todo.popleft()
            started = time.monotonic()
            wrong = None
            try:
                if batch > self._stop_through:
                    for number, result in self._worker.work(units, partial(self._stopped, batch)):
                        self._say(("result", batch, number, result))
            except Exception as error:  # crosses to the driver as text, which decides
                wrong = failure(error)
            self._say(("end", batch, time.monotonic() - started, wrong))

    def _stopped(self, batch: int) -> bool:
        return batch <= self._stop_through

    def _say(self, event: tuple[Any, ...]) -> None:
        with self._changed:
            if not self._said:
                self._since = time.monotonic()
            self._said.append(event)
            self._changed.notify_all()
