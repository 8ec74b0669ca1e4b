"""Spelling of answers: Unicode and LaTeX dress brought to one plain form, without changing what is said.

Knows nothing of numbers' values, of references, or of what is right.
"""

from __future__ import annotations

import re
import unicodedata

_FRACTIONS = {
    c: f" {a}/{b}"
    for c, a, b in zip(
        "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞⅐⅑⅒",
        "112131234151357111",
        ["2", "3", "3", "4", "4", "5", "5", "5", "5", "6", "6", "8", "8", "8", "8", "7", "9", "10"],
        strict=True,
    )
}
_PLAIN = {
    **{c: "-" for c in "\u2212\u2010\u2011\u2012\u2013\u2014\u2015\ufe63\uff0d\u02d7"},
    **{chr(c): " " for c in (0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000)},
    **{c: "" for c in "\u200b\u200c\u200d\u200e\u200f\u2060\u2061\u2062\u2063\u2064\ufeff\u00ad\u180e"},
    **{c: "'" for c in "\u2018\u2019\u02bc"},
    "\u00d7": "*",
    "\u22c5": "*",
    "\u00b7": "*",
    "\u2217": "*",
    "\u2715": "*",
    "\u2a2f": "*",
    "\u00f7": "/",
    "\u2044": "/",
    "\u2215": "/",
    "\u201a": ",",
    "\u060c": ",",
    "\u2236": ":",
}
_UNICODE = str.maketrans({**_PLAIN, **_FRACTIONS})
_WIDE = re.compile("[\uff01-\uff5e\U0001d400-\U0001d7ff]+")
_LATEX = [
    (
        re.compile(
            r"\\(?:displaystyle|textstyle|left|right|[bB]igg?[lr]?|limits|boldsymbol|mathbf)(?![A-Za-z])"
        ),
        "",
    ),
    (
        re.compile(
            r"\\(?:(?:tiny|small|normalsize|large|Large|LARGE|huge|Huge|underline|checkmark)(?![A-Za-z])"
            r"|(?:bf|rm|it)(?![A-Za-z{])(?!\s*\{)|(?:text)?color\s*\{[^{}]*\}|[hv]?phantom\s*\{[^{}]*\})"
        ),
        "",
    ),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"(?<!\\)(?:\\!|\\/)"), ""),
    (re.compile(r"(?<!\\)\\[,;:> ]|~|\\q?quad(?![A-Za-z])|\\(?:thin|med|thick)space(?![A-Za-z])"), " "),
    (re.compile(r"(?<!\\)\\([$%&#_])"), r"\1"),
    (re.compile(r"\\(?:times|cdot|ast)(?![A-Za-z])"), "*"),
    (re.compile(r"\\div(?![A-Za-z])"), "/"),
    (re.compile(r"\\surd(?![A-Za-z])"), r"\\sqrt "),
]
_SPACES = re.compile(r"\s+")


def plain_unicode(text: str) -> str:
    """Full-width and mathematical letter forms, Unicode minus and spaces, and vulgar fractions in ASCII; invisible
    characters gone. ASCII text comes back as it is."""
    if text.isascii():
        return text
    return _WIDE.sub(lambda m: unicodedata.normalize("NFKC", m.group()), text.translate(_UNICODE))


def plain_latex(text: str) -> str:
    """LaTeX spacing, sizing and escapes gone; one name for each operator and fraction command."""
    if "\\" in text or "~" in text:
        for pattern, replacement in _LATEX:
            text = pattern.sub(replacement, text)
    return text


def squeeze(text: str) -> str:
    return _SPACES.sub(" ", text).strip()


_WRAPPERS = (
    ("$$", "$$"),
    ("$", "$"),
    ("\\(", "\\)"),
    ("\\[", "\\]"),
    ("**", "**"),
    ("*", "*"),
    ("`", "`"),
    ('"', '"'),
)
_STYLED = re.compile(
    r"\\(?:text|mathrm|textbf|mathbf|textit|mbox|mathit|mathsf|operatorname)\s*\{([^{}]*)\}\s*$"
)


def unwrap(text: str) -> str:
    """Mathematics and emphasis marks around the whole text, and its final full stop, gone."""
    while True:
        before = text
        text = text.strip()
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1].rstrip()
        text = text.rstrip(";,")
        for left, right in _WRAPPERS:
            inner = text[len(left) : -len(right)]
            if len(text) > len(left) + len(right) and text.startswith(left) and text.endswith(right):
                if left[0] in '$*`"' and left[0] in inner:
                    continue
                text = inner
        styled = _STYLED.match(text)
        if styled:
            text = styled.group(1)
        if text == before:
            return text
