"""Which problems come next: one task or several by weight, each in an endless order, by a curriculum where asked.

All of it is a function of the seed and of `Stream.state` (JSON values, saved with a checkpoint), so a resumed run
asks the same problems. Knows nothing of chains, engines or verifiers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reasoning.errors import UserError
from reasoning.records import Problem
from reasoning.train.sources import order_of

PATIENCE = 2
"""How often a problem outside of the curriculum's band is passed over before it is tried again: the model changes."""

_WEIGHTED = re.compile(r"(?P<spec>[^*]+)\*(?P<weight>\d+(\.\d*)?|\.\d+)")
_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"


@dataclass(frozen=True, slots=True)
class Weighted:
    """A task's problems and its share among others. label: how metrics name it."""

    label: str
    weight: float
    problems: Sequence[Problem]


def parse_mixture(text: str) -> list[tuple[str, float]]:
    """(task, weight) of ``task*weight+task*weight``, or of a single task. A plus sign separates only where every
    part ends in a weight, so a file's name may hold one.

    Raises UserError for a weight of 0 and for a task that is named twice.

    >>> parse_mixture("word:train*2+countdown:train:numbers=3*1")
    [('word:train', 2.0), ('countdown:train:numbers=3', 1.0)]
    >>> parse_mixture("jsonl:a+b.jsonl")
    [('jsonl:a+b.jsonl', 1.0)]
    """
    parts = [part.strip() for part in text.split("+")]
    found = [_WEIGHTED.fullmatch(part) for part in parts]
    weighted = [(m["spec"].strip(), float(m["weight"])) for m in found if m is not None]
    if len(weighted) != len(parts):
        if len(parts) > 1 and weighted:
            raise UserError(
                f"{text!r}: of several tasks each needs a weight, as in word:train*2+countdown:train*1."
            )
        return [(text, 1.0)]
    for spec, weight in weighted:
        if not weight > 0:
            raise UserError(f"{spec}*{weight:g}: a task's weight must be above 0; leave it out instead.")
    names = [spec for spec, _ in weighted]
    if len(set(names)) < len(names):
        raise UserError(f"{text!r} names a task twice; add up its weights.")
    return weighted


def labels(specs: Sequence[str]) -> list[str]:
    """A short name of each task for metrics: what stands before the first colon, or all where that is not unique."""
    short = [spec.partition(":")[0] for spec in specs]
    return short if len(set(short)) == len(short) else list(specs)


def parse_band(text: str) -> tuple[float, float] | None:
    """(low, high) of ``0.1-0.9``, None of "". Raises UserError."""
    if not text:
        return None
    found = re.fullmatch(rf"\s*{_NUMBER}\s*-\s*{_NUMBER}\s*", text)
    low, high = (float(x) for x in found.groups()) if found else (math.nan, math.nan)
    if not 0 <= low < high <= 1:
        raise UserError(f"--curriculum {text!r} is not LOW-HIGH, two solve rates in 0 to 1, such as 0.1-0.9.")
    return low, high


class Stream:
    """The order in which problems are asked.

    band: problems whose mean score, when they were last asked, lies in it come first, and those never asked; one
    outside is passed over `PATIENCE` times, then tried again, or taken at once where there are too few others.
    """

    def __init__(self, tasks: Sequence[Weighted], seed: int, band: tuple[float, float] | None = None):
        self.tasks = tasks
        self.seed = seed
        self.band = band
        self.state: dict[str, Any] = {
            "given": [0] * len(tasks),
            "position": [0] * len(tasks),
            "rates": {},
            "passed": {},
        }
        self._orders: dict[int, tuple[int, list[int]]] = {}

    @property
    def size(self) -> int:
        return sum(len(task.problems) for task in self.tasks)

    def next(self, count: int, seen: Collection[str] = ()) -> list[Problem]:
        """The problems of the next ``count`` places, those of ``seen`` and repetitions left out."""
        picked: dict[str, Problem] = {}
        for _ in range(count):
            which = self._turn()
            self.state["given"][which] += 1
            problem = self._one(which, {*picked, *seen})
            if problem is not None:
                picked[problem.id] = problem
        return list(picked.values())

    def tell(self, rates: Mapping[str, float]) -> None:
        """Mean scores of problems that were asked, by id."""
        if self.band is not None:
            self.state["rates"].update(rates)

    def _turn(self) -> int:
        """The task that is furthest behind its share."""
        given = self.state["given"]
        total = sum(task.weight for task in self.tasks)
        behind = [
            task.weight / total * (sum(given) + 1) - done
            for task, done in zip(self.tasks, given, strict=True)
        ]
        return behind.index(max(behind))

    def _one(self, which: int, taken: Collection[str]) -> Problem | None:
        if self.band is None:
            problem = self._advance(which)
            return None if problem.id in taken else problem
        put_off: list[Problem] = []
        for _ in self.tasks[which].problems:
            problem = self._advance(which)
            if problem.id in taken:
                continue
            if self._distance(problem) and self.state["passed"].get(problem.id, 0) < PATIENCE:
                self.state["passed"][problem.id] = self.state["passed"].get(problem.id, 0) + 1
                put_off.append(problem)
                continue
            self.state["passed"].pop(problem.id, None)
            return problem
        nearest = min(put_off, key=self._distance, default=None)
        if nearest is not None:
            self.state["passed"].pop(nearest.id, None)
        return nearest

    def _advance(self, which: int) -> Problem:
        problems = self.tasks[which].problems
        epoch, place = divmod(self.state["position"][which], len(problems))
        self.state["position"][which] += 1
        known = self._orders.get(which)
        if known is None or known[0] != epoch:
            known = self._orders[which] = (epoch, order_of(len(problems), self.seed, epoch))
        return problems[known[1][place]]

    def _distance(self, problem: Problem) -> float:
        """How far outside of the band a problem's rate lies; 0 inside and where it is not known."""
        assert self.band is not None
        rate = self.state["rates"].get(problem.id)
        return 0.0 if rate is None else max(self.band[0] - rate, rate - self.band[1], 0.0)
