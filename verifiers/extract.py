r"""Where a response states its answer: ``\boxed{}``, ``<answer>``, "final answer", ``####``, "the answer is".

Reads text only; it knows neither the reference nor what kind of answer is expected. Nothing here guesses: a
response without a statement has none. (`math` then reads the last line alone, and takes a value from it only where
the line is that value or asserts it: see `verifiers.prose`.)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_CHARACTERS = 1_000_000
"""Longer responses are read from their end; an answer stands there."""

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z])\s*")
_OPENED = re.compile(r"\\boxed\s*\{")
_BOXED_TOKEN = re.compile(r"\\?[A-Za-z0-9.]+")
_EMPTY_BOX = re.compile(
    r"(?:\\[hv]?phantom\s*\{[^{}]*\}|\\[hv]space\s*\{[^{}]*\}|\\q?quad|\\[ ,;:!]|[\s~_?]|\\_)*"
)
_BRACE = re.compile(r"[{}]|\\.", re.DOTALL)
_HASHES = re.compile(r"^[ \t]*####[ \t]*(\S[^\n]*)$", re.MULTILINE)
_FINAL = re.compile(
    r"\bfinal\s+(?:answer|result)s?\b(?:\s{1,4}[-\u2013\u2014]\s|[\s*_:>#\"'}\u2192\u2705]){0,8}(?:is|are|=)?\s*[:=]?\s*",
    re.IGNORECASE,
)
_STATED_CUES = ("answer", "result", "solution", "option", "choice", "a:")
_STATED = re.compile(
    r"\b(?:answer|result|solution|option|choice)\"?(?:\s|\*\*){0,40}"
    r"(?:is(?!n)|are(?!n)|:|=|would be|will be|must be)\s*"
    r"|^[ \t]*A:[ \t]*",
    re.IGNORECASE | re.MULTILINE,
)
BOLD = re.compile(r"(?<![\w)}])\*\*|\*\*(?![\w({\\])")
_END = re.compile(r"\n|(?<![A-Z])[.!?](?=\s+[A-Z\n]|\s*$)")


_MOST_CUES = 2_000
"""So many words that may begin a statement are looked at, from the end, before a response is taken to make none."""


@dataclass(frozen=True, slots=True)
class Statement:
    """text: the answer as it was written. rule: where it stood ("boxed", "tag", "final", "hashes", "stated",
    "whole"). others: further statements of the same rank, which must agree with it (boxes only)."""

    text: str
    rule: str
    others: tuple[str, ...] = ()


def final_part(response: str) -> str:
    """The response without its private thoughts: what follows the last ``</think>``."""
    response = response[-MAX_CHARACTERS:]
    cut = response.rfind("</think>")
    return response if cut < 0 else response[cut + len("</think>") :]


def braces(text: str, start: int) -> int:
    """Index after the brace that closes the one at ``start``; -1 when it never closes."""
    depth = 0
    for match in _BRACE.finditer(text, start):
        c = match.group()
        if c == "{":
            depth += 1
        elif c == "}":
            depth -= 1
            if depth == 0:
                return match.end()
    return -1


def _box_starts(text: str, most: int) -> list[int]:
    """Where the last ``most`` commands that draw a box begin; plain search, for most of a response is other
    commands."""
    found: list[int] = []
    for name in ("\\boxed", "\\fbox", "\\framebox"):
        at, count = text.rfind(name), 0
        while at >= 0 and count < most:
            found.append(at)
            at, count = text.rfind(name, 0, at), count + 1
    found.sort()
    return found[-most:]


def last_box(text: str) -> int:
    """Where the content of the last ``\\boxed{``, closed or not, begins; -1 without one."""
    at = text.rfind("\\boxed")
    while at >= 0:
        opened = _OPENED.match(text, at)
        if opened:
            return opened.end()
        at = text.rfind("\\boxed", 0, at)
    return -1


def box_spans(text: str, most: int = 64) -> list[tuple[int, int, str]]:
    r"""(start, end, content) of the complete ``\boxed{...}`` and ``\fbox{...}``, outermost, in order; the last
    ``most``. A box that holds only a box is unwrapped, and one drawn
    as a blank (empty, spaces, ``\\phantom``) is passed over. ``\boxed 5`` (no braces) boxes one token."""
    found: list[tuple[int, int, str]] = []
    after = 0
    for start in _box_starts(text, most):
        if start < after or (match := _BOX.match(text, start)) is None:
            continue
        at = match.end()
        if text[at : at + 1] == "{":
            end = braces(text, at)
            if end < 0:
                continue
            content, after = text[at + 1 : end - 1], end
            if not content[:1].isalnum() and _EMPTY_BOX.fullmatch(content):
                continue
            while "box" in content and _BOX.match(content.strip()) and len(inner := box_spans(content)) == 1:
                content = inner[0][2]
            found.append((start, end, content))
        else:
            token = _BOXED_TOKEN.match(text, at)
            if token:
                after = token.end()
                found.append((start, after, token.group().rstrip(".")))
    return found


def boxes(text: str) -> list[str]:
    """The contents of `box_spans`."""
    return [content for _, _, content in box_spans(text)]


def _last(pattern: re.Pattern[str], text: str, cues: tuple[str, ...]) -> re.Match[str] | None:
    """The last match, each of which begins with one of the ``cues`` (lower case): searched for from the end."""
    low = text.lower()
    if len(low) != len(text):  # a few capitals of other scripts grow
        low = re.sub("[A-Z]", lambda m: m.group().lower(), text)
    places = {cue: low.rfind(cue) for cue in cues}
    for _ in range(_MOST_CUES):
        cue = max(places, key=places.__getitem__)
        start = places[cue]
        if start < 0:
            return None
        begin = start
        while cue == "a:" and begin and text[begin - 1] in " \t":
            begin -= 1
        match = pattern.match(text, begin)
        if match is not None:
            return match
        places[cue] = low.rfind(cue, 0, start)
    return None


def _sentence(text: str, start: int) -> str:
    """From ``start`` to the end of the sentence or line; an opened mathematics span is kept whole."""
    rest = text[start : start + 2000]
    if "**" in rest:
        rest = BOLD.sub("", rest)
    rest = rest.lstrip(" \t:")
    stripped = rest.lstrip()
    if stripped[:1] in ("$", "\\"):
        for left, right in (("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"), ("$", "$")):
            if stripped.startswith(left):
                end = stripped.find(right, len(left))
                if end > 0 and not (left == "$" and "\n" in stripped[:end]):
                    return stripped[: end + len(right)] + _to_end(stripped[end + len(right) :])
    return _to_end(rest)


def _to_end(text: str) -> str:
    end = _END.search(text)
    return text if end is None else text[: end.start()]


def final_statement(text: str) -> Statement | None:
    """What follows the last "final answer"."""
    if "final" not in text and "Final" not in text and "FINAL" not in text:
        return None
    last = _last(_FINAL, text, ("final",))
    said = _sentence(text, last.end()) if last is not None else ""
    return Statement(said, "final") if said.strip() else None


def _tagged(text: str) -> str | None:
    """The content of the last closed ``<answer>``."""
    low = text
    if "<A" in text or "</A" in text:
        low = re.sub("</?answer>", lambda m: m.group().lower(), text, flags=re.IGNORECASE)
    closed = low.rfind("</answer>")
    for _ in range(_MOST_CUES):
        if closed < 0:
            return None
        opened = low.rfind("<answer>", 0, closed)
        if opened < 0:
            return None
        between = low.rfind("</answer>", opened, closed)
        if between < 0:
            return text[opened + len("<answer>") : closed]
        closed = between
    return None


def statement(response: str) -> Statement | None:
    """The answer that the response states, by the most trusted way it uses; None when it states none.

    Order of trust: boxes, ``<answer>`` tags, "final answer", ``####``, "the answer is". Within one way the
    last counts.
    """
    text = final_part(response)
    if "\\" in text:
        found = boxes(text)
        if found:
            return Statement(found[-1], "boxed", tuple(found[:-1]))
    if "</a" in text or "</A" in text:
        tag = _tagged(text)
        if tag is not None:
            return Statement(tag, "tag")
    final = final_statement(text)
    if final is not None:
        return final
    if "####" in text:
        found = _HASHES.findall(text)
        if found:
            return Statement(found[-1], "hashes")
    last = _last(_STATED, text, _STATED_CUES)
    if last is not None:
        said = _sentence(text, last.end())
        if said.strip():
            return Statement(said, "stated")
    return None
