"""A verifier against labels: how often do the two agree, and where do they not? Knows no file format."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from reasoning.pool import Pool
from verifiers.base import Verdict

LABEL = "label"
"""Name of the verdicts that labels become. Whoever labelled saw the reference: an oracle."""


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A chain on which the verifier and the label differ."""

    problem_id: str
    question: str
    reference: Any
    model: str
    index: int
    label: float
    verdict: Verdict
    response: str


@dataclass(frozen=True, slots=True)
class Agreement:
    """A verifier against labels, in chains: both right, only one says right, neither; missing: no
    judgement."""

    verifier: str
    both: int
    only_verifier: int
    only_label: int
    neither: int
    missing: int
    disagreements: tuple[Disagreement, ...] = ()

    @property
    def judged(self) -> int:
        return self.both + self.only_verifier + self.only_label + self.neither

    @property
    def rate(self) -> float:
        """Share of the judged chains on which they agree; NaN where there is none."""
        return (self.both + self.neither) / self.judged if self.judged else math.nan

    @property
    def kappa(self) -> float:
        """Cohen's kappa: agreement beyond what the two shares of "right" give by chance. NaN where chance
        alone agrees always (both constant and equal)."""
        n = self.judged
        if n == 0:
            return math.nan
        by_verifier, by_label = (self.both + self.only_verifier) / n, (self.both + self.only_label) / n
        chance = by_verifier * by_label + (1 - by_verifier) * (1 - by_label)
        return math.nan if chance == 1 else (self.rate - chance) / (1 - chance)


def agreement(pool: Pool, verifier: str, label: str = LABEL, keys: Iterable[str] | None = None) -> Agreement:
    """Compare a verifier's verdicts with labels, on the chains (of ``keys``) that have a label."""
    verdicts, labels, problems = pool.verdicts(verifier), pool.verdicts(label), pool.problems()
    wanted = set(labels) if keys is None else set(labels) & set(keys)
    counts = {(True, True): 0, (True, False): 0, (False, True): 0, (False, False): 0}
    missing = 0
    found: list[Disagreement] = []
    for chain in pool.chains():
        if chain.key not in wanted:
            continue
        verdict, truth = verdicts.get(chain.key), labels[chain.key]
        if verdict is None or verdict.missing or truth.score is None:
            missing += 1
            continue
        counts[verdict.correct, truth.correct] += 1
        if verdict.correct != truth.correct:
            problem = problems[chain.problem_id]
            found.append(
                Disagreement(
                    problem.id,
                    problem.question,
                    problem.reference,
                    chain.model,
                    chain.index,
                    truth.score,
                    verdict,
                    chain.text,
                )
            )
    return Agreement(
        verifier,
        counts[True, True],
        counts[True, False],
        counts[False, True],
        counts[False, False],
        missing,
        tuple(found),
    )
