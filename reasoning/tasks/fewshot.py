"""Few-shot prompts: which worked examples stand before a problem, never the problem itself.

Examples come from the task (its training split, or its own generator), or where it has none from exemplars.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from reasoning.errors import UserError
from reasoning.records import Problem
from reasoning.tasks.base import Demonstration, Task
from reasoning.tasks.exemplars import EXEMPLARS
from reasoning.tasks.prompts import render, worked

SOURCES = ("", "task", "own")


def candidates(
    task: Task, n: int, seed: int, options: Mapping[str, Any], source: str = ""
) -> list[Demonstration]:
    """Worked examples of ``task`` in the order in which they are taken, more than ``n`` where there are more.

    source: "task" for the task's own, "own" for those of exemplars.py, "" for the first that there are.
    Raises UserError where there are none, or fewer than ``n``.
    """
    if source not in SOURCES:
        raise UserError(f"shots={source!r}: write shots=task (worked rows of its own) or shots=own (ours).")
    found = task.worked(n + 1, seed, **options) if source != "own" else []
    if not found and source != "task":
        kind = str(options.get("verifier") or task.verifier).partition(":")[0]
        template = str(options.get("template") or task.options.get("template") or "plain")
        found = [
            (
                Problem.make(render(template, question), answer, task.name, {"question": question}),
                worked(template, work, answer) if answer else work,
            )
            for question, work, answer in EXEMPLARS.get(kind, ())
        ]
    if len(found) < n:
        raise UserError(
            f"Task {task.name!r} has {len(found)} worked examples for few-shot prompts, not {n}"
            + ("." if found else ": write the examples into the prompts, or into the system prompt.")
        )
    return found


def shots_for(problem: Problem, found: Sequence[Demonstration], n: int) -> list[tuple[str, str]]:
    """(prompt, answer) of the first ``n`` examples that do not ask what ``problem`` asks (letter case and spacing
    aside). They depend on the problem alone, so a limit on how many problems are asked changes no prompt.

    Raises UserError where too few are left.
    """
    mark = problem.fingerprint
    others = (shot for shot in found if shot[0].fingerprint != mark)
    shown = [(example.prompt, answer.strip()) for example, answer in itertools.islice(others, n)]
    if len(shown) < n:
        raise UserError(
            f"Only {len(shown)} worked examples are left that problem {problem.id} is not one of."
        )
    return shown
