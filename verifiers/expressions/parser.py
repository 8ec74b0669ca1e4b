"""Tokens to a tree: a recursive-descent parser of LaTeX and plain mathematical notation.

It accepts a whole answer or refuses it (Unreadable); it never skips what it does not know. Depth is capped, so
its time and stack are bounded by the text's length. Here are statements, sets and arithmetic; `atoms` has the rest.
"""

from __future__ import annotations

import re
from functools import lru_cache

from verifiers.expressions import lexer
from verifiers.expressions.atoms import Atoms, primed
from verifiers.expressions.lexer import Unreadable
from verifiers.expressions.nodes import Node, num
from verifiers.expressions.units import is_unit
from verifiers.expressions.vocabulary import (
    BEGIN,
    CONSTANTS,
    DOMAINS,
    DOTS,
    FUNCTIONS,
    GLUED,
    GREEK,
    PREFIXED,
    RELATIONS,
    STOP,
)

MAX_DEPTH = 40
_HEDGED = re.compile(r"\b(?:or|nor|not|maybe|perhaps|possibly)\b", re.IGNORECASE)


@lru_cache(maxsize=8192)
def parse(text: str) -> Node:
    """The tree of a whole answer. Raises Unreadable."""
    parser = _Parser(lexer.tokens(text), 0)
    node = parser.answer()
    if not parser.done:
        raise Unreadable(f"{parser.text!r} is out of place")
    return node


