r"""A stated answer as a typed tree: what `mathematics` compares.

Bare answers ("\frac12"), answers with words around them ("$5$ apples"), choices, number words. Sentences are read by
`verifiers.prose`.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from verifiers.expressions.lexer import Unreadable, clean
from verifiers.expressions.literals import decimal, fraction_of_period
from verifiers.expressions.nodes import Node, num, number_of
from verifiers.expressions.parser import parse
from verifiers.expressions.units import is_unit, unit_of
from verifiers.expressions.work import charge
from verifiers.normalise import plain_unicode, squeeze, unwrap
from verifiers.number_words import SCALES, number_in_words

MAX_ANSWER = 6_000
MAX_REMEMBERED = 1_000
_PLAIN = re.compile(
    r"\s*(-?)(?:(\\?\$)?(?:(\d{1,30})|([1-9]\d{0,2}(?:,\d{3}){1,9}))(?:\.(\d{1,30}))?(\\?%)?"
    r"|\\[dt]?frac\{(\d{1,30})\}\{(\d{1,30})\}|(\d{1,30})/(\d{1,30}))\s*",
    re.ASCII,
).fullmatch
_SCALED = re.compile(
    r"(?:\\?([$€£]))?(\d{1,3}(?:,\d{3})+|\d{1,30}(?:\.\d{1,30})?) "
    r"(hundred|thousand|million|billion|dozen)(?: ([a-z]{2,20}))?",
    re.ASCII,
)
_EMPTY, _REALS = Node("set"), Node("domain", "R")
_PHRASES = {
    **dict.fromkeys(
        ("no solution", "no solutions", "no real solutions", "empty set", "the empty set"), _EMPTY
    ),
    "does not exist": Node("text", "does not exist"),
    **dict.fromkeys(("all real numbers", "all reals", "all real x", "the real numbers"), _REALS),
}
_CHOICE = re.compile(
    r"""^(?:\\(?:text|textbf|mathrm|mathbf|bf|rm)\s*\{?\s*)?\(?\s*
        (?:\\(?:text|textbf|mathrm|mathbf)\s*\{\s*)?\(?(?P<letter>[A-Z])\)?\s*\}?\s*\)?\s*\}?\s*
        (?P<rest>[.:)]?\s*(?:\\[ ~]|\\quad)?.*)$""",
    re.VERBOSE | re.DOTALL,
)
_SAID_CHOICE = re.compile(
    r"^(?:(?:[Ss]o|[Tt]hus|[Hh]ence|[Tt]herefore),?\s+)?(?:the\s+)?(?:correct\s+)?(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s*(?:is\s*)?:?\s*\(?([A-Z])\)?"
    r"(?:\s+is\s+(?:the\s+)?(?:correct|right)(?:\s+(?:one|answer|option|choice))?)?\.?$"
)
_NAMED_OPTION = re.compile(r"^(?:[Oo]ption|[Cc]hoice)\s*\(?([A-Z])\)?\s*[:.](.*)$", re.DOTALL)
_OPTION = re.compile(
    r"^(?:\\(?:text|textbf|mathrm|mathbf)\s*\{\s*)?\(?[A-Z]\)\s*\}?"
    r"(?:\s|~|\\[ ,;:]|\\q?quad(?![A-Za-z]))*(?P<option>.+)$"
)
_SECOND_CHOICE = re.compile(
    r"\([A-Z]\)|(?:\bor\b|\band\b|[,/&])\s*(?:\\text[a-z]*\s*\{\s*)?\(?[A-Z]\b(?!\s*[a-z(])"
)
_HALF_MARKED = re.compile(r"[A-J]\)")
_ARTICLE = re.compile(r"^(?:a|an|the) (?=[a-z]{3,}$)")
_RATIO = re.compile(r"\d{1,30}(?: to \d{1,30}){1,4}", re.ASCII)
_COMPOUND = re.compile(
    r"(\d{1,30}) ?([a-z]{1,12})\.?,?(?: and)? (\d{1,30}(?:\.\d{1,30})?) ?([a-z]{1,12})", re.ASCII
)
_DAY = re.compile(r"(?<=[a-z] )(\d{1,2})(?:st|nd|rd|th)\b", re.ASCII)
_DIGITS_AND_LETTERS = re.compile(
    r"\(?(?=[0-9A-Fa-f]{0,40}[A-Fa-f])([0-9][0-9A-Fa-f]{0,40}|[A-F][0-9A-F]{1,40})\)?_\{?(?:\\text\{)?(1[1-6])\}{0,2}",
    re.ASCII,
)
_TURNED = re.compile(r"^\s*\]|\[\s*$|\[\s*\\cup|\\cup\s*\]")
_TURNED_INTERVAL = re.compile(r"([\[\]])([^\[\]();]+[,;][^\[\]();]+)([\[\]])")
_CHAIN_END = re.compile(r"[^,;<>\n]{1,400}=\s*(-?)\s*(\d{1,30}(?:\.\d{1,30})?)", re.ASCII)
_BRACED_COMMA = re.compile(r"\d{1,30}\{,\}(?!\d{3}(?!\d))\d{1,30}", re.ASCII)
_ROUND_REPEAT = re.compile(r"(\d{0,30}\.\d{1,30})\((\d{1,30})\)", re.ASCII)
_GLUED_THOUSANDS = re.compile(r"\d,\d{3}(?!\d)")
_MIXED = re.compile(r"(\d{1,30}) and (\d{1,30})/(\d{1,30})", re.ASCII)
_STYLE = re.compile(
    r"\\(?:text|textnormal|textrm|textbf|textit|mathrm|mathbf|mbox|operatorname|mathit|emph)\s*\{([^{}]*)\}"
)
_CUE = re.compile(
    r"^\s*(?:\\text\s*\{)?\s*(?:(?:so|thus|hence|therefore),?\s+)?(?:the\s+)?(?:final\s+)?(?:answer|result|value|solution)s?"
    r"(?:\s+(?:is|are))?\s*[:=]?\s*\}?\s*(?=\S)",
    re.IGNORECASE,
)
_LABEL = re.compile(r"^\s*\\(?:text|textbf|mathrm)\s*\{[A-Za-z ]{1,40}:\s*\}\s*(?=\S)")
_RUNS = re.compile(r"([\s~])[\s~]+|(\\[,;:!> ])(?:\\[,;:!> ]){3,}")
_EDGES = re.compile(
    r"^(?:[\s~]|\\[,;:!> ]|\\q?quad(?![A-Za-z]))+|(?:[\s~]|(?<!\\)\\[,;:!> ]|\\q?quad(?![A-Za-z]))+$"
)
_DOLLARS = re.compile(r"(?<!\\)\$")
_COMMA_DECIMAL = re.compile(r"-?\d+,\d+$")
_AMOUNT = re.compile(r"[\d)}](?:\s|~|\\|/)")
_POWER_WORDS = re.compile(r"\b(?:square|cubic|sq|squared|cubed)\b", re.IGNORECASE)
_LONE_LETTER = re.compile(r"[A-Za-z]")
_SYMBOLS = frozenset("mshglLNJWVK")
"""Units of one letter; "2 n" is no force."""
_MEASURED_LIMIT = 120
_MEASURED = re.compile(
    r"(?P<value>.*?[\d)}])(?P<unit>(?:\s+|\s*/\s*)[A-Za-z\u03bc]{1,12}(?:\^-?\d)?(?:(?:\s*[*/]\s*|\s+)[A-Za-z\u03bc]{1,12}(?:\^-?\d)?){0,5})\.?"
)
_SHORT_UNIT = re.compile(r"^(.*[\d})])\s+([a-zA-Z]{1,2}(?:/[a-z]{1,3})?(?:\^\{?\d\}?)?)$")


@dataclass(frozen=True, slots=True)
class Reading:
    """tree: the answer as mathematics, or None. words: it as text, made plain. choice: a letter that is given as a
    choice ("(B)"). more: other trees that the text may mean ("1,5" as a decimal, "5 m" as a length). number: the
    value, where the tree is a literal."""

    tree: Node | None
    words: str
    choice: str = ""
    more: tuple[Node, ...] = ()
    why: str = ""
    number: Fraction | None = None


def plain_number(text: str) -> Reading | None:
    """An integer, decimal, fraction, amount or percentage that is the whole text, in its commonest spellings: what
    `read` would say of it, at a fraction of the time."""
    match = _PLAIN(text)
    if match is None:
        return None
    sign, dollar, digits, grouped, places, percent, top, bottom, over, under = match.groups()
    bare = text.strip()
    more: tuple[Node, ...] = ()
    if top or over:
        tree = Node("div", None, (num(int(top or over)), num(int(bottom or under))))
    else:
        digits = digits or grouped.replace(",", "")
        tree = num(int(digits)) if places is None else decimal(f"{digits}.{places}", 0)
        if dollar or percent:
            if dollar and percent:
                return None
            tree = Node("unit", "$", (tree,)) if dollar else Node("percent", None, (tree,))
        elif grouped:
            more = tuple(_others(bare, tree))
    if sign:
        tree = Node("neg", None, (tree,))
    return Reading(tree, bare, "", more, "", number_of(tree))


def read(text: str) -> Reading:
    """A whole text as one answer."""
    charge(4 * min(len(text), MAX_ANSWER))  # here, so that what is remembered counts the same
    return _read(text) if len(text) <= MAX_REMEMBERED else _read.__wrapped__(text)


@lru_cache(maxsize=16_384)
def _read(text: str) -> Reading:
    plain = plain_number(text)
    if plain is not None:
        return plain
    if len(text) > MAX_ANSWER:
        return Reading(None, "", why=f"longer than {MAX_ANSWER} characters")
    text = _RUNS.sub(r"\1\2", text)
    if "\\" in text and ":" in text:
        text = _LABEL.sub("", text, count=1)
    bare = unwrap(_EDGES.sub("", _CUE.sub("", text, count=1))).rstrip("?").strip()
    if bare.isdecimal() and bare.isascii():
        if len(bare) > 4_000:
            return Reading(Node("text", bare.lstrip("0")), bare)
        return Reading(num(int(bare)), bare, number=Fraction(int(bare)))
    if bare[:1] == "=" and bare[1:2] not in "=<>":
        bare = bare[1:].lstrip()
    if bare[:1] == "{" and bare[-1:] == "}" and "," in bare and "$" not in text and "\\" not in text:
        bare = "\\{" + bare[1:-1] + "\\}"
    words = plain_words(bare)
    words = "does not exist" if words in ("dne", "d.n.e") else _DAY.sub(r"\1", words)
    if bare[-1:] == "\\" and bare[-2:] != "\\\\":
        bare = bare[:-1]
    choice = _choice(bare)
    tree, why = _tree(bare, words)
    others = _others(bare, tree, "$" in text or "\\(" in text)
    if tree is None and others and others[0].kind == "unit":
        tree, others = others[0], others[1:]
    number = None if tree is None else number_of(tree)
    return Reading(tree, words, choice, tuple(others), why, number)


def _tree(text: str, words: str) -> tuple[Node | None, str]:
    if not words:
        return None, "empty"
    number = number_in_words(words)
    if number is not None:
        return num(number), ""
    known = _PHRASES.get(words)
    if known is not None:
        return known, ""
    counted = _counted(words)
    if counted is not None:
        return counted, ""
    scaled = _SCALED.fullmatch(words)
    if scaled:
        node = num(Fraction(scaled[2].replace(",", "")) * (SCALES | {"dozen": 12})[scaled[3]])
        unit = scaled[1] or scaled[4]
        return (Node("unit", unit, (node,)) if unit else node), ""
    if words == "nan":
        return None, "not a number"
    compound = _COMPOUND.fullmatch(words)
    if compound and (parts := _compound(*compound.groups())) is not None:
        return parts, ""
    ratio = _RATIO.fullmatch(words)
    if ratio:
        return Node("ratio", None, tuple(num(int(term)) for term in words.split(" to "))), ""
    based = _DIGITS_AND_LETTERS.fullmatch(text)
    if based and not re.search("[a-f]", based[1]):  # "2a_{16}" may be twice a term; see _others
        return Node("base", based.groups()), ""
    why = ""
    if text[:9].lower().startswith(("minus ", "negative ")):
        text = "-" + text.partition(" ")[2]
    if _BRACED_COMMA.fullmatch(text):
        return decimal(text.replace("{,}", "."), 0), ""
    for form in _forms(text):
        if _TURNED.search(form):  # the French way: ]0,1[
            form = _TURNED_INTERVAL.sub(_half_open, form)
        try:
            tree = parse(form)
        except (Unreadable, RecursionError) as error:
            why = why or str(error)
            continue
        if len(words) > 1 and words.isalpha() and words.isascii() and not _known_word(tree):
            return Node("text", unwrap(_STYLE.sub(r"\1", text)).strip()), ""
        return tree, ""
    end = _CHAIN_END.fullmatch(text.strip("$ "))
    if end and _sides(text) > 2:  # "x = \\unknown = 5" says 5, whatever stands between
        return decimal(end[2], 0) if not end[1] else Node("neg", None, (decimal(end[2], 0),)), ""
    return None, why


def _sides(text: str) -> int:
    """How many sides an equation has, equals signs in braces not counted ("\\sum_{k=1}")."""
    depth, sides = 0, 1
    for c in text:
        depth += (c == "{") - (c == "}")
        sides += c == "=" and depth == 0
    return sides


def _counted(words: str) -> Node | None:
    """Number words with what they count: "eight percent", "five dollars", "twelve apples"."""
    number, _, counted = words.rpartition(" ")
    value = (
        number_in_words(number)
        if counted.isalpha() and words.replace(" ", "").replace("-", "").isalpha()
        else None
    )
    if (
        value is None
        or number_in_words(counted) is not None
        or counted in ("squared", "cubed", "times", "halves")
    ):
        return None
    if counted in ("percent", "percentage"):
        return Node("percent", None, (num(value),))
    return Node("unit", counted, (num(value),)) if is_unit(counted) or counted.endswith("s") else None


def _half_open(match: re.Match[str]) -> str:
    return ("[" if match[1] == "[" else "(") + match[2] + ("]" if match[3] == "]" else ")")


def _compound(large: str, unit: str, small: str, subunit: str) -> Node | None:
    """ "1 hour 30 minutes" in the smaller unit."""
    subunit = "inch" if subunit == "in" else subunit  # else a word that names no unit
    upper, lower = unit_of(unit), unit_of(subunit)
    if upper is None or lower is None or not upper[0] or upper[0] != lower[0] or upper[1] <= lower[1]:
        return None
    return Node("unit", subunit, (num(Fraction(large) * upper[1] / lower[1] + Fraction(small)),))


def _known_word(tree: Node) -> bool:
    return tree.kind in ("const", "neg")


def _forms(text: str) -> list[str]:
    """The text without mathematics marks, then as it stands."""
    count = len(_DOLLARS.findall(text))
    forms = [_DOLLARS.sub(" ", text)] if count and count % 2 == 0 else []
    bare = re.sub(r"(?<!\\)\\[()\[\]](?![A-Za-z])", " ", text) if "\\(" in text or "\\[" in text else text
    return [_EDGES.sub("", form) for form in (*forms, bare)]


def _others(text: str, tree: Node | None, formula: bool = False) -> list[Node]:
    """What the text may mean as well. formula: it stood between mathematics marks, where "6 m" is no length."""
    found: list[Node] = []
    plain = squeeze(_DOLLARS.sub("", text) if text.count("$") == 2 else text)
    if _COMMA_DECIMAL.match(plain) and (tree is None or tree.kind == "list"):  # "1,234" groups its digits
        whole, places = plain.split(",")
        if len(places) < 400:
            exact = Fraction(f"{whole}.{places}")
            found.append(num(exact) if exact.denominator == 1 else Node("decimal", (exact, len(places))))
    mixed = _MIXED.fullmatch(plain)
    if mixed and 0 < int(mixed[2]) < int(mixed[3]):
        found.append(num(int(mixed[1]) + Fraction(int(mixed[2]), int(mixed[3]))))
    repeated = _ROUND_REPEAT.fullmatch(plain)
    if repeated:
        found.append(fraction_of_period(repeated[1], repeated[2]))
    if tree is not None and tree.kind == "list" and _GLUED_THOUSANDS.search(plain):
        with suppress(Unreadable, RecursionError):  # "27,54,108,135": every comma separates
            found.append(parse(re.sub(r",(?=\d)", ", ", plain)))
    based = _DIGITS_AND_LETTERS.fullmatch(plain)
    if based:
        found.append(Node("base", based.groups()))
    option = _OPTION.match(plain)
    if option:
        try:
            found.append(parse(option.group("option")))
        except (Unreadable, RecursionError):
            return found
    measured = None
    if (
        len(plain) <= _MEASURED_LIMIT
        and (tree is None or tree.kind in ("mul", "div", "unit"))
        and _AMOUNT.search(plain)
    ):
        measured = _MEASURED.fullmatch(_spelled(plain))
    if measured and not _POWER_WORDS.search(measured["unit"]):
        names = re.sub(r"\s*([*/])\s*|\s+", lambda m: m.group(1) or "*", measured["unit"].strip())
        if unit_of(names) is not None and not _LONE_LETTER.fullmatch(names):
            with suppress(Unreadable, RecursionError):
                found.append(Node("unit", names, (parse(measured["value"]),)))
    unit = _SHORT_UNIT.match(plain if plain.isascii() else clean(plain))
    if (
        unit
        and is_unit(re.split(r"[/^]", unit.group(2))[0])
        and (len(unit.group(2)) > 1 or (not formula and unit.group(2) in _SYMBOLS))
    ):
        try:
            found.append(Node("unit", unit.group(2), (parse(unit.group(1)),)))
        except Unreadable:
            return found
    if tree is not None and tree.kind == "text" and tree.value.islower() and len(tree.value) <= 4:
        # one side may be written as an explicit product ("x y"); two words are compared as words
        parts = [Node("var", c) for c in tree.value]
        product = parts[0]
        for part in parts[1:]:
            product = Node("mul", None, (product, part))
        found.append(product)
    return found


def _spelled(text: str) -> str:
    """An amount with its unit, spelled one way: "10^6 m s^-1" for "10^6\\,\\mathrm{m\\,s^{-1}}"."""
    text = (
        plain_unicode(text)
        .replace("\\AA", " angstrom")
        .replace("\u00c5", " angstrom")
        .replace("\u00b5", "\u03bc")
    )
    text = re.sub(r"\\mathring\s*\{A\}", " angstrom", text).replace("\\mu", "\u03bc")
    text = re.sub(r"\\[,;:> ]|~|\\quad", " ", text)
    text = re.sub(r"\^\s*\{\s*(-?\d)\s*\}", r"^\1", text)
    for _ in range(2):
        text = _STYLE.sub(r" \1", text)
    text = re.sub(r"\\[dt]?frac\s*\{([A-Za-z^\d ]+)\}\s*\{([A-Za-z^\d ]+)\}$", r" \1/\2", text)
    return re.sub(r"\u03bc\s+(?=m)", "\u03bc", text.replace("\\cdot", "*").replace("\\times", "*"))


def _choice(text: str) -> str:
    said = _SAID_CHOICE.match(text)
    if said:
        return said[1]
    named = _NAMED_OPTION.match(text)
    if named and not _SECOND_CHOICE.search(named[2]):
        return named[1]
    match = _CHOICE.match(text)
    if match is None:
        return ""
    marked = text.startswith(("(", "\\text", "\\math", "\\bf", "\\rm"))
    rest = match.group("rest").strip()
    if _SECOND_CHOICE.search(rest):
        return ""
    if len(text) == 1 or (not rest or rest in (".", ":", ")")):
        return match.group("letter")
    if _HALF_MARKED.match(text) and text.count("(") < text.count(")"):  # "A)24 minutes"
        return text[0]
    if (
        marked
        and "(" in text[: match.end("letter")]
        and text[match.end("letter") : match.end("letter") + 1] == ")"
    ):
        return match.group("letter")
    if re.match(r"[.:)]\s", text[match.end("letter") :]):
        return match.group("letter")
    return ""


def plain_words(text: str) -> str:
    """Text made plain for comparison: styles, marks, case and spacing gone."""
    text = plain_unicode(text)
    for _ in range(3):
        text = _STYLE.sub(r"\1", text)
    text = re.sub(r"\\[,;:!> ]|~", " ", text)
    text = squeeze(unwrap(text)).strip(" .,;:!\"'")
    if text.startswith("(") and text.endswith(")") and text.count("(") == 1:
        text = text[1:-1]
    return _ARTICLE.sub("", text.strip().casefold())
