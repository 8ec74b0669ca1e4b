"""What words and commands mean to the parser: functions, constants, relations, letters, words of ``\\text{}``."""

from __future__ import annotations

import re

from verifiers.expressions import lexer
from verifiers.expressions.lexer import scan
from verifiers.expressions.units import GENERIC, is_unit

_FUNCTION_NAMES = """
sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh ln log exp sqrt cbrt abs gcd lcm max min
floor ceil det sgn arg lg cis
"""
FUNCTIONS = {name: name for name in _FUNCTION_NAMES.split()} | {
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "tg": "tan", "ctg": "cot", "cosec": "csc",
    "factorial": "fact",
}  # fmt: skip
INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "cot": "arccot"}
CONSTANTS = {
    "pi": "pi", "infty": "inf", "infinity": "inf", "inf": "inf", "oo": "inf", "e": "e", "i": "i", "imath": "i"
}  # fmt: skip
RELATIONS = {
    "=": "=", "==": "=", "<": "<", ">": ">", "<=": "<=", "=<": "<=", ">=": ">=", "!=": "!=", "<>": "!=",
    "le": "<=", "leq": "<=", "leqslant": "<=", "ge": ">=", "geq": ">=", "geqslant": ">=", "lt": "<", "gt": ">",
    "ne": "!=", "neq": "!=", "approx": "~", "sim": "~", "simeq": "~", "equiv": "=", "in": "in", "leqq": "<=",
    "geqq": ">=",
}  # fmt: skip
DOTS = {"ldots", "dots", "cdots", "dotsc", "dotsb", "..."}
GREEK = {*lexer.GREEK, "Delta", "Gamma", "Theta", "Sigma", "Phi", "Omega", "Lambda", "Psi", "Pi"} - {"pi"}
GREEK |= {"varphi", "vartheta", "varepsilon", "ell", "hbar"}
BEGIN = {
    "frac",
    "binom",
    "tbinom",
    "dbinom",
    "overline",
    "bar",
    "hat",
    "vec",
    "dot",
    "ddot",
    "widehat",
    "overrightarrow",
    "lfloor",
    "lceil",
    "lvert",
    "langle",
}
BEGIN |= {"lbrace", "{"}
"""Commands, beside the above, that may begin a factor."""
DOMAINS = "RZNQC"
_STOP_WORDS = "of is to in if not nor no a an at as by are for the per so"
STOP = set(_STOP_WORDS.split())
APPLIED = set("fghFGHPQTWpq")
"""Letters that name a function where a bracket with a plain argument follows."""
PREFIXED = re.compile(r"(sqrt|sin|cos|tan|ln|log|pi)([a-z])$")
GLUED = re.compile(r"(sin|cos|tan|cot|sec|csc|ln|log)([a-z])$")


def prepare(found: list[tuple[str, str]]) -> list[tuple[str, str]]:
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
        elif words in FUNCTIONS and not is_unit(low):
            out.append(("cmd", words))
        elif is_unit(low) or any(part in GENERIC for part in low.split()):
            out.append(("unit", low))
        elif re.fullmatch(
            r"[A-Za-z]|[\d.,:+\-*/()= ]*\d[\d.,:+\-*/()= ]*(?:[ap]\.?m\.?)?", words, re.IGNORECASE
        ):
            inner: list[tuple[str, str]] = []
            scan(words.replace("p.m.", "pm").replace("a.m.", "am"), inner)
            out += inner
        else:
            out.append(("text", words))
    return out
