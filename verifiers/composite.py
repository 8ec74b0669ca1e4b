"""Weighted compositions of verifiers: ``math*1.0+format*0.1``."""

from __future__ import annotations

from collections.abc import Sequence

from verifiers.base import Attempt, Verdict, Verifier
from verifiers.errors import VerifierError


class Weighted:
    """The weighted mean of several verifiers' scores; weights are divided by their sum, so that the score
    stays in [0, 1].

    The first term leads: its answer votes, its status and rule are the verdict's. A judgement that is missing
    in any term is missing in the mean (its weight is never silently given to the others).
    """

    def __init__(self, terms: Sequence[tuple[Verifier, float]]):
        if not terms:
            raise VerifierError("A composition needs at least one verifier.")
        total = sum(weight for _, weight in terms)
        if total <= 0 or any(weight < 0 for _, weight in terms):
            raise VerifierError("The weights of a composition must be 0 or above, and one of them above 0.")
        self.terms = [(verifier, weight / total) for verifier, weight in terms]
        self.name = "+".join(f"{verifier.name}*{weight:g}" for verifier, weight in terms)
        self.oracle = any(verifier.oracle for verifier, _ in terms)

    def verify(self, attempts: Sequence[Attempt]) -> list[Verdict]:
        columns = [verifier.verify(attempts) for verifier, _ in self.terms]
        return [self._mean(verdicts) for verdicts in zip(*columns, strict=True)]

    def _mean(self, verdicts: tuple[Verdict, ...]) -> Verdict:
        lead = verdicts[0]
        parts = []
        for (verifier, _), v in zip(self.terms, verdicts, strict=True):
            score = "missing" if v.score is None else format(v.score, "g")
            parts.append(f"{verifier.name} {score} ({v.reason or v.status})")
        missing = next((v for v in verdicts if v.score is None), None)
        score = None
        if missing is None:
            score = sum(w * (v.score or 0.0) for (_, w), v in zip(self.terms, verdicts, strict=True))
            score = min(1.0, max(0.0, score))
        return Verdict(
            score=score,
            answer=lead.answer,
            status=lead.status if missing is None else missing.status,
            rule=lead.rule,
            reason="; ".join(parts)[:500],
            steps=lead.steps,
            scored_tokens=sum(v.scored_tokens for v in verdicts),
            flops=sum(v.flops for v in verdicts),
        )
