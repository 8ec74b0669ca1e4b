"""Infinite families ("k pi, k an integer"): equal where they run through the same values."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from verifiers.expressions.evaluate import real_value, same_expression
from verifiers.expressions.nodes import Node, num
from verifiers.expressions.statements import spread
from verifiers.expressions.values import NoValue, as_real

_PARAMETERS = frozenset("nkmlt")
_INTEGERS = frozenset("nkm")
_MOST_RESIDUES = 200


def families(gold: Node, answer: Node) -> str | None:
    left, right = _family(gold), _family(answer)
    if left is None or right is None:
        return None
    items_left, items_right = _items(left), _items(right)
    if len(items_left) == len(items_right):
        rest = items_right[:]
        for item in items_left:
            found = next((o for o in rest if _same_family(item, left.value, o, right.value)), None)
            if found is None:
                break
            rest.remove(found)
        if not rest:
            return "family"
    return "family" if _same_residues(items_left, left.value, items_right, right.value) else None


def families_in_other_letters(gold: Node, answer: Node) -> bool:
    """Whether both are angles with one integer parameter each: "k pi" and "n pi", or with a start that differs,
    "k pi" and "pi + k pi"."""
    names = [node.variables() for node in (gold, answer)]
    if not all(len(found) == 1 and found <= _INTEGERS for found in names):
        return False
    items = [_items(Node("family", "", (node,))) for node in (gold, answer)]
    angles = all(node.has("degree") or Node("const", "pi") in node.walk() for side in items for node in side)
    return angles and (names[0] != names[1] or any(node.kind == "add" for side in items for node in side))


def _items(family: Node) -> list[Node]:
    bare = [item.args[0] if item.kind in ("named", "family") else item for item in spread(family.args[0])]
    return [value for item in bare for value in spread(item)]


def _family(node: Node) -> Node | None:
    if node.kind == "family":
        return node
    names = node.variables() & _PARAMETERS
    return Node("family", names.pop(), (node,)) if len(names) == 1 else None


def _same_family(left: Node, left_name: str, right: Node, right_name: str) -> bool:
    try:
        (start, step), (other_start, other_step) = _line(left, left_name), _line(right, right_name)
    except (NoValue, TypeError, ZeroDivisionError, OverflowError):
        return same_expression(left, right.substitute(right_name, Node("var", left_name)))
    if {type(x) for x in (start, step, other_start, other_step)} != {Fraction}:
        start, step, other_start, other_step = (as_real(x) for x in (start, step, other_start, other_step))
    shift = (other_start - start) / step
    return bool(abs(abs(step) - abs(other_step)) < 1e-12 and abs(shift - round(float(shift))) < 1e-12)


def _line(node: Node, name: str) -> tuple[Any, Any]:
    """(value at 0, step) of a family that runs in equal steps. Raises NoValue for any other."""
    at: list[Any] = [real_value(node.substitute(name, num(x))) for x in (0, 1, 2, 5)]
    if not all(isinstance(x, Fraction) for x in at):
        at = [as_real(x) for x in at]
    step = at[1] - at[0]
    if abs(at[2] - at[0] - 2 * step) > 1e-12 or abs(at[3] - at[0] - 5 * step) > 1e-12 or step == 0:
        raise NoValue("not linear")
    return at[0], step


def _same_residues(left: list[Node], left_name: str, right: list[Node], right_name: str) -> bool:
    """Whether two unions of families hold the same values, though split otherwise: pi/4 + k pi/2, and pi/4 + k pi
    with 3 pi/4 + k pi."""
    try:
        lines = [[_line(n, name) for n in side] for side, name in ((left, left_name), (right, right_name))]
        unit = abs(as_real(lines[0][0][1]))
        steps = [_ratio(step / unit) for side in lines for _, step in side]
    except (NoValue, TypeError, ZeroDivisionError, OverflowError):
        return False
    period = math.lcm(*(step.numerator for step in steps)) / Fraction(
        math.gcd(*(s.denominator for s in steps))
    )
    if period / min(steps) > _MOST_RESIDUES:
        return False
    found = []
    for side in lines:
        residues: list[float] = []
        for start, step in side:
            first, size = as_real(start) / unit, _ratio(step / unit)
            count = period / size
            if count.denominator != 1:
                return False
            residues += [float((first + j * as_real(size)) % as_real(period)) for j in range(int(count))]
        found.append(residues)
    return all(_among(x, found[1 - k], float(period)) for k in (0, 1) for x in found[k])


def _ratio(x: Any) -> Fraction:
    near = Fraction(float(abs(x))).limit_denominator(60)
    if near == 0 or abs(as_real(near) - abs(as_real(x))) > 1e-12:
        raise NoValue("steps without a common multiple")
    return near


def _among(x: float, values: list[float], period: float) -> bool:
    return any(min(abs(x - y), period - abs(x - y)) < 1e-9 for y in values)
