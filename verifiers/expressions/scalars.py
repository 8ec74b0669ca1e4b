"""Two scalars: numbers, decimals, percentages, degrees, units, times, bases, ratios, residues, expressions."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

from verifiers.expressions.evaluate import real_value, same_expression, value
from verifiers.expressions.nodes import Node, num, number_of
from verifiers.expressions.units import unit_of
from verifiers.expressions.values import NoValue, arithmetic, as_real, same_value
from verifiers.number_words import ONES

EXACT_DIGITS = 12
"""A decimal stands for an exact value only when it gives at least this many significant digits of it."""


class Tolerance(NamedTuple):
    """relative: allowed relative difference where a decimal is present (0: exact, up to EXACT_DIGITS).
    rename: f(x) and f(y) are the same."""

    relative: float = 0.0
    rename: bool = False


STRICT = Tolerance()
Comparison = Callable[[Node, Node, Tolerance], str | None]
"""The name of the rule that makes two nodes equal, or None."""


def scalars(
    gold: Node, answer: Node, how: Tolerance = STRICT, within: Comparison | None = None
) -> str | None:
    """The rule by which two scalars are equal, or None. within: compares what a unit, a percent sign or a ratio holds
    (default: as scalars)."""
    same = within or scalars
    gold, answer = based_ten(gold), based_ten(answer)
    left, right = number_of(gold), number_of(answer)
    if left is not None and right is not None:
        if left == right:
            return "integer" if left.denominator == 1 else "rational"
        return "decimal" if _rounds(gold, answer, left, right, how) else None
    kinds = {gold.kind, answer.kind}
    if "base" in kinds:
        return "base" if gold.kind == answer.kind and _based(gold) == _based(answer) else None
    if "time" in kinds:
        return _times(gold, answer)
    if "unit" in kinds:
        return _with_units(gold, answer, how, same)
    if "percent" in kinds:
        return _percents(gold, answer, how, same)
    if "degree" in kinds:
        return _degrees(gold, answer, how, same)
    if "mod" in kinds:
        return _residues(gold, answer)
    if gold.kind == answer.kind == "ratio":
        terms = zip(gold.args, answer.args, strict=False)
        alike = len(gold.args) == len(answer.args) and all(a == b or same(a, b, how) for a, b in terms)
        return "ratio" if alike else None
    if kinds & {"text", "false", "domain"}:
        return None
    return _expressions(gold, answer, how)


def _expressions(gold: Node, answer: Node, how: Tolerance) -> str | None:
    if same_expression(gold, answer):
        return "expression" if gold.variables() else "value"
    if not gold.variables() and not answer.variables() and (gold.has("decimal") or answer.has("decimal")):
        try:
            left, right = real_value(gold), real_value(answer)
        except (NoValue, TypeError, ZeroDivisionError, OverflowError):
            return None
        return "decimal" if _rounds(gold, answer, left, right, how) else None
    if _bare_log(gold) or _bare_log(answer):
        gold, answer = _log_ten(gold), _log_ten(answer)
        return "logarithm" if same_expression(gold, answer) else None
    return None


def _bare_log(node: Node) -> bool:
    return any(n.kind == "func" and n.value == "log" and len(n.args) == 1 for n in node.walk())


def _log_ten(node: Node) -> Node:
    args = tuple(_log_ten(arg) for arg in node.args)
    if node.kind == "func" and node.value == "log" and len(args) == 1:
        args = (args[0], num(10))
    return Node(node.kind, node.value, args)


def _rounds(gold: Node, answer: Node, left: Any, right: Any, how: Tolerance) -> bool:
    """Whether a decimal on one side stands for the other side's value."""
    if not (gold.has("decimal") or answer.has("decimal")):
        return False
    decimals = [node for node in (gold, answer) if node.has("decimal")]
    allowed: Fraction | None = None  # one in the last place
    if len(decimals) == 1:
        node = decimals[0].args[0] if decimals[0].kind == "neg" else decimals[0]
        if node.kind == "decimal":
            written, places = node.value
            if abs(written) * 10**places >= 10 ** (EXACT_DIGITS - 1):
                allowed = Fraction(1, 10**places)
    if allowed is None and not how.relative:
        return False
    with arithmetic().workdps(60):
        both = isinstance(left, Fraction) and isinstance(right, Fraction)
        x, y = (left, right) if both else (as_real(left), as_real(right))
        difference = abs(x - y)
        if how.relative and difference <= (Fraction(how.relative) if both else how.relative) * abs(x):
            return True
        if allowed is None:
            return False
        exact, decimal = (y, x) if gold.has("decimal") else (x, y)
        step = allowed if both else as_real(allowed)
        cut_off = abs(decimal) < abs(exact) and exact * decimal > 0
        return difference < step if cut_off else 2 * difference <= step


