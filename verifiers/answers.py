r"""The answer of a response as mathematics: the statement it trusts most, read. Fails closed.

A box that cannot be read is never replaced by a number from the prose, and boxes that differ are trouble unless they
stand together. Knows no reference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from verifiers.expressions import canonical
from verifiers.expressions.nodes import Node
from verifiers.expressions.scalars import STRICT
from verifiers.expressions.work import TooMuchWork, limited
from verifiers.extract import (
    MAX_CHARACTERS,
    Statement,
    box_spans,
    braces,
    final_part,
    final_statement,
    last_box,
    statement,
)
from verifiers.judging import shown
from verifiers.matching import match
from verifiers.prose import read_last_line, read_prose
from verifiers.reading import Reading, plain_number, read

SHORT = 200
"""Texts of up to so many characters are remembered with what was read in them; longer ones seldom come again."""
_BETWEEN_LIMIT = 80
_WHOLE_LIMIT = 4_000
_INLINE_ACROSS_LINES = re.compile(r"(?<![\\$])\$(?!\$)[^$]*\n|\\\([^)]*\n")


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """readings: one, or those of several boxes that stand together and form one answer; none where there is
    trouble (with its status). source: how it was stated. vote: the class it votes for. remembered: the same text
    gives this object again."""

    readings: tuple[Reading, ...]
    source: str
    trouble: str = ""
    status: str = ""
    vote: str | None = None
    remembered: bool = False

    @property
    def reading(self) -> Reading:
        return self.readings[0] if len(self.readings) == 1 else _listed(self.readings)


def answer_in(response: str) -> Answer:
    """What the response gives as its answer, by the most trusted way that it uses."""
    if len(response) <= SHORT:
        return _short(response)
    found = statement(response)
    if found is None or (found.rule == "boxed" and found.others and {*found.others} != {found.text}):
        return _of(lambda: _found_in(response, found))
    if len(found.text) > SHORT or (found.rule != "boxed" and "\\boxed" in response):
        return _of(lambda: _found_in(response, found))
    return _short_statement(found.text, found.rule)


@lru_cache(maxsize=16_384)
def _short(response: str) -> Answer:
    plain = plain_number(response)
    if plain is not None:
        vote = canonical.key(plain.tree, plain.words, plain.choice)
        return Answer((plain,), "whole", vote=vote, remembered=True)
    return _of(lambda: _found_in(response, statement(response)), True)


@lru_cache(maxsize=16_384)
def _short_statement(text: str, rule: str) -> Answer:
    return _of(lambda: _one_box(text) if rule == "boxed" else _stated(text, rule), True)


Found = tuple[Sequence[Reading], str, str]
"""(readings, source, trouble)"""


def _of(find: Callable[[], Found], remembered: bool = False) -> Answer:
    try:
        with limited():
            readings, source, trouble = find()
            if not trouble:
                first = readings[0] if len(readings) == 1 else _listed(readings)
                vote = canonical.key(first.tree, first.words, first.choice)
                return Answer(tuple(readings), source, vote=vote, remembered=remembered)
    except TooMuchWork as error:
        return Answer((), "response", f"the response asks for {error}", "work_limit", None, remembered)
    status = "no_answer" if not source else "ambiguous" if "different" in trouble else "unparsable"
    return Answer((), source, trouble, status, None, remembered)


def _found_in(response: str, found: Statement | None) -> Found:
    text = final_part(response)
    if found is not None and found.rule == "boxed":
        return _boxed(text)
    if "\\boxed" in text and (opened := last_box(text)) >= 0:
        closed = braces(text, opened - 1) >= 0
        return [], "boxed", "the box is empty" if closed else "the box is never closed"
    if found is not None:
        return _stated(found.text, found.rule)
    whole = text.strip()
    if not whole:
        return [], "", "the response is empty"
    if len(whole) <= _WHOLE_LIMIT and not _INLINE_ACROSS_LINES.search(whole):
        reading = read(whole)
        if reading.tree is not None or reading.choice:
            return [reading], "whole", ""
    prose = read_last_line(_last_line(whole))
    if prose is not None:
        return [prose], "prose", ""
    if len(whole) <= 200 and "\n" not in whole:
        reading = read(whole)
        if reading.words and not re.search(r"[\d\\=<>@^]", reading.words):
            return [reading], "whole", ""
    return [], "", "the response states no answer"


def _stated(text: str, rule: str) -> Found:
    reading = read(text)
    if reading.tree is None and not reading.choice:
        prose = read_prose(text)
        if prose is not None:
            return [prose], rule, ""
        if not reading.words or re.search(r"\d", reading.words):
            return [], rule, f"{shown(text)!r} cannot be read: {reading.why}"
    return [reading], rule, ""


def _one_box(content: str) -> Found:
    reading = read(content)
    unread = reading.tree is None and not reading.choice and not re.search(r"[A-Za-z]{2}", reading.words)
    if unread or not reading.words or (reading.tree is None and "\\" in reading.words):
        return [], "boxed", f"the box {shown(content)!r} cannot be read: {reading.why}"
    return [reading], "boxed", ""


def _boxed(text: str) -> Found:
    spans = box_spans(text)
    kept: list[Reading] = []
    for _, _, content in spans:
        one, _, trouble = _one_box(content)
        if trouble:
            return [], "boxed", trouble
        if not any(match(other, one[0], STRICT) for other in kept):
            kept.append(one[0])
    if len(kept) == 1:
        return kept, "boxed", ""
    for (_, end, _), (start, _, _) in pairwise(spans):
        between = text[end:start]
        if len(between) > _BETWEEN_LIMIT or len(re.findall(r"(?<![\\A-Za-z])[A-Za-z]+", between)) > 4:
            settled = final_statement(text[spans[-1][1] :])
            if settled is None:
                return [], "boxed", "boxes with different answers"
            return _stated(settled.text, settled.rule)
    return kept, "boxes", ""


def _listed(readings: Sequence[Reading]) -> Reading:
    """Boxes that stand together as one list."""
    items: list[Node] = []
    for reading in readings:
        if reading.tree is None:
            return Reading(None, ", ".join(r.words for r in readings))
        items += reading.tree.args if reading.tree.kind == "list" else (reading.tree,)
    return Reading(Node("list", None, tuple(items)), ", ".join(r.words for r in readings))


def _last_line(text: str) -> str:
    """The last line; a display that ends the text is taken whole."""
    text = text.rstrip()
    for left, right in (("\\[", "\\]"), ("$$", "$$")):
        if text.rstrip(".").endswith(right):
            start = text.rstrip(".")[: -len(right)].rfind(left)
            if start >= 0:
                return text[start:]
    return text[-MAX_CHARACTERS:].rsplit("\n", 1)[-1]
