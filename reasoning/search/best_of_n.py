"""Best-of-n (arXiv 2110.14168, section 4): draw n chains, keep the one that the scorer likes best."""

from __future__ import annotations

from dataclasses import dataclass

from reasoning.errors import UserError
from reasoning.records import Draw, Problem, Sampling
from reasoning.search.base import Answer, Judge, Steps, Strategy, elect, tally


@dataclass(frozen=True)
class BestOfN(Strategy):
    """n: chains per problem. A chain without a score is out of the race; where the purse
    paid for no score at all, the plain vote decides."""

    n: int = 16
    kind = "best_of_n"
    needs_scorer = True

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UserError(f"best_of_n: n must be 1 or above, not {self.n}.")

    def __call__(self, problem: Problem, sampling: Sampling) -> Steps:
        candidates = yield Draw(problem, sampling, tuple(range(self.n)))
        scores = yield Judge(candidates)
        scored = [(score, c) for score, c in zip(scores, candidates, strict=True) if score is not None]
        if not scored:
            return elect(tally(candidates), candidates)
        score, best = max(scored, key=lambda pair: pair[0])
        return Answer(best.answer, best.chain, {} if best.answer is None else {best.answer: score})
