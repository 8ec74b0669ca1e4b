"""A pool of like actors: started where the cluster has room, started again when they die (after a back-off that
doubles), refused when they do not hold the same. Knows nothing of what they work on.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from reasoning.cluster.connect import ClusterSpec, connect
from reasoning.cluster.host import Host
from reasoning.errors import EngineError, UserError

LONGEST_BACKOFF_SECONDS = 30.0
CALL_SECONDS = 60.0


@dataclass(slots=True, eq=False)
class Slot:
    """One place for an actor.

    actor: its handle, None while there is none. opening: the reference to its `Host.open`, until it is ready.
    exchange: the reference to the call that waits for its results, sent at ``asked``. batches: (id, units, how
    much) that it was given and has not ended, the oldest first: that one it works on. failures: in a row.
    size: how much it is given at a time; rate: how much it does in a second (0: not known yet); seconds: how
    long a batch took when its size was settled; growing: it is not settled yet.
    """

    number: int
    actor: Any = None
    opening: Any = None
    exchange: Any = None
    asked: float = 0.0
    not_before: float = 0.0
    failures: int = 0
    batches: deque[tuple[int, list[Any], int]] = field(default_factory=deque)
    size: int = 0
    rate: float = 0.0
    seconds: float = 0.0
    growing: bool = True
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        return self.actor is not None and self.opening is None


class ActorPool:
    """Actors that each make ``worker(*arguments)``.

    about: what the first that was ready says of itself. deaths: how many actors were lost, of all;
    barren: how many in a row without a result in between. notes: lines that a person should see.
    """

    def __init__(self, spec: ClusterSpec, worker: type, arguments: Sequence[Any], uses_gpus: bool = False):
        self.spec = spec
        self.worker = worker
        self.arguments = tuple(arguments)
        self.ray = connect(spec.address)
        self.deaths = 0
        self.barren = 0
        self._batches = 0
        self.last_reason = ""
        self.notes: list[str] = []
        self.about: dict[str, Any] = {}
        self.closed = False
        self._alone_since = time.monotonic()
        room = self.ray.cluster_resources()
        gpus = spec.gpus_per_actor
        if gpus < 0:
            gpus = 1.0 if uses_gpus and room.get("GPU", 0) >= 1 else 0.0
        self._needs = {"CPU": spec.cpus_per_actor, "GPU": gpus}
        count = spec.actors or self._room(room)
        self.slots = [Slot(number) for number in range(count)]
        self._remote = self.ray.remote(Host).options(
            num_cpus=spec.cpus_per_actor,
            num_gpus=gpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=4,  # exchange, stop and call beside each other
            scheduling_strategy="SPREAD",
        )
        try:
            self._open_first()
        except BaseException:
            self.close()
            raise

    def _room(self, room: dict[str, float]) -> int:
        fits = [int(room.get(name, 0) / need) for name, need in self._needs.items() if need > 0]
        if not fits:
            raise UserError("Say how many actors, where each needs neither CPUs nor GPUs: actors=N.")
        return max(1, min(fits))

    def _open_first(self) -> None:
        """Start all, wait for one."""
        while not self.tend():
            pending = [s.opening for s in self.slots if s.opening is not None]
            if pending:
                self.ray.wait(pending, timeout=0.2)
            else:
                time.sleep(0.02)

    def wait(self, seconds: float, actors: int = 0) -> int:
        """Wait until so many actors (0: all) are ready, or ``seconds`` are over; how many are."""
        until = time.monotonic() + seconds
        while len(self.tend()) < (actors or len(self.slots)) and time.monotonic() < until:
            time.sleep(0.02)
        return len(self.tend())

    def tend(self) -> list[Slot]:
        """The actors that are ready, after starting those that are due and looking at those that open.

        Raises UserError when they hold different things, or when what they are to open is wrong; EngineError
        when there has been none for too long.
        """
        now = time.monotonic()
        for slot in self.slots:
            if slot.actor is None and now >= slot.not_before:
                slot.actor = self._remote.remote(self.worker, self.arguments)
                slot.opening = slot.actor.open.remote()
        opening = [s.opening for s in self.slots if s.opening is not None]
        if opening:
            opened, _ = self.ray.wait(opening, num_returns=len(opening), timeout=0)
            for slot in [s for s in self.slots if s.opening is not None and s.opening in opened]:
                self._opened(slot)
        ready = [s for s in self.slots if s.ready]
        if ready:
            self._alone_since = now
        elif now - self._alone_since > self.spec.start_seconds:
            raise EngineError(self._nobody())
        return ready

    def _opened(self, slot: Slot) -> None:
        try:
            about, wrong = self.ray.get(slot.opening)
        except self.ray.exceptions.RayError as e:
            self.lost(slot, reason_of(e))
            return
        if wrong is not None:
            if wrong[0] == "user" and not self.about:
                raise UserError(wrong[1])
            self.lost(slot, wrong[1])
            return
        if not self.about:
            self.about = about
        elif about["identity"] != self.about["identity"]:
            raise UserError(
                f"The actors do not hold the same: {self.about['identity']} on {self.about['host']}, "
                f"{about['identity']} on {about['host']}. Put the same weights on every machine."
            )
        slot.opening, slot.about = None, about

    def lost(self, slot: Slot, reason: str) -> None:
        """Give the slot's actor up; another takes its place after a back-off."""
        self.discard(slot)
        self.deaths += 1
        self.failed(slot, reason)

    def failed(self, slot: Slot, reason: str) -> None:
        """Count a failure; the slot is left alone for a while. Raises EngineError when nothing but failures
        comes."""
        self.barren += 1
        self.last_reason = reason
        slot.failures += 1
        back_off = self.spec.backoff_seconds * 2 ** min(slot.failures - 1, 30)
        slot.not_before = time.monotonic() + min(back_off, LONGEST_BACKOFF_SECONDS)
        if self.barren >= (self.spec.most_failures or max(16, 4 * len(self.slots))):
            raise EngineError(
                f"{self.barren} failures of actors in a row without a single result; the last: {reason}"
            )

    def number(self) -> int:
        """The id of a new batch: they rise."""
        self._batches += 1
        return self._batches

    def discard(self, slot: Slot) -> None:
        """End the slot's actor. What it may still send is never read."""
        if slot.actor is not None:
            with contextlib.suppress(self.ray.exceptions.RayError, ValueError):
                self.ray.kill(slot.actor, no_restart=True)
        slot.actor = slot.opening = slot.exchange = None
        slot.batches.clear()
        slot.not_before = 0.0

    def call(self, name: str, *arguments: Any, seconds: float | None = None) -> Any:
        """A method of any one worker. Raises EngineError when none answers in time (start_seconds)."""
        until = time.monotonic() + (self.spec.start_seconds if seconds is None else seconds)
        while time.monotonic() < until:
            for slot in self.tend():
                try:
                    return self.ray.get(slot.actor.call.remote(name, *arguments), timeout=CALL_SECONDS)
                except self.ray.exceptions.RayTaskError as e:
                    raise EngineError(f"{name} failed on an actor: {reason_of(e)}") from None
                except self.ray.exceptions.RayError as e:
                    self.last_reason = reason_of(e)
                    if not slot.batches:  # else whoever waits for its results notices, and counts it
                        self.lost(slot, self.last_reason)
            time.sleep(0.05)
        raise EngineError(self._nobody())

    def close(self) -> None:
        """End all actors; the cluster stays."""
        if not self.closed and self.ray.is_initialized():
            for slot in self.slots:
                self.discard(slot)
        self.closed = True

    def _nobody(self) -> str:
        needs = " and ".join(f"{need:g} {name}" for name, need in self._needs.items() if need)
        room = self.ray.cluster_resources()
        has = ", ".join(f"{room.get(name, 0):g} {name}s" for name in self._needs)
        last = f" The last one: {self.last_reason}" if self.last_reason else ""
        return (
            f"No actor was ready for {self.spec.start_seconds:g} s. Each needs {needs or 'nothing'}; the cluster has "
            f"{has}.{last}"
        )


def reason_of(error: Exception) -> str:
    """The one line of Ray's message that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (
        (lines[-1] if "Task" in type(error).__name__ else lines[0])[:300] if lines else type(error).__name__
    )
