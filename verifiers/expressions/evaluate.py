"""Values of expressions, and whether two expressions are the same.

Equality is decided by evaluating both: at 40 and then 200 digits, and where there are variables at several rational
points (a difference that is not the zero function vanishes there with no practical probability; Schwartz 1980, Zippel
1979). `verifiers.expressions.values` has the arithmetic and its caps.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from verifiers.expressions.nodes import Node
from verifiers.expressions.values import (
    MAX_FACTORIAL,
    NoValue,
    arithmetic,
    as_real,
    checked,
    imaginary,
    is_zero,
    of_rationals,
    plus,
    power,
    same_value,
    times,
    transcendental,
)
from verifiers.expressions.work import charge

MAX_MODULUS_BITS = 1_024


def value(node: Node, point: Mapping[str, Fraction] | None = None, real: bool = False) -> Any:
    """A Fraction, or an mpmath real or complex number at the working precision. real: no part of it may be complex
    (sqrt(a)/sqrt(b) has no value where both are negative). Raises NoValue."""
    return _Evaluator(point or {}, real).value(node)


class _Evaluator:
    def __init__(self, point: Mapping[str, Fraction], real: bool):
        self.point = point
        self.real = real

    def value(self, node: Node) -> Any:
        kind = node.kind
        if kind == "num":
            return node.value
        if kind == "decimal":
            return node.value[0]
        if kind == "var":
            if node.value not in self.point:
                raise NoValue(f"{node.value} has no value")
            return self.point[node.value]
        charge(3)
        method = getattr(self, "_" + kind, None)
        if method is None:
            raise NoValue(f"a {kind} is not a number")
        found = method(node)
        if self.real and kind in ("pow", "func") and hasattr(found, "_mpc_") and imaginary(found):
            raise NoValue("not real")
        return found

    def _const(self, node: Node) -> Any:
        mp = arithmetic()
        if node.value == "inf":
            raise NoValue("infinite")
        return {"pi": mp.pi, "e": mp.e, "i": mp.mpc(0, 1)}[node.value] * 1

    def _add(self, node: Node) -> Any:
        total: Any = Fraction(0)
        for arg in node.args:
            total = plus(total, self.value(arg))
        return total

    def _neg(self, node: Node) -> Any:
        return -self.value(node.args[0])

    def _mul(self, node: Node) -> Any:
        left, right = (self.value(arg) for arg in node.args)
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            return checked(left * right)
        return as_real(left) * as_real(right)

    def _div(self, node: Node) -> Any:
        left, right = (self.value(arg) for arg in node.args)
        if is_zero(right):
            raise NoValue("division by zero")
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            return checked(left / right)
        return as_real(left) / as_real(right)

    def _pow(self, node: Node) -> Any:
        return power(self.value(node.args[0]), self.value(node.args[1]))

    def _fact(self, node: Node) -> Any:
        argument = self.value(node.args[0])
        if (
            not isinstance(argument, Fraction)
            or argument.denominator != 1
            or not 0 <= argument <= MAX_FACTORIAL
        ):
            raise NoValue("a factorial out of range")
        charge(float(argument) / 10)
        return Fraction(math.factorial(int(argument)))

    def _percent(self, node: Node) -> Any:
        return times(self.value(node.args[0]), Fraction(1, 100))

    def _unit(self, node: Node) -> Any:
        return self.value(node.args[0])

    def _degree(self, node: Node) -> Any:
        return as_real(self.value(node.args[0])) * arithmetic().pi / 180

    def _ratio(self, node: Node) -> Any:
        if len(node.args) != 2:
            raise NoValue("a ratio of more than two terms")
        return self._div(node)

    def _mod(self, node: Node) -> Any:
        modulus = self.value(node.args[1])
        if not isinstance(modulus, Fraction) or modulus.denominator != 1 or modulus <= 0:
            raise NoValue("a modulus that is no positive integer")
        if modulus.numerator.bit_length() > MAX_MODULUS_BITS:
            raise NoValue("a modulus of too many digits")
        return Fraction(self._residue(node.args[0], int(modulus)))

    def _residue(self, node: Node, modulus: int) -> int:
        """Residues without the number itself: 10^(10^8) mod 7."""
        if node.kind == "pow":
            exponent = self.value(node.args[1])
            if isinstance(exponent, Fraction) and exponent.denominator == 1 and exponent >= 0:
                charge(exponent.numerator.bit_length() * (1 + modulus.bit_length() ** 2 / 250_000))
                return pow(self._residue(node.args[0], modulus), int(exponent), modulus)
        if node.kind == "mul":
            return math.prod(self._residue(arg, modulus) for arg in node.args) % modulus
        if node.kind == "add":
            return sum(self._residue(arg, modulus) for arg in node.args) % modulus
        if node.kind == "neg":
            return -self._residue(node.args[0], modulus) % modulus
        number = self.value(node)
        if not isinstance(number, Fraction) or math.gcd(number.denominator, modulus) != 1:
            raise NoValue("not an integer")
        return number.numerator * pow(number.denominator, -1, modulus) % modulus

    def _func(self, node: Node) -> Any:
        name = node.value
        if name.startswith("apply "):
            return self._opaque(node)
        arguments = [self.value(arg) for arg in node.args]
        if name == "sqrt":
            return power(arguments[0], Fraction(1, 2))
        if name == "cbrt":
            return power(arguments[0], Fraction(1, 3))
        if name == "abs":
            return abs(arguments[0])
        if name in ("max", "min", "gcd", "lcm", "floor", "ceil", "binom", "sgn"):
            return of_rationals(name, arguments)
        return transcendental(name, arguments)

    def _opaque(self, node: Node) -> Any:
        """A function that nobody defined: a rational number drawn from its name and the value of its argument."""
        argument = node.args[0]
        key = (
            tuple(self.value(arg) for arg in argument.args)
            if argument.kind == "tuple"
            else self.value(argument)
        )
        return _drawn(f"{node.value} {key}")


def _drawn(text: str) -> Fraction:
    bits = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest())
    return Fraction(bits % 9_973 + 1, 4_099)


_KINKS = frozenset(["abs", "sqrt", "cbrt", "floor", "ceil", "max", "min", "sgn", "gcd", "lcm"])
_SCALES = (20, 300, 10_000, 10**6, 10**9, 10**13)


def _kinked(tree: Node) -> bool:
    """Whether the function may follow one formula here and another there."""
    return any(
        (node.kind == "func" and node.value in _KINKS)
        or (node.kind == "pow" and node.args[1].kind not in ("num", "var"))
        or node.kind in ("mod", "fact")
        for node in tree.walk()
    )


def _far_point(names: set[str], turn: int) -> dict[str, Fraction]:
    """A sample point far from the others, each variable with a sign of its own."""
    scale = _SCALES[turn // 4]
    bits = {name: int.from_bytes(hashlib.blake2b(name.encode(), digest_size=2).digest()) for name in names}
    order = {name: place for place, name in enumerate(sorted(names, key=lambda name: (bits[name], name)))}
    near = point_for(names, 0)
    return {
        name: near[name] * scale * (-1 if (turn % 4 >> order[name] % 2) & 1 else 1) + turn % 4
        for name in names
    }


_COUNTS = ((5, 3, 2, 4), (9, 4, 3, 2), (8, 2, 5, 1), (16, 7, 6, 3), (4, 6, 1, 2), (27, 10, 8, 9))


def _counting_point(names: set[str], turn: int) -> dict[str, Fraction]:
    """Natural numbers, where factorials have a value and floors jump."""
    row = _COUNTS[turn % len(_COUNTS)]
    return {
        name: Fraction(row[place % len(row)] + place // len(row)) for place, name in enumerate(sorted(names))
    }


def _counts(tree: Node) -> bool:
    return any(
        node.kind == "fact" or (node.kind == "func" and node.value in ("floor", "ceil", "binom"))
        for node in tree.walk()
    )


def point_for(names: set[str], turn: int) -> dict[str, Fraction]:
    """The ``turn``-th sample point: small and large, positive and negative."""
    scale, shift = ((1, 0), (3, 1), (-3, 0), (1, -1), (7, 2), (-1, -2))[turn % 6]
    return {
        name: Fraction(
            int.from_bytes(hashlib.blake2b(f"{turn} {name}".encode(), digest_size=4).digest()) % 9_973 + 1,
            9_979,
        )
        * scale
        + shift
        for name in names
    }


def same_expression(left: Node, right: Node) -> bool:
    """Whether two scalar expressions are the same function of their variables. False where nothing can be
    evaluated."""
    mp = arithmetic()
    names = left.variables() | right.variables()
    if len(names) > 12:
        return False
    complex_ = any(
        (n.kind, n.value) in (("const", "i"), ("func", "cis")) for tree in (left, right) for n in tree.walk()
    )
    real = bool(names) and not complex_
    agreed = 0
    kinked = bool(names) and (_kinked(left) or _kinked(right))
    points = [(point_for, turn) for turn in range(6 if names else 1)]
    points += [(_far_point, turn) for turn in range(4 * len(_SCALES) if kinked else 0)]
    if names and (_counts(left) or _counts(right)):
        points += [(_counting_point, turn) for turn in range(len(_COUNTS))]
        kinked = True  # all points are looked at
    for make_point, turn in points:
        charge(10 + 3 * len(names))
        point = make_point(names, turn)
        for digits in (40, 200, 1000):
            with mp.workdps(digits):
                try:
                    a, b = value(left, point, real), value(right, point, real)
                except (NoValue, ZeroDivisionError, OverflowError, ValueError):
                    break
                if isinstance(a, Fraction) and isinstance(b, Fraction):
                    if a != b:
                        return False
                    agreed += 1
                    break
                if real and (imaginary(a) or imaginary(b)):
                    break
                if not same_value(a, b, digits):
                    return False
                if digits >= 200 and (
                    digits == 1000 or max(abs(as_real(a)), abs(as_real(b))) > mp.mpf(10) ** -100
                ):
                    agreed += 1
                    break
        if agreed >= 3 and not kinked:
            break
    return agreed >= (2 if names else 1)


def real_value(node: Node) -> Any:
    """The value of a constant at 60 digits, as a Fraction or real mpf. Raises NoValue where it is not real."""
    mp = arithmetic()
    with mp.workdps(60):
        found = value(node)
        if isinstance(found, Fraction):
            return found
        if imaginary(found):
            raise NoValue("not real")
        return mp.re(found)