class _Parser(Atoms):
    # answers, lists, statements -----------------------------------------------------------------------------

    def answer(self, closing: str = "") -> Node:
        """Statements separated by commas, semicolons, "and", "or"."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("nested too deeply")
        groups: list[list[Node]] = [[]]
        joints: set[str] = set()
        while True:
            if self.done or self.kind == closing:
                break
            groups[-1].append(self.statement())
            joint = ""
            while (found := self.separator()) != "":
                joint = found if joint in ("", ";") or found in ("and", "or") else joint
            if not joint:
                break
            joints.add(joint)
            if joint == ";":
                groups.append([])
        self.depth -= 1
        items = [item for group in groups for item in group]
        if not items:
            raise Unreadable("empty")
        if "," in joints and ";" in joints:
            groups = [group for group in groups if group]
            items = [group[0] if len(group) == 1 else Node("tuple", "()", tuple(group)) for group in groups]
        return _joined(items, joints)

    def separator(self) -> str:
        if self.kind in (",", ";") or self.is_cmd("\\", "quad", "qquad", "newline"):
            self.i += 1
            return "," if self.t[self.i - 1][0] == "," else ";"
        if (self.kind == "word" and self.text in ("and", "or")) or self.is_cmd("wedge", "land", "vee", "lor"):
            self.i += 1
            return "or" if self.t[self.i - 1][1] in ("or", "vee", "lor") else "and"
        return ""

    def statement(self) -> Node:
        if self.take("integer"):
            return Node("member", None, (self.sums(), Node("domain", "Z")))
        if self.kind == "..." or self.is_cmd(*DOTS):
            self.i += 1
            return Node("ellipsis")
        sides = [self.sets()]
        operators: list[str] = []
        while (self.kind in RELATIONS and self.kind != "word") or self.is_cmd(*RELATIONS):
            operators.append(RELATIONS[self.text if self.kind == "cmd" else self.kind])
            self.i += 1
            sides.append(self.sets())
        if not operators:
            return sides[0]
        if operators[-1] == "in" and (len(operators) == 1 or set(operators[:-1]) == {"="}):
            return Node("member", None, (sides[0], _as_domain(sides[-1])))
        if "in" in operators:
            raise Unreadable("membership inside a chain")
        if self.is_cmd("pmod", "mod"):
            self.i += 1
            modulus = self.group() if self.kind == "{" else self.power()
            sides = [Node("mod", None, (side, modulus)) for side in sides]
        return Node("relation", tuple(operators), tuple(sides))

    def sets(self) -> Node:
        node = self.ratio()
        while self.is_cmd("cup", "cap", "setminus", "backslash", "bigcup") or (
            self.kind == "word" and self.text == "U" and self.joins()
        ):
            name = {"cap": "inter", "setminus": "minus", "backslash": "minus"}.get(self.text, "union")
            self.i += 1
            node = Node(name, None, (_as_domain(node), _as_domain(self.ratio())))
        return node

    def ratio(self) -> Node:
        node = self.sums()
        if self.kind != ":" or self.builder:
            return node
        parts = [node]
        while self.kind == ":" and not self.builder:
            self.i += 1
            parts.append(self.sums())
        return Node("ratio", None, tuple(parts))

    # arithmetic ---------------------------------------------------------------------------------------------

    def sums(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("nested too deeply")
        parts: list[Node] = []
        if self.take("-"):
            parts.append(Node("neg", None, (self.product(),)))
        elif self.is_cmd("pm", "mp"):
            self.i += 1
            parts.append(Node("pm", self.t[self.i - 1][1], (self.product(),)))
        else:
            self.take("+")
            parts.append(self.product())
        while True:
            if self.take("+"):
                parts.append(self.product())
            elif self.take("-"):
                parts.append(Node("neg", None, (self.product(),)))
            elif self.is_cmd("pm", "mp"):
                self.i += 1
                sign = self.t[self.i - 1][1]
                parts = [Node("pm", sign, (_add(parts), self.product()))]
            else:
                break
        self.depth -= 1
        if len(parts) == 2 and parts[0].kind == "domain" and parts[1].kind == "neg":
            without = parts[1].args[0]
            node = Node("minus", None, (parts[0], without)) if without.kind == "set" else _add(parts)
        else:
            node = _add(parts)
        if self.is_cmd("pmod", "bmod", "mod"):
            self.i += 1
            self.take("word", "mod")
            node = Node("mod", None, (node, self.group() if self.kind == "{" else self.power()))
        elif self.kind == "(" and self.peek() == ("word", "mod"):
            self.i += 2
            node = Node("mod", None, (node, self.sums()))
            self.need(")")
        return node

    def product(self, function: bool = False) -> Node:
        """A product. Within the argument of a function written without brackets it ends at the next function."""
        node = self.signed()
        while True:
            if self.kind == "*":
                self.i += 1
                node = Node("mul", None, (node, self.signed()))
            elif self.kind == "/" and not function:
                self.i += 1
                node = Node("div", None, (node, self.signed()))
            elif self.starts(function):
                if (
                    self.kind == "cmd"
                    and self.text == "frac"
                    and node.kind == "num"
                    and self.t[self.i - 1][0] == "num"
                ):
                    node = self.mixed(node)
                else:
                    node = Node("mul", None, (node, self.power()))
            elif (words := self.words()) is not None:
                return Node("unit", words, (node,))
            else:
                return node

    def starts(self, function: bool) -> bool:
        """Whether the next token begins a factor without a sign."""
        if self.kind in ("(", "{", "env", "det"):
            return not (self.kind == "(" and self.peek() == ("word", "mod"))
        if self.kind == "[":
            return self.grouping()
        if self.kind == "|":
            return not self.bars and not self.builder
        if self.kind == "num":
            if self.t[self.i - 1] == ("word", "i"):
                return True  # 3 + i4
            if self.t[self.i - 1][0] in ("num", "word"):
                raise Unreadable("two numbers side by side")
            return self.t[self.i - 1][0] in (")", "}", "cmd", "]", "!")
        if self.kind == "cmd":
            name = self.text
            known = (
                name in FUNCTIONS or name in CONSTANTS or name in GREEK or name in BEGIN or GLUED.match(name)
            )
            return bool(known) and not (function and name in FUNCTIONS and name not in ("sqrt", "cbrt"))
        if self.kind == "word":
            word = self.text
            if word in ("and", "or") or (word == "U" and self.joins()):
                return False
            if len(word) > 1 and word.lower() in STOP:
                return (
                    self.before() == "num"
                    and self.peek()[0] in ("}", "-", "+")
                    and word in ("at", "by", "as")
                )
            if word == "min" and self.peek()[0] not in ("(", "{"):
                return False  # minutes
            if word in FUNCTIONS or word in CONSTANTS or len(word) == 1 or PREFIXED.match(word):
                return not (function and word in FUNCTIONS and word != "sqrt")
            return not self.worded()
        return False

    def joins(self) -> bool:
        """Whether the U here stands for a union: "(0,1) U (2,3)"."""
        return self.before() in (")", "]", "}") and self.peek()[0] in ("(", "[", "cmd")

    def grouping(self) -> bool:
        """Whether the square bracket here encloses one factor, not an interval: "5[x - 1]"."""
        depth = 0
        for kind, _ in self.t[self.i :]:
            depth += (kind in ("(", "[", "{")) - (kind in (")", "]", "}"))
            if depth == 0:
                return kind == "]"
            if depth == 1 and kind in (",", ";"):
                return False
        return False

    def worded(self) -> bool:
        """Whether the word here names a unit or a thing rather than a product of letters."""
        word = self.text
        if len(word) == 1 or (word.isupper() and not is_unit(word)):
            return False
        if len(word) <= 3 and word[0].islower() and not word.islower() and self.before() != "num":
            return is_unit(word)  # the letters of "\lambda kT"
        return is_unit(word) or len(word) > 3 or not word.islower()

    def words(self) -> str | None:
        """Units and things counted that follow a value: "cm^2", "miles per hour", "apples"."""
        parts: list[str] = []
        while True:
            if not parts and self.kind == "word" and self.text.lower() in ("squared", "cubed", "factorial"):
                raise Unreadable(f"{self.text!r} in words")
            if self.kind in ("unit", "text") or (
                self.kind == "word" and (self.worded() or (parts and self.text not in ("and", "or")))
            ):
                if self.kind == "text" and _HEDGED.search(self.text):
                    raise Unreadable(f"{self.text!r} takes back what it follows")
                parts.append(self.text.strip())
                self.i += 1
                if self.kind == "^" and self.peek()[0] in ("num", "{"):
                    self.i += 1
                    parts[-1] += "^" + self.subscript()
            elif parts and self.kind in ("/", "*") and self.peek()[0] in ("unit", "text", "word"):
                parts.append(self.kind)
                self.i += 1
                if self.kind == "word":
                    parts.append(self.text)
                    self.i += 1
            elif self.kind in ("$", "€", "£", "¥", "₹") and not parts:
                parts.append(self.kind)
                self.i += 1
            else:
                return " ".join(parts).replace(" / ", "/").replace(" * ", "*") if parts else None

    def mixed(self, whole: Node) -> Node:
        fraction = self.power()
        if fraction.kind in ("percent", "degree") and fraction.args[0].kind == "div":
            top, bottom = fraction.args[0].args
            if top.kind == bottom.kind == "num" and 0 < top.value < bottom.value:
                return Node(fraction.kind, None, (num(whole.value + top.value / bottom.value),))
        if (
            fraction.kind == "div"
            and all(a.kind == "num" for a in fraction.args)
            and whole.value.denominator == 1
        ):
            top, bottom = (a.value for a in fraction.args)
            if 0 < top < bottom:
                return num(whole.value + top / bottom)
        return Node("mul", None, (whole, fraction))

    def signed(self) -> Node:
        if self.take("-"):
            return Node("neg", None, (self.signed(),))
        if self.take("+"):
            return self.signed()
        return self.power()

    def power(self) -> Node:
        node = self.postfix(self.atom())
        if self.kind in ("^", "**"):
            self.i += 1
            if self.is_cmd("circ"):
                self.i += 1
                return self.degrees(node)
            if self.kind == "{" and self.peek() == ("cmd", "circ"):
                self.i += 2
                self.need("}")
                return self.degrees(node)
            if self.kind == "'" or self.is_cmd("prime"):
                self.i += 1
                return self.postfix(primed(node))
            node = self.postfix(Node("pow", None, (node, self.exponent())))
        return node

    def degrees(self, node: Node) -> Node:
        if self.kind in ("word", "text", "unit") and self.text.strip().upper() in ("F", "C"):
            self.i += 1
            return Node("unit", f"degrees {self.t[self.i - 1][1].strip().upper()}", (node,))
        return self.postfix(self.angle(node))

    def exponent(self) -> Node:
        if self.kind == "{":
            return self.group()
        if self.take("-"):
            return Node("neg", None, (self.exponent(),))
        if self.kind == "num" and self.t[self.i - 2][0] not in ("word",) and len(self.text) > 1:
            return self.power()
        atom = self.atom()
        if self.kind in ("^", "**"):
            self.i += 1
            return Node("pow", None, (atom, self.exponent()))
        return atom

    def matrix(self, body: str) -> Node:
        rows = [
            row
            for row in re.split(r"\\\\(?:\s*\[[^\]]*\])?|\\cr(?![a-z])", body.replace(r"\hline", ""))
            if row.strip()
        ]
        cells: list[Node] = []
        widths = set()
        for row in rows:
            entries = row.split("&")
            widths.add(len(entries))
            for entry in entries:
                parser = _Parser(lexer.tokens(entry), self.depth + 1)
                cells.append(parser.answer())
                if not parser.done:
                    raise Unreadable("a matrix entry is not read")
        if len(widths) != 1:
            raise Unreadable("a matrix with rows of different lengths")
        return Node("matrix", (len(rows), widths.pop()), tuple(cells))


def _joined(items: list[Node], joints: set[str]) -> Node:
    if len(items) == 1:
        return items[0]
    first = items[0]
    if first.kind == "relation" and first.value == ("!=",) and not any(_stated(item) for item in items[1:]):
        return Node(
            "both", None, (first, *(Node("relation", ("!=",), (first.args[0], item)) for item in items[1:]))
        )
    statements = all(item.kind in ("relation", "member") for item in items) and any(map(_inequality, items))
    if statements and ("or" in joints or "and" in joints):
        return Node("either" if "or" in joints else "both", None, tuple(items))
    last = items[-1]
    if last.kind == "member" and last.args[1] == Node("domain", "Z") and last.args[0].kind in ("var", "list"):
        return Node("family", last.args[0].value, (_joined(items[:-1], joints),))
    return Node("list", "or" if "or" in joints else None, tuple(items))


def _stated(node: Node) -> bool:
    return node.kind in ("relation", "member", "ellipsis", "tuple", "set")


def _inequality(node: Node) -> bool:
    return node.kind == "relation" and all(operator != "=" for operator in node.value)


def _as_domain(node: Node) -> Node:
    return Node("domain", node.value) if node.kind == "var" and node.value in DOMAINS else node


def _add(parts: list[Node]) -> Node:
    return parts[0] if len(parts) == 1 else Node("add", None, tuple(parts))
