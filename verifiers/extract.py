r"""Where a response states its answer: ``\boxed{}``, ``<answer>``, "final answer", ``####``, "the answer is".

Reads text only; it knows neither the reference nor what kind of answer is expected. Nothing here guesses: a
response without a statement has no answer, and a number in the prose is never taken for one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_CHARACTERS = 1_000_000
"""Longer responses are read from their end; an answer stands there."""

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z])\s*")
_BOXED_TOKEN = re.compile(r"\\?[A-Za-z0-9.]+")
_EMPTY_BOX = re.compile(
    r"(?:\\[hv]?phantom\s*\{[^{}]*\}|\\[hv]space\s*\{[^{}]*\}|\\q?quad|\\[ ,;:!]|[\s~_?]|\\_)*"
)
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_HASHES = re.compile(r"^[ \t]*####[ \t]*(\S[^\n]*)$", re.MULTILINE)
_FINAL = re.compile(r"\bfinal\s+(?:answer|result)\b\W{0,6}(?:is|are|=)?\s*[:=]?\s*", re.IGNORECASE)
_STATED = re.compile(
    r"\b(?:answer|result|solution|option|choice)\s*(?:\*\*)?\s*(?:is(?!n)|are(?!n)|:|=|would be|will be|must be)\s*"
    r"|^[ \t]*A:[ \t]*",
    re.IGNORECASE | re.MULTILINE,
)
_BOLD = re.compile(r"(?<![\w)}])\*\*|\*\*(?![\w({\\])")
_END = re.compile(r"\n|(?<![A-Z])[.!?](?=\s+[A-Z\n]|\s*$)")


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
    i = start
    n = len(text)
    while i < n:
        c = text[i]
        if c == "\\":
            i += 2
            continue
        if c == "{":
            depth += 1
        elif c == "}":
            depth -= 1
            if depth == 0:
                return i + 1
        i += 1
    return -1


def box_spans(text: str, most: int = 64) -> list[tuple[int, int, str]]:
    r"""(start, end, content) of the complete ``\boxed{...}`` and ``\fbox{...}``, outermost, in order; the last
    ``most``. A box that holds only a box is unwrapped, and one drawn
    as a blank (empty, spaces, ``\\phantom``) is passed over. ``\boxed 5`` (no braces) boxes one token."""
    found: list[tuple[int, int, str]] = []
    after = 0
    for match in list(_BOX.finditer(text))[-most:]:
        if match.start() < after:
            continue
        at = match.end()
        if at < len(text) and text[at] == "{":
            end = braces(text, at)
            if end < 0:
                continue
            content, after = text[at + 1 : end - 1], end
            if _EMPTY_BOX.fullmatch(content):
                continue
            while _BOX.match(content.strip()) and len(inner := box_spans(content)) == 1:
                content = inner[0][2]
            found.append((match.start(), end, content))
        else:
            token = _BOXED_TOKEN.match(text, at)
            if token:
                after = token.end()
                found.append((match.start(), after, token.group().rstrip(".")))
    return found


def boxes(text: str) -> list[str]:
    """The contents of `box_spans`."""
    return [content for _, _, content in box_spans(text)]


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    match = None
    for match in pattern.finditer(text):  # noqa: B007
        pass
    return match


def _sentence(text: str, start: int) -> str:
    """From ``start`` to the end of the sentence or line; an opened mathematics span is kept whole."""
    rest = _BOLD.sub("", text[start : start + 2000]).lstrip(" \t:")
    stripped = rest.lstrip()
    for left, right in (("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"), ("$", "$")):
        if stripped.startswith(left):
            end = stripped.find(right, len(left))
            if end > 0 and not (left == "$" and "\n" in stripped[:end]):
                tail = _END.split(stripped[end + len(right) :], maxsplit=1)[0]
                return stripped[: end + len(right)] + tail
    return _END.split(rest, maxsplit=1)[0]


def final_statement(text: str) -> Statement | None:
    """What follows the last "final answer"."""
    if "final" not in text and "Final" not in text and "FINAL" not in text:
        return None
    last = _last(_FINAL, text)
    said = _sentence(text, last.end()) if last is not None else ""
    return Statement(said, "final") if said.strip() else None


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
    if "<" in text:
        tags = _TAG.findall(text)
        if tags:
            return Statement(tags[-1], "tag")
    final = final_statement(text)
    if final is not None:
        return final
    if "####" in text:
        found = _HASHES.findall(text)
        if found:
            return Statement(found[-1], "hashes")
    low = text.lower()
    if any(cue in low for cue in ("answer", "result", "solution", "option", "choice", "a:")):
        last = _last(_STATED, text)
        if last is not None:
            said = _sentence(text, last.end())
            if said.strip():
                return Statement(said, "stated")
    return None
