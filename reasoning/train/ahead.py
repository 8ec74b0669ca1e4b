"""Steps drawn in step with the learner, or ahead of it: in a thread, by weights that are a fixed number of steps
older. Each is a function of the step and its weights alone, so no timing changes a bit of a run.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from reasoning.train.generators import Generator
from reasoning.train.sources import BudgetSpent, Source, StepData

Weights = Mapping[str, Mapping[str, Tensor]]
"""Tensors by name, of each of several versions."""


@dataclass(slots=True)
class Pending:
    """A step that is being drawn or was: the version of the weights that draw it, and the source's state before.
    weights: where it could not be drawn to its end, those that are to draw the rest."""

    step: int
    version: str
    before: dict[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Tensor] | None = None
    data: Future[StepData] = field(default_factory=Future)


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

    def restore(self, state: Mapping[str, Any], weights: Weights) -> None:
        self.source.state.update(state["source"])

    def older_weights(self) -> Weights:
        return {}

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
        self._restored: list[Pending] = []
        self._failed: BaseException | None = None
        self._drawn = 0  # the step to be drawn next
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="roll-outs")

    def take(self, step: int, version: str) -> StepData:
        """The chains of ``step``; on the way out the weights of now, named ``version``, begin to draw a later one."""
        for old in self._restored:
            self._submit(old.step, old.version, old.weights)
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

    def _submit(self, step: int, version: str, weights: Mapping[str, Tensor] | None) -> None:
        """weights: None for those that are gone; what they drew is read from the pool."""
        pending = Pending(step, version)

        def draw() -> StepData:
            pending.before.update(copy.deepcopy(self.source.state))
            try:
                if self._failed is not None:
                    raise self._failed  # what comes behind a step that could not be drawn is not drawn before it
                if weights is None:
                    self.generator.rename(version)
                else:
                    self.generator.load(weights.items(), version)
                self.source.recorded = weights is None
                return self.source.draw(step)
            except BaseException as error:
                self._failed, pending.weights = error, weights
                raise

        pending.data = self._thread.submit(draw)
        self.pending.append(pending)
        self._drawn = step + 1

    def drain(self) -> None:
        """Wait until nothing is being drawn. What went wrong there is raised when its step is taken."""
        for pending in self.pending:
            pending.data.exception()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, with `older_weights`: the pending steps, with the names of their weights, and the
        source's state before them."""
        self.drain()
        before = self.pending[0].before if self.pending else copy.deepcopy(self.source.state)
        return {"source": before, "ahead": [[p.step, p.version] for p in self.pending]}

    def older_weights(self) -> Weights:
        """By version, those of the pending steps that could not be drawn to their end (the budget ended, a verifier
        failed): the chains of the others are in the pool."""
        self.drain()
        return {p.version: p.weights for p in self.pending if p.weights is not None}

    def restore(self, state: Mapping[str, Any], weights: Weights) -> None:
        """``state`` and ``weights`` as a checkpoint has them."""
        self.source.state.update(state["source"])
        self._restored = [
            Pending(step, version, weights=weights.get(version)) for step, version in state["ahead"]
        ]

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
