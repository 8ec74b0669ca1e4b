"""The class an answer votes for: one text for answers that are equal, made without looking at any reference.

Equal constants get the same key by value, expressions by their values at fixed points. Two keys that differ may
still mean the same (other letters, units converted); `verifiers.classes` joins those by comparison.
"""

from __future__ import annotations

import hashlib
from fractions import Fraction
from typing import Any

from verifiers.expressions.evaluate import point_for, value
from verifiers.expressions.matrices import as_matrix
from verifiers.expressions.nodes import Node, number_of
from verifiers.expressions.scalars import based_ten
from verifiers.expressions.sets import NoSet, Piece, real_set
from verifiers.expressions.statements import settled
from verifiers.expressions.values import NoValue, arithmetic, as_real

_DIGITS = 20


def key(tree: Node | None, words: str, choice: str = "") -> str | None:
    """The key of a reading; None where there is nothing to vote for."""
    if choice:
        return choice
    if tree is None or tree.kind == "text":
        return words[:200] or None
    literal = number_of(tree)
    if literal is not None:
        return str(literal)[:400]
    return _of(settled(tree))[:400]


def _of(node: Node) -> str:
    node = based_ten(node)
    if node.kind == "pow":
        node = as_matrix(node)
    kind = node.kind
    literal = number_of(node)
    if literal is not None:
        return str(literal)
    if kind == "named":
        return _of(node.args[0])
    if kind in ("unit", "percent", "degree"):
        return _of(node.args[0])
    if kind == "list":
        return ", ".join(sorted(map(_of, node.args)))
    if kind == "set":
        return ", ".join(sorted({_of(arg) for arg in node.args})) or "{}"
    if kind == "tuple":
        brackets = "()" if node.value == "<>" else node.value
        return brackets[0] + ", ".join(_of(arg) for arg in node.args) + brackets[1]
    if kind == "matrix":
        rows, columns = node.value
        cells = [_of(arg) for arg in node.args]
        return "[" + "; ".join(", ".join(cells[r * columns : (r + 1) * columns]) for r in range(rows)) + "]"
    if kind in ("union", "inter", "minus", "such", "either", "both", "relation", "member"):
        try:
            return _pieces(real_set(node))
        except NoSet:
            return _printed(node)
    if kind == "time":
        return f"{node.value[0]}:{node.value[1]:02d}"
    if kind == "base":
        return f"{node.value[0]}_{node.value[1]}"
    if kind == "ratio":
        return ":".join(_of(arg) for arg in node.args)
    if kind == "const" and node.value == "inf":
        return "infinity"
    return _number(node) or _printed(node)


def _number(node: Node) -> str | None:
    names = node.variables()
    try:
        with arithmetic().workdps(60):
            if not names:
                return _shown(value(node))
            values = [_shown(value(node, point_for(names, turn))) for turn in (0, 1)]
    except (NoValue, ZeroDivisionError, OverflowError, ValueError, TypeError):
        return None
    digest = hashlib.blake2b("|".join(values).encode(), digest_size=5).hexdigest()
    return f"expression in {', '.join(sorted(names))} #{digest}"


def _shown(found: Any) -> str:
    if isinstance(found, Fraction):
        return str(found)
    mp = arithmetic()
    tiny = mp.mpf(10) ** -40
    if isinstance(found, mp.mpc):
        if abs(found.imag) > tiny * abs(found):
            return f"{_shown(found.real)} + {_shown(found.imag)} i"
        found = found.real
    rough = 5040 * float(found) if abs(found) < 1e12 else 0.5
    if abs(rough - round(rough)) < 1e-2 or abs(rough) > 1e12:
        near = Fraction(int(mp.nint(found * 5040)), 5040)
        if abs(found - as_real(near)) < tiny * max(1, abs(found)):
            return str(near)
    return str(mp.nstr(found, _DIGITS))


def _pieces(pieces: list[Piece]) -> str:
    parts = []
    for low, left, high, right in pieces:
        if low is not None and high is not None and left and right and _shown(low) == _shown(high):
            parts.append("{" + _shown(low) + "}")
            continue
        start = "-infinity" if low is None else _shown(low)
        end = "infinity" if high is None else _shown(high)
        parts.append(f"{'[' if left else '('}{start}, {end}{']' if right else ')'}")
    return " u ".join(parts) or "{}"


def _printed(node: Node) -> str:
    value_ = "" if node.value is None else " ".join(node.value) if isinstance(node.value, tuple) and all(
        isinstance(v, str) for v in node.value
    ) else str(node.value)  # fmt: skip
    inside = ", ".join(_of(arg) for arg in node.args)
    return f"{node.kind} {value_}({inside})" if inside else f"{value_ or node.kind}"
