"""The tree of a mathematical answer. Immutable, hashable, without behaviour beyond walking itself.

kinds (value; args):
  scalars      num (Fraction), decimal ((Fraction, places)), const ("pi", "e", "i", "inf"), var (name),
               add, mul, div, pow, neg, func (name), fact, mod (a, m), pm ("+-" or "-+"; a, b or a),
               base ((digits, base)), percent, degree, unit (words), ratio, time ((hour, minute, half))
  collections  list, tuple (brackets), set, union, inter, minus, domain ("R", "Z", "N", "Q", "C"), matrix (shape)
  statements   relation (operators), member, such (set builder), family, either, both
  words        text (words), ellipsis
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple


class Node(NamedTuple):
    kind: str
    value: Any = None
    args: tuple[Any, ...] = ()

    def walk(self) -> Iterator[Node]:
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.args)

    def has(self, *kinds: str) -> bool:
        if self.kind in kinds:
            return True
        stack = list(self.args)
        while stack:
            node = stack.pop()
            if node.kind in kinds:
                return True
            if node.args:
                stack += node.args
        return False

    def variables(self) -> set[str]:
        found = set()
        stack = [self]
        while stack:
            node = stack.pop()
            if node.kind == "var":
                found.add(node.value)
            elif node.args:
                stack += node.args
        return found

    def substitute(self, name: str, by: Node) -> Node:
        if self.kind == "var":
            return by if self.value == name else self
        if not self.args:
            return self
        return Node(self.kind, self.value, tuple(arg.substitute(name, by) for arg in self.args))


def num(value: int | Fraction) -> Node:
    return Node("num", Fraction(value))


ONE = num(1)
ZERO = num(0)
INFINITY = Node("const", "inf")


def number_of(node: Node) -> Fraction | None:
    """The exact value of a literal, signed or not; None for anything else."""
    if node.kind == "num":
        return node.value
    if node.kind == "decimal":
        return node.value[0]
    if node.kind == "neg":
        inner = number_of(node.args[0])
        return None if inner is None else -inner
    if node.kind == "div":
        top, bottom = (number_of(arg) for arg in node.args)
        return top / bottom if top is not None and bottom else None
    return None
