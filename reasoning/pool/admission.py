"""What values the pool takes. Every row is looked at before it is written, because a write-ahead file holds any
JSON while a shard holds what its columns hold: a value that only the first takes could never be sealed.

This module knows nothing of files.
"""

from __future__ import annotations

import math
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

from reasoning.errors import PoolError, UserError
from reasoning.records import Chain, Cost, Problem
from verifiers.base import Verdict

INT64_MAX = 2**63 - 1
_COUNTS = ("prompt_tokens", "cached_tokens", "output_tokens", "scored_tokens")


def is_count(value: Any) -> bool:
    """A whole number from 0 that a 64-bit column holds; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool) and 0 <= int(value) <= INT64_MAX


def as_float(value: Any) -> float | None:
    """``value`` as a float, or None when it is no number or too large for one."""
    if not isinstance(value, Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def check_text(value: Any, what: str) -> None:
    """Raises PoolError when ``value`` is not text that a file can hold."""
    if type(value) is str and value.isascii():
        return
    try:
        if not isinstance(value, str):
            raise PoolError(f"{what} must be text, not {short(value)}; nothing was stored.")
        value.encode()
    except UnicodeEncodeError:
        raise PoolError(
            f"{what} holds half of a surrogate pair: {ascii(value)[:60]}; nothing was stored."
        ) from None


def check_problem(problem: Problem) -> None:
    """Raises PoolError. A lone surrogate in the prompt is allowed: it is replaced."""
    check_text(problem.id, "A problem's id")
    check_text(problem.task, f"Problem {problem.id}: task")
    if not isinstance(problem.prompt, str):
        raise PoolError(
            f"Problem {problem.id}: prompt must be text, not {short(problem.prompt)}; nothing was stored."
        )


def check_chain(chain: Chain) -> None:
    """Raises PoolError for a value that no shard takes. Token ids and log-probabilities are checked when they
    are packed."""
    if not is_count(chain.index):
        raise PoolError(
            f"Chain {chain.key}: index must be a whole number from 0 to 2^63 - 1, not {short(chain.index)}; "
            "nothing was stored."
        )
    for name in ("model", "finish_reason"):
        check_text(getattr(chain, name), f"Chain {chain.key}: {name}")
    if chain.cost is not _FREE:
        check_cost(chain.cost, f"Chain {chain.key}")


_FREE = Chain("", 0, "").cost


def check_cost(cost: Cost, what: str) -> None:
    for name in _COUNTS:
        if not is_count(value := getattr(cost, name)):
            raise PoolError(f"{what}: {name} must be a count, not {short(value)}; nothing was stored.")
    for name in ("flops", "seconds"):
        value = getattr(cost, name)
        if not isinstance(value, float) and (as_float(value) is None or abs(value) > 2**53):
            raise PoolError(f"{what}: {name} must be a float, not {short(value)}; nothing was stored.")


def admit_verdict(verifier: str, verdict: Any) -> Verdict:
    """The verdict as it is stored: numbers as plain floats, a score that is not a number as None (missing).

    Raises UserError that names the verifier and what is wrong.
    """
    who = f"Verifier {verifier!r} gave"
    if not isinstance(verdict, Verdict):
        raise UserError(f"{who} {short(verdict)} where a Verdict was due.")
    score, steps = verdict.score, verdict.steps
    if score is not None:
        score = as_float(score)
        if score is None or not (math.isnan(score) or 0 <= score <= 1):
            raise UserError(f"{who} a score of {short(verdict.score)} (a score lies in [0, 1]).")
        if math.isnan(score):
            score = None
    if verdict.answer is not None and not isinstance(verdict.answer, str):
        raise UserError(f"{who} the answer {short(verdict.answer)} (an answer is text, or None).")
    for name in ("status", "rule", "reason"):
        if not isinstance(value := getattr(verdict, name), str):
            raise UserError(f"{who} the {name} {short(value)} (it is text).")
        if name != "reason" and not value.isascii() and value != value.encode(errors="replace").decode():
            raise UserError(f"{who} the {name} {ascii(value)[:60]} (half of a surrogate pair).")
    if steps is not None:
        numbers = [as_float(s) for s in steps] if isinstance(steps, list | tuple) else [None]
        if None in numbers:
            raise UserError(f"{who} the steps {short(steps)} (they are numbers).")
        steps = tuple(n for n in numbers if n is not None)
    flops = as_float(verdict.flops)
    if flops is None or not 0 <= flops < math.inf:
        raise UserError(f"{who} flops of {short(verdict.flops)} (they are a number from 0).")
    if not is_count(verdict.scored_tokens):
        raise UserError(f"{who} scored_tokens of {short(verdict.scored_tokens)} (they are a count).")
    if (
        type(verdict.score) is type(score)
        and type(verdict.flops) is float
        and type(verdict.scored_tokens) is int
        and (steps is None or _plain(verdict.steps))
    ):
        return verdict
    return replace(verdict, score=score, steps=steps, flops=flops, scored_tokens=int(verdict.scored_tokens))


def _plain(steps: Any) -> bool:
    return type(steps) is tuple and all(type(s) is float for s in steps)


def short(value: Any) -> str:
    """``value`` for a message: one line of at most 60 characters."""
    try:
        text = ascii(value)
    except ValueError:
        return f"a {type(value).__name__} of too many digits"
    return text if len(text) <= 60 else text[:57] + "..."
