"""`exact`: the stated answer equals the reference as text, spacing and dress aside."""

from __future__ import annotations

from collections.abc import Mapping

from verifiers.base import Attempt, Verdict
from verifiers.extract import MAX_CHARACTERS, final_part, statement
from verifiers.judging import BadReference, RuleVerifier, no_answer, shown
from verifiers.normalise import plain_unicode, squeeze, unwrap


class Exact(RuleVerifier):
    """String equality of the stated answer (or, where none is stated, of the whole response) with the
    reference, after Unicode look-alikes, surrounding marks and spacing are made one.

    case: letter case counts.
    """

    def __init__(self, case: bool = False):
        self.case = case
        self.name = "exact:case=true" if case else "exact"

    def form(self, text: str) -> str:
        text = squeeze(unwrap(plain_unicode(text[-MAX_CHARACTERS:])))
        return text if self.case else text.casefold()

    def judge(self, attempt: Attempt) -> Verdict:
        if attempt.reference is None or isinstance(attempt.reference, dict | list):
            raise BadReference(f"exact needs a reference of text, not {type(attempt.reference).__name__}")
        bare = isinstance(attempt.metadata, Mapping) and attempt.metadata.get("bare")
        answer = (self.form(attempt.response) or None) if bare else self.stated(attempt.response)
        if not answer:
            return no_answer("the response is empty")
        reference = self.form(str(attempt.reference))
        if not reference:
            raise BadReference("the reference is empty")
        equal = answer == reference
        reason = "equal" if equal else f"{shown(answer)!r} is not {shown(reference)!r}"
        return Verdict(float(equal), answer, rule="text", reason=reason)

    def stated(self, response: str) -> str | None:
        found = statement(response)
        return self.form(found.text if found else final_part(response)) or None
