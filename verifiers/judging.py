"""The part that rule-based verifiers share: one attempt at a time, and trouble turned into a status."""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence

from verifiers.base import Attempt, Verdict


class BadReference(Exception):
    """The reference (or the puzzle in ``metadata``) cannot be used; no judgement is possible."""


class RuleVerifier(ABC):
    """A verifier that judges each attempt by itself, from text alone.

    Subclasses write `judge`, which may raise `BadReference`; whatever else it raises becomes a missing
    verdict with status "error", so that one attempt never takes its batch down.
    """

    name: str
    oracle: bool = True

    def verify(self, attempts: Sequence[Attempt]) -> list[Verdict]:
        return [self._safely(attempt) for attempt in attempts]

    def _safely(self, attempt: Attempt) -> Verdict:
        if not isinstance(attempt.response, str):
            kind = type(attempt.response).__name__
            return Verdict(None, status="bad_response", reason=f"the response is {kind}, not text")
        try:
            return self.judge(attempt)
        except BadReference as error:
            try:
                answer = self.stated(attempt.response)
            except Exception:  # a response that breaks the extraction has no vote
                answer = None
            return Verdict(None, answer, status="bad_reference", reason=str(error))
        except RecursionError:
            return Verdict(0.0, status="unparsable", reason="nested too deeply")
        except Exception as error:
            return Verdict(None, status="error", reason=f"{type(error).__name__}: {error}"[:300])

    def stated(self, response: str) -> str | None:
        """The canonical answer of a response, for a vote where there is no usable reference; None
        abstains."""
        return None

    @abstractmethod
    def judge(self, attempt: Attempt) -> Verdict: ...


def no_answer(reason: str = "the response states no answer") -> Verdict:
    return Verdict(0.0, status="no_answer", reason=reason)


def shown(value: object, length: int = 60) -> str:
    """``value`` for a one-line reason: printable, cut at ``length``."""
    text = " ".join(str(value)[: 4 * length].split())
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= length else text[: length - 3] + "..."


_FORMS = ("NFC", "NFD", "NFKC", "NFKD")


def most_tokens(text: str) -> int:
    """An upper bound of the tokens of ``text`` without its tokenizer: its bytes, in the longest form that Unicode
    normalisation can give it. Every token covers at least one byte."""
    forms = [text] if text.isascii() else [text, *(unicodedata.normalize(f, text) for f in _FORMS)]
    return max(len(form.encode("utf-8", "replace")) for form in forms)
