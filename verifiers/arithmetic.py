"""Arithmetic on written integers: a small parser and exact rational evaluation.

It runs no Python and knows four operations, brackets and signs. Length and nesting are capped, so its time is
bounded by the text's length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from verifiers.normalise import plain_latex, plain_unicode

MAX_CHARACTERS = 1_000
MAX_DEPTH = 50
MAX_DIGITS = 30

_TOKEN = re.compile(r"\s*(?:(\d+)|([-+*/()]))")
_FRAC = re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_TIMES = re.compile(r"(?<=[\d)\s])[xX](?=[\s(\d])")


class NotArithmetic(ValueError):
    """Not an arithmetic expression; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class Node:
    """operator: "" for a number, otherwise one of + - * / or "neg" (left only)."""

    operator: str
    number: int = 0
    left: Node | None = None
    right: Node | None = None

    def numbers(self) -> Iterator[int]:
        """The written integers, from left to right."""
        if self.operator == "":
            yield self.number
        for child in (self.left, self.right):
            if child is not None:
                yield from child.numbers()

    def value(self) -> Fraction:
        """Raises ZeroDivisionError."""
        if self.operator == "":
            return Fraction(self.number)
        assert self.left is not None
        left = self.left.value()
        if self.operator == "neg":
            return -left
        assert self.right is not None
        right = self.right.value()
        if self.operator == "+":
            return left + right
        if self.operator == "-":
            return left - right
        if self.operator == "*":
            return left * right
        return left / right


def parse_arithmetic(text: str) -> Node:
    r"""``text`` as an expression: integers, + - * / with the usual precedence, ( ) [ ], signs, and the
    LaTeX and Unicode spellings of those (``\times``, ``\frac{a}{b}``, ``÷``).

    Raises NotArithmetic.
    """
    if len(text) > MAX_CHARACTERS:
        raise NotArithmetic(f"longer than {MAX_CHARACTERS} characters")
    text = plain_latex(plain_unicode(text))
    while (flat := _FRAC.sub(r"((\1)/(\2))", text)) != text:
        text = flat
    text = _TIMES.sub("*", text.replace("[", "(").replace("]", ")").replace("{", "(").replace("}", ")"))
    tokens: list[str] = []
    at = 0
    text = text.strip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise NotArithmetic(f"{text[at]!r} is not arithmetic")
        tokens.append(match.group(1) or match.group(2))
        if len(tokens[-1]) > MAX_DIGITS:
            raise NotArithmetic(f"a number of more than {MAX_DIGITS} digits")
        at = match.end()
    if not tokens:
        raise NotArithmetic("empty")
    node, at = _sum(tokens, 0, 0)
    if at != len(tokens):
        raise NotArithmetic(f"{tokens[at]!r} is out of place")
    return node


def _sum(tokens: list[str], at: int, depth: int) -> tuple[Node, int]:
    node, at = _product(tokens, at, depth)
    while at < len(tokens) and tokens[at] in "+-":
        right, after = _product(tokens, at + 1, depth)
        node, at = Node(tokens[at], 0, node, right), after
    return node, at


def _product(tokens: list[str], at: int, depth: int) -> tuple[Node, int]:
    node, at = _signed(tokens, at, depth)
    while at < len(tokens) and tokens[at] in "*/":
        right, after = _signed(tokens, at + 1, depth)
        node, at = Node(tokens[at], 0, node, right), after
    return node, at


def _signed(tokens: list[str], at: int, depth: int) -> tuple[Node, int]:
    if depth > MAX_DEPTH:
        raise NotArithmetic(f"nested deeper than {MAX_DEPTH}")
    if at >= len(tokens):
        raise NotArithmetic("ends where a number should stand")
    token = tokens[at]
    if token in "+-":
        node, at = _signed(tokens, at + 1, depth + 1)
        return (node if token == "+" else Node("neg", 0, node)), at
    if token == "(":
        node, at = _sum(tokens, at + 1, depth + 1)
        if at >= len(tokens) or tokens[at] != ")":
            raise NotArithmetic("a bracket is not closed")
        return node, at + 1
    if token.isdecimal():
        return Node("", int(token)), at + 1
    raise NotArithmetic(f"{token!r} where a number should stand")


def canonical(node: Node) -> str:
    """One spelling for expressions that differ only in order, brackets and signs pushed through them:
    sums and products are flattened and sorted.

    >>> canonical(parse_arithmetic("(8 - 2) + 3 * 4")) == canonical(parse_arithmetic("4*3 - (2 - 8)"))
    True
    """
    return _print_sum(_terms(node, False))


def _terms(node: Node, negative: bool) -> list[tuple[bool, str]]:
    """The addends of ``node`` as (negative, text)."""
    if node.operator in ("+", "-"):
        assert node.left is not None
        assert node.right is not None
        return _terms(node.left, negative) + _terms(node.right, negative ^ (node.operator == "-"))
    if node.operator == "neg":
        assert node.left is not None
        return _terms(node.left, not negative)
    over: list[str] = []
    under: list[str] = []
    negative ^= _factors(node, False, over, under)
    text = "*".join(sorted(over, key=_order) or ["1"])
    if under:
        text += "".join("/" + factor for factor in sorted(under, key=_order))
    return [(negative, text)]


def _factors(node: Node, inverted: bool, over: list[str], under: list[str]) -> bool:
    """Adds the factors of ``node``; returns whether their sign is negative."""
    if node.operator in ("*", "/"):
        assert node.left is not None
        assert node.right is not None
        sign = _factors(node.left, inverted, over, under)
        return sign ^ _factors(node.right, inverted ^ (node.operator == "/"), over, under)
    if node.operator == "neg":
        assert node.left is not None
        return not _factors(node.left, inverted, over, under)
    sign = False
    if node.operator == "":
        text = str(node.number)
    else:
        terms = _terms(node, False)
        ordered = sorted(terms, key=lambda term: _order(term[1]))
        if ordered[0][0]:
            sign = True
            terms = [(not negative, text) for negative, text in terms]
        text = f"({_print_sum(terms)})"
    (under if inverted else over).append(text)
    return sign


def _print_sum(terms: list[tuple[bool, str]]) -> str:
    terms = sorted(terms, key=lambda term: (term[0], _order(term[1])))
    text = "".join(("-" if negative else "+") + term for negative, term in terms)
    return text.removeprefix("+")


def _order(text: str) -> tuple[int, int, str]:
    return (0, int(text), "") if text.isdecimal() else (1, len(text), text)
