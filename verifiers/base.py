"""What a verifier is shown, what it answers, and the protocol between the two.

This module knows nothing of models, pools or training; it is the ground floor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

CORRECT_AT = 0.99
"""A score below this is not "correct" (partial credit exists, but it is never rounded up)."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One response to judge.

    ``reference`` is the task's answer key; verifiers that read it are oracles (see `Verifier`).
    ``metadata`` carries what a task's own verifier needs (the numbers of a countdown puzzle, say).
    """

    prompt: str = ""
    response: str = ""
    reference: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judgement.

    score: in [0, 1], or None when there is no judgement (the verifier itself failed, or the reference is
        unusable): missing, never 0.
    answer: canonical form of the response's answer, the class it votes for; None abstains. It depends on the
        response alone, never on the reference.
    status: "ok" when the response was judged; otherwise what stood in the way ("no_answer", "unparsable",
        "bad_reference", "timeout", "error", ...).
    rule: which rule decided ("integer", "rational", ...).
    reason: one line for a person.
    steps: per-step scores of a process verifier, or None.
    scored_tokens, flops: what a model-based verifier spent on this verdict (0 for rules).
    """

    score: float | None
    answer: str | None = None
    status: str = "ok"
    rule: str = ""
    reason: str = ""
    steps: tuple[float, ...] | None = None
    scored_tokens: int = 0
    flops: float = 0.0

    @property
    def correct(self) -> bool:
        return self.score is not None and self.score >= CORRECT_AT

    @property
    def missing(self) -> bool:
        """True when there is no judgement at all (an infrastructure failure or an unusable reference)."""
        return self.score is None

    @property
    def failed(self) -> bool:
        """True when the verifier was not reached or broke, so that nothing is known of the response and another try
        may judge it. Not of a judge that answered out of form: it was paid, and would answer so again."""
        return self.missing and self.status in ("infrastructure", "error")


@runtime_checkable
class Verifier(Protocol):
    """Judges attempts in batches.

    name: the spec that opens it again (``open_verifier(name)``).
    oracle: True when it reads ``Attempt.reference``. An oracle is fine for training and for measuring; it can
        never be deployed, so results that use one at search time are marked as a ceiling.

    ``verify`` never raises for what an attempt contains: trouble is a `Verdict.status`.
    """

    name: str
    oracle: bool

    def verify(self, attempts: Sequence[Attempt]) -> list[Verdict]: ...
