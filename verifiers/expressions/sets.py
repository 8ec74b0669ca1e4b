"""Sets of real numbers: intervals, unions, complements, and inequalities in one unknown solved for it.

A set is a sorted list of pieces (low, low closed, high, high closed) with None for an infinite end. Inequalities
are solved where they are linear in the unknown or in its absolute value; anything else is NoSet.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cmp_to_key
from typing import Any

from verifiers.expressions.evaluate import point_for, real_value, value
from verifiers.expressions.nodes import INFINITY, ZERO, Node
from verifiers.expressions.values import NoValue, arithmetic, as_real
from verifiers.expressions.work import charge

Piece = tuple[Any, bool, Any, bool]
EVERYTHING: list[Piece] = [(None, False, None, False)]
_FLIP = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!=", "=": "="}


class NoSet(ValueError):
    """Not a set of reals that this module can hold."""


def real_set(node: Node) -> list[Piece]:
    """The pieces of an interval, a finite set, a set expression or an inequality. Raises NoSet."""
    kind = node.kind
    if kind == "tuple" and len(node.args) == 2 and node.value in ("()", "[]", "(]", "[)"):
        low, high = _end(node.args[0], -1), _end(node.args[1], 1)
        left, right = node.value[0] == "[" and low is not None, node.value[1] == "]" and high is not None
        if low is not None and high is not None:
            order = _order(low, high)
            if order > 0 or (order == 0 and not (left and right)):
                raise NoSet("an interval with its ends reversed")
        return [(low, left, high, right)]
    if kind == "set":
        return _united([(v, True, v, True) for v in map(_real, node.args)])
    if kind == "domain" and node.value == "R":
        return EVERYTHING
    if kind == "union":
        return _united([piece for arg in node.args for piece in real_set(arg)])
    if kind == "inter":
        return _common(*(real_set(arg) for arg in node.args))
    if kind == "minus":
        return _common(real_set(node.args[0]), _complement(real_set(node.args[1])))
    if kind == "member":
        return real_set(node.args[1])
    if kind == "such":
        return real_set(node.args[1]) if node.args[0].kind == "var" else real_set_of_member(node)
    if kind == "relation":
        return _solved(node)
    if kind in ("either", "both", "list"):
        sets = [real_set(arg) for arg in node.args]
        if kind == "list" and not all(arg.kind == "relation" for arg in node.args):
            raise NoSet("a list")
        if kind == "list" and any("=" in arg.value for arg in node.args):
            raise NoSet("a list of equations")
        common, united = sets[0], _united([piece for found in sets for piece in found])
        for other in sets[1:]:
            common = _common(common, other)
        if kind == "list":  # "x < 36, x != 9" and "x > 5, x < 8" restrict; "x < -1, x > 3" are two cases
            together = any(arg.value == ("!=",) for arg in node.args) or (united == EVERYTHING and common)
            return common if together else united
        return common if kind == "both" else united
    raise NoSet(f"a {kind} is not a set")


def real_set_of_member(node: Node) -> list[Piece]:
    """``{x in R : x > 3}``"""
    member, condition = node.args
    if member.kind == "member":
        return _common(real_set(member.args[1]), real_set(condition))
    raise NoSet("a set of expressions")


def unknown(node: Node) -> str | None:
    """The one unknown that a statement is about, "f(x)" included; None when there is none or more than one."""
    names = _unknowns(node)
    return names.pop() if len(names) == 1 else None


def _unknowns(node: Node) -> set[str]:
    if node.kind == "func" and node.value.startswith("apply "):
        return {node.value}
    if node.kind == "var":
        return {node.value}
    return set().union(*(_unknowns(arg) for arg in node.args)) if node.args else set()


def same_set(left: list[Piece], right: list[Piece]) -> bool:
    if len(left) != len(right):
        return False
    for a, b in zip(left, right, strict=True):
        if (a[1], a[3]) != (b[1], b[3]):
            return False
        for p, q in ((a[0], b[0]), (a[2], b[2])):
            if (p is None) != (q is None) or (p is not None and _order(p, q) != 0):
                return False
    return True


def _solved(node: Node) -> list[Piece]:
    operators, sides = node.value, node.args
    if unknown(node) is None:
        raise NoSet("not one unknown")
    out = EVERYTHING
    for operator, left, right in zip(operators, sides, sides[1:], strict=False):
        if not _without_end(operator, left, right):
            out = _common(out, _one(operator, left, right))
    return out


def _without_end(operator: str, left: Node, right: Node) -> bool:
    """Whether "x < infinity" or "-infinity < x" stands here, which holds for every number."""
    low, high = (left, right) if operator in ("<", "<=") else (right, left)
    negative = low.kind == "neg" and low.args[0] == INFINITY
    return operator in ("<", "<=", ">", ">=") and (high == INFINITY or negative)


def _one(operator: str, left: Node, right: Node) -> list[Piece]:
    if operator not in _FLIP:
        raise NoSet(f"{operator} is not an order")
    difference = Node("add", None, (left, Node("neg", None, (right,))))
    absolute = next((n for n in difference.walk() if n.kind == "func" and n.value == "abs"), None)
    inner = unknown(absolute) if absolute is not None else None
    if absolute is not None and inner is not None:
        pieces = _linear(operator, _replace(difference, absolute, Node("var", "|.|")))
        positive = _linear_image(pieces, absolute.args[0], 1)
        negative = _linear_image(pieces, absolute.args[0], -1)
        return _united(positive + negative)
    return _linear(operator, difference)


def _linear_image(pieces: list[Piece], inside: Node, sign: int) -> list[Piece]:
    """The x for which sign * inside(x) >= 0 lies in ``pieces``."""
    out = _linear(">=", inside if sign > 0 else Node("neg", None, (inside,)))
    found: list[Piece] = []
    for low, left, high, right in pieces:
        part = out
        for end, closed, operator in ((low, left, ">"), (high, right, "<")):
            if end is not None:
                literal = Node("num", end)
                signed = inside if sign > 0 else Node("neg", None, (inside,))
                difference = Node("add", None, (signed, Node("neg", None, (literal,))))
                part = _common(part, _linear(operator + "=" * closed, difference))
        found += part
    return found


def _linear(operator: str, difference: Node) -> list[Piece]:
    """The x with difference(x) ``operator`` 0, for a difference linear in its one unknown."""
    name = unknown(difference)
    if name is None:
        raise NoSet("not one unknown")
    difference = _opened(difference, name)
    with arithmetic().workdps(60):
        slope, root = _line(difference, name)
    operator = _FLIP[operator] if slope < 0 else operator
    return {
        "<": [(None, False, root, False)],
        "<=": [(None, False, root, True)],
        ">": [(root, False, None, False)],
        ">=": [(root, True, None, False)],
        "=": [(root, True, root, True)],
        "!=": [(None, False, root, False), (root, False, None, False)],
    }[operator]


def _line(difference: Node, name: str) -> tuple[Any, Any]:
    """Slope and root of a function that is a straight line. Raises NoSet for any other."""
    points = (Fraction(0), Fraction(1), Fraction(3), Fraction(-7, 2))
    try:
        at: list[Any] = [value(difference, {name: x}) for x in points]
    except (NoValue, TypeError, ZeroDivisionError) as error:
        raise NoSet(str(error)) from None
    x: Sequence[Any] = points
    if not all(isinstance(y, Fraction) for y in at):
        at, x = [as_real(y) for y in at], [as_real(p) for p in points]
        if any(y.imag != 0 for y in at):
            raise NoSet("not real")
        at = [y.real for y in at]
    slope = at[1] - at[0]
    if not all(_close(at[0] + slope * x[i], at[i]) for i in (2, 3)):
        raise NoSet("not linear")
    if _close(slope, 0):
        raise NoSet("the unknown cancels")
    return slope, -at[0] / slope


def _close(left: Any, right: Any) -> bool:
    if isinstance(left, Fraction) and isinstance(right, Fraction | int):
        return left == right
    return bool(abs(left - right) < 1e-45 * (1 + abs(right)))


def _opened(node: Node, name: str) -> Node:
    """An applied function such as f(x), where it is the unknown, as a plain variable."""
    if node.kind == "func" and node.value == name:
        return Node("var", name)
    return Node(node.kind, node.value, tuple(_opened(arg, name) for arg in node.args)) if node.args else node


def _replace(node: Node, old: Node, new: Node) -> Node:
    if node == old:
        return new
    return (
        Node(node.kind, node.value, tuple(_replace(arg, old, new) for arg in node.args))
        if node.args
        else node
    )


def _real(node: Node) -> Any:
    try:
        return real_value(node)
    except (NoValue, ZeroDivisionError, OverflowError, TypeError) as error:
        raise NoSet(str(error)) from None


def _end(node: Node, sign: int) -> Any:
    if node.kind == "unit":
        node = node.args[0]
    infinite = node.args[0] if node.kind in ("neg", "pm") else node
    if infinite.kind == "const" and infinite.value == "inf":
        if (node.kind == "neg") != (sign < 0):
            raise NoSet("an infinite end on the wrong side")
        return None
    return _real(node)


def _order(left: Any, right: Any) -> int:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return (left > right) - (left < right)
    charge(20)
    mp = arithmetic()
    with mp.workdps(60):
        a, b = (mp.mpf(x.numerator) / x.denominator if isinstance(x, Fraction) else x for x in (left, right))
        if abs(a - b) <= mp.mpf(10) ** -45 * max(1, abs(a), abs(b)):
            return 0
        return 1 if a > b else -1


def _compare_lows(left: Piece, right: Piece) -> int:
    if left[0] is None or right[0] is None:
        return (left[0] is not None) - (right[0] is not None)
    return _order(left[0], right[0]) or int(right[1]) - int(left[1])


def _united(pieces: list[Piece]) -> list[Piece]:
    out: list[Piece] = []
    for piece in sorted(pieces, key=cmp_to_key(_compare_lows)):
        if out and _touches(out[-1], piece):
            low, left, high, right = out[-1]
            if high is not None:
                if piece[2] is None:
                    high, right = None, False
                else:
                    order = _order(piece[2], high)
                    high, right = (
                        (piece[2], piece[3]) if order > 0 else (high, right or (order == 0 and piece[3]))
                    )
            out[-1] = (low, left, high, right)
        else:
            out.append(piece)
    return out


def _touches(first: Piece, second: Piece) -> bool:
    if first[2] is None or second[0] is None:
        return True
    order = _order(first[2], second[0])
    return order > 0 or (order == 0 and (first[3] or second[1]))


def _complement(pieces: list[Piece]) -> list[Piece]:
    out: list[Piece] = []
    low: Any = None
    left, open_start = False, True
    for piece in pieces:
        if piece[0] is not None and (open_start or low is not None):
            out.append((low, left, piece[0], not piece[1]))
        low, left, open_start = piece[2], not piece[3], False
        if piece[2] is None:
            return [p for p in out if _nonempty(p)]
    out.append((low, left and low is not None, None, False))
    return [p for p in out if _nonempty(p)]


def _common(left: list[Piece], right: list[Piece]) -> list[Piece]:
    found: list[Piece] = []
    for a in left:
        for b in right:
            low, left_closed = _tighter(a[0], a[1], b[0], b[1], 1)
            high, right_closed = _tighter(a[2], a[3], b[2], b[3], -1)
            piece = (low, left_closed, high, right_closed)
            if _nonempty(piece):
                found.append(piece)
    return _united(found)


def _tighter(a: Any, a_closed: bool, b: Any, b_closed: bool, sign: int) -> tuple[Any, bool]:
    if a is None:
        return b, b_closed
    if b is None:
        return a, a_closed
    order = _order(a, b) * sign
    if order == 0:
        return a, a_closed and b_closed
    return (a, a_closed) if order > 0 else (b, b_closed)


def _nonempty(piece: Piece) -> bool:
    if piece[0] is None or piece[2] is None:
        return True
    order = _order(piece[0], piece[2])
    return order < 0 or (order == 0 and piece[1] and piece[3])


def proportional(left: Node, right: Node) -> Any:
    """The constant c with left = c * right as functions, or None. Both must have variables."""
    names = left.variables() | right.variables()
    if not names or len(names) > 12 or left.variables() != right.variables():
        return None
    ratio: Any = None
    agreed = 0
    with arithmetic().workdps(50):
        for turn in range(6):
            point = point_for(names, turn)
            try:
                a, b = value(left, point), value(right, point)
                here = (
                    a / b if isinstance(a, Fraction) and isinstance(b, Fraction) else as_real(a) / as_real(b)
                )
            except (NoValue, ZeroDivisionError, TypeError, OverflowError):
                continue
            if ratio is None:
                ratio = here
            elif not _near(ratio, here):
                return None
            agreed += 1
    return ratio if agreed >= 3 and ratio != 0 else None


def _near(left: Any, right: Any) -> bool:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    left, right = as_real(left), as_real(right)
    return bool(abs(left - right) <= 1e-30 * abs(right))


def zero_side(node: Node) -> Node:
    """An equation or inequality "a op b" as a - b."""
    left, right = node.args
    return left if right == ZERO else Node("add", None, (left, Node("neg", None, (right,))))
