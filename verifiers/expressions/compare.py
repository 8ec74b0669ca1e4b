"""Typed comparison of two answers: the name of the rule that makes them equal, or None.

The reference's kind decides which comparison applies; nothing is rounded, and nothing is taken apart that was
written as one (an equation is not its right-hand side, a pair is not a set).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from verifiers.expressions.evaluate import point_for, value
from verifiers.expressions.families import families, families_in_other_letters
from verifiers.expressions.matrices import as_matrix
from verifiers.expressions.nodes import ZERO, Node, number_of
from verifiers.expressions.scalars import STRICT, Tolerance, scalars
from verifiers.expressions.sets import NoSet, proportional, real_set, same_set, unknown, zero_side
from verifiers.expressions.statements import MOST_ITEMS, constant, settled
from verifiers.expressions.values import NoValue, as_real, is_zero
from verifiers.expressions.work import charge

_DERIVATIVE = re.compile("d([A-Za-z]+)/d([A-Za-z]+)")
_FLIP = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}
_SETS = ("union", "inter", "minus", "domain", "such", "either", "both", "member")


def equal(gold: Node, answer: Node, how: Tolerance = STRICT) -> str | None:
    """The rule by which ``answer`` equals ``gold``, or None."""
    if gold == answer:
        return "identical"
    if gold.kind == answer.kind == "list" and len(gold.args) == len(answer.args) and _literals(gold, answer):
        return _matched(gold.args, answer.args, how) and "list"
    charge(20)
    gold, answer = settled(gold), settled(answer)
    if gold == answer:
        return "identical"
    if answer.kind == "list" and gold.kind not in ("list", "tuple", "matrix"):
        answer = _once(answer)
    if how.rename:
        answer = _renamed(gold, answer)
    gold, answer = _point(gold, answer), _point(answer, gold)
    for side in (gold, answer):
        if side.kind in ("false", "ellipsis"):
            return None
    if "named" in (gold.kind, answer.kind):
        return _named(gold, answer, how)
    if "family" in (gold.kind, answer.kind) or families_in_other_letters(gold, answer):
        return families(gold, answer)
    if _set_like(gold) or _set_like(answer):
        return _as_sets(gold, answer, how)
    if "relation" in (gold.kind, answer.kind):
        return _relations(gold, answer)
    if {gold.kind, answer.kind} & {"list", "set"}:
        return _collections(gold, answer, how)
    gold, answer = as_matrix(gold), as_matrix(answer)
    if "matrix" in (gold.kind, answer.kind):
        return _matrices(gold, answer, how)
    if "tuple" in (gold.kind, answer.kind):
        return _tuples(gold, answer, how)
    return scalars(gold, answer, how, equal)


def _once(node: Node) -> Node:
    """A list that gives one value again and again ("5, 5" for a double root) as that value."""
    first, *others = node.args
    value_ = first.args[0] if first.kind == "named" else first
    return first if all(item in (first, value_) or scalars(value_, item) for item in others) else node


def _point(node: Node, other: Node) -> Node:
    """The coordinates of a labelled point, "A(1, 2)", beside coordinates without a label."""
    if other.kind != "tuple":
        return node
    if node.kind == "mul" and node.args[0].kind == "var" and node.args[1].kind == "tuple":
        return node.args[1] if node.args[0].value.isupper() and node.args[1].value == "()" else node
    named = node.kind == "func" and node.value in ("apply P", "apply Q")
    return node.args[0] if named and node.args[0].kind == "tuple" else node


def _renamed(gold: Node, answer: Node) -> Node:
    """``answer`` with its one variable called as ``gold`` calls its own."""
    left, right = gold.variables(), answer.variables()
    if len(left) == len(right) == 1 and left != right:
        return answer.substitute(right.pop(), Node("var", left.pop()))
    return answer


# equations and inequalities ----------------------------------------------------------------------------------


def _named(gold: Node, answer: Node, how: Tolerance) -> str | None:
    if gold.kind == answer.kind == "named":
        if gold.value != answer.value and not (how.rename or _same_name(gold.value, answer.value)):
            return _equations(gold, answer)
        return equal(gold.args[0], answer.args[0], how) or _equations(gold, answer)
    named, other = (gold, answer) if gold.kind == "named" else (answer, gold)
    if other.kind == "relation":
        return None if constant(named.args[0]) else _equations(gold, answer)
    if other.kind == "list" and named.value.startswith("("):
        named = _unpacked(named)
        gold, answer = (named, answer) if gold.kind == "named" else (gold, named)
        return equal(gold, answer, how) if named.kind == "list" else None
    if other.kind == "list" and named.args[0].kind != "list":
        return None
    bare = named.args[0]
    return equal(bare, answer, how) if gold.kind == "named" else equal(gold, bare, how)


def _same_name(left: str, right: str) -> bool:
    """Whether two names may be of one thing: "m_max" and "m", "y" and "f(x)"."""
    if left.startswith("apply ") != right.startswith("apply "):
        return "y" in (left, right)
    if left.startswith("apply ") and left.casefold() == right.casefold():  # P(x) and p(x)
        return True
    return left.partition("_")[0] == right.partition("_")[0] and ("_" in left) != ("_" in right)


def _unpacked(named: Node) -> Node:
    names = named.value[1:-1].split(",")
    inner = named.args[0]
    if inner.kind != "tuple" or len(inner.args) != len(names):
        return inner
    return Node("list", None, tuple(Node("named", n, (v,)) for n, v in zip(names, inner.args, strict=True)))


def _equation(node: Node) -> Node | None:
    if node.kind == "named" and (derivative := _DERIVATIVE.fullmatch(node.value)):
        parts = (Node("mul", None, (Node("var", "d"), Node("var", name))) for name in derivative.groups())
        return Node("add", None, (Node("div", None, tuple(parts)), Node("neg", None, (node.args[0],))))
    if node.kind == "named" and node.value.replace("'", "").isidentifier():
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
    if proportional(left, right) is not None:
        return "equation"
    left, right = _cleared(left), _cleared(right)
    return "equation" if proportional(left, right) is not None else None


def _cleared(difference: Node) -> Node:
    """The equation "difference = 0" times the letters that stand below its fractions ("y - 1/x" as "xy - 1"), where
    that adds no solution: none of those letters may be zero in one."""
    letters = {
        below.value
        for node in difference.walk()
        if node.kind == "div" and (below := node.args[1]).kind == "var"
    }
    if len(letters) != 1:
        return difference
    name = letters.pop()
    cleared = Node("add", None, tuple(_times(term, name) for term in _terms(difference)))
    if any(node.kind == "div" and name in node.args[1].variables() for node in cleared.walk()):
        return difference
    try:
        at_zero = value(cleared.substitute(name, ZERO), point_for(cleared.variables(), 0))
    except (NoValue, ZeroDivisionError, OverflowError, ValueError):
        return difference
    return cleared if not is_zero(at_zero) else difference


def _terms(node: Node) -> list[Node]:
    if node.kind == "add":
        return [term for arg in node.args for term in _terms(arg)]
    if node.kind == "neg":
        return [Node("neg", None, (term,)) for term in _terms(node.args[0])]
    return [node]


def _times(term: Node, name: str) -> Node:
    if term.kind == "neg":
        return Node("neg", None, (_times(term.args[0], name),))
    if term.kind == "div" and term.args[1] == Node("var", name):
        return term.args[0]
    return Node("mul", None, (Node("var", name), term))


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
            scalars(a, b) or a == b for a, b in zip(gold.args, chain.args, strict=True)
        ):
            return "chain"
    return None


def _unknowns_agree(gold: Node, answer: Node) -> bool:
    left, right = unknown(gold), unknown(answer)
    return left == right or left is None or right is None


# sets and collections ----------------------------------------------------------------------------------------


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
        pair = gold if gold.kind == "tuple" else answer
        if "set" in kinds or (pair.value == "[]" and len(pair.args) == 2):  # an interval is not its ends
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
    if len(left) != len(right) or len(left) > MOST_ITEMS:
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


def _literals(*lists: Node) -> bool:
    return all(number_of(item) is not None for node in lists for item in node.args)


def _tuples(gold: Node, answer: Node, how: Tolerance) -> str | None:
    if gold.kind != "tuple" or answer.kind != "tuple":
        return None
    brackets = {"<>": "()"}
    if len(gold.args) > 2:  # no interval
        brackets["[]"] = "()"
    if brackets.get(gold.value, gold.value) != brackets.get(answer.value, answer.value):
        return None
    return "tuple" if _ordered(gold.args, answer.args, how) else None


def _matrices(gold: Node, answer: Node, how: Tolerance) -> str | None:
    if gold.kind == answer.kind:
        same = gold.value == answer.value and _ordered(gold.args, answer.args, how)
        return "matrix" if same else None
    matrix, other = (gold, answer) if gold.kind == "matrix" else (answer, gold)
    if 1 in matrix.value and other.kind == "tuple" and other.value in ("()", "<>", "[]"):
        return "vector" if _ordered(gold.args, answer.args, how) else None
    return None
