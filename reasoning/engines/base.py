"""The engine protocol. An engine turns `Draw`s into `Chain`s and knows nothing of pools, budgets or verifiers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from reasoning.flops import ModelShape
from reasoning.records import Chain, Cost, Draw


@runtime_checkable
class Engine(Protocol):
    """Generates chains.

    model: "name@weights": changes whenever the weights do.
    shape: the model's shape for FLOPs accounting, or None where it cannot be known (a recorded pool).
    """

    model: str
    shape: ModelShape | None

    def generate(self, draws: Sequence[Draw]) -> Iterator[Chain]:
        """Yield one chain for each index of each draw, in whatever order they finish.

        Same key, same chain: the result for an index does not depend on what else is in ``draws``.
        Raises EngineError when chains cannot be produced.
        """
        ...

    def worst_case(self, draw: Draw) -> Cost:
        """The most that ``draw`` can cost (every chain running to max_new_tokens); seconds are left 0."""
        ...

    def close(self) -> None:
        """Free what the engine holds. Safe to call twice."""
        ...
