"""The value that a sentence states: the least trusted way of giving an answer.

Only what asserts a value counts, never a number that merely stands in a sentence. Knows neither boxes nor references.
"""

from __future__ import annotations

import re

from verifiers.expressions.lexer import clean
from verifiers.extract import BOLD
from verifiers.normalise import squeeze
from verifiers.reading import _STYLE, Reading, read

_SPAN = re.compile(
    r"\$\$(?P<a>.+?)\$\$|\\\[(?P<b>.+?)\\\]|\\\((?P<c>[^\n]+?)\\\)|(?<![\\$])\$(?P<d>[^$\n]+?)(?<!\\)\$(?!\d)",
    re.DOTALL,
)
_LITERAL = re.compile(
    r"(?<![A-Za-z0-9_^.,{\\(%])(?P<sign>-)?(?:[$€£]\s?)?"
    r"(?P<body>\d{1,3}(?:[, ]\d{3})+(?:\.\d+)?(?!\d)|\d+\.\d+|\.\d+|\d+,\d+(?![\d,])|\d+)"
    r"(?P<over>/\d+)?(?P<percent>\s?\\?%)?"
    r"(?![\d^_/*]|'[^']*$|[A-Za-z]{4,}\d|\s*[-+*/=^%]\s*\d|\s*\\(?!text|mathrm|mbox|%)[A-Za-z])",
    re.ASCII,
)
_PAIR_AT_END = re.compile(r"(?<=\s)([(\[][^()\[\],]{1,100},[^()\[\]]{1,100}[)\]])\s*\.?\s*$")
_HEDGE = re.compile(
    r"(?:\b(?:or|not|nor|either|neither|except|never|than|maybe|perhaps|possibly|about|around|approximately|roughly|nearly|almost)\b|at\s+least|at\s+most|n't|≠|\\neq?|≈|~|\\approx)[\s({\\$}]*(?:text)?[\s{}]*$"
)
_WORDED = re.compile(
    r"\b(?:minus|negative|plus|times|over|twice|double|triple|(?:root|log|logarithm|half|third|quarter)s? of)\s*$"
    r"|(?:\b(?:not|cannot|never)|n't)(?:\s+[A-Za-z]+){0,2}\s*$|\bbetween\b[^.]*\band\s*$",
    re.IGNORECASE,
)
"""Words before a number that make another number of it, or deny it."""
_OPEN_OPERATOR = re.compile(r"(?:[-+*/^√=(\\<>≤≥]|\\(?:le|ge|leq|geq|lt|gt)|\d\s+to|\d\s)\s*$")
_END_MARK = re.compile(r"\s*(?:<\|[a-z_]{1,20}\|>(?:user|assistant)?|</s>)\s*$")
_COURTESY = re.compile(r"\s*(?:I hope (?:it|this) is correct|Hope (?:it|this) helps)[.!]*\s*$", re.IGNORECASE)
_BARE_LIMIT = 400
_NEW_SENTENCE = re.compile(r"[.!?;:]\s+\S|\?|=\s*$")
_ASKED = re.compile(
    r"(?:^|[.!?]\s+)(?:is|are|was|were|does|do|could|can|if|suppose|assume|let)\b[^.!?]*$", re.IGNORECASE
)
_ASSERTED_AFTER = re.compile(
    r"[\s.]*(?:is|are)\s+(?:(?:the|our|your|my)\s+)?(?:correct\s+|final\s+)?(?:answers?|solutions?|results?)\b",
    re.IGNORECASE,
)
_BARE_AFTER = re.compile(r"[\"'* ]*(?:(?:per|an?|each) [a-z]{1,20})?[.* ]*")
_ASSERTED_BEFORE = re.compile(
    r"(?:[=:\u662f\u4e3a\u70ba\uff1a\uff1d]|\\equiv|\b(?:is|are|was|were|be|been|equals?|equal to|becomes?|"
    r"it's|that's|gives?|gets?|got|"
    r"yields?|makes?|made|leaves?|finds?|found|obtains?|has|have|had|needs?|costs?|pays?|"
    r"paid|spent|spends?|earns?|earned|sold|kept|totals?|by|"
    r"(?:total|sum|product|profit|cost|average|amount|area|value|number|answer|result) of|"
    r"find that|conclude that|have that|get that|see that|so|thus|hence|therefore),?)"
    r"[\s*_$({\\]*(?:(?:a|an|the|only|exactly|now|just|simply)\s+)*(?:total of\s+)?[\s*_$€£(]*$",
    re.IGNORECASE,
)
"""Words that give what follows them as a result."""


