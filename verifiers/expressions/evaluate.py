"""Values of expressions: exact rationals as long as they can be, else real or complex numbers of many digits.

Equality of two expressions is decided by evaluating both: at 40 and then 200 digits, and where there are
variables at several rational points (a difference that is not the zero function vanishes there with no
practical probability; Schwartz 1980, Zippel 1979). Everything is capped: sizes are checked before powers and
factorials are taken, so no input takes long.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from verifiers.expressions.nodes import Node

MAX_BITS = 40_000
MAX_FACTORIAL = 2_000
_MAX_MAGNITUDE = 1_000_000


class NoValue(ValueError):
    """Undefined (1/0, 0^0), beyond the caps, or not a number at all."""


def value(node: Node, point: Mapping[str, Fraction] | None = None) -> Any:
    """A Fraction, or an mpmath real or complex number at the working precision. Raises NoValue."""
    return _Evaluator(point or {}).value(node)


class _Evaluator:
    def __init__(self, point: Mapping[str, Fraction]):
        self.point = point

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
        method = getattr(self, "_" + kind, None)
        if method is None:
            raise NoValue(f"a {kind} is not a number")
        return method(node)

    def _const(self, node: Node) -> Any:
        from mpmath import mp

        if node.value == "inf":
            raise NoValue("infinite")
        return {"pi": mp.pi, "e": mp.e, "i": mp.mpc(0, 1)}[node.value] * 1

    def _add(self, node: Node) -> Any:
        total: Any = Fraction(0)
        for arg in node.args:
            total = _plus(total, self.value(arg))
        return total

    def _neg(self, node: Node) -> Any:
        return -self.value(node.args[0])

    def _mul(self, node: Node) -> Any:
        left, right = (self.value(arg) for arg in node.args)
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            return _checked(left * right)
        return as_real(left) * as_real(right)

    def _div(self, node: Node) -> Any:
        left, right = (self.value(arg) for arg in node.args)
        if _is_zero(right):
            raise NoValue("division by zero")
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            return _checked(left / right)
        return as_real(left) / as_real(right)

    def _pow(self, node: Node) -> Any:
        return _power(self.value(node.args[0]), self.value(node.args[1]))

    def _fact(self, node: Node) -> Any:
        argument = self.value(node.args[0])
        if (
            not isinstance(argument, Fraction)
            or argument.denominator != 1
            or not 0 <= argument <= MAX_FACTORIAL
        ):
            raise NoValue("a factorial out of range")
        return Fraction(math.factorial(int(argument)))

    def _percent(self, node: Node) -> Any:
        return _times(self.value(node.args[0]), Fraction(1, 100))

    def _unit(self, node: Node) -> Any:
        return self.value(node.args[0])

    def _degree(self, node: Node) -> Any:
        from mpmath import mp

        return as_real(self.value(node.args[0])) * mp.pi / 180

    def _ratio(self, node: Node) -> Any:
        if len(node.args) != 2:
            raise NoValue("a ratio of more than two terms")
        return self._div(node)

    def _mod(self, node: Node) -> Any:
        modulus = self.value(node.args[1])
        if not isinstance(modulus, Fraction) or modulus.denominator != 1 or modulus <= 0:
            raise NoValue("a modulus that is no positive integer")
        return Fraction(self._residue(node.args[0], int(modulus)))

    def _residue(self, node: Node, modulus: int) -> int:
        """Residues without the number itself: 10^(10^8) mod 7."""
        if node.kind == "pow":
            exponent = self.value(node.args[1])
            if isinstance(exponent, Fraction) and exponent.denominator == 1 and exponent >= 0:
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
            return _power(arguments[0], Fraction(1, 2))
        if name == "cbrt":
            return _power(arguments[0], Fraction(1, 3))
        if name == "abs":
            return abs(arguments[0])
        if name in ("max", "min", "gcd", "lcm", "floor", "ceil", "binom", "sgn"):
            return _of_rationals(name, arguments)
        return _transcendental(name, arguments)

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


def as_real(value: Any) -> Any:
    """A Fraction at the working precision; mpmath numbers as they are."""
    from mpmath import mp

    return mp.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def _plus(left: Any, right: Any) -> Any:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return _checked(left + right)
    if isinstance(left, Fraction) and left == 0:
        return right
    return as_real(left) + as_real(right)


def _times(left: Any, right: Fraction) -> Any:
    return left * right if isinstance(left, Fraction) else left * as_real(right)


def _is_zero(value: Any) -> bool:
    if isinstance(value, Fraction):
        return value == 0
    from mpmath import mp

    return abs(value) < mp.mpf(10) ** (8 - mp.dps)


def _checked(value: Fraction) -> Fraction:
    if value.numerator.bit_length() + value.denominator.bit_length() > MAX_BITS:
        raise NoValue("too large")
    return value


def _power(base: Any, exponent: Any) -> Any:
    from mpmath import mp

    if _is_zero(exponent):
        if _is_zero(base):
            raise NoValue("0^0")
        return Fraction(1)
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if base == 0:
            if exponent < 0:
                raise NoValue("division by zero")
            return Fraction(0)
        if base in (1,):
            return Fraction(1)
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if exponent.denominator == 1:
            if abs(exponent) * bits <= MAX_BITS:
                return base ** int(exponent)
        elif exponent.denominator <= 100:
            root = _rational_root(base, exponent.denominator)
            if root is not None and abs(exponent.numerator) * bits <= MAX_BITS:
                return root**exponent.numerator
            if base < 0 and exponent.denominator % 2 == 1:
                return mp.power(as_real(-base), as_real(exponent)) * (-1 if exponent.numerator % 2 else 1)
    low, high = as_real(base), as_real(exponent)
    if _is_zero(low):
        if mp.re(high) <= 0:
            raise NoValue("division by zero")
        return Fraction(0)
    if abs(high) * (abs(mp.log(abs(low))) + 4) > _MAX_MAGNITUDE:
        raise NoValue("too large")
    if isinstance(exponent, Fraction) and exponent.denominator == 1 and abs(exponent) < 10_000:
        return low ** int(exponent)
    if (
        isinstance(exponent, Fraction)
        and exponent.denominator % 2 == 1
        and mp.im(low) == 0
        and mp.re(low) < 0
    ):
        return mp.power(-low, high) * (-1 if exponent.numerator % 2 else 1)
    return mp.power(low, high)


def _rational_root(base: Fraction, degree: int) -> Fraction | None:
    if base < 0:
        if degree % 2 == 0:
            return None
        root = _rational_root(-base, degree)
        return None if root is None else -root
    top, bottom = _integer_root(base.numerator, degree), _integer_root(base.denominator, degree)
    return None if top is None or bottom is None else Fraction(top, bottom)


def _integer_root(number: int, degree: int) -> int | None:
    if degree == 2:
        root = math.isqrt(number)
    else:
        if number.bit_length() > 4_000:
            return None
        low, high = 0, 1 << (number.bit_length() // degree + 1)
        while low < high:
            middle = (low + high + 1) // 2
            if middle**degree <= number:
                low = middle
            else:
                high = middle - 1
        root = low
    return root if root**degree == number else None


def _of_rationals(name: str, arguments: list[Any]) -> Any:
    if name in ("max", "min"):
        if any(not isinstance(a, Fraction) and a.imag != 0 for a in arguments):
            raise NoValue("complex numbers have no order")
        return (max if name == "max" else min)(arguments, key=lambda a: as_real(a).real)
    if name in ("floor", "ceil", "sgn"):
        (x,) = arguments
        if not isinstance(x, Fraction) and x.imag != 0:
            raise NoValue("complex numbers have no order")
        x = x if isinstance(x, Fraction) else x.real
        if name == "sgn":
            return Fraction(0) if _is_zero(x) else Fraction(1 if x > 0 else -1)
        from mpmath import mp

        if isinstance(x, Fraction):
            return Fraction(math.floor(x) if name == "floor" else math.ceil(x))
        return Fraction(int(mp.floor(x) if name == "floor" else mp.ceil(x)))
    if name == "binom" and isinstance(arguments[1], Fraction) and arguments[1].denominator == 1:
        n, k = arguments[0], int(arguments[1])
        if not 0 <= k <= MAX_FACTORIAL or not isinstance(n, Fraction) or abs(n) > MAX_FACTORIAL:
            raise NoValue("a binomial out of range")
        if n.denominator != 1 or n < 0:
            if k > 50:
                raise NoValue("a binomial out of range")
            return math.prod((n - i) / (i + 1) for i in range(k)) + Fraction(0)
    if not all(isinstance(a, Fraction) and a.denominator == 1 for a in arguments):
        raise NoValue(f"{name} of numbers that are no integers")
    integers = [int(a) for a in arguments]
    if name == "binom":
        n, k = integers
        if not 0 <= n <= MAX_FACTORIAL:
            raise NoValue("a binomial out of range")
        return Fraction(math.comb(n, k) if 0 <= k <= n else 0)
    return Fraction(math.gcd(*integers) if name == "gcd" else math.lcm(*integers))


def _transcendental(name: str, arguments: list[Any]) -> Any:
    from mpmath import mp

    x = as_real(arguments[0])
    if name in ("ln", "log"):
        if _is_zero(x):
            raise NoValue("logarithm of 0")
        if len(arguments) == 1:
            return Fraction(0) if arguments[0] == 1 else mp.log(x)
        base = as_real(arguments[1])
        if _is_zero(base) or _is_zero(base - 1):
            raise NoValue("a logarithm's base")
        return mp.log(x) / mp.log(base)
    if name == "exp":
        return _power(+mp.e, arguments[0])
    if len(arguments) != 1 or name not in _ONE_ARGUMENT:
        raise NoValue(f"{name} is not evaluated")
    if name in ("sinh", "cosh", "tanh") and abs(x) > 10_000:
        raise NoValue("too large")
    if abs(x) > mp.mpf(10) ** 30:
        raise NoValue("too large an argument")
    pole = {"tan": mp.cos, "sec": mp.cos, "cot": mp.sin, "csc": mp.sin}.get(name)
    if pole is not None and _is_zero(pole(x)):
        raise NoValue("a pole")
    result = _ONE_ARGUMENT[name](mp, x)
    if not mp.isfinite(result):
        raise NoValue("infinite")
    return result


_ONE_ARGUMENT = {
    "sin": lambda mp, x: mp.sin(x),
    "cos": lambda mp, x: mp.cos(x),
    "tan": lambda mp, x: mp.tan(x),
    "cot": lambda mp, x: mp.cot(x),
    "sec": lambda mp, x: mp.sec(x),
    "csc": lambda mp, x: mp.csc(x),
    "arcsin": lambda mp, x: mp.asin(x),
    "arccos": lambda mp, x: mp.acos(x),
    "arctan": lambda mp, x: mp.atan(x),
    "arccot": lambda mp, x: mp.acot(x),
    "sinh": lambda mp, x: mp.sinh(x),
    "cosh": lambda mp, x: mp.cosh(x),
    "tanh": lambda mp, x: mp.tanh(x),
    "arg": lambda mp, x: mp.arg(x),
}


def same_value(left: Any, right: Any, digits: int) -> bool:
    """Equal as far as ``digits`` digits tell; exact for rationals."""
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    from mpmath import mp

    left, right = as_real(left), as_real(right)
    size = max(abs(left), abs(right))
    tiny = mp.mpf(10) ** (15 - digits)
    return abs(left - right) <= tiny * size or size <= tiny


def same_expression(left: Node, right: Node) -> bool:
    """Whether two scalar expressions are the same function of their variables. False where nothing can be
    evaluated."""
    from mpmath import mp, workdps

    names = left.variables() | right.variables()
    if len(names) > 12:
        return False
    complex_ = any(n.kind == "const" and n.value == "i" for tree in (left, right) for n in tree.walk())
    agreed = 0
    for turn in range(6 if names else 1):
        point = point_for(names, turn)
        for digits in (40, 200, 1000):
            with workdps(digits):
                try:
                    a, b = value(left, point), value(right, point)
                except (NoValue, ZeroDivisionError, OverflowError, ValueError):
                    break
                if isinstance(a, Fraction) and isinstance(b, Fraction):
                    if a != b:
                        return False
                    agreed += 1
                    break
                if names and not complex_ and (_imaginary(a) or _imaginary(b)):
                    break
                if not same_value(a, b, digits):
                    return False
                if digits >= 200 and (
                    digits == 1000 or max(abs(as_real(a)), abs(as_real(b))) > mp.mpf(10) ** -100
                ):
                    agreed += 1
                    break
        if agreed >= 3:
            break
    return agreed >= (2 if names else 1)


def _imaginary(value: Any) -> bool:
    from mpmath import mp

    return not isinstance(value, Fraction) and abs(mp.im(value)) > mp.mpf(10) ** (15 - mp.dps) * abs(value)


def real_value(node: Node) -> Any:
    """The value of a constant at 60 digits, as a Fraction or real mpf. Raises NoValue where it is not real."""
    from mpmath import mp, workdps

    with workdps(60):
        found = value(node)
        if isinstance(found, Fraction):
            return found
        if _imaginary(found):
            raise NoValue("not real")
        return mp.re(found)
