"""Number literals as exact rationals: integers, decimals, fractions, mixed numbers.

Separators, currency and percent signs may stand with them. A literal is the whole text or it is none: nothing
is picked out of prose. No floating point, no evaluation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from verifiers.normalise import plain_latex, plain_unicode, squeeze, unwrap

MAX_LITERAL = 400
MAX_EXPONENT = 400

_CURRENCY = r"(?:(?:US|CA|AU|HK|NZ)?\$|€|£|¥|₹|₽|₩|USD|EUR|GBP)"
_UNSIGNED = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?:\{,\}\d{3})+|\d{1,3}(?: \d{3})+|\d+)"
_LITERAL = re.compile(
    rf"""(?P<sign>[-+]?)\s?(?P<currency>{_CURRENCY})?\s?(?P<sign2>[-+]?)
    (?:
      \\frac\s?\{{(?P<top>-?\d+)\}}\s?\{{(?P<bottom>-?\d+)\}}
    | \\frac\s?(?P<top1>\d)\s?(?P<bottom1>\d)
    | (?P<whole>{_UNSIGNED})\s?\\frac\s?\{{(?P<top2>\d+)\}}\s?\{{(?P<bottom2>\d+)\}}
    | (?P<whole3>\d+)\s(?:and\s)?(?P<top3>[1-9]\d*)\s?/\s?(?P<bottom3>\d+)
    | (?P<top4>{_UNSIGNED})\s?/\s?(?P<bottom4>{_UNSIGNED})
    | (?P<digits>{_UNSIGNED})?(?:\.(?P<decimals>\d*))?
      (?:\s?(?:[eE]|\*\s?10\s?\^)\s?\{{?\(?(?P<exponent>[-+]?\d+)\)?\}}?)?
    )
    \s?(?P<percent>%|percent\b|per\s?cent\b)?\s?(?P<currency2>{_CURRENCY}|dollars?\b|euros?\b|pounds?\b|cents?\b)?$""",
    re.VERBOSE | re.ASCII,
)
_NOT_DIGIT = re.compile(r"[^\d]")


@dataclass(frozen=True, slots=True)
class Number:
    """value: exact. decimals: digits after the point, or None where no decimal point or exponent stood.
    percent, currency: the sign that stood with it ("" for none)."""

    value: Fraction
    decimals: int | None = None
    percent: bool = False
    currency: str = ""

    @property
    def canonical(self) -> str:
        """ "36", "-7/2": what a vote is cast for."""
        return str(self.value)


def parse_number(text: str) -> Number | None:
    r"""The number that the whole text spells, or None.

    >>> parse_number("$1,234.50").value, parse_number(r"3\frac{1}{2}").value, parse_number("41 or 42")
    (Fraction(2469, 2), Fraction(7, 2), None)
    """
    if len(text) > MAX_LITERAL:
        return None
    text = squeeze(unwrap(plain_latex(plain_unicode(text)).replace("{,}", ",")))
    if text.isdecimal() and text.isascii():
        return Number(Fraction(int(text)))
    match = _LITERAL.match(text)
    if match is None:
        return None
    g = match.group
    if g("sign") and g("sign2"):
        return None
    for whole, top, bottom in (
        ("", "top", "bottom"),
        ("", "top1", "bottom1"),
        ("whole", "top2", "bottom2"),
        ("whole3", "top3", "bottom3"),
        ("", "top4", "bottom4"),
    ):
        if g(top) is not None:
            below = _integer(g(bottom))
            if below == 0:
                return None
            value = Fraction(_integer(g(top)), below)
            if whole:
                value += _integer(g(whole))
            decimals = None
            break
    else:
        if g("digits") is None and not g("decimals"):
            return None
        fraction = g("decimals") or ""
        exponent = int(g("exponent") or 0)
        if abs(exponent) > MAX_EXPONENT:
            return None
        value = Fraction(_integer(g("digits") or "0")) + Fraction(int(fraction or 0), 10 ** len(fraction))
        value *= Fraction(10) ** exponent
        decimals = len(fraction) if fraction or g("exponent") else None
    if "-" in (g("sign"), g("sign2")):
        value = -value
    currency = (g("currency") or g("currency2") or "").lower()
    return Number(value, decimals, bool(g("percent")), currency)


def _integer(digits: str) -> int:
    negative = digits.startswith("-")
    value = int(_NOT_DIGIT.sub("", digits))
    return -value if negative else value


def as_number(reference: Any) -> Fraction | None:
    """A reference (int, float, Fraction, or text) as an exact rational; a float is its shortest decimal."""
    if isinstance(reference, bool) or reference is None:
        return None
    if isinstance(reference, int | Fraction):
        return Fraction(reference)
    if isinstance(reference, float):
        reference = repr(reference)
    if isinstance(reference, str):
        number = parse_number(reference)
        return None if number is None else number.value
    return None