def based_ten(node: Node) -> Node:
    """A number with its base written below it, where that base is ten, as the number."""
    if node.kind == "base" and _based(node)[1] == "10" and node.value[0].isdecimal():
        return num(int(node.value[0]))
    return node


def _based(node: Node) -> tuple[str, str]:
    digits, base = node.value
    base = base.strip("{}").lower()
    return digits.lstrip("0").upper(), str(ONES.index(base)) if base in ONES else base


def _times(gold: Node, answer: Node) -> str | None:
    if gold.kind == answer.kind:
        left, right = _clock(gold), _clock(answer)
        if gold.value[2] and answer.value[2]:
            left, right = left[:1], right[:1]
        return "time" if any(a == b for a in left for b in right) else None
    time, other = (gold, answer) if gold.kind == "time" else (answer, gold)
    hour, minute, half = time.value
    if other.kind in ("unit", "percent", "degree") or (half and minute):
        return None
    if other.kind == "ratio":
        same = tuple(number_of(arg) for arg in other.args) == (hour, minute)
        return "ratio" if same and minute >= 10 else None  # "10:05" is no ratio
    if not minute and number_of(other) == hour:
        return "time"
    return "ratio" if minute and same_expression(other, num(Fraction(hour, minute))) else None


def _clock(node: Node) -> list[tuple[int, int]]:
    hour, minute, half = node.value
    if not half:
        return [(hour, minute)]
    known = (hour % 12 + (12 if half == "p" else 0), minute)
    return [known, (hour, minute)]


def _with_units(gold: Node, answer: Node, how: Tolerance, same: Comparison) -> str | None:
    if gold.kind != "unit" or answer.kind != "unit":
        unit, other = (gold, answer) if gold.kind == "unit" else (answer, gold)
        if other.kind == "degree" and unit_of(unit.value) == unit_of("rad"):
            left, right = (n.args[0] if n is unit else n for n in (gold, answer))
            return _expressions(left, right, how) and "unit"
        bare = gold.args[0] if gold.kind == "unit" else gold
        other = answer.args[0] if answer.kind == "unit" else answer
        if {gold.kind, answer.kind} & {"degree", "percent", "time", "base", "ratio"}:
            return None
        return same(bare, other, how) and "unit"
    left, right = unit_of(gold.value), unit_of(answer.value)
    if left is None or right is None:
        words_left, words_right = _stems(gold.value), _stems(answer.value)
        if words_left != words_right and not (words_left < words_right or words_right < words_left):
            return None
        return same(gold.args[0], answer.args[0], how) and "unit"
    if left[0] != right[0]:
        unnamed = not left[0] or not right[0]
        return same(gold.args[0], answer.args[0], how) and "unit" if unnamed else None
    scaled = (
        Node("mul", None, (num(right[1] / left[1]), answer.args[0]))
        if left[1] != right[1]
        else answer.args[0]
    )
    return same(gold.args[0], scaled, how) and "unit"


def _stems(words: str) -> set[str]:
    return {word.rstrip("s").lower() for word in words.split()}


def _percents(gold: Node, answer: Node, how: Tolerance, same: Comparison) -> str | None:
    if gold.kind == answer.kind:
        return same(gold.args[0], answer.args[0], how) and "percent"
    percent, other = (gold, answer) if gold.kind == "percent" else (answer, gold)
    if other.kind in ("degree", "unit", "ratio"):
        return None
    hundredth = Node("mul", None, (num(Fraction(1, 100)), percent.args[0]))
    value_ = number_of(percent.args[0])
    for reading in (percent.args[0], hundredth if value_ is None else num(value_ / 100)):
        if same(*((reading, other) if percent is gold else (other, reading)), how):
            return "percent"
    return None


def _degrees(gold: Node, answer: Node, how: Tolerance, same: Comparison) -> str | None:
    if gold.kind == answer.kind:
        return same(gold.args[0], answer.args[0], how) and "degrees"
    degree, other = (gold, answer) if gold.kind == "degree" else (answer, gold)
    bare = degree.args[0]
    if same(*((bare, other) if degree is gold else (other, bare)), how):
        return "degrees"
    return "degrees" if other.has("const") and same_expression(degree, other) else None


def _residues(gold: Node, answer: Node) -> str | None:
    try:
        if gold.kind == answer.kind:
            same = value(gold.args[1]) == value(answer.args[1]) and value(gold) == value(answer)
            return "residue" if same else None
        residue, other = (gold, answer) if gold.kind == "mod" else (answer, gold)
        return "residue" if same_value(value(residue), value(other), 40) else None
    except (NoValue, ValueError, ZeroDivisionError, OverflowError):
        return None
