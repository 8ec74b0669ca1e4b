"""Self-consistency (arXiv 2203.11171): draw n chains, answer what most of them answer."""

from __future__ import annotations

from dataclasses import dataclass

from reasoning.errors import UserError
from reasoning.records import Draw, Problem, Sampling
from reasoning.search.base import Steps, Strategy, elect, tally


@dataclass(frozen=True)
class Majority(Strategy):
    """n: chains per problem. Of equally frequent answers the earliest wins."""

    n: int = 16
    kind = "majority"

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UserError(f"majority: n must be 1 or above, not {self.n}.")

    def __call__(self, problem: Problem, sampling: Sampling) -> Steps:
        candidates = yield Draw(problem, sampling, tuple(range(self.n)))
        return elect(tally(candidates), candidates)
