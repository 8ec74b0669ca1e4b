r"""`math`: the stated answer equals the reference, compared by the kind of thing the reference is.

A fast path (text, integers, rationals) answers most pairs; the rest is read by a parser of our own and compared
as trees and by exact or many-digit values (`verifiers.expressions`). No model text is executed, anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from verifiers.answers import SHORT, Answer, answer_in
from verifiers.base import Attempt, Verdict
from verifiers.errors import VerifierError
from verifiers.expressions.evaluate import value
from verifiers.expressions.nodes import Node
from verifiers.expressions.scalars import Tolerance
from verifiers.expressions.values import NoValue
from verifiers.expressions.work import TooMuchWork, limited
from verifiers.extract import last_box
from verifiers.judging import BadReference, RuleVerifier, shown
from verifiers.matching import match
from verifiers.reading import Reading, plain_words, read


class Mathematics(RuleVerifier):
    """Answers of competition and school mathematics: numbers, expressions, tuples, sets, intervals, inequalities,
    equations, matrices, families, units, times, choices, words (see docs/adr/0003).

    tolerance: relative, applied where a decimal is present. 0 is strict: a decimal equals an exact value only
        when it gives at least 12 significant digits of it.
    rename: an answer in another letter counts ("f(y)" for "f(x)").

    A reference that cannot be read as mathematics is compared as words.
    """

    def __init__(self, tolerance: float = 0.0, rename: bool = False):
        if not 0 <= tolerance < 1:
            raise VerifierError(f"math: tolerance must lie in [0, 1), not {tolerance}")
        self.how = Tolerance(tolerance, rename)
        options = [f"tolerance={tolerance!r}"] * bool(tolerance) + ["rename=true"] * rename
        self.name = "math" + (":" + ",".join(options) if options else "")

    def judge(self, attempt: Attempt) -> Verdict:
        reference = attempt.reference
        if isinstance(reference, bool) or not isinstance(reference, str | int | float):
            raise BadReference(f"math needs a reference of text or a number, not {type(reference).__name__}")
        reference = str(reference)
        answer = answer_in(attempt.response)
        if answer.remembered and len(reference) <= SHORT:
            verdict = _remembered_verdict(reference, answer, self.how)
        else:
            verdict = _verdict(_reference(reference), answer, self.how)
        if verdict.status == "no_answer" and _word_for_word(attempt.response, reference):
            return Verdict(1.0, rule="text", reason="the reference word for word")
        return verdict

    def stated(self, response: str) -> str | None:
        return answer_in(response).vote


@lru_cache(maxsize=16_384)
def _remembered_verdict(reference: str, answer: Answer, how: Tolerance) -> Verdict:
    return _verdict(_short_reference(reference), answer, how)


def _verdict(gold: Reading, answer: Answer, how: Tolerance) -> Verdict:
    source = answer.source
    if answer.trouble:
        return Verdict(0.0, status=answer.status, reason=answer.trouble)
    reading = answer.reading
    try:
        with limited():
            rule = match(gold, reading, how)
            if rule is None and len(answer.readings) > 1:
                rule = _one_of_boxes(gold, answer.readings, how)
    except TooMuchWork as error:
        reason = f"the comparison with {_brief(gold.words)!r} asks for {error}"
        return Verdict(0.0, answer.vote, status="work_limit", reason=reason)
    if rule:
        return Verdict(1.0, answer.vote, rule=rule, reason=f"equal ({rule}, {source})")
    reason = f"{_brief(reading.words)!r} is not {_brief(gold.words)!r} ({source})"
    return Verdict(0.0, answer.vote, rule=reading.tree.kind if reading.tree else "text", reason=reason)


def _word_for_word(response: str, reference: str) -> bool:
    """Whether the response is the reference, which may be words with numbers in them ("Monday, March 3")."""
    if response.strip() == reference.strip():
        return True
    return len(response) <= SHORT and plain_words(response) == plain_words(reference)


def _brief(words: str) -> str:
    return words if len(words) <= 40 and words.isalnum() else shown(words)


_SENTENCE = re.compile(r"\W*(?:[A-Z][a-z']+|[a-z]{2,}|[AI])\b|[^A-Za-z]*$")
"""Where a reference begins with words it may be a whole solution; "$f(x) = ax$, where $g(a) = 0$" states no 0."""


def _reference(text: str) -> Reading:
    """Raises BadReference."""
    if not text.strip():
        raise BadReference("the reference is empty")
    found = answer_in(text)
    if found.status == "work_limit":
        raise BadReference(found.trouble.replace("response", f"reference {shown(text)!r}", 1))
    try:
        with limited():
            bare = found.trouble or (found.source == "prose" and not _SENTENCE.match(text))
            gold = read(text[max(last_box(text), 0) :]) if bare else found.reading
            undefined = gold.tree is not None and _undefined(gold.tree)
    except TooMuchWork as error:
        raise BadReference(f"the reference {shown(text)!r} asks for {error}") from None
    if gold.tree is None and not gold.choice and (not _is_words(gold.words) or gold.words == "nan"):
        raise BadReference(f"the reference {shown(text)!r} cannot be read: {gold.why}")
    if undefined:
        raise BadReference(f"the reference {shown(text)!r} has no value")
    return gold


_short_reference = lru_cache(maxsize=16_384)(_reference)


def _is_words(text: str) -> bool:
    """Whether what is no mathematics can be compared as words: "((" and "\\frac{1}{" cannot."""
    return bool(re.search(r"[^\W\d_]{2}|[^\x00-\x7f]", re.sub(r"\\[A-Za-z]+", "", text)))


def _undefined(tree: Node) -> bool:
    """A constant whose value does not exist: 1/0, 0^0."""
    if (
        tree.kind not in ("div", "pow", "mul", "add", "neg")
        or tree.variables()
        or tree.has("pm", "matrix", "const")
    ):
        return False
    try:
        value(tree)
    except ZeroDivisionError:
        return True
    except NoValue as error:
        return "zero" in str(error) or "0^0" in str(error)
    return False


def _one_of_boxes(gold: Reading, readings: Sequence[Reading], how: Tolerance) -> str | None:
    """Two boxes that give one answer in two dresses, each of which matches."""
    rules = [match(gold, reading, how) for reading in readings]
    return f"{rules[-1]} boxes" if all(rules) else None
