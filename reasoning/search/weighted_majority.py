"""Weighted majority (arXiv 2206.02336, section 2.2): each chain votes with its score."""

from __future__ import annotations

from dataclasses import dataclass

from reasoning.errors import UserError
from reasoning.records import Draw, Problem, Sampling
from reasoning.search.base import Judge, Steps, Strategy, elect, tally


@dataclass(frozen=True)
class WeightedMajority(Strategy):
    """n: chains per problem. A chain without a score does not vote; where there is no score
    at all, each has one vote."""

    n: int = 16
    kind = "weighted_majority"
    needs_scorer = True

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UserError(f"weighted_majority: n must be 1 or above, not {self.n}.")

    def __call__(self, problem: Problem, sampling: Sampling) -> Steps:
        candidates = yield Draw(problem, sampling, tuple(range(self.n)))
        # Only what votes is scored: a chain without an answer would cost a score and change nothing.
        voters = [c for c in candidates if c.answer is not None]
        scores = yield Judge(voters)
        if all(score is None for score in scores):
            return elect(tally(voters), voters)
        return elect(tally(voters, scores), voters)
