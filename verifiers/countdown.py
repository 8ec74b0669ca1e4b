"""`countdown` and `game24`: reach a target from given numbers with + - * /.

The puzzle is in ``Attempt.metadata`` ({"numbers": [...], "target": n, "use_all": bool}); no reference is
read, so these verifiers can be deployed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from verifiers.arithmetic import Node, NotArithmetic, canonical, parse_arithmetic
from verifiers.base import Attempt, Verdict
from verifiers.extract import final_part, statement
from verifiers.judging import BadReference, RuleVerifier, no_answer, shown
from verifiers.normalise import plain_unicode, unwrap
from verifiers.numbers import as_number

_CUE = re.compile(
    r"^(?:the\s+)?(?:final\s+)?(?:answer|expression|solution)\s*(?:is)?\s*[:=]?\s*", re.IGNORECASE
)


class Countdown(RuleVerifier):
    """The stated expression must use each given number at most once (``use_all``: exactly once) and equal the
    target exactly. "= value" may stand beside it; the expression alone decides.

    use_all, target: defaults for puzzles whose metadata do not say.
    """

    oracle = False

    def __init__(self, use_all: bool = False, target: int = 0, *, name: str = "countdown"):
        self.use_all, self.target = use_all, target
        options = [f"use_all={str(use_all).lower()}"] * (use_all and name == "countdown")
        options += [f"target={target}"] * (target != 0 and name == "countdown")
        self.name = name + (":" + ",".join(options) if options else "")

    def judge(self, attempt: Attempt) -> Verdict:
        numbers, target, use_all = self._puzzle(attempt.metadata)
        text = stated_expression(attempt.response)
        if text is None:
            return no_answer()
        try:
            node, claims = _sides(text)
            value = node.value()
        except NotArithmetic as error:
            return Verdict(0.0, status="unparsable", reason=f"{shown(text)!r}: {error}")
        except ZeroDivisionError:
            return Verdict(0.0, status="unparsable", reason=f"{shown(text)!r} divides by zero")
        answer = canonical(node)
        used = Counter(Fraction(n) for n in node.numbers())
        given = Counter(numbers)
        reason = ""
        if used - given:
            extra = ", ".join(str(n) for n in sorted((used - given).elements()))
            reason = f"{shown(extra)} used but not given (or used too often)"
        elif use_all and given - used:
            reason = f"{shown(', '.join(str(n) for n in sorted((given - used).elements())))} not used"
        elif value != target:
            reason = f"equals {shown(value)}, not {target}"
        said = "" if all(claim == value for claim in claims) else ", though said to equal something else"
        return Verdict(
            float(not reason), answer, rule="arithmetic", reason=(reason or f"equals {target}") + said
        )

    def _puzzle(self, metadata: Mapping[str, Any]) -> tuple[list[Fraction], Fraction, bool]:
        if not isinstance(metadata, Mapping) or "numbers" not in metadata:
            raise BadReference('the puzzle is missing: metadata needs "numbers" (and "target")')
        given = metadata["numbers"]
        given = given.split() if isinstance(given, str) else given
        if not isinstance(given, list | tuple) or not given:
            raise BadReference(f'metadata "numbers" must be a list of numbers, not {shown(given)!r}')
        numbers = [as_number(n) for n in given]
        target = as_number(metadata.get("target", self.target or None))
        if target is None and metadata.get("target") is None:
            raise BadReference('the target is missing: metadata needs "target" (or countdown:target=24)')
        if target is None or any(n is None for n in numbers):
            raise BadReference('metadata "numbers" and "target" must be numbers')
        return [n for n in numbers if n is not None], target, bool(metadata.get("use_all", self.use_all))


def game24() -> Countdown:
    """All four numbers, each exactly once, to make 24."""
    return Countdown(use_all=True, target=24, name="game24")


def stated_expression(response: str) -> str | None:
    """What the response states ("the answer is ...", a box), else its last line that is not empty."""
    found = statement(response)
    if found is not None:
        text = found.text
    else:
        lines = final_part(response).rstrip().rsplit("\n", 1)
        text = lines[-1]
    text = unwrap(_CUE.sub("", unwrap(plain_unicode(text[:4000]).strip())))
    return text or None


def _sides(text: str) -> tuple[Node, list[Fraction]]:
    """The expression of ``a op b ... = value`` (on either side) and the values it is said to equal."""
    nodes = [parse_arithmetic(side) for side in text.split("=")]
    if len(nodes) > 4:
        raise NotArithmetic("more than three equals signs")
    nodes.sort(key=lambda node: node.operator == "")
    return nodes[0], [node.value() for node in nodes[1:]]
