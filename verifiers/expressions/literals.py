"""Written decimals as exact values: plain, with an exponent, and repeating."""

from __future__ import annotations

import re
from fractions import Fraction

from verifiers.expressions.lexer import Unreadable
from verifiers.expressions.nodes import Node, num

MAX_EXPONENT = 1_000
_REPEAT = re.compile(r"(\d*)\.(\d*?)(\d+?)\3+$")


def decimal(text: str, exponent: int) -> Node:
    if "." not in text and not exponent:
        return num(int(text))
    whole, _, places = text.partition(".")
    value = (Fraction(int(whole or 0)) + Fraction(int(places or 0), 10 ** len(places))) * Fraction(
        10
    ) ** exponent
    if value.denominator == 1:
        return num(value)
    return Node("decimal", (value, max(len(places) - exponent, 0)))


def repeating(text: str) -> Node:
    """ "0.3333..." by its shortest block that stands there twice or more."""
    match = _REPEAT.match(text)
    if match is None or len(text) < 4:
        raise Unreadable("a decimal with dots but no repeating block")
    return fraction_of_period(f"{match.group(1)}.{match.group(2)}", match.group(3))


def fraction_of_period(head: str, block: str) -> Node:
    whole, _, places = head.partition(".")
    if not block.isdecimal():
        raise Unreadable("a repeating block that is not digits")
    value = Fraction(int(whole or 0)) + Fraction(int(places or 0), 10 ** len(places))
    return num(value + Fraction(int(block), (10 ** len(block) - 1) * 10 ** len(places)))
