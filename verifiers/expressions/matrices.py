"""Matrices out of nested brackets; their determinants, sums, products and multiples worked out."""

from __future__ import annotations

from verifiers.expressions.lexer import Unreadable
from verifiers.expressions.nodes import Node


def as_matrix(node: Node) -> Node:
    """Nested brackets as a matrix; sums, products, multiples and transposes (^T) worked out."""
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
    if node.kind == "pow" and node.args[1] == Node("var", "T"):
        inner = as_matrix(node.args[0])
        if inner.kind == "matrix":
            rows, columns = inner.value
            cells = tuple(inner.args[r * columns + c] for c in range(columns) for r in range(rows))
            return Node("matrix", (columns, rows), cells)
        if inner.kind == "tuple" and inner.value in ("()", "<>", "[]"):
            return Node("matrix", (len(inner.args), 1), inner.args)
    if node.kind in ("add", "mul", "neg", "div") and node.has("matrix"):
        args = [as_matrix(arg) for arg in node.args]
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


def determinant(matrix: Node) -> Node:
    """As a sum of products, by expansion along the first row. Raises Unreadable beyond 4 rows."""
    rows, columns = matrix.value
    if rows != columns or rows > 4:
        raise Unreadable("a determinant of more than four rows, or one that is not square")
    cells = matrix.args
    if rows == 1:
        return cells[0]
    terms = []
    for c in range(columns):
        rest = tuple(cells[r * columns + k] for r in range(1, rows) for k in range(columns) if k != c)
        term = Node("mul", None, (cells[c], determinant(Node("matrix", (rows - 1, rows - 1), rest))))
        terms.append(Node("neg", None, (term,)) if c % 2 else term)
    return Node("add", None, tuple(terms))