def read_prose(text: str) -> Reading | None:
    """The last formula or number of a sentence that is known to state the answer ("The answer is the sum, 5"); None
    where there is none, or it hedges ("5 or 6")."""
    found = _last_value(text[-4_000:])
    return None if found is None else found[0]


def read_last_line(line: str) -> Reading | None:
    """What the last line of a response asserts, where nothing else states an answer: the line is the answer ("42",
    "$x = 5$"), or its last sentence ends by giving it ("so the area is 12", "x = 12", "a total of $40", "Therefore
    $x > 5$ is the solution"). None for any other number in a sentence ("Step 3", "is it 5?", "see equation 4")."""
    line = _END_MARK.sub("", line[-4_000:])
    line = _COURTESY.sub("", line).rstrip()
    if "**" in line:
        line = BOLD.sub("", line)
    if len(line) <= _BARE_LIMIT and (whole := read(line)).tree is not None:
        return whole
    if line.rstrip("*_ $").endswith("?"):
        return None
    found = _last_value(line)
    if found is None:
        return None
    reading, before, after = found
    if _NEW_SENTENCE.search(after):
        return None
    if _ASSERTED_AFTER.match(after) or (not before.strip(" $€£*") and _BARE_AFTER.fullmatch(after)):
        return reading
    if _ASKED.search(before[-400:]):
        return None
    return reading if _ASSERTED_BEFORE.search(before[-120:]) else None


def _last_value(text: str) -> tuple[Reading, str, str] | None:
    """The last formula or number, with what stands before and after it."""
    spans = list(_SPAN.finditer(text))
    if "\\begin{" in text and not spans:
        return None
    if spans:
        last = spans[-1]
        tail = text[last.end() :]
        if (
            not re.search(r"\d", tail)
            and len(tail.split()) <= 12
            and not _HEDGE.search(text[: last.start()][-200:])
        ):
            inside = next(group for group in last.groups() if group is not None)
            reading = read(inside)
            # no number is read out of a formula that is not read as a whole
            return None if reading.tree is None else (reading, text[: last.start()], tail)
    if (
        not spans
        and re.search(r"\\[A-Za-z]", text)
        and len(re.findall(r"(?<![\\A-Za-z])[A-Za-z]{3,}", _STYLE.sub("", text))) < 2
    ):
        return None
    line = clean(text).replace(r"\%", "%")
    found = None
    for found in _LITERAL.finditer(line):  # noqa: B007
        pass
    if found is None:
        return None
    before, after = line[: found.start()], line[found.end() :]
    if before.count("(") > before.count(")") or before.count("[") > before.count("]"):
        pair = _PAIR_AT_END.search(line)
        if pair is None:
            return None
        reading = None if _HEDGE.search(line[: pair.start()]) else read(pair.group(1))
        return None if reading is None or reading.tree is None else (reading, line[: pair.start()], "")
    if (
        _HEDGE.search(before[-200:])
        or _WORDED.search(before.rstrip("$ ")[-200:])
        or _OPEN_OPERATOR.search(before.replace("=", " ").replace("**", " ").replace("(", "("))
    ):
        return None
    if re.match(
        r"\s*(?:(?:squared|cubed|factorial)\b|[,]?\s*(?:or|\(or)\b|\.\.\.|\\ldots|[-+*/^]\s*[\w\\(])", after
    ):
        return None
    reading = read(squeeze(found.group().replace("$", "").replace("€", "").replace("£", "")))
    return None if reading.tree is None else (reading, before, after)
