"""`numeric`: the stated answer is a number equal to the reference, exactly, as rationals."""

from __future__ import annotations

import re
from fractions import Fraction

from verifiers.arithmetic import NotArithmetic, parse_arithmetic
from verifiers.base import Attempt, Verdict
from verifiers.errors import VerifierError
from verifiers.extract import final_part, statement
from verifiers.judging import BadReference, RuleVerifier, no_answer, shown
from verifiers.normalise import plain_latex, plain_unicode, squeeze, unwrap
from verifiers.numbers import MAX_LITERAL, as_number, parse_number

_NAMED = re.compile(r"^(?:[A-Za-z]\w{0,20}|\\[a-z]+)\s*=\s*")
_APART = re.compile(
    r"\s[-+*/^=<>]|\b(?:or|and|to|between|not|less|more|about|either)\b|[\d=<>^\\]", re.IGNORECASE
)
_LETTER = re.compile(
    r"(?<![A-Za-z'])(?![mghslL](?![A-Za-z]))(?!a\s[a-z]{2}|[ap]\.?\s?m\b)[A-Za-z](?![A-Za-z])"
)
"""A letter that stands alone and is no unit: a variable."""
_STYLE = re.compile(r"\\(?:text|mathrm|mbox|textbf|mathbf)\s*\{([^{}]*)\}")
_POWER = re.compile(r"(?<=\d\s)((?:[cdkm]?m|ft|in|yd))\s?\^\s?\{?[23]\}?$")
_NUMERAL = re.compile(
    r"[-+]?(?:(?:\\?\$|€|£|¥)\s?)?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s\d+/\d+|/\d+)?\s?%?", re.ASCII
)
_HEDGE = re.compile(
    r"\b(?:or|not|nor|neither|either|never|no|than|least|most|over|under|below|above|between|from|about|around|maybe"
    r"|perhaps|possibly|almost|nearly|roughly|approximately|if|except|times|plus|minus|divided|multiplied|step|equation"
    r"|part|problem|question|case|chapter|page)\b|n't\b",
    re.IGNORECASE,
)
_LEAD = re.compile(
    r"(?:(?:a total of|exactly|equal to|equals|just)\s+)?"
    r"(?P<number>[-+]?(?:\\?\$|€|£|¥)?\s?[-+]?(?:\d|\.\d|\\[dt]?frac).*)$",
    re.IGNORECASE,
)


class Numeric(RuleVerifier):
    """Integers, decimals, fractions, mixed numbers, with separators, currency and percent signs.

    The answer is read from ``\\boxed{}``, "the answer is", ``####`` (see `verifiers.extract`), from a response that
    is nothing but a number, or from one sentence with one number in it ("Sally has 9 books."). "36 apples" is 36;
    "36 or 37", "4t", "x^2 = 36" and a box without a number are no answer. A stated sum must hold ("6+3=9"). The
    reference may be a number or text, a GSM8K solution included.

    tolerance: relative; 0 compares exactly, so 0.333 is not 1/3.
    """

    def __init__(self, tolerance: float = 0.0):
        if not 0 <= tolerance < 1:
            raise VerifierError(f"numeric: tolerance must lie in [0, 1), not {tolerance}")
        self.tolerance = tolerance
        self.name = f"numeric:tolerance={tolerance!r}" if tolerance else "numeric"

    def judge(self, attempt: Attempt) -> Verdict:
        reference = self._reference(attempt.reference)
        answer = self._answer(attempt.response)
        if isinstance(answer, Verdict):
            return answer
        equal = abs(answer - reference) <= Fraction(self.tolerance) * abs(reference)
        rule = "integer" if answer.denominator == 1 == reference.denominator else "rational"
        reason = "equal" if equal else f"{shown(answer)} is not {shown(reference)}"
        return Verdict(float(equal), str(answer), rule=rule, reason=reason)

    def stated(self, response: str) -> str | None:
        answer = self._answer(response)
        return None if isinstance(answer, Verdict) else str(answer)

    def _answer(self, response: str) -> Fraction | Verdict:
        """The answer, or the verdict on a response that has none."""
        found = statement(response)
        if found is None:
            text = final_part(response)
            whole = None if len(text) > MAX_LITERAL else stated_number(text)
            if whole is None:
                return no_answer("the response states no answer" if text.strip() else "the response is empty")
            answer = whole
        else:
            answers = {stated_number(text) for text in (found.text, *found.others)}
            if None in answers:
                return Verdict(0.0, status="unparsable", reason=f"{shown(found.text)!r} is not one number")
            if len(answers) > 1:
                return Verdict(0.0, status="ambiguous", reason="boxes with different numbers")
            answer = answers.pop()
        assert answer is not None
        return answer

    def _reference(self, reference: object) -> Fraction:
        value = as_number(reference)
        if value is None and isinstance(reference, str):
            found = statement(reference)
            value = stated_number(found.text if found else reference)
        if value is None:
            raise BadReference(f"the reference {shown(reference)!r} is not a number")
        return value


