"""Infinite families ("k pi, k an integer"): equal where they run through the same values."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from verifiers.expressions.evaluate import real_value, same_expression
from verifiers.expressions.nodes import Node, num
from verifiers.expressions.statements import spread
from verifiers.expressions.values import NoValue, as_real

_PARAMETERS = frozenset("nkmlt")
_INTEGERS = frozenset("nkm")


def families(gold: Node, answer: Node) -> str | None:
    left, right = _family(gold), _family(answer)
    if left is None or right is None:
        return None
    items_left, items_right = list(spread(left.args[0])), list(spread(right.args[0]))
    if len(items_left) != len(items_right):
        return None
    rest = items_right
    for item in items_left:
        for i, other in enumerate(rest):
            if _same_family(item, left.value, other, right.value):
                del rest[i]
                break
        else:
            return None
    return "family"


def families_in_other_letters(gold: Node, answer: Node) -> bool:
    """Whether both are angles with one integer parameter each, called differently: "k pi" and "n pi"."""
    names = [node.variables() for node in (gold, answer)]
    return (
        names[0] != names[1]
        and all(len(found) == 1 and found <= _INTEGERS for found in names)
        and all(node.has("degree") or Node("const", "pi") in node.walk() for node in (gold, answer))
    )


def _family(node: Node) -> Node | None:
    if node.kind == "family":
        return node
    names = node.variables() & _PARAMETERS
    return Node("family", names.pop(), (node,)) if len(names) == 1 and node.kind != "list" else None


def _same_family(left: Node, left_name: str, right: Node, right_name: str) -> bool:
    try:
        lines = []
        for node, name in ((left, left_name), (right, right_name)):
            at: list[Any] = [real_value(node.substitute(name, num(x))) for x in (0, 1, 2, 5)]
            if not all(isinstance(x, Fraction) for x in at):
                at = [as_real(x) for x in at]
            step = at[1] - at[0]
            if abs(at[2] - at[0] - 2 * step) > 1e-12 or abs(at[3] - at[0] - 5 * step) > 1e-12 or step == 0:
                raise NoValue("not linear")
            lines.append((at[0], step))
    except (NoValue, TypeError, ZeroDivisionError, OverflowError):
        return same_expression(left, right.substitute(right_name, Node("var", left_name)))
    (start, step), (other_start, other_step) = lines
    if {type(x) for x in (start, step, other_start, other_step)} != {Fraction}:
        start, step, other_start, other_step = (as_real(x) for x in (start, step, other_start, other_step))
    shift = (other_start - start) / step
    return bool(abs(abs(step) - abs(other_step)) < 1e-12 and abs(shift - round(float(shift))) < 1e-12)
