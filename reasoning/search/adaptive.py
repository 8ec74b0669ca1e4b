"""Adaptive consistency (arXiv 2305.11860): go on drawing until the leading answer is unlikely to be
overtaken."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import comb

from reasoning.errors import UserError
from reasoning.records import Draw, Problem, Sampling
from reasoning.search.base import Candidate, Steps, Strategy, elect, tally


def leads(votes: Iterable[float]) -> float:
    """Probability that the most frequent answer is the most probable one, by the Beta rule (section 3):
    1 - I_{1/2}(v1 + 1, v2 + 1) for the two highest counts.

    I_{1/2}(a, b) of whole a, b is the chance of at least a heads in a + b - 1 tosses.
    """
    first, second, *_ = [*sorted((int(v) for v in votes), reverse=True), 0, 0]
    tosses = first + second + 1
    return 1 - sum(comb(tosses, heads) for heads in range(first + 1, tosses + 1)) / 2**tosses


@dataclass(frozen=True)
class Adaptive(Strategy):
    """n: most chains per problem. step: chains in flight at a time; 1 draws no chain too many, more keeps the
    engine busy and reads the prompt less often. confidence: stop at this chance of being right to stop.

    Votes are counted in the order of the draws, never in the order of arrival (short answers arrive first).
    Chains that were in flight when it stopped are billed, and have no vote.
    """

    n: int = 64
    step: int = 4
    confidence: float = 0.95
    kind = "adaptive"

    def __post_init__(self) -> None:
        if self.n < 1 or self.step < 1:
            raise UserError(f"adaptive: n and step must be 1 or above, not {self.n} and {self.step}.")
        if not 0.5 <= self.confidence <= 1:
            raise UserError(f"adaptive: confidence must lie in [0.5, 1], not {self.confidence}.")

    def __call__(self, problem: Problem, sampling: Sampling) -> Steps:
        counted: list[Candidate] = []
        for start in range(0, self.n, self.step):
            indices = tuple(range(start, min(start + self.step, self.n)))
            arrived = yield Draw(problem, sampling, indices)
            for place, candidate in enumerate(arrived):
                counted.append(candidate)
                votes = tally(counted)
                if votes and leads(votes.values()) >= self.confidence:
                    return elect(votes, counted, unused=(c.chain.key for c in arrived[place + 1 :]))
            if len(arrived) < len(indices):
                break  # the purse is short
        return elect(tally(counted), counted)
