r"""`math`: the stated answer equals the reference, compared by the kind of thing the reference is.

A fast path (text, integers, rationals) answers most pairs; the rest is read by a parser of our own and compared
as trees and by exact or many-digit values (`verifiers.expressions`). No model text is executed, anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

from verifiers.base import Attempt, Verdict
from verifiers.errors import VerifierError
from verifiers.expressions import canonical
from verifiers.expressions.compare import Tolerance, equal
from verifiers.expressions.evaluate import NoValue, value
from verifiers.expressions.nodes import Node, number_of
from verifiers.extract import MAX_CHARACTERS, Statement, box_spans, final_part, final_statement, statement
from verifiers.judging import BadReference, RuleVerifier, no_answer, shown
from verifiers.reading import Reading, read, read_prose

_BETWEEN = re.compile(r"\\[A-Za-z]+|[^A-Za-z\\]+")
_OPENED = re.compile(r"\\boxed\s*\{")
_INLINE_ACROSS_LINES = re.compile(r"(?<![\\$])\$(?!\$)[^$]*\n|\\\([^)]*\n")
_WHOLE_LIMIT = 4_000


class Mathematics(RuleVerifier):
    """Answers of competition and school mathematics: numbers, expressions, tuples, sets, intervals, inequalities,
    equations, matrices, families, units, times, choices, words (see docs/adr/0003).

    tolerance: relative, applied where a decimal is present. 0 is strict: a decimal equals an exact value only
        when it gives at least 12 significant digits of it.
    rename: an answer in another letter counts ("f(y)" for "f(x)").

    A reference that cannot be read as mathematics is compared as words.
    """

    def __init__(self, tolerance: float = 0.0, rename: bool = False):
        if not 0 <= tolerance < 1:
            raise VerifierError(f"math: tolerance must lie in [0, 1), not {tolerance}")
        self.how = Tolerance(tolerance, rename)
        options = [f"tolerance={tolerance!r}"] * bool(tolerance) + ["rename=true"] * rename
        self.name = "math" + (":" + ",".join(options) if options else "")

    def judge(self, attempt: Attempt) -> Verdict:
        gold = self.reference(attempt.reference)
        readings, source, trouble = answers_in(attempt.response)
        if trouble:
            status = "no_answer" if not source else "ambiguous" if "different" in trouble else "unparsable"
            return (
                no_answer(trouble) if status == "no_answer" else Verdict(0.0, status=status, reason=trouble)
            )
        answer = readings[0] if len(readings) == 1 else _listed(readings)
        vote = canonical.key(answer.tree, answer.words, answer.choice)
        rule = match(gold, answer, self.how)
        if rule is None and len(readings) > 1:
            rule = next((f"{r} boxes" for r in [_one_of_boxes(gold, readings, self.how)] if r), None)
        if rule:
            return Verdict(1.0, vote, rule=rule, reason=f"equal ({rule}, {source})")
        reason = f"{shown(answer.words)!r} is not {shown(gold.words)!r} ({source})"
        return Verdict(0.0, vote, rule=answer.tree.kind if answer.tree else "text", reason=reason)

    def stated(self, response: str) -> str | None:
        readings, _, trouble = answers_in(response)
        if trouble:
            return None
        answer = readings[0] if len(readings) == 1 else _listed(readings)
        return canonical.key(answer.tree, answer.words, answer.choice)

    def reference(self, reference: object) -> Reading:
        """Raises BadReference."""
        if isinstance(reference, bool) or not isinstance(reference, str | int | float):
            raise BadReference(f"math needs a reference of text or a number, not {type(reference).__name__}")
        return _reference(str(reference))


@lru_cache(maxsize=16_384)
def _reference(text: str) -> Reading:
    if not text.strip():
        raise BadReference("the reference is empty")
    readings, _, trouble = answers_in(text)
    if trouble:
        readings = [read(_OPENED.split(text)[-1])]
    gold = readings[0] if len(readings) == 1 else _listed(readings)
    if gold.tree is None and (not gold.words or gold.words == "nan"):
        raise BadReference(f"the reference {shown(text)!r} cannot be read: {gold.why}")
    if gold.tree is not None and _undefined(gold.tree):
        raise BadReference(f"the reference {shown(text)!r} has no value")
    return gold


def _undefined(tree: Node) -> bool:
    """A constant whose value does not exist: 1/0, 0^0."""
    if (
        tree.kind not in ("div", "pow", "mul", "add", "neg")
        or tree.variables()
        or tree.has("pm", "matrix", "const")
    ):
        return False
    try:
        value(tree)
    except ZeroDivisionError:
        return True
    except NoValue as error:
        return "zero" in str(error) or "0^0" in str(error)
    return False


def _wordy(reading: Reading) -> bool:
    return reading.tree is None or reading.tree.kind == "text"


def match(gold: Reading, answer: Reading, how: Tolerance) -> str | None:
    """The rule by which an answer equals the reference, or None."""
    if (
        gold.words
        and gold.words == answer.words
        and ((_wordy(gold) and _wordy(answer)) or gold.tree == answer.tree)
    ):
        return "text"
    if gold.choice and gold.choice == answer.choice:
        return "choice"
    if gold.tree is None or answer.tree is None:
        return None
    left, right = number_of(gold.tree), number_of(answer.tree)
    if left is not None and left == right:
        return "integer" if left.denominator == 1 else "rational"
    if gold.tree.kind == answer.tree.kind == "num" and not gold.more and not answer.more:
        return None
    if gold.tree.kind == "text" or answer.tree.kind == "text":
        if gold.tree.kind == answer.tree.kind:
            if gold.words != answer.words and set(gold.words + answer.words) <= set("xyz"):
                return next(
                    (rule for g in gold.more for a in answer.more if (rule := equal(g, a, how))), None
                )
            return "text" if gold.words == answer.words else None
        pairs = [(g, a) for g in (gold.tree, *gold.more) for a in (answer.tree, *answer.more)]
    else:
        pairs = [(gold.tree, answer.tree)]
        pairs += [(gold.tree, other) for other in answer.more if gold.tree.kind != "list"]
        pairs += [(other, answer.tree) for other in gold.more if answer.tree.kind != "list"]
    for one, other in pairs:
        rule = equal(one, other, how) if "text" not in (one.kind, other.kind) else None
        if rule:
            return rule
    return None


def answers_in(response: str) -> tuple[list[Reading], str, str]:
    """(readings, how the answer was stated, trouble). More than one reading: boxes that stand together and form
    one answer. Trouble is "" when there is at least one reading."""
    text = final_part(response)
    found = statement(response)
    if found is not None and found.rule == "boxed":
        return _boxed(text)
    if "\\boxed" in text and _OPENED.search(text):
        return [], "boxed", "the box is never closed"
    if found is None and not text.strip():
        return [], "", "the response is empty"
    if found is not None:
        return _stated(found)
    whole = text.strip()
    if len(whole) <= _WHOLE_LIMIT and not _INLINE_ACROSS_LINES.search(whole):
        reading = read(whole)
        if reading.tree is not None or reading.choice:
            return [reading], "whole", ""
    prose = read_prose(_last_line(whole))
    if prose is not None:
        return [prose], "prose", ""
    if len(whole) <= 200 and "\n" not in whole:
        reading = read(whole)
        if reading.words and not re.search(r"[\d\\=<>@^]", reading.words):
            return [reading], "whole", ""
    return [], "", "the response states no answer"


def _stated(found: Statement) -> tuple[list[Reading], str, str]:
    reading = read(found.text)
    if reading.tree is None and not reading.choice:
        prose = read_prose(found.text)
        if prose is not None:
            return [prose], found.rule, ""
        if not reading.words or re.search(r"\d", reading.words):
            return [], found.rule, f"{shown(found.text)!r} cannot be read: {reading.why}"
    return [reading], found.rule, ""


def _boxed(text: str) -> tuple[list[Reading], str, str]:
    spans = box_spans(text)
    readings = [read(content) for _, _, content in spans]
    kept: list[Reading] = []
    for reading, (_, _, content) in zip(readings, spans, strict=True):
        if reading.tree is None and not reading.choice and not re.search(r"[A-Za-z]{2}", reading.words):
            return [], "boxed", f"the box {shown(content)!r} cannot be read: {reading.why}"
        if not reading.words or (reading.tree is None and "\\" in reading.words):
            return [], "boxed", f"the box {shown(content)!r} cannot be read: {reading.why}"
        if not any(match(other, reading, Tolerance()) for other in kept):
            kept.append(reading)
    if len(kept) == 1:
        return kept, "boxed", ""
    for (_, end, _), (start, _, _) in pairwise(spans):
        between = text[end:start]
        if len(between) > 80 or len(re.findall(r"(?<![\\A-Za-z])[A-Za-z]+", between)) > 4:
            settled = final_statement(text[spans[-1][1] :])
            return _stated(settled) if settled else ([], "boxed", "boxes with different answers")
    return kept, "boxes", ""


def _listed(readings: Sequence[Reading]) -> Reading:
    """Boxes that stand together as one list."""
    items: list[Node] = []
    for reading in readings:
        if reading.tree is None:
            return Reading(None, ", ".join(r.words for r in readings))
        items += reading.tree.args if reading.tree.kind == "list" else (reading.tree,)
    return Reading(Node("list", None, tuple(items)), ", ".join(r.words for r in readings))


def _one_of_boxes(gold: Reading, readings: Sequence[Reading], how: Tolerance) -> str | None:
    """Two boxes that give one answer in two dresses, each of which matches."""
    rules = [match(gold, reading, how) for reading in readings]
    return rules[-1] if all(rules) else None


def _last_line(text: str) -> str:
    """The last line; a display that ends the text is taken whole."""
    text = text.rstrip()
    for left, right in (("\\[", "\\]"), ("$$", "$$")):
        if text.rstrip(".").endswith(right):
            start = text.rstrip(".")[: -len(right)].rfind(left)
            if start >= 0:
                return text[start:]
    return text[-MAX_CHARACTERS:].rsplit("\n", 1)[-1]
