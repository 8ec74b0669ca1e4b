"""Arithmetic of values: exact rationals as long as they can be, else real or complex numbers of many digits.

Everything is capped: sizes are checked before powers and factorials are taken, and steps are counted (`work`), so no
input takes long. Knows no tree.
"""

from __future__ import annotations

import math
import threading
from fractions import Fraction
from typing import Any

from verifiers.expressions.work import charge

MAX_BITS = 40_000
MAX_FACTORIAL = 2_000
_MAX_MAGNITUDE = 1_000_000


_SHARED_BITS = 8_000
"""More than any precision used here. mpmath remembers pi, e and ln 2 for all contexts at the most digits asked for so
far, and threads that make it grow at once can read half of it: it is grown once, here."""
_growing = threading.Lock()


_own = threading.local()


def arithmetic() -> Any:
    """The calling thread's own mpmath context: the precision of `mpmath.mp` is one for the process, so that any
    other thread could change it in the middle of a comparison."""
    try:
        return _own.context
    except AttributeError:
        _own.context = _context()
        return _own.context


def _context() -> Any:
    from mpmath import MPContext

    context = MPContext()
    with _growing, context.workprec(_SHARED_BITS):
        for constant in (context.pi, context.e, context.ln2, context.ln10):
            _ = +constant
    return context


def charge_function(exponent: Any = None) -> None:
    """The steps of one function or power at the working precision; a square root is cheap."""
    digits = arithmetic().dps
    charge(5 + digits * digits / (5_000 if exponent == Fraction(1, 2) else 700))


class NoValue(ValueError):
    """Undefined (1/0, 0^0), beyond the caps, or not a number at all."""


def as_real(value: Any) -> Any:
    """A Fraction at the working precision; mpmath numbers as they are."""
    return arithmetic().mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def plus(left: Any, right: Any) -> Any:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return checked(left + right)
    if isinstance(left, Fraction) and left == 0:
        return right
    return as_real(left) + as_real(right)


def times(left: Any, right: Fraction) -> Any:
    return left * right if isinstance(left, Fraction) else left * as_real(right)


def is_zero(value: Any) -> bool:
    if isinstance(value, Fraction):
        return value == 0
    mp = arithmetic()
    return abs(value) < mp.mpf(10) ** (8 - mp.dps)


def checked(value: Fraction) -> Fraction:
    bits = value.numerator.bit_length() + value.denominator.bit_length()
    if bits > 2_000:
        charge_rational(bits)
        if bits > MAX_BITS:
            raise NoValue("too large")
    return value


def charge_rational(bits: int) -> None:
    """The steps of one operation on a rational of so many bits, whose greatest common divisor costs their square."""
    charge(bits * bits / 1_500_000)


def power(base: Any, exponent: Any) -> Any:
    mp = arithmetic()
    charge_function(exponent)
    if is_zero(exponent):
        if is_zero(base):
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
                charge(float(abs(exponent)) * bits / 20)
                return base ** int(exponent)
        elif exponent.denominator <= 100:
            root = _rational_root(base, exponent.denominator)
            if root is not None and abs(exponent.numerator) * bits <= MAX_BITS:
                return root**exponent.numerator
            if base < 0 and exponent.denominator % 2 == 1:
                return mp.power(as_real(-base), as_real(exponent)) * (-1 if exponent.numerator % 2 else 1)
    low, high = as_real(base), as_real(exponent)
    if is_zero(low):
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
        charge(2 * number.bit_length())
        low, high = 0, 1 << (number.bit_length() // degree + 1)
        while low < high:
            middle = (low + high + 1) // 2
            if middle**degree <= number:
                low = middle
            else:
                high = middle - 1
        root = low
    return root if root**degree == number else None


def of_rationals(name: str, arguments: list[Any]) -> Any:
    if name in ("max", "min"):
        if any(not isinstance(a, Fraction) and a.imag != 0 for a in arguments):
            raise NoValue("complex numbers have no order")
        return (max if name == "max" else min)(arguments, key=lambda a: as_real(a).real)
    if name in ("floor", "ceil", "sgn"):
        (x,) = arguments
        if not isinstance(x, Fraction) and x.imag != 0:
            raise NoValue("complex numbers have no order")
        x = x if isinstance(x, Fraction) else _snapped(x.real)
        if name == "sgn":
            return Fraction(0) if is_zero(x) else Fraction(1 if x > 0 else -1)
        mp = arithmetic()
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
            charge(10 * k)
            return math.prod((n - i) / (i + 1) for i in range(k)) + Fraction(0)
    if not all(isinstance(a, Fraction) and a.denominator == 1 for a in arguments):
        raise NoValue(f"{name} of numbers that are no integers")
    integers = [int(a) for a in arguments]
    charge(sum(map(int.bit_length, integers)) / 5)
    if name == "binom":
        n, k = integers
        if not 0 <= n <= MAX_FACTORIAL:
            raise NoValue("a binomial out of range")
        charge(n / 5)
        return Fraction(math.comb(n, k) if 0 <= k <= n else 0)
    return Fraction(math.gcd(*integers) if name == "gcd" else math.lcm(*integers))


def _snapped(x: Any) -> Any:
    """The integer that ``x`` is but for rounding: log_2 8 is 3, whose floor is not 2."""
    mp = arithmetic()
    near = mp.nint(x)
    return Fraction(int(near)) if abs(x - near) < mp.mpf(10) ** (8 - mp.dps) * max(1, abs(x)) else x


def transcendental(name: str, arguments: list[Any]) -> Any:
    mp = arithmetic()
    charge_function()
    x = as_real(arguments[0])
    if name in ("ln", "log"):
        if is_zero(x):
            raise NoValue("logarithm of 0")
        if len(arguments) == 1:
            return Fraction(0) if arguments[0] == 1 else mp.log(x)
        base = as_real(arguments[1])
        if is_zero(base) or is_zero(base - 1):
            raise NoValue("a logarithm's base")
        return mp.log(x) / mp.log(base)
    if name == "exp":
        return power(+mp.e, arguments[0])
    if len(arguments) != 1 or name not in _ONE_ARGUMENT:
        raise NoValue(f"{name} is not evaluated")
    if name in ("sinh", "cosh", "tanh") and abs(x) > 10_000:
        raise NoValue("too large")
    if abs(x) > mp.mpf(10) ** 30:
        raise NoValue("too large an argument")
    pole = {"tan": mp.cos, "sec": mp.cos, "cot": mp.sin, "csc": mp.sin}.get(name)
    if pole is not None and is_zero(pole(x)):
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
    "cis": lambda mp, x: mp.expj(x),
}


def same_value(left: Any, right: Any, digits: int) -> bool:
    """Equal as far as ``digits`` digits tell; exact for rationals."""
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    mp = arithmetic()
    left, right = as_real(left), as_real(right)
    size = max(abs(left), abs(right))
    tiny = mp.mpf(10) ** (15 - digits)
    return abs(left - right) <= tiny * size or size <= tiny


def imaginary(value: Any) -> bool:
    mp = arithmetic()
    return not isinstance(value, Fraction) and abs(mp.im(value)) > mp.mpf(10) ** (15 - mp.dps) * abs(value)
