"""Share units of work out over a pool of actors, and get every result once. Knows nothing of what a unit is.

Each actor holds two batches at most, the one under way and the next. A batch is as large as the actor's measured
speed makes last ``batch_seconds``: slow actors get less, and towards the end all get less. When an actor dies, the
units of the batch that was under way are given out again: in groups of a few after a first death, one by one
before the last, so that the one that kills is told from those that were beside it. A unit in whose presence
``most_deaths`` actors died is given up.

Results go by unit and key. What an actor that was given up for dead sends after all is never read, and a unit
takes nothing twice.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from reasoning.cluster.actors import ActorPool, Slot, reason_of
from reasoning.errors import ReasoningError, UserError

MOST_DEATHS = 3
IN_HAND = 2
"""Batches that an actor holds: the one under way and the next, so that it never waits for the driver."""
SUSPECTS_TOGETHER = 8
WAIT_SECONDS = 1.0
STOP_SECONDS = 5.0
GAIN = 1.2
"""A larger batch pays while the rate rises by so much (an engine that works on many rows at once)."""


class Unit(Protocol):
    """deaths: actors that died on it so far."""

    deaths: int

    @property
    def size(self) -> int:
        """How much is left to do; 0 when nothing is."""
        ...

    def payload(self) -> Any:
        """What an actor needs for what is left."""
        ...

    def take(self, result: Any) -> bool:
        """Note a result; False where it was not asked for, or is there already."""
        ...


@dataclass(frozen=True, slots=True)
class Event:
    """kind: "result"; "lost" (an actor died, or was stopped, while the unit was under way; it is repeated);
    "given_up" (it will not be: too many died); "failed" (the worker raised ``reason``); "short" (the worker ended
    without all of it)."""

    kind: str
    unit: Any
    result: Any = None
    reason: str = ""


class Dispatch:
    """One round of work on ``pool``: run it once."""

    def __init__(
        self, pool: ActorPool, units: Sequence[Any], most_deaths: int = MOST_DEATHS, most: int = 4096
    ):
        self.pool = pool
        self.most_deaths = most_deaths
        self.most = most
        self.waiting = deque(u for u in units if u.size and not u.deaths)
        self.suspects = deque(u for u in units if u.size and u.deaths)
        self.rejected = 0
        self._left = sum(u.size for u in self.waiting)

    def run(self) -> Iterator[Event]:
        """Events as they happen, until every unit is done or given up. Raises UserError and EngineError."""
        pool = self.pool
        while self.waiting or self.suspects or any(s.batches for s in pool.slots):
            for slot in pool.tend():
                self._give(slot)
            asked = {s.exchange: s for s in pool.slots if s.exchange is not None}
            pending = [*asked, *(s.opening for s in pool.slots if s.opening is not None)]
            if not pending:
                time.sleep(0.02)
                continue
            due = [s.not_before for s in pool.slots if s.actor is None]
            patience = min([WAIT_SECONDS, *(max(0.0, at - time.monotonic()) for at in due)])
            pool.ray.wait(pending, timeout=patience)
            if asked:
                answered, _ = pool.ray.wait(list(asked), num_returns=len(asked), timeout=0)
                for reference in answered:
                    yield from self._hear(asked[reference])
            yield from self._deaf()

    def stop(self) -> list[Event]:
        """Have the actors leave off; what they still say. One that does not listen in time is ended."""
        pool = self.pool
        events: list[Event] = []
        if pool.closed or not pool.ray.is_initialized():
            return events
        busy = [s for s in pool.slots if s.batches]
        for slot in busy:
            slot.actor.stop.remote(slot.batches[-1][0])
        until = time.monotonic() + STOP_SECONDS
        while (busy := [s for s in busy if s.batches]) and time.monotonic() < until:
            for slot in busy:
                self._ask(slot, [])
            answered, _ = pool.ray.wait(
                [s.exchange for s in busy], timeout=max(0.0, until - time.monotonic())
            )
            for slot in [s for s in busy if s.exchange in answered]:
                try:
                    events += self._hear(slot)
                except ReasoningError as e:  # nothing is asked of it any more
                    pool.notes.append(f"While the actors were stopped: {e}")
                    pool.discard(slot)
        for slot in busy:
            events += [Event("lost", unit) for unit in slot.batches[0][1] if unit.size]
            pool.discard(slot)
        return events

    def _give(self, slot: Slot) -> None:
        """Hand the slot what it may hold more, and wait for what it says."""
        if slot.exchange is not None:
            return
        fresh = []
        while len(slot.batches) < IN_HAND and time.monotonic() >= slot.not_before:
            if slot.batches and (self.suspects or slot.batches[0][1][0].deaths):
                break  # suspects are held alone: results that die with an actor are not theirs to answer for
            units = self._next(slot)
            if not units:
                break
            number = self.pool.number()
            slot.batches.append((number, units, sum(u.size for u in units)))
            fresh.append((number, [(at, unit.payload()) for at, unit in enumerate(units)]))
        if slot.batches:
            self._ask(slot, fresh)

    def _ask(self, slot: Slot, fresh: list[Any]) -> None:
        if slot.exchange is None:
            slot.exchange = slot.actor.exchange.remote(fresh, WAIT_SECONDS)
            slot.asked = time.monotonic()

    def _next(self, slot: Slot) -> list[Any]:
        if self.suspects:
            return self._next_suspects()
        actors = max(1, sum(s.ready for s in self.pool.slots))
        size = max(1, min(slot.size or 1, self.most, math.ceil(self._left / (IN_HAND * actors))))
        units, total = [], 0
        while self.waiting and (not units or total + self.waiting[0].size <= size):
            units.append(self.waiting.popleft())
            total += units[-1].size
        self._left -= total
        return units

    def _next_suspects(self) -> list[Any]:
        units = [self.suspects.popleft()]
        if units[0].deaths < self.most_deaths - 1:
            alike = [u for u in self.suspects if u.deaths == units[0].deaths][: SUSPECTS_TOGETHER - 1]
            for unit in alike:
                self.suspects.remove(unit)
            units += alike
        return units

    def _hear(self, slot: Slot) -> Iterator[Event]:
        """What an actor answered, or that it died."""
        reference, slot.exchange = slot.exchange, None
        try:
            said = self.pool.ray.get(reference)
        except self.pool.ray.exceptions.RayError as e:
            yield from self._died(slot, reason_of(e))
            return
        for kind, number, *rest in said:
            if not slot.batches or slot.batches[0][0] != number:
                self.rejected += 1
                continue
            _, units, given = slot.batches[0]
            if kind == "result":
                unit = units[rest[0]]
                if unit.take(rest[1]):
                    self.pool.barren = slot.failures = 0
                    yield Event("result", unit, rest[1])
                else:
                    self.rejected += 1
            else:
                slot.batches.popleft()
                yield from self._ended(slot, units, given, *rest)

    def _ended(self, slot: Slot, units: list[Any], done: int, seconds: float, wrong: Any) -> Iterator[Event]:
        left = [u for u in units if u.size]
        if wrong is None:
            self._learn(slot, done, seconds)
            yield from (Event("short", u) for u in left)
        elif wrong[0] == "user":
            raise UserError(wrong[1])
        else:
            self.pool.failed(slot, wrong[1])
            yield from (Event("failed", u, reason=wrong[1]) for u in left)

    def _learn(self, slot: Slot, done: int, seconds: float) -> None:
        """The size of the next batch. It doubles while a batch is done too soon, and while doubling pays; then
        it goes back by one step and stays. When batches come to take twice as long, the half is tried."""
        if slot.size and not 0.7 * slot.size <= done <= 1.4 * slot.size:
            return  # given before the last change, or cut short by the end of the work
        rate = done / max(seconds, 1e-6)
        if slot.growing:
            soon = seconds < self.pool.spec.batch_seconds / 2
            if (soon or rate > GAIN * slot.rate) and done < self.most:
                slot.size = min(2 * done, self.most)
            else:
                slot.growing, slot.seconds = False, seconds
                slot.size = done if done >= self.most or rate * GAIN < slot.rate else max(1, done // 2)
            slot.rate = rate
        elif seconds > 2 * slot.seconds:
            slot.growing, slot.rate, slot.size = True, rate, max(1, done // 2)

    def _deaf(self) -> Iterator[Event]:
        limit = self.pool.spec.deaf_seconds
        for slot in self.pool.slots:
            if slot.exchange is None or time.monotonic() - slot.asked <= limit:
                continue
            answered, _ = self.pool.ray.wait([slot.exchange], timeout=0)  # it may be the driver that was away
            if not answered:
                yield from self._died(slot, f"no sign of life for {limit:g} s")

    def _died(self, slot: Slot, reason: str) -> Iterator[Event]:
        batches = list(slot.batches)
        try:
            self.pool.lost(slot, reason)
        finally:
            for _, units, _ in reversed(batches[1:]):
                left = [u for u in units if u.size]
                self.waiting.extendleft(reversed([u for u in left if not u.deaths]))
                self.suspects.extend(u for u in left if u.deaths)
                self._left += sum(u.size for u in left if not u.deaths)
        for unit in batches[0][1] if batches else []:
            if not unit.size:
                continue
            unit.deaths += 1
            yield Event("lost", unit)
            if unit.deaths >= self.most_deaths:
                yield Event("given_up", unit, reason=reason)
            else:
                self.suspects.append(unit)
