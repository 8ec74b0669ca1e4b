"""Typed comparison of two answers: the name of the rule that makes them equal, or None.

The reference's kind decides which comparison applies; nothing is rounded, and nothing is taken apart that was
written as one (an equation is not its right-hand side, a pair is not a set).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from verifiers.expressions.evaluate import NoValue, as_real, real_value, same_expression, same_value, value
from verifiers.expressions.nodes import Node, num, number_of
from verifiers.expressions.sets import NoSet, proportional, real_set, same_set, unknown, zero_side
from verifiers.expressions.units import unit_of

EXACT_DIGITS = 12
"""A decimal stands for an exact value only when it gives at least this many significant digits of it."""
_FLIP = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}
_PARAMETERS = frozenset("nkmlt")
_SETS = ("union", "inter", "minus", "domain", "such", "either", "both", "member")
_MOST_ITEMS = 60
_BASES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
]


class Tolerance(NamedTuple):
    """relative: allowed relative difference where a decimal is present (0: exact, up to EXACT_DIGITS).
    rename: f(x) and f(y) are the same."""

    relative: float = 0.0
    rename: bool = False


STRICT = Tolerance()


def equal(gold: Node, answer: Node, how: Tolerance = STRICT) -> str | None:
    """The rule by which ``answer`` equals ``gold``, or None."""
    if gold == answer:
        return "identical"
    gold, answer = settled(gold), settled(answer)
    if gold == answer:
        return "identical"
    if how.rename:
        answer = _renamed(gold, answer)
    for side in (gold, answer):
        if side.kind in ("false", "ellipsis"):
            return None
    if "named" in (gold.kind, answer.kind):
        return _named(gold, answer, how)
    if "family" in (gold.kind, answer.kind):
        return _families(gold, answer, how)
    if _set_like(gold) or _set_like(answer):
        return _as_sets(gold, answer, how)
    if "relation" in (gold.kind, answer.kind):
        return _relations(gold, answer)
    if {gold.kind, answer.kind} & {"list", "set"}:
        return _collections(gold, answer, how)
    gold, answer = _as_matrix(gold), _as_matrix(answer)
    if "matrix" in (gold.kind, answer.kind):
        return _matrices(gold, answer, how)
    if "tuple" in (gold.kind, answer.kind):
        return _tuples(gold, answer, how)
    return _scalars(gold, answer, how)


# statements -------------------------------------------------------------------------------------------------


def settled(node: Node) -> Node:
    """The answer that a statement gives: "x = 2 + 3 = 5" becomes named x: 5; "3 + 2 = 5" becomes 5; a constant
    chain that does not hold becomes "false"; +- becomes the list of both values; "7 or 7.0" becomes 7."""
    if node.kind == "relation" and set(node.value) <= {"=", "~"}:
        node = _chain(node)
    if node.kind == "such":
        node = _builder(node)
    if node.kind == "family" and node.args[0].kind == "relation":
        inner = _chain(node.args[0])
        node = Node("family", node.value, inner.args) if inner.kind == "named" else node
    if node.kind in ("list", "set"):
        items = [item for arg in node.args for item in _spread(settled(arg))]
        distinct: list[Node] = []
        for item in items[:_MOST_ITEMS]:
            if not any(
                item == other or (_plain(item) and _plain(other) and _scalars(item, other, STRICT))
                for other in distinct
            ):
                distinct.append(item)
        items = distinct + items[_MOST_ITEMS:]
        return items[0] if len(items) == 1 and node.kind == "list" else Node(node.kind, None, tuple(items))
    if node.kind == "named":
        spread = _spread(node.args[0])
        return node if len(spread) == 1 else Node("named", node.value, (Node("list", None, tuple(spread)),))
    spread = _spread(node)
    return node if len(spread) == 1 else Node("list", None, tuple(spread))


def _plain(node: Node) -> bool:
    return number_of(node) is not None


def _spread(node: Node) -> list[Node]:
    """``a +- b`` as its two values; a list as its items."""
    if node.kind == "list":
        return list(node.args)
    if node.kind in ("tuple", "relation", "named", "set", "matrix") or not node.has("pm"):
        return [node]
    return [_signed(node, 1), _signed(node, -1)]


def _signed(node: Node, sign: int) -> Node:
    if node.kind == "pm":
        args = tuple(_signed(arg, sign) for arg in node.args)
        last = args[-1] if sign == (1 if node.value == "pm" else -1) else Node("neg", None, (args[-1],))
        return last if len(args) == 1 else Node("add", None, (args[0], last))
    return Node(node.kind, node.value, tuple(_signed(arg, sign) for arg in node.args)) if node.args else node


def _chain(node: Node) -> Node:
    sides = list(node.args)
    if "~" in node.value:
        cut = node.value.index("~")
        sides = sides[: cut + 1] if cut else [sides[0], sides[1]]
    first, last = sides[0], sides[-1]
    if len(sides) == 1:
        return first
    label = _label(first)
    constant = [(not side.variables() and not side.has("func")) or _constant(side) for side in sides]
    if all(constant):
        same = all(_scalars(first, side, STRICT) or first == side for side in sides[1:])
        return last if same else Node("false")
    if label is not None and (constant[-1] or len(sides) == 2) and label not in _labels(last):
        return Node("named", label, (last,))
    if len(sides) > 2 and constant[-1] and any(_label(side) is not None for side in sides[:-1]):
        return Node("named", next(name for name in map(_label, sides) if name), (last,))
    turned = _label(last)
    if turned is not None and len(sides) == 2 and constant[0]:
        return Node("named", turned, (first,))
    return Node("relation", ("=",) * (len(sides) - 1), tuple(sides))


def _constant(node: Node) -> bool:
    return not node.variables() and not any(
        n.kind == "func" and n.value.startswith("apply") for n in node.walk()
    )


def _label(node: Node) -> str | None:
    """The name of what an equation defines: x, f(x), |AB|, NO/BO, A:B, (p, q)."""
    if node.kind == "var":
        return node.value
    if node.kind == "func" and node.value.startswith("apply "):
        return node.value
    if node.kind == "func" and node.value == "abs" and _label(node.args[0]):
        return f"|{_label(node.args[0])}|"
    if node.kind == "tuple" and all(arg.kind == "var" for arg in node.args):
        return "(" + ",".join(arg.value for arg in node.args) + ")"
    if node.kind in ("div", "ratio"):
        names = [_label(arg) for arg in node.args]
        if all(name and name[0].isupper() for name in names):
            return "/".join(name for name in names if name)
    return None


def _labels(node: Node) -> set[str]:
    return {name for n in node.walk() if (name := _label(n)) is not None}


def _named(gold: Node, answer: Node, how: Tolerance) -> str | None:
    if gold.kind == answer.kind == "named":
        if gold.value != answer.value and not (how.rename or _same_function(gold.value, answer.value)):
            return _equations(gold, answer)
        return equal(gold.args[0], answer.args[0], how) or _equations(gold, answer)
    named, other = (gold, answer) if gold.kind == "named" else (answer, gold)
    if other.kind == "relation":
        return None if _constant(named.args[0]) else _equations(gold, answer)
    if other.kind == "list" and named.value.startswith("("):
        named = _unpacked(named)
        gold, answer = (named, answer) if gold.kind == "named" else (gold, named)
        return equal(gold, answer, how) if named.kind == "list" else None
    if other.kind == "list" and named.args[0].kind != "list":
        return None
    bare = named.args[0]
    return equal(bare, answer, how) if gold.kind == "named" else equal(gold, bare, how)


def _same_function(left: str, right: str) -> bool:
    return left.startswith("apply ") and left == right


def _unpacked(named: Node) -> Node:
    names = named.value[1:-1].split(",")
    inner = named.args[0]
    if inner.kind != "tuple" or len(inner.args) != len(names):
        return inner
    return Node("list", None, tuple(Node("named", n, (v,)) for n, v in zip(names, inner.args, strict=True)))


def _equation(node: Node) -> Node | None:
    if node.kind == "named" and node.value.isidentifier():
        return Node("add", None, (Node("var", node.value), Node("neg", None, (node.args[0],))))
    if node.kind == "relation" and node.value == ("=",):
        return zero_side(node)
    return None


def _equations(gold: Node, answer: Node) -> str | None:
    left, right = _equation(gold), _equation(answer)
    if (
        left is None
        or right is None
        or any(side.has("list", "tuple", "set", "matrix") for side in (left, right))
    ):
        return None
    return "equation" if proportional(left, right) is not None else None


def _relations(gold: Node, answer: Node) -> str | None:
    if gold.kind != "relation" or answer.kind != "relation":
        return None
    if set(gold.value) == set(answer.value) == {"="}:
        return _equations(gold, answer) if len(gold.value) == len(answer.value) == 1 else _sides(gold, answer)
    if _unknowns_agree(gold, answer):
        try:
            if same_set(real_set(gold), real_set(answer)):
                return "inequality"
        except NoSet:
            pass
    if len(gold.value) == len(answer.value) == 1:
        ratio = proportional(zero_side(gold), zero_side(answer))
        if ratio is not None and not isinstance(ratio, Fraction) and as_real(ratio).imag != 0:
            return None
        if ratio is not None:
            ratio = ratio if isinstance(ratio, Fraction) else as_real(ratio).real
            operator = answer.value[0] if ratio > 0 else _FLIP.get(answer.value[0])
            return "inequality" if operator == gold.value[0] else None
    return _sides(gold, answer)


def _sides(gold: Node, answer: Node) -> str | None:
    """Chains side by side, also read from right to left."""
    turned = Node("relation", tuple(_FLIP.get(op, op) for op in reversed(answer.value)), answer.args[::-1])
    for chain in (answer, turned):
        if chain.value == gold.value and all(
            _scalars(a, b, STRICT) or a == b for a, b in zip(gold.args, chain.args, strict=True)
        ):
            return "chain"
    return None


def _unknowns_agree(gold: Node, answer: Node) -> bool:
    left, right = unknown(gold), unknown(answer)
    return left == right or left is None or right is None


# sets and collections ---------------------------------------------------------------------------------------


def _set_like(node: Node) -> bool:
    if node.kind in _SETS:
        return True
    if node.kind == "tuple":
        return node.value in ("(]", "[)")
    if node.kind == "list":
        return any(arg.kind == "relation" and "=" not in arg.value for arg in node.args)
    return node.kind == "relation" and "=" not in node.value


def _as_sets(gold: Node, answer: Node, how: Tolerance) -> str | None:
    gold, answer = (n.args[1] if n.kind == "member" else n for n in (gold, answer))
    if gold == answer:
        return "identical"
    if not (_set_like(gold) or _set_like(answer)):
        return equal(gold, answer, how)
    if gold.kind == answer.kind == "relation":
        return _relations(gold, answer)
    if gold.kind == answer.kind == "tuple" and gold.value == answer.value:
        return _tuples(gold, answer, how)
    if gold.kind == answer.kind == "list" and len(gold.args) == len(answer.args):
        return _collections(gold, answer, how)
    if not _unknowns_agree(gold, answer):
        return None
    try:
        return "set" if same_set(real_set(gold), real_set(answer)) else None
    except NoSet:
        pass
    return _pieces(gold, answer, how)


def _pieces(gold: Node, answer: Node, how: Tolerance) -> str | None:
    """Unions of things with letters in them, part by part."""
    if gold.kind != answer.kind or gold.kind not in ("union", "either", "both", "such", "minus"):
        return None
    left, right = _flat(gold, gold.kind), _flat(answer, gold.kind)
    return _matched(left, right, how) and "set"


def _flat(node: Node, kind: str) -> list[Node]:
    return [part for arg in node.args for part in _flat(arg, kind)] if node.kind == kind else [node]


def _collections(gold: Node, answer: Node, how: Tolerance) -> str | None:
    kinds = (gold.kind, answer.kind)
    if "tuple" in kinds:
        if "set" in kinds:
            return None
        return "list" if _ordered(_bare(gold.args), _bare(answer.args), how) else None
    if not all(kind in ("list", "set") for kind in kinds):
        inner, other = (gold, answer) if gold.kind in ("list", "set") else (answer, gold)
        single = inner.kind == "set" and len(inner.args) == 1 and other.kind not in ("tuple", "matrix")
        return (
            equal(*((inner.args[0], other) if inner is gold else (other, inner.args[0])), how)
            if single
            else None
        )
    left, right = list(gold.args), list(answer.args)
    if any(item.kind == "ellipsis" for item in left + right):
        return "sequence" if _ordered(left, right, how) else None
    names_left, names_right = _names(left), _names(right)
    if names_left and names_right:
        return _matched(left, right, how) and "list"
    if names_left or names_right:
        named = names_left or names_right
        left, right = _bare(left), _bare(right)
        if len(set(named)) > 1:
            return "list" if _ordered(left, right, how) else None
    return _matched(left, right, how) and ("set" if "set" in kinds else "list")


def _names(items: Sequence[Node]) -> list[str]:
    return [item.value for item in items if item.kind == "named"]


def _bare(items: Sequence[Node]) -> list[Node]:
    return [item.args[0] if item.kind == "named" else item for item in items]


def _ordered(left: Sequence[Node], right: Sequence[Node], how: Tolerance) -> bool:
    return len(left) == len(right) and all(
        a == b or equal(a, b, how) is not None for a, b in zip(left, right, strict=True)
    )


def _matched(left: Sequence[Node], right: Sequence[Node], how: Tolerance) -> str | None:
    """A one-to-one matching by equality, in any order."""
    if len(left) != len(right) or len(left) > _MOST_ITEMS:
        return None
    rest = list(right)
    for item in left:
        for i, other in enumerate(rest):
            if item == other or equal(item, other, how):
                del rest[i]
                break
        else:
            return None
    return "matched"


def _tuples(gold: Node, answer: Node, how: Tolerance) -> str | None:
    if gold.kind != "tuple" or answer.kind != "tuple":
        return None
    brackets = {"<>": "()"}
    if brackets.get(gold.value, gold.value) != brackets.get(answer.value, answer.value):
        return None
    return "tuple" if _ordered(gold.args, answer.args, how) else None


def _as_matrix(node: Node) -> Node:
    """Nested brackets as a matrix; sums, products and multiples of matrices worked out."""
    if (
        node.kind == "tuple"
        and node.args
        and all(arg.kind == "tuple" for arg in node.args)
        and node.value == "[]"
    ):
        widths = {len(arg.args) for arg in node.args}
        if len(widths) == 1:
            cells = tuple(cell for arg in node.args for cell in arg.args)
            return Node("matrix", (len(node.args), widths.pop()), cells)
    if node.kind in ("add", "mul", "neg", "div") and node.has("matrix"):
        args = [_as_matrix(arg) for arg in node.args]
        if node.kind == "neg" and args[0].kind == "matrix":
            return Node("matrix", args[0].value, tuple(Node("neg", None, (c,)) for c in args[0].args))
        if node.kind == "add" and all(a.kind == "matrix" and a.value == args[0].value for a in args):
            cells = tuple(Node("add", None, column) for column in zip(*(a.args for a in args), strict=True))
            return Node("matrix", args[0].value, cells)
        if node.kind == "mul" and args[0].kind == args[1].kind == "matrix":
            return _product(*args)
        if node.kind == "mul" and "matrix" in (args[0].kind, args[1].kind):
            scalar, matrix = args if args[1].kind == "matrix" else reversed(args)
            return Node("matrix", matrix.value, tuple(Node("mul", None, (scalar, c)) for c in matrix.args))
        if node.kind == "div" and args[0].kind == "matrix" and args[1].kind != "matrix":
            return Node("matrix", args[0].value, tuple(Node("div", None, (c, args[1])) for c in args[0].args))
    return node


def _product(left: Node, right: Node) -> Node:
    (rows, inner), (height, columns) = left.value, right.value
    if inner != height or rows * columns * inner > 200:
        return Node("false")
    cells = [
        Node("add", None, tuple(
            Node("mul", None, (left.args[r * inner + i], right.args[i * columns + c])) for i in range(inner)
        ))
        for r in range(rows)
        for c in range(columns)
    ]  # fmt: skip
    return Node("matrix", (rows, columns), tuple(cells))


def _matrices(gold: Node, answer: Node, how: Tolerance) -> str | None:
    if gold.kind == answer.kind:
        same = gold.value == answer.value and _ordered(gold.args, answer.args, how)
        return "matrix" if same else None
    matrix, other = (gold, answer) if gold.kind == "matrix" else (answer, gold)
    if 1 in matrix.value and other.kind == "tuple" and other.value in ("()", "<>", "[]"):
        return "vector" if _ordered(gold.args, answer.args, how) else None
    return None


def _builder(node: Node) -> Node:
    expression, condition = node.args
    if expression.kind == "list" or condition.kind != "member" or condition.args[1] != Node("domain", "Z"):
        return node
    name = condition.args[0]
    return (
        Node("family", name.value, (expression,)) if name.kind == "var" and expression.kind != "var" else node
    )


def _families(gold: Node, answer: Node, how: Tolerance) -> str | None:
    left, right = _family(gold), _family(answer)
    if left is None or right is None:
        return None
    items_left, items_right = list(_spread(left.args[0])), list(_spread(right.args[0]))
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


# scalars ----------------------------------------------------------------------------------------------------


def _scalars(gold: Node, answer: Node, how: Tolerance) -> str | None:
    left, right = number_of(gold), number_of(answer)
    if left is not None and right is not None:
        if left == right:
            return "integer" if left.denominator == 1 else "rational"
        return "decimal" if _rounds(gold, answer, left, right, how) else None
    kinds = {gold.kind, answer.kind}
    if "base" in kinds:
        same = gold.kind == answer.kind and _based(gold) == _based(answer)
        return "base" if same else None
    if "time" in kinds:
        return _times(gold, answer)
    if "unit" in kinds:
        return _with_units(gold, answer, how)
    if "percent" in kinds:
        return _percents(gold, answer, how)
    if "degree" in kinds:
        return _degrees(gold, answer, how)
    if "mod" in kinds:
        return _residues(gold, answer)
    if gold.kind == answer.kind == "ratio":
        same = len(gold.args) == len(answer.args) and _ordered(gold.args, answer.args, how)
        return "ratio" if same else None
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
    allowed: Fraction | None = None
    if len(decimals) == 1:
        node = decimals[0].args[0] if decimals[0].kind == "neg" else decimals[0]
        if node.kind == "decimal":
            exact, places = node.value
            digits = (abs(exact.numerator) * 10**places // exact.denominator).bit_length() * math.log10(2)
            allowed = Fraction(1, 10**places) if digits >= EXACT_DIGITS else None
    if allowed is None and not how.relative:
        return False
    from mpmath import workdps

    with workdps(60):
        both = isinstance(left, Fraction) and isinstance(right, Fraction)
        x, y = (left, right) if both else (as_real(left), as_real(right))
        difference = abs(x - y)
        bounds: list[Any] = [] if allowed is None else [allowed]
        if how.relative:
            bounds.append(Fraction(how.relative) * abs(x) if both else how.relative * abs(x))
        return any(difference <= (bound if both else as_real(bound)) for bound in bounds)


def _based(node: Node) -> tuple[str, str]:
    digits, base = node.value
    base = base.strip("{}").lower()
    return digits.lstrip("0"), str(_BASES.index(base)) if base in _BASES else base


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
        return "ratio" if _ordered((num(hour), num(minute)), other.args, STRICT) else None
    if not minute and number_of(other) == hour:
        return "time"
    return "ratio" if minute and same_expression(other, num(Fraction(hour, minute))) else None


def _clock(node: Node) -> list[tuple[int, int]]:
    hour, minute, half = node.value
    if not half:
        return [(hour, minute)]
    known = (hour % 12 + (12 if half == "p" else 0), minute)
    return [known, (hour, minute)]


def _with_units(gold: Node, answer: Node, how: Tolerance) -> str | None:
    if gold.kind != "unit" or answer.kind != "unit":
        bare = gold.args[0] if gold.kind == "unit" else gold
        other = answer.args[0] if answer.kind == "unit" else answer
        if {gold.kind, answer.kind} & {"degree", "percent", "time", "base", "ratio"}:
            return None
        return equal(bare, other, how) and "unit"
    left, right = unit_of(gold.value), unit_of(answer.value)
    if left is None or right is None:
        words_left, words_right = _stems(gold.value), _stems(answer.value)
        if words_left != words_right and not (words_left < words_right or words_right < words_left):
            return None
        return equal(gold.args[0], answer.args[0], how) and "unit"
    if left[0] != right[0]:
        unnamed = not left[0] or not right[0]
        return equal(gold.args[0], answer.args[0], how) and "unit" if unnamed else None
    scaled = (
        Node("mul", None, (num(right[1] / left[1]), answer.args[0]))
        if left[1] != right[1]
        else answer.args[0]
    )
    return equal(gold.args[0], scaled, how) and "unit"


def _stems(words: str) -> set[str]:
    return {word.rstrip("s").lower() for word in words.split()}


def _percents(gold: Node, answer: Node, how: Tolerance) -> str | None:
    if gold.kind == answer.kind:
        return equal(gold.args[0], answer.args[0], how) and "percent"
    percent, other = (gold, answer) if gold.kind == "percent" else (answer, gold)
    if other.kind in ("degree", "unit", "ratio"):
        return None
    hundredth = Node("mul", None, (num(Fraction(1, 100)), percent.args[0]))
    value_ = number_of(percent.args[0])
    for reading in (percent.args[0], hundredth if value_ is None else num(value_ / 100)):
        if equal(*((reading, other) if percent is gold else (other, reading)), how):
            return "percent"
    return None


def _degrees(gold: Node, answer: Node, how: Tolerance) -> str | None:
    if gold.kind == answer.kind:
        return equal(gold.args[0], answer.args[0], how) and "degrees"
    degree, other = (gold, answer) if gold.kind == "degree" else (answer, gold)
    bare = degree.args[0]
    if equal(*((bare, other) if degree is gold else (other, bare)), how):
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


def _renamed(gold: Node, answer: Node) -> Node:
    """``answer`` with its one variable called as ``gold`` calls its own."""
    left, right = gold.variables(), answer.variables()
    if len(left) == len(right) == 1 and left != right:
        return answer.substitute(right.pop(), Node("var", left.pop()))
    return answer
