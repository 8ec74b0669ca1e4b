"""The parser's lower half: the atoms of an expression (numbers, brackets, functions).

What stands inside brackets and arguments is read by the upper half (`verifiers.expressions.parser`).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from fractions import Fraction

from verifiers.expressions.cursor import Cursor
from verifiers.expressions.lexer import Unreadable
from verifiers.expressions.literals import MAX_EXPONENT, decimal, fraction_of_period, repeating
from verifiers.expressions.matrices import determinant
from verifiers.expressions.nodes import INFINITY, ZERO, Node, num, number_of
from verifiers.expressions.vocabulary import (
    APPLIED,
    CONSTANTS,
    DOTS,
    FUNCTIONS,
    GLUED,
    GREEK,
    INVERSE,
    PREFIXED,
    STOP,
)

_CLOSERS = {"(": ")", "[": "]"}


class Atoms(Cursor, ABC):
    @abstractmethod
    def answer(self, closing: str = "") -> Node:
        """Statements separated by commas and words, up to ``closing``."""

    @abstractmethod
    def sums(self) -> Node:
        """Terms joined by signs."""

    @abstractmethod
    def product(self, function: bool = False) -> Node:
        """Factors, written together or joined by operators."""

    @abstractmethod
    def signed(self) -> Node:
        """A factor with its signs."""

    @abstractmethod
    def exponent(self) -> Node:
        """What stands after a caret."""

    @abstractmethod
    def matrix(self, body: str) -> Node:
        """The entries of a matrix environment."""

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
                node = self.angle(node)
            elif self.kind == "'" and node.kind == "var":
                self.i += 1
                node = primed(node)
            elif self.kind == "_" and node.kind in ("num", "decimal"):
                self.i += 1
                before, digits = self.t[self.i - 2]
                if before != "num":
                    if node.kind != "num" or node.value.denominator != 1:
                        raise Unreadable("a base below what is no integer")
                    digits = str(node.value)
                node = Node("base", (digits, self.subscript()))
            else:
                return node

    def angle(self, degrees: Node) -> Node:
        """Degrees, with the minutes and seconds that may follow: 30°30', 12°5'30''."""
        total = number_of(degrees)
        parts = []
        while total is not None and len(parts) < 2 and self.kind == "num" and (mark := self.mark()):
            if (mark == 2) != bool(parts):
                break
            part = decimal(self.text, 0)
            value = number_of(part)
            if value is None or not 0 <= value < 60:
                raise Unreadable("sixty or more minutes or seconds of an angle")
            parts.append(value)
            self.i += 1 + mark
        if total is None or not parts:
            return Node("degree", None, (degrees,))
        return Node("degree", None, (num(total + sum(v / 60 ** (i + 1) for i, v in enumerate(parts))),))

    def mark(self) -> int:
        """1 before a minute's mark that follows the number here, 2 before a second's, else 0."""
        if self.peek()[0] != "'":
            return 0
        return 2 if self.peek(2)[0] == "'" else 1

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
        if self.kind in ("env", "det"):
            kind, body = self.kind, self.text
            self.i += 1
            return determinant(self.matrix(body)) if kind == "det" else self.matrix(body)
        if self.kind in ("$", "€", "£", "¥", "₹"):
            sign = self.kind
            self.i += 1
            return Node("unit", sign, (self.signed(),))
        if self.kind in ("text", "unit") and self.named_in_words():
            self.i += 1
            words = self.t[self.i - 1][1].strip()
            return Node("var", words if words.isupper() and len(words) > 1 else f"text {words.casefold()}")
        raise Unreadable(f"{self.text!r} where a value should stand")

    def named_in_words(self) -> bool:
        r"""Whether words stand here for a quantity: "\text{area} = 5", "P(\text{red})"."""
        after = self.peek()[0]
        return after == "=" or (self.before() in ("=", "(") and after in ("", ")", ","))

    def before(self) -> str:
        """The kind of the token before this one; empty at the beginning."""
        return self.t[self.i - 1][0] if self.i else ""

    def number(self) -> Node:
        text = self.text
        self.i += 1
        if self.kind == "..." or self.is_cmd(*DOTS):
            self.i += 1
            return repeating(text)
        if (
            self.kind == "word"
            and self.text.lower() in ("am", "pm")
            and re.fullmatch(r"0?[1-9]|1[0-2]", text)
        ):
            self.i += 1
            return Node("time", (int(text), 0, self.t[self.i - 1][1][0].lower()))
        if "." in text and self.is_cmd("overline", "dot", "bar"):
            self.i += 1
            repeated = fraction_of_period(text, self.subscript())
            if self.kind == "..." or self.is_cmd(*DOTS):
                self.i += 1
            return repeated
        if text.endswith(".") and self.kind == "(" and self.peek()[0] == "num" and self.peek(2)[0] == ")":
            block = self.peek()[1]
            self.i += 3
            return fraction_of_period(text, block)
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
                return decimal(text, sign * int(exponent))
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
        return decimal(text, 0)

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
        if name in ("angle", "triangle"):
            return Node("var", f"{name} {self.corners()}")
        if name in ("vec", "hat", "overrightarrow", "widehat") and (letter := self.letter()):
            return self.named(letter)
        if name in ("dot", "ddot"):
            return self.indexed(Node("var", f"{name} {self.subscript()}"))
        if name in (
            "overline",
            "vec",
            "bar",
            "hat",
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
        if name in DOTS:
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

    def corners(self) -> str:
        """The letters of an angle or a triangle, written together or apart, with their subscripts."""
        if self.kind == "{":
            return self.subscript()
        names = []
        while self.kind == "word" and (self.text.isupper() or (not names and len(self.text) == 1)):
            names.append(self.text)
            self.i += 1
            if self.kind == "_":
                self.i += 1
                names.append(self.subscript())
            elif self.kind == "num" and self.text.isdecimal():
                names.append(self.text)
                self.i += 1
        return "".join(names) or self.subscript()

    def letter(self) -> str:
        """The one letter that a hat or an arrow stands on, taken; empty where more stands below it."""
        braced = self.kind == "{"
        kind, text = self.peek() if braced else (self.kind, self.text)
        one = (kind == "word" and len(text) == 1) or text in ("imath", "jmath")
        if not one or (braced and self.peek(2)[0] != "}"):
            return ""
        self.i += 3 if braced else 1
        return {"imath": "i", "jmath": "j"}.get(text, text)

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
        if self.kind == "word" and len(self.text) == 1 and self.peek()[0] == "num":  # \frac m2
            self.i += 1
            return Node("var", self.t[self.i - 1][1])
        return self.atom()

    def digit(self) -> Node:
        self.i += 1
        return num(int(self.t[self.i - 1][1]))

    def word(self) -> Node:
        word = self.text
        match = PREFIXED.match(word)
        if match and word not in FUNCTIONS:
            self.t[self.i : self.i + 1] = [("word", match.group(1)), ("word", match.group(2))]
            word = match.group(1)
        self.i += 1
        if (
            len(word) == 1
            or word in FUNCTIONS
            or word in CONSTANTS
            or word.lower() in ("infinity", "sqrt", "pi")
        ):
            return self.named(word if word in FUNCTIONS or len(word) == 1 else word.lower())
        if word.isupper():
            return self.indexed(Node("var", word))
        if len(word) > 3 or not word[0].islower() or (word in STOP and not self.enclosed()):
            raise Unreadable(f"{word!r} is a word")
        self.i -= 1
        self.t[self.i : self.i + 1] = [("word", c) for c in word]
        return self.word()

    def enclosed(self) -> bool:
        """Whether the word just taken stands between operators or brackets, as the product in "e^{at}" does."""
        before = self.t[self.i - 2][0] if self.i > 1 else ""
        return before in ("{", "(", "-", "+", "*", "/", "num") and self.kind in (
            "}",
            ")",
            "-",
            "+",
            "*",
            "/",
            "^",
        )

    def named(self, name: str) -> Node:
        if name in FUNCTIONS:
            return self.function(FUNCTIONS[name])
        if name in CONSTANTS:
            return INFINITY if CONSTANTS[name] == "inf" else Node("const", CONSTANTS[name])
        if len(name) == 1 or name in GREEK:
            return self.indexed(
                Node("var", {"varphi": "phi", "vartheta": "theta", "varepsilon": "epsilon"}.get(name, name))
            )
        glued = GLUED.match(name)
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
        if self.kind == "(" and self.applied(node):
            self.i += 3
            inside = self.t[self.i - 2]
            argument = num(int(inside[1])) if inside[0] == "num" else Node("var", inside[1])
            return Node("func", "apply " + node.value, (argument,))
        if (
            node.value[0] in APPLIED
            and self.kind == "("
            and self.peek()[0] in ("word", "num", "-", "cmd", "text")
        ):
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

    def applied(self, node: Node) -> bool:
        """Whether "I(0)" or, where it is defined, "N(n) =" stands here: any letter may name a function then."""
        kind, text = self.peek()
        if self.peek(2)[0] != ")" or len(node.value) > 1:
            return False
        first = self.i < 2 or self.t[self.i - 2][0] in (",", ";")
        defined = kind == "word" and len(text) == 1 and text.isalpha() and first and self.peek(3)[0] == "="
        return defined or (kind == "num" and text.isdecimal())

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
        if power is not None and power == Node("neg", None, (num(1),)) and name in INVERSE:
            name, power = INVERSE[name], None
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


def primed(node: Node) -> Node:
    return Node("var", f"{node.value}'") if node.kind == "var" else Node("func", "prime", (node,))
