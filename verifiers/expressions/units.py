"""Units that answers carry, as (dimension, factor): only what is needed to tell 5 cm from 5 m and 60 cents from $60.

A small table on purpose: a unit that is not here is a word, and words are compared as words.
"""

from __future__ import annotations

import re
from fractions import Fraction

_TABLE: dict[str, tuple[str, Fraction]] = {}


def _add(dimension: str, factor: str, names: str) -> None:
    for name in names.split():
        _TABLE[name] = (dimension, Fraction(factor))


_add("length", "1", "m meter meters metre metres")
_add("length", "1/100", "cm centimeter centimeters centimetre centimetres")
_add("length", "1/1000", "mm millimeter millimeters millimetre millimetres")
_add("length", "1000", "km kilometer kilometers kilometre kilometres kms")
_add("length", "254/10000", "inch inches")
_add("length", "3048/10000", "ft foot feet")
_add("length", "9144/10000", "yd yard yards")
_add("length", "1609344/1000", "mi mile miles")
_add("mass", "1", "g gram grams gramme grammes")
_add("mass", "1000", "kg kilogram kilograms kilos kgs")
_add("mass", "1/1000", "mg milligram milligrams")
_add("mass", "45359237/100000", "lb lbs pound pounds")
_add("mass", "45359237/1600000", "oz ounce ounces")
_add("mass", "1000000", "ton tons tonne tonnes")
_add("time", "1", "s sec secs second seconds")
_add("time", "60", "min mins minute minutes")
_add("time", "3600", "h hr hrs hour hours")
_add("time", "86400", "day days")
_add("time", "604800", "week weeks")
_add("month", "1", "month months")
_add("month", "12", "year years yr yrs")
_add("dollar", "1", "$ dollar dollars usd")
_add("dollar", "1/100", "cent cents ¢")
_add("euro", "1", "€ euro euros eur")
_add("pound sterling", "1", "£ gbp")
_add("yen", "1", "¥ yen jpy yuan rmb")
_add("rupee", "1", "₹ rupee rupees rs")
_add("volume", "1", "l liter liters litre litres")
_add("volume", "1/1000", "ml milliliter milliliters millilitre millilitres")
_add("volume", "3785411784/1000000000", "gallon gallons gal")
_add("energy", "1", "j joule joules")
_add("energy", "1000", "kj")
_add("force", "1", "n newton newtons")
_add("power", "1", "w watt watts")
_add("power", "1000", "kw")
_add("voltage", "1", "v volt volts")
_add("current", "1", "amp amps ampere amperes")
_TABLE["mph"] = _TABLE["kmh"] = ("speed", Fraction(1))
_add("frequency", "1", "hz hertz")
_add("pressure", "1", "pa pascal pascals")
_add("temperature", "1", "k kelvin")
_add("length", "1/1000000", "μm um micron microns micrometer micrometers")
_add("length", "1/1000000000", "nm nanometer nanometers")
_add("length", "1/1000000000000", "pm picometer picometers")
_add("length", "1/10000000000", "angstrom angstroms aa")
_add("parsec", "1", "pc parsec parsecs")
_add("parsec", "1000", "kpc")
_add("light year", "1", "ly")
_add("energy", "4184/1000", "cal calorie calories")
_add("energy", "4184", "kcal")
_add("energy", "1/10000000", "erg ergs")
_add("electronvolt", "1", "ev")
_add("electronvolt", "1000", "kev")
_add("electronvolt", "1000000", "mev")
_add("substance", "1", "mol mole moles mols")
_add("atomic mass", "1", "amu")
_add("frequency", "1000", "khz")
_add("frequency", "1000000", "mhz")
_add("arc", "1", "arcsec arcsecs arcsecond arcseconds")
_add("information", "1", "bit bits")
_add("degree", "1", "deg degree degrees")
_add("angle", "1", "rad rads radian radians")

_INCHES = re.compile(r"^(?:sq\.?|square|cubic)?\s*in\b\.?(?=\s*(?:\^|$))")
_PER = re.compile(r"\s*(?:/|\bper\b)\s*")
_PART = re.compile(
    r"(?:(square|cubic|sq)\s+)?([a-zμ$€£¥₹¢]+)(?:\s*\^?\s*\{?(-?\d)\}?|\s+(squared|cubed))?\.?$"
)
GENERIC = frozenset(
    [
        "unit",
        "units",
        "square",
        "sq",
        "cubic",
        "integer",
        "integers",
        "point",
        "points",
        "number",
        "numbers",
        "total",
        "in",
        "all",
        "way",
        "ways",
    ]
)
"""Words that name no unit: "3 units" is 3."""


def is_unit(word: str) -> bool:
    return word.lower() in _TABLE or word.lower() in GENERIC


def unit_of(words: str) -> tuple[tuple[tuple[str, int], ...], Fraction] | None:
    """Dimensions with exponents, and the factor to their base; None for words that are no unit. ((), 1) for
    words that name no unit at all.

    >>> unit_of("cm^2") == unit_of("square centimeters"), unit_of("m/s"), unit_of("apples")
    (True, ((('length', 1), ('time', -1)), Fraction(1, 1)), None)
    """
    words = _INCHES.sub(lambda m: m.group().replace("in", "inch", 1), words.lower().strip()).rstrip(".")
    words = (
        words.replace("kmph", "km/h")
        .replace("\u00e5", "angstrom")
        .replace("mph", "miles per hour")
        .replace("kmh", "km/h")
    )
    powers: dict[str, int] = {}
    factor = Fraction(1)
    for place, part in enumerate(_PER.split(words)):
        for piece in re.split(r"\s*[*\u00b7]\s*", part):
            if not piece.strip() and not place:
                continue  # "/cm^3"
            match = _PART.match(piece.strip())
            if match is None:
                return ((), Fraction(1)) if all(w in GENERIC for w in words.split()) else None
            prefix, name, exponent, suffix = match.groups()
            if name in GENERIC:
                continue
            if name not in _TABLE:
                return None
            power = int(exponent) if exponent else {"squared": 2, "cubed": 3}.get(suffix, 1)
            power = {"square": 2, "sq": 2, "cubic": 3}.get(prefix, power)
            power = -power if place else power
            dimension, size = _TABLE[name]
            powers[dimension] = powers.get(dimension, 0) + power
            factor *= size**power
    return tuple(sorted((d, p) for d, p in powers.items() if p)), factor