def stated_number(text: str) -> Fraction | None:
    """The one number that a statement of an answer gives, or None when it gives none or more than one.

    >>> stated_number("36 apples."), stated_number("6+3 = 9"), stated_number("3 or 4")
    (Fraction(36, 1), Fraction(9, 1), None)
    """
    if len(text) > 2 * MAX_LITERAL:
        return None
    number = parse_number(text)
    if number is not None:
        return number.value
    text = _STYLE.sub(r" \1 ", plain_latex(plain_unicode(text)).replace("{,}", ","))
    text = _POWER.sub(r"\1", squeeze(unwrap(text)))
    text = _NAMED.sub("", text.replace("$", "").strip() if text.count("$") == 2 else text)
    number = parse_number(text)
    if number is not None:
        return number.value
    if "=" in text:
        return _equal_sides(text)
    match = _LEAD.match(text)
    if match is not None:
        return _leading(match.group("number"))
    return _in_words(text)


def _leading(text: str) -> Fraction | None:
    """The number in front of words ("36 apples"), unless the words say more than a unit."""
    words = text.split(" ")
    for count in range(min(len(words) - 1, 4), 0, -1):
        number = parse_number(" ".join(words[:count]).rstrip(",;"))
        if number is not None:
            rest = " " + " ".join(words[count:])
            return None if _APART.search(rest) or _LETTER.search(rest) or len(rest) > 80 else number.value
    glued = re.match(r"([^A-Za-z]*\d)\s?([A-Za-z°]{1,12})$", text)
    if glued is None or _LETTER.search(" " + glued.group(2)):
        return None
    number = parse_number(glued.group(1))
    return None if number is None else number.value


def _in_words(text: str) -> Fraction | None:
    """The only number of a sentence ("Sally has 9 books"), where nothing hedges or relates it."""
    found = list(_NUMERAL.finditer(text)) if len(text) <= 200 else []
    if len(found) != 1:
        return None
    before, after = text[: found[0].start()], text[found[0].end() :]
    if not re.fullmatch(r"(?:[A-Za-z'\u2019-]{1,30}[,:]?\s+)+", before) or _HEDGE.search(before):
        return None
    if _APART.search(after) or _LETTER.search(after):
        return None
    number = parse_number(found[0].group())
    return None if number is None else number.value


def _equal_sides(text: str) -> Fraction | None:
    values = set()
    for side in text.split("="):
        number = parse_number(side)
        if number is None:
            number = _leading(side.strip())
            if number is not None:
                values.add(number)
                continue
            try:
                values.add(parse_arithmetic(side.replace("$", "").replace(",", "")).value())
            except (NotArithmetic, ZeroDivisionError):
                return None
        else:
            values.add(number.value)
    return values.pop() if len(values) == 1 else None
