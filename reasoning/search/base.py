"""What a search strategy is: a generator that asks for chains and scores, and answers. No engine, no thread,
no ledger, no pool inside, so a strategy reads like its paper.

A strategy yields one request, or a list of them, and is sent the result, or a list of results:

    Draw(problem, sampling, indices)   -> list[Candidate], by index; fewer when the purse is short
    Judge(candidates)                  -> list[float | None], None where there is no score
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Protocol

from reasoning.records import Chain, Draw, Problem, Sampling


@dataclass(frozen=True, slots=True)
class Candidate:
    """A chain and the answer that it votes for; None abstains (it states none, or was cut off)."""

    chain: Chain
    answer: str | None


@dataclass(frozen=True, slots=True)
class Judge:
    """A request for scores of chains by the scorer that the driver was given."""

    candidates: Sequence[Candidate]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a search came to. chain: the one to show (None when there is none). votes: answer -> weight.
    unused: keys of chains that were drawn and had no part in the answer (they are billed all the same)."""

    answer: str | None = None
    chain: Chain | None = None
    votes: Mapping[str, float] = field(default_factory=dict)
    unused: frozenset[str] = frozenset()


Request = Draw | Judge
Steps = Generator[Request | list[Request], Any, Answer]


class Search(Protocol):
    """A strategy with its settings. name: the spec that opens it again. needs_scorer: it yields `Judge`."""

    @property
    def name(self) -> str: ...

    @property
    def needs_scorer(self) -> bool: ...

    def __call__(self, problem: Problem, sampling: Sampling) -> Steps: ...


class Strategy(ABC):
    """Base of the strategies here: a frozen dataclass whose fields are the spec's options."""

    kind: ClassVar[str]
    needs_scorer = False

    @property
    def name(self) -> str:
        options = ",".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self))  # type: ignore[arg-type]
        return f"{self.kind}:{options}" if options else self.kind

    @abstractmethod
    def __call__(self, problem: Problem, sampling: Sampling) -> Steps: ...


def tally(candidates: Iterable[Candidate], weights: Iterable[float | None] | None = None) -> dict[str, float]:
    """Answer -> summed weight (1 each by default), in order of first appearance. Whoever abstains, or has no
    weight, does not vote."""
    votes: dict[str, float] = {}
    candidates = list(candidates)
    for candidate, weight in zip(candidates, weights or [1.0] * len(candidates), strict=True):
        if candidate.answer is not None and weight is not None:
            votes[candidate.answer] = votes.get(candidate.answer, 0.0) + weight
    return votes


def elect(votes: Mapping[str, float], candidates: Iterable[Candidate], unused: Iterable[str] = ()) -> Answer:
    """The answer with the most votes (the earliest one of equals) and the first chain that states it."""
    if not votes:
        return Answer(unused=frozenset(unused))
    winner = max(votes, key=lambda answer: votes[answer])
    chain = next(c.chain for c in candidates if c.answer == winner)
    return Answer(winner, chain, votes, frozenset(unused))
