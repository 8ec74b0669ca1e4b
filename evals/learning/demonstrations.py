"""Imperfect demonstrations for three tasks of reasoning-gym, which has answers but no work: what a cold start reads.

Imperfect by design, like those of the task `word`: some only state the (right) answer, and where work is shown a step
may slip and carry its error on. A model that imitates them is mediocre, and what is right can be reinforced.
"""

from __future__ import annotations

import json
import random
import re
import string
from collections.abc import Callable
from pathlib import Path

from reasoning.records import Problem
from reasoning.tasks import load_problems
from reasoning.tasks.base import rng_of

SLIP = 0.1
"""Chance that a step of the work is wrong."""
SLIP_LETTER = 0.12
"""Chance that a letter is wrong, missing or doubled."""
BARE = 0.2
"""Chance that no work is shown (of `spell_backward`: that the word is not turned round at all)."""


def write_demonstrations(spec: str, path: Path, seed: int) -> None:
    """JSONL rows of {prompt, completion} for the problems that ``spec`` (``gym:TASK:train:...``) names."""
    show = SHOWN[spec.split(":")[1]]
    rows = []
    for problem in load_problems(spec):
        completion = show(problem, rng_of("demonstration", problem.id, seed))
        rows.append(json.dumps({"prompt": problem.prompt, "completion": completion}) + "\n")
    partial = path.with_suffix(".partial")
    partial.write_text("".join(rows), encoding="utf-8")
    partial.replace(path)


def slipped(right: int, rng: random.Random) -> int:
    """``right``, or with the chance `SLIP` a plausible wrong number."""
    return right + rng.choice((-10, -2, -1, 1, 2, 10)) if rng.random() < SLIP else right


def chain_sum(problem: Problem, rng: random.Random) -> str:
    """ "15 - 43 - 75" -> " 15-43=-28. -28-75=-103. \\boxed{-103}"."""
    if rng.random() < BARE:
        return f" \\boxed{{{problem.reference}}}"
    expression = problem.metadata["entry"]["metadata"]["expression"]
    first, *rest = re.findall(r"\d+|[+-]", expression)
    value, lines = int(first), []
    for sign, term in zip(rest[::2], rest[1::2], strict=True):
        result = slipped(value + int(sign + term), rng)
        lines.append(f" {value}{sign}{term}={result}.")
        value = result
    return f"{''.join(lines)} \\boxed{{{value}}}"


def products(problem: Problem, rng: random.Random) -> str:
    """ "15 * 43" -> " 15*40=600. 15*3=45. 600+45=645. \\boxed{645}"."""
    if rng.random() < BARE:
        return f" \\boxed{{{problem.reference}}}"
    left, right = map(int, problem.metadata["entry"]["metadata"]["expression"].split("*"))
    parts = [part for part in (right // 10 * 10, right % 10) if part] or [0]
    results = [slipped(left * part, rng) for part in parts]
    lines = [f" {left}*{part}={result}." for part, result in zip(parts, results, strict=True)]
    value = results[0]
    if len(results) > 1:
        value = slipped(sum(results), rng)
        lines.append(f" {results[0]}+{results[1]}={value}.")
    return f"{''.join(lines)} \\boxed{{{value}}}"


def spell_backward(problem: Problem, rng: random.Random) -> str:
    """ "ammonia" -> " \\boxed{ainomma}", letters slipping; or the word as it was."""
    word = problem.metadata["entry"]["metadata"]["word"]
    if rng.random() < BARE:
        return f" \\boxed{{{word}}}"
    out = ""
    for letter in reversed(word):
        if rng.random() < SLIP_LETTER:
            letter = rng.choice((rng.choice(string.ascii_lowercase), "", 2 * letter))
        out += letter
    return f" \\boxed{{{out}}}"


SHOWN: dict[str, Callable[[Problem, random.Random], str]] = {
    f.__name__: f for f in (chain_sum, products, spell_backward)
}
