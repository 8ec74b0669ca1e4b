"""Tokens to a tree: a recursive-descent parser of LaTeX and plain mathematical notation.

It accepts a whole answer or refuses it (Unreadable); it never skips what it does not know. Depth is capped, so
its time and stack are bounded by the text's length.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from verifiers.expressions import lexer
from verifiers.expressions.lexer import Unreadable
from verifiers.expressions.nodes import INFINITY, ZERO, Node, num
from verifiers.expressions.units import GENERIC, is_unit

MAX_DEPTH = 40
MAX_EXPONENT = 1_000

FUNCTIONS = {
    name: name
    for name in [
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "arcsin",
        "arccos",
        "arctan",
        "arccot",
        "sinh",
        "cosh",
        "tanh",
        "ln",
        "log",
        "exp",
        "sqrt",
        "cbrt",
        "abs",
        "gcd",
        "lcm",
        "max",
        "min",
        "floor",
        "ceil",
        "det",
        "sgn",
        "arg",
        "lg",
    ]
} | {
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
    "tg": "tan",
    "ctg": "cot",
    "cosec": "csc",
    "factorial": "fact",
}
_INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "cot": "arccot"}
_CONSTANTS = {
    "pi": "pi",
    "infty": "inf",
    "infinity": "inf",
    "inf": "inf",
    "oo": "inf",
    "e": "e",
    "i": "i",
    "imath": "i",
}
_RELATIONS = {
    "=": "=", "==": "=", "<": "<", ">": ">", "<=": "<=", "=<": "<=", ">=": ">=", "!=": "!=", "<>": "!=",
    "le": "<=", "leq": "<=", "leqslant": "<=", "ge": ">=", "geq": ">=", "geqslant": ">=", "lt": "<", "gt": ">",
    "ne": "!=", "neq": "!=", "approx": "~", "sim": "~", "simeq": "~", "equiv": "=", "in": "in",
    "leqq": "<=", "geqq": ">=",
}  # fmt: skip
_DOTS = {"ldots", "dots", "cdots", "dotsc", "dotsb", "..."}
_GREEK = {*lexer.GREEK, "Delta", "Gamma", "Theta", "Sigma", "Phi", "Omega", "Lambda", "Psi", "Pi"} - {"pi"}
_GREEK |= {"varphi", "vartheta", "varepsilon", "ell", "hbar"}
_BEGIN = set(
    [
        "frac",
        "binom",
        "tbinom",
        "dbinom",
        "overline",
        "bar",
        "hat",
        "vec",
        "lfloor",
        "lceil",
        "lvert",
        "langle",
        "lbrace",
        "{",
    ]
)
_DOMAINS = "RZNQC"
_STOP = {
    "of",
    "is",
    "to",
    "in",
    "if",
    "not",
    "nor",
    "no",
    "a",
    "an",
    "at",
    "as",
    "by",
    "are",
    "for",
    "the",
    "per",
    "so",
}
_APPLIED = set("fghFGHPQTWpq")
_PREFIXED = re.compile(r"(sqrt|sin|cos|tan|ln|log|pi)([a-z])$")
_GLUED = re.compile(r"(sin|cos|tan|cot|sec|csc|ln|log)([a-z])$")
_CLOSERS = {"(": ")", "[": "]"}
_REPEAT = re.compile(r"(\d*)\.(\d*?)(\d+?)\3+$")


@lru_cache(maxsize=8192)
def parse(text: str) -> Node:
    """The tree of a whole answer. Raises Unreadable."""
    parser = _Parser(lexer.tokens(text), 0)
    node = parser.answer()
    if not parser.done:
        raise Unreadable(f"{parser.text!r} is out of place")
    return node


class _Parser:
    def __init__(self, found: list[tuple[str, str]], depth: int):
        self.t = _prepare(found)
        self.i = 0
        self.depth = depth
        self.bars = 0
        self.builder = False

    @property
    def done(self) -> bool:
        return self.i >= len(self.t)

    @property
    def kind(self) -> str:
        return self.t[self.i][0] if self.i < len(self.t) else ""

    @property
    def text(self) -> str:
        return self.t[self.i][1] if self.i < len(self.t) else "the end"

    def peek(self, ahead: int = 1) -> tuple[str, str]:
        at = self.i + ahead
        return self.t[at] if at < len(self.t) else ("", "")

    def take(self, kind: str, text: str = "") -> bool:
        if self.kind == kind and (not text or self.t[self.i][1] == text):
            self.i += 1
            return True
        return False

    def need(self, kind: str) -> None:
        if not self.take(kind):
            raise Unreadable(f"{kind!r} is missing before {self.text!r}")

    def is_cmd(self, *names: str) -> bool:
        return self.kind == "cmd" and self.t[self.i][1] in names

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
        if self.kind == "..." or self.is_cmd(*_DOTS):
            self.i += 1
            return Node("ellipsis")
        sides = [self.sets()]
        operators: list[str] = []
        while (self.kind in _RELATIONS and self.kind != "word") or self.is_cmd(*_RELATIONS):
            operators.append(_RELATIONS[self.text if self.kind == "cmd" else self.kind])
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
            self.kind == "word" and self.text == "U"
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
            if self.kind == "+" and self.peek()[0] == "-":
                self.i += 2
                parts = [Node("pm", "pm", (_add(parts), self.product()))]
            elif self.take("+"):
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
        if self.kind in ("(", "{", "env"):
            return not (self.kind == "(" and self.peek() == ("word", "mod"))
        if self.kind == "[":
            return False
        if self.kind == "|":
            return not self.bars and not self.builder
        if self.kind == "num":
            if self.t[self.i - 1][0] in ("num", "word"):
                raise Unreadable("two numbers side by side")
            return self.t[self.i - 1][0] in (")", "}", "cmd", "]")
        if self.kind == "cmd":
            name = self.text
            known = (
                name in FUNCTIONS
                or name in _CONSTANTS
                or name in _GREEK
                or name in _BEGIN
                or _GLUED.match(name)
            )
            return bool(known) and not (function and name in FUNCTIONS and name not in ("sqrt", "cbrt"))
        if self.kind == "word":
            word = self.text
            if word in ("and", "or", "U") or (len(word) > 1 and word.lower() in _STOP):
                return False
            if word in FUNCTIONS or word in _CONSTANTS or len(word) == 1 or _PREFIXED.match(word):
                return not (function and word in FUNCTIONS and word != "sqrt")
            return not self.worded()
        return False

    def worded(self) -> bool:
        """Whether the word here names a unit or a thing rather than a product of letters."""
        word = self.text
        if len(word) == 1 or (word.isupper() and not is_unit(word)):
            return False
        return is_unit(word) or len(word) > 3 or not word.islower()

    def words(self) -> str | None:
        """Units and things counted that follow a value: "cm^2", "miles per hour", "apples"."""
        parts: list[str] = []
        while True:
            if self.kind in ("unit", "text") or (
                self.kind == "word" and (self.worded() or (parts and self.text not in ("and", "or")))
            ):
                parts.append(self.text.strip())
                self.i += 1
                if self.kind == "^" and self.peek()[0] in ("num", "{"):
                    power = self.peek() if self.peek()[0] == "num" else self.peek(2)
                    parts[-1] += "^" + power[1]
                    self.i += 2 if self.peek()[0] == "num" else 4
            elif parts and self.kind == "/" and self.peek()[0] in ("unit", "text", "word"):
                parts.append("/")
                self.i += 1
                if self.kind == "word":
                    parts.append(self.text)
                    self.i += 1
            elif self.kind in ("$", "€", "£", "¥") and not parts:
                parts.append(self.kind)
                self.i += 1
            else:
                return " ".join(parts).replace(" / ", "/") if parts else None

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
                return self.postfix(_primed(node))
            node = self.postfix(Node("pow", None, (node, self.exponent())))
        return node

    def degrees(self, node: Node) -> Node:
        if self.kind == "word" and self.text in ("F", "C"):
            self.i += 1
            return Node("unit", f"degrees {self.t[self.i - 1][1]}", (node,))
        return self.postfix(Node("degree", None, (node,)))

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

    def postfix(self, node: Node) -> Node:
        while True:
            if self.take("!"):
                node = Node("fact", None, (node,))
            elif self.kind == "%" or (
                self.kind == "word" and self.text.lower() in ("percent", "pct", "percentage")
            ):
                self.i += 1
                node = Node("percent", None, (node,))
            elif (self.kind == "word" and self.text.lower() in ("degree", "degrees", "deg")) or self.is_cmd(
                "degree", "circ"
            ):
                self.i += 1
                node = Node("degree", None, (node,))
            elif self.kind == "'" and node.kind == "var":
                self.i += 1
                node = _primed(node)
            elif self.kind == "_" and node.kind in ("num", "decimal"):
                self.i += 1
                node = Node("base", (self.t[self.i - 2][1], self.subscript()))
            else:
                return node

    def subscript(self) -> str:
        if self.kind != "{":
            text = self.text
            self.i += 1
            return text.strip()
        self.i += 1
        parts = []
        while not self.done and self.kind != "}":
            parts.append(self.text.strip())
            self.i += 1
        self.need("}")
        return "".join(parts)

    # atoms --------------------------------------------------------------------------------------------------

    def atom(self) -> Node:
        if self.kind == "num":
            return self.number()
        if self.kind in ("(", "["):
            return self.bracket()
        if self.kind == "{":
            return self.group()
        if self.is_cmd("{", "lbrace"):
            return self.braces()
        if self.kind == "|" or self.is_cmd("lvert", "|", "vert"):
            return self.absolute()
        if self.kind == "cmd":
            return self.command()
        if self.kind == "word":
            return self.word()
        if self.kind == "env":
            body = self.text
            self.i += 1
            return _matrix(body, self.depth)
        if self.kind in ("$", "€", "£", "¥"):
            sign = self.kind
            self.i += 1
            return Node("unit", sign, (self.signed(),))
        raise Unreadable(f"{self.text!r} where a value should stand")

    def number(self) -> Node:
        text = self.text
        self.i += 1
        if self.kind == "...":
            self.i += 1
            return _repeating(text)
        if "." in text and self.is_cmd("overline", "dot", "bar"):
            self.i += 1
            return _fraction_of_period(text, self.subscript())
        if text.endswith(".") and self.kind == "(" and self.peek()[0] == "num" and self.peek(2)[0] == ")":
            block = self.peek()[1]
            self.i += 3
            return _fraction_of_period(text, block)
        if self.kind == ":" and self.peek()[0] == "num" and (clock := self.time(text)) is not None:
            return clock
        if (
            self.kind == "word"
            and self.text in ("e", "E")
            and (self.peek()[0] == "num" or (self.peek()[0] in "+-" and self.peek(2)[0] == "num"))
        ):
            sign = -1 if self.peek()[0] == "-" else 1
            ahead = 1 if self.peek()[0] == "num" else 2
            exponent = self.peek(ahead)[1]
            if exponent.isdecimal() and len(exponent) <= 4 and int(exponent) <= MAX_EXPONENT:
                self.i += ahead + 1
                return _decimal(text, sign * int(exponent))
        if (
            self.kind == "num"
            and self.t[self.i - 1][0] == "num"
            and self.peek()[0] == "/"
            and self.peek(2)[0] == "num"
        ):
            top, bottom = self.text, self.peek(2)[1]
            if text.isdecimal() and top.isdecimal() and bottom.isdecimal() and 0 < int(top) < int(bottom):
                self.i += 3
                return num(int(text) + Fraction(int(top), int(bottom)))
        return _decimal(text, 0)

    def time(self, hour: str) -> Node | None:
        minute = self.peek()[1]
        if not (hour.isdecimal() and minute.isdecimal() and len(minute) == 2 and len(hour) <= 2):
            return None
        if int(hour) > 24 or int(minute) > 59 or self.peek(2)[0] == ":":
            return None
        self.i += 2
        half = ""
        if self.kind in ("word", "unit", "text"):
            match = re.match(r"([ap])\.?\s?m?\.?$", self.text.strip().lower())
            if match:
                half = match.group(1)
                self.i += 1
                while self.kind in (".", "word") and self.text in (".", "m"):
                    self.i += 1
        return Node("time", (int(hour), int(minute), half))

    def group(self) -> Node:
        """``{...}``: LaTeX grouping, which leaves no trace."""
        self.need("{")
        node = self.inner("}")
        self.need("}")
        return node

    def inner(self, closing: str) -> Node:
        bars, builder, self.bars, self.builder = self.bars, self.builder, 0, False
        node = self.answer(closing)
        self.bars, self.builder = bars, builder
        return node

    def bracket(self) -> Node:
        opening = self.kind
        self.i += 1
        if self.kind in (")", "]"):
            raise Unreadable("empty brackets")
        node = self.inner(")")
        closing = self.kind
        if closing not in (")", "]"):
            raise Unreadable("a bracket is not closed")
        self.i += 1
        if node.kind == "list":
            return Node("tuple", opening + closing, node.args)
        if closing != _CLOSERS[opening]:
            raise Unreadable("brackets of different kinds around one value")
        return Node("tuple", "[]", (node,)) if opening == "[" and node.kind == "tuple" else node

    def braces(self) -> Node:
        self.i += 1
        if self.is_cmd("}", "rbrace"):
            self.i += 1
            return Node("set")
        bars, builder, self.bars, self.builder = self.bars, self.builder, 0, True
        node = self.answer("}")
        self.bars, self.builder = bars, builder
        if self.kind in ("|", ":", ";") or self.is_cmd("mid", "colon", "vert"):
            self.i += 1
            node = Node("such", None, (node, self.answer("}")))
        if not (self.is_cmd("}", "rbrace") or self.kind == "}"):
            raise Unreadable("a brace is not closed")
        self.i += 1
        if node.kind == "such":
            return node
        return Node("set", None, node.args if node.kind in ("list", "either") else (node,))

    def absolute(self) -> Node:
        self.i += 1
        self.bars += 1
        node = self.sums()
        self.bars -= 1
        if not (self.kind == "|" or self.is_cmd("rvert", "|", "vert")):
            raise Unreadable("an absolute value is not closed")
        self.i += 1
        return Node("func", "abs", (node,))

    def command(self) -> Node:
        name = self.text
        self.i += 1
        if name == "frac":
            top = self.argument()
            return Node("div", None, (top, self.argument()))
        if name in ("binom", "tbinom", "dbinom"):
            top = self.argument()
            return Node("func", "binom", (top, self.argument()))
        if name == "sqrt" and self.kind == "[":
            self.i += 1
            degree = self.inner("]")
            self.need("]")
            return Node("pow", None, (self.argument(), Node("div", None, (num(1), degree))))
        if name in ("sqrt", "cbrt"):
            return Node("func", name, (self.argument(),))
        if name in ("emptyset", "varnothing"):
            return Node("set")
        if name in ("mathbb", "mathcal", "mathds", "Bbb"):
            letter = self.subscript()
            node = Node("domain", letter[:1])
            ahead = 1 if self.peek()[0] != "{" else 2
            if self.kind == "^" and self.peek(ahead)[0] in ("+", "-"):
                sign = self.peek(ahead)[0]
                self.i += 2 if ahead == 1 else 4
                if letter != "R":
                    return Node("domain", letter + sign)
                return Node(
                    "tuple", "()", (ZERO, INFINITY) if sign == "+" else (Node("neg", None, (INFINITY,)), ZERO)
                )
            return node
        if name in (
            "overline",
            "vec",
            "bar",
            "hat",
            "angle",
            "triangle",
            "overrightarrow",
            "widehat",
            "mathbf",
            "mathrm",
        ):
            return (
                Node("var", name + " " + self.subscript())
                if name not in ("mathbf", "mathrm")
                else self.group()
            )
        if name in _DOTS:
            return Node("ellipsis")
        if name in ("lfloor", "lceil"):
            node = self.inner("")
            if not self.is_cmd("rfloor", "rceil"):
                raise Unreadable("a floor or ceiling is not closed")
            self.i += 1
            return Node("func", name[1:5].replace("floo", "floor"), (node,))
        if name == "langle":
            node = self.inner("")
            if not self.is_cmd("rangle"):
                raise Unreadable("an angle bracket is not closed")
            self.i += 1
            return Node("tuple", "<>", node.args if node.kind == "list" else (node,))
        if name in ("int", "sum", "prod", "lim", "iint", "oint"):
            raise Unreadable(f"\\{name} is left unevaluated")
        return self.named(name)

    def argument(self) -> Node:
        """A braced group, or a single digit, letter or command: ``\\frac12``, ``\\sqrt2``."""
        if self.kind == "{":
            return self.group()
        if self.kind == "(":
            return self.atom()
        if self.kind == "num":
            kind, text = self.t[self.i]
            if len(text) > 1 and text.isdecimal() and self.t[self.i - 1] == ("cmd", "frac"):
                self.t[self.i : self.i + 1] = [(kind, c) for c in text]
            elif len(text) > 1 and text.isdecimal() and self.t[self.i - 1][0] == "num":
                self.t[self.i : self.i + 1] = [(kind, text[0]), (kind, text[1:])]
            return self.number() if len(self.text) > 1 else self.digit()
        return self.atom()

    def digit(self) -> Node:
        self.i += 1
        return num(int(self.t[self.i - 1][1]))

    def word(self) -> Node:
        word = self.text
        match = _PREFIXED.match(word)
        if match and word not in FUNCTIONS:
            self.t[self.i : self.i + 1] = [("word", match.group(1)), ("word", match.group(2))]
            word = match.group(1)
        self.i += 1
        if (
            len(word) == 1
            or word in FUNCTIONS
            or word in _CONSTANTS
            or word.lower() in ("infinity", "sqrt", "pi")
        ):
            return self.named(word if word in FUNCTIONS or len(word) == 1 else word.lower())
        if word.isupper():
            return self.indexed(Node("var", word))
        if len(word) > 3 or not word.islower() or word in _STOP:
            raise Unreadable(f"{word!r} is a word")
        self.i -= 1
        self.t[self.i : self.i + 1] = [("word", c) for c in word]
        return self.word()

    def named(self, name: str) -> Node:
        if name in FUNCTIONS:
            return self.function(FUNCTIONS[name])
        if name in _CONSTANTS:
            return INFINITY if _CONSTANTS[name] == "inf" else Node("const", _CONSTANTS[name])
        if len(name) == 1 or name in _GREEK:
            return self.indexed(
                Node("var", {"varphi": "phi", "vartheta": "theta", "varepsilon": "epsilon"}.get(name, name))
            )
        glued = _GLUED.match(name)
        if glued:
            self.t.insert(self.i, ("word", glued.group(2)))
            return self.function(FUNCTIONS[glued.group(1)])
        raise Unreadable(f"\\{name} is not known")

    def indexed(self, node: Node) -> Node:
        """Subscripts ("x_1" and "x1") and the application of a named function."""
        if self.kind == "_":
            self.i += 1
            node = Node("var", f"{node.value}_{self.subscript()}")
        elif self.kind == "num" and self.text.isdecimal() and self.t[self.i - 1][0] == "word":
            node = Node("var", f"{node.value}_{self.text}")
            self.i += 1
        if node.value[0] in _APPLIED and self.kind == "(" and self.peek()[0] in ("word", "num", "-", "cmd"):
            mark = self.i
            argument = self.bracket()
            simple = argument.kind in ("var", "num", "tuple", "neg", "div", "const") or self.kind in (
                "=",
                "<",
                ">",
            )
            if simple and (argument.kind != "div" or argument.args[0].kind == "num"):
                return Node("func", "apply " + node.value, (argument,))
            self.i = mark
        return node

    def function(self, name: str) -> Node:
        base: Node | None = None
        power: Node | None = None
        for _ in range(2):
            if self.kind == "_" and base is None:
                self.i += 1
                base = self.group() if self.kind == "{" else self.argument_atom()
            if self.kind == "^" and power is None:
                self.i += 1
                power = self.exponent()
        if name in ("sqrt", "cbrt"):
            argument = self.argument()
        elif self.kind in ("(", "{") or (self.kind == "[" and self.peek()[0] != ""):
            argument = self.group() if self.kind == "{" else self.bracket()
        elif self.kind == "|":
            argument = self.absolute()
        else:
            argument = self.product(function=True)
        if power is not None and power == Node("neg", None, (num(1),)) and name in _INVERSE:
            name, power = _INVERSE[name], None
        if name == "lg":
            name, base = "log", num(10)
        if name == "fact":
            node = Node("fact", None, (argument,))
        elif argument.kind == "tuple":
            node = Node("func", name, argument.args)
        else:
            node = Node("func", name, (argument,) if base is None else (argument, base))
        return node if power is None else Node("pow", None, (node, power))

    def argument_atom(self) -> Node:
        if self.kind == "num" and len(self.text) > 1 and self.text.isdecimal():
            self.t[self.i : self.i + 1] = [("num", self.text[0]), ("num", self.text[1:])]
        return self.argument()


def _prepare(found: list[tuple[str, str]]) -> list[tuple[str, str]]:
    r"""Words inside ``\text{}`` become what they mean: separators, units, letters, or remain a text."""
    out: list[tuple[str, str]] = []
    for kind, text in found:
        if kind != "text":
            out.append((kind, text))
            continue
        words = text.strip().strip(",").strip()
        low = words.lower()
        if not words:
            if "," in text:
                out.append((",", ","))
        elif low in ("percent", "pct", "percentage", "degree", "degrees", "deg"):
            out.append(("word", low))
        elif low in ("and", "or", "or equivalently", "and also"):
            out.append(("word", low.split()[0]))
        elif re.fullmatch(r"(?:where|for|with|for all|for any|for some|for every|if|when)", low):
            out.append((",", ","))
        elif (
            re.fullmatch(r"(?:where|for|with)?\s?(?:all|any|some|every|an)?\s?integers?", low)
            and low != "integer"
        ) or low == "for integer":
            out += [(",", ","), ("integer", "")]
        elif re.fullmatch(r"(?:is |are )(?:an? )?(?:any )?integers?", low):
            out += [("cmd", "in"), ("cmd", "mathbb"), ("{", "{"), ("word", "Z"), ("}", "}")]
        elif is_unit(low) or any(part in GENERIC for part in low.split()):
            out.append(("unit", low))
        elif re.fullmatch(
            r"[A-Za-z]|[\d.,:+\-*/()= ]*\d[\d.,:+\-*/()= ]*(?:[ap]\.?m\.?)?", words, re.IGNORECASE
        ):
            inner: list[tuple[str, str]] = []
            lexer.scan(words.replace("p.m.", "pm").replace("a.m.", "am"), inner)
            out += inner
        else:
            out.append(("text", words))
    return out


def _joined(items: list[Node], joints: set[str]) -> Node:
    if len(items) == 1:
        return items[0]
    statements = all(item.kind in ("relation", "member") and _inequality(item) for item in items)
    if statements and ("or" in joints or "and" in joints):
        return Node("either" if "or" in joints else "both", None, tuple(items))
    last = items[-1]
    if last.kind == "member" and last.args[1] == Node("domain", "Z") and last.args[0].kind in ("var", "list"):
        return Node("family", last.args[0].value, (_joined(items[:-1], joints),))
    return Node("list", None, tuple(items))


def _inequality(node: Node) -> bool:
    return node.kind == "relation" and all(operator != "=" for operator in node.value)


def _as_domain(node: Node) -> Node:
    return Node("domain", node.value) if node.kind == "var" and node.value in _DOMAINS else node


def _add(parts: list[Node]) -> Node:
    return parts[0] if len(parts) == 1 else Node("add", None, tuple(parts))


def _primed(node: Node) -> Node:
    return Node("var", f"{node.value}'") if node.kind == "var" else Node("func", "prime", (node,))


def _decimal(text: str, exponent: int) -> Node:
    if "." not in text and not exponent:
        return num(int(text))
    whole, _, places = text.partition(".")
    value = (Fraction(int(whole or 0)) + Fraction(int(places or 0), 10 ** len(places))) * Fraction(
        10
    ) ** exponent
    if value.denominator == 1:
        return num(value)
    return Node("decimal", (value, max(len(places) - exponent, 0)))


def _repeating(text: str) -> Node:
    """ "0.3333..." by its shortest block that stands there twice or more."""
    match = _REPEAT.match(text)
    if match is None or len(text) < 4:
        raise Unreadable("a decimal with dots but no repeating block")
    return _fraction_of_period(f"{match.group(1)}.{match.group(2)}", match.group(3))


def _fraction_of_period(head: str, block: str) -> Node:
    whole, _, places = head.partition(".")
    if not block.isdecimal():
        raise Unreadable("a repeating block that is not digits")
    value = Fraction(int(whole or 0)) + Fraction(int(places or 0), 10 ** len(places))
    return num(value + Fraction(int(block), (10 ** len(block) - 1) * 10 ** len(places)))


def _matrix(body: str, depth: int) -> Node:
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
            parser = _Parser(lexer.tokens(entry), depth + 1)
            cells.append(parser.answer())
            if not parser.done:
                raise Unreadable("a matrix entry is not read")
    if len(widths) != 1:
        raise Unreadable("a matrix with rows of different lengths")
    return Node("matrix", (len(rows), widths.pop()), tuple(cells))
