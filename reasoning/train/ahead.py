"""Steps drawn in step with the learner, or ahead of it: in a thread, by weights that are a fixed number of steps
older. Each is a function of the step and its weights alone, so no timing changes a bit of a run.
"""

from __future__ import annotations

import copy
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from reasoning.train.generators import Generator
from reasoning.train.sources import BudgetSpent, Source, StepData


@dataclass(slots=True)
class Pending:
    """A step that is being drawn or was: the version of the weights that draw it, and the source's state before."""

    step: int
    version: str
    before: dict[str, Any]
    data: Future[StepData]


class InStep:
    """Each step is drawn by the weights it trains. ``state``: what a checkpoint keeps."""

    staleness = 0

    def __init__(self, source: Source):
        self.source = source

    def take(self, step: int, version: str) -> StepData:
        before = copy.deepcopy(self.source.state)
        try:
            return self.source.draw(step)
        except BudgetSpent:
            self.source.state.update(before)  # as if it had not been tried
            raise

    def state(self) -> dict[str, Any]:
        return {"source": copy.deepcopy(self.source.state), "ahead": []}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.source.state.update(state["source"])

    def drain(self) -> None:
        pass

    def close(self) -> None:
        pass


class Ahead:
    """Step t is drawn by the weights that stood before step t - ``staleness``, while the learner works.

    weights: gives those of the learner as they are now. steps: of the whole run; none beyond it is drawn.
    """

    def __init__(
        self,
        source: Any,
        generator: Generator,
        weights: Callable[[], Iterable[tuple[str, Tensor]]],
        staleness: int,
        steps: int,
    ):
        self.source = source
        self.generator = generator
        self.weights = weights
        self.staleness = staleness
        self.steps = steps
        self.pending: deque[Pending] = deque()
        self._restored: list[list[Any]] = []
        self._drawn = 0  # the step to be drawn next
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="roll-outs")

    def take(self, step: int, version: str) -> StepData:
        """The chains of ``step``; on the way out the weights of now, named ``version``, begin to draw a later one."""
        for old_step, old_version in self._restored:
            self._submit(old_step, old_version, None)
        self._restored = []
        self._drawn = max(self._drawn, step)
        while self._drawn < min(step + self.staleness, self.steps):
            self._submit(self._drawn, version, self._copy())
        data = self.pending[0].data.result()
        self.pending.popleft()
        if self._drawn < self.steps:
            self._submit(self._drawn, version, self._copy())
        return data

    def _copy(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.weights()}

    def _submit(self, step: int, version: str, weights: dict[str, Tensor] | None) -> None:
        """weights: None for those that are gone; what they drew is read from the pool."""
        before: dict[str, Any] = {}

        def draw() -> StepData:
            before.update(copy.deepcopy(self.source.state))
            if weights is None:
                self.generator.rename(version)
            else:
                self.generator.load(weights.items(), version)
            self.source.recorded = weights is None
            return self.source.draw(step)

        self.pending.append(Pending(step, version, before, self._thread.submit(draw)))
        self._drawn = step + 1

    def drain(self) -> None:
        """Wait until nothing is being drawn. What went wrong there is raised when its step is taken."""
        for pending in self.pending:
            pending.data.exception()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: the pending steps that were drawn, with the names of their weights, and the
        source's state before them."""
        self.drain()
        before = self.pending[0].before if self.pending else copy.deepcopy(self.source.state)
        there = itertools.takewhile(lambda p: p.data.exception() is None, self.pending)
        return {"source": before, "ahead": [[p.step, p.version] for p in there]}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.source.state.update(state["source"])
        self._restored = state["ahead"]

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
