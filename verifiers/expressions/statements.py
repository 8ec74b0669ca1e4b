"""What a statement gives as its answer: the value of an equation, the values of +-, the family of a set builder."""

from __future__ import annotations

from verifiers.expressions.nodes import Node, number_of
from verifiers.expressions.scalars import scalars

MOST_ITEMS = 60


def settled(node: Node) -> Node:
    """The answer that a statement gives: "x = 2 + 3 = 5" becomes named x: 5; "3 + 2 = 5" becomes 5; a constant
    chain that does not hold becomes "false"; "22/7 ~ 3.14" becomes 22/7, and "x ~ 7" named x: 7; +- becomes
    the list of both values; "7 or 7.0" becomes 7. A set drops
    what it holds twice; a list ("1, 1, 2") keeps it, unless it is one of points."""
    if node.kind == "relation" and set(node.value) <= {"=", "~"}:
        node = _chain(node)
    if node.kind == "such":
        node = _builder(node)
    if node.kind == "family" and node.args[0].kind == "relation":
        inner = _chain(node.args[0])
        node = Node("family", node.value, inner.args) if inner.kind == "named" else node
    if node.kind in ("list", "set"):
        items = [item for arg in node.args for item in spread(settled(arg))]
        distinct: list[Node] = []
        for item in items[:MOST_ITEMS]:
            if not any(
                item == other
                or (number_of(item) is not None and number_of(other) is not None and scalars(item, other))
                for other in distinct
            ):
                distinct.append(item)
        points = all(item.kind == "tuple" for item in items)  # solutions, of which one given twice is one
        if node.kind == "set" or (len(distinct) == 1 and node.value == "or") or points:
            items = distinct + items[MOST_ITEMS:]
        return items[0] if len(items) == 1 and node.kind == "list" else Node(node.kind, None, tuple(items))
    if node.kind == "named":
        values = spread(node.args[0])
        return node if len(values) == 1 else Node("named", node.value, (Node("list", None, tuple(values)),))
    values = spread(node)
    return node if len(values) == 1 else Node("list", None, tuple(values))


def spread(node: Node) -> list[Node]:
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
        cut = node.value.index("~")  # what stands before it is exact; a letter alone has only what follows it
        sides = sides[: cut + 1] if cut or constant(sides[0]) else sides[:2]
    first, last = sides[0], sides[-1]
    if len(sides) == 1:
        return first
    name = label(first)
    constants = [(not side.variables() and not side.has("func")) or constant(side) for side in sides]
    if all(constants):
        same = all(scalars(first, side) or first == side for side in sides[1:])
        return last if same else Node("false")
    if name is not None and (constants[-1] or len(sides) == 2) and name not in _labels(last):
        return Node("named", name, (last,))
    if len(sides) > 2 and constants[-1] and any(label(side) is not None for side in sides[:-1]):
        return Node("named", next(filter(None, map(label, sides))), (last,))
    turned = label(last)
    if turned is not None and len(sides) == 2 and constants[0]:
        return Node("named", turned, (first,))
    return Node("relation", ("=",) * (len(sides) - 1), tuple(sides))


def constant(node: Node) -> bool:
    return not node.variables() and not any(
        n.kind == "func" and n.value.startswith("apply") for n in node.walk()
    )


def label(node: Node) -> str | None:
    """The name of what an equation defines: x, f(x), |AB|, NO/BO, A:B, (p, q)."""
    if node.kind == "var":
        return node.value
    if node.kind == "func" and node.value.startswith("apply "):
        return node.value
    if node.kind == "func" and node.value == "abs" and label(node.args[0]):
        return f"|{label(node.args[0])}|"
    if node.kind == "tuple" and all(arg.kind == "var" for arg in node.args):
        return "(" + ",".join(arg.value for arg in node.args) + ")"
    if node.kind == "div" and all(
        arg.kind == "mul" and arg.args[0] == Node("var", "d") and arg.args[1].kind == "var"
        for arg in node.args
    ):
        return "/".join("d" + arg.args[1].value for arg in node.args)
    if node.kind in ("div", "ratio"):
        names = [label(arg) for arg in node.args]
        if all(name and name[0].isupper() for name in names):
            return "/".join(name for name in names if name)
    return None


def _labels(node: Node) -> set[str]:
    return {name for n in node.walk() if (name := label(n)) is not None}


def _builder(node: Node) -> Node:
    expression, condition = node.args
    if expression.kind == "list" or condition.kind != "member" or condition.args[1] != Node("domain", "Z"):
        return node
    name = condition.args[0]
    return (
        Node("family", name.value, (expression,)) if name.kind == "var" and expression.kind != "var" else node
    )
