"""Where problems come from: ``load_problems("gsm8k:test")``. A table of tasks, each imported when asked for.

word:test:steps=2-5,seed=1                       procedural
countdown:train:numbers=3
gsm8k:test:path=data/test.jsonl                  benchmarks, from files or the hub
jsonl:data/my.jsonl:question=q,answer=a          any local JSONL
path/to/file.py:name:split                       a `Task`, or a function (split, **options) -> problems
"""

from __future__ import annotations

import importlib
import inspect
import random
from collections.abc import Callable
from typing import Any

from reasoning.errors import UserError, unknown
from reasoning.records import Problem
from reasoning.spec import load_user_code, parse_spec
from reasoning.tasks.base import SPLITS, Demonstration, Task, split_of
from reasoning.tasks.contamination import overlap, refuse_overlap, without

__all__ = [
    "SPLITS",
    "Demonstration",
    "Task",
    "load_problems",
    "open_task",
    "overlap",
    "parse_task",
    "refuse_overlap",
    "split_of",
    "task_names",
    "verifier_of",
    "without",
]

_BENCHMARKS = ("aime24", "aqua", "gsm8k", "math500", "olympiadbench", "svamp")
_TASKS: dict[str, tuple[str, str]] = {  # name -> (module, attribute)
    "countdown": ("reasoning.tasks.countdown", "TASK"),
    "jsonl": ("reasoning.tasks.files", "TASK"),
    "word": ("reasoning.tasks.word", "TASK"),
}


def task_names() -> list[str]:
    return sorted([*_TASKS, *_BENCHMARKS])


def open_task(name: str) -> Task:
    """The task of that name, or the one that ``path/to/file.py:name`` holds.

    Raises UserError for an unknown name (with the nearest one) and for user code that is not a task.
    """
    if name in _BENCHMARKS:
        return importlib.import_module("reasoning.tasks.benchmarks").task(name)
    if name in _TASKS:
        module, attribute = _TASKS[name]
        return getattr(importlib.import_module(module), attribute)
    if ".py:" in name:
        return _user_task(name)
    if name.endswith((".jsonl", ".json")):
        raise UserError(f"A file of problems is named  jsonl:{name}:question=COLUMN,answer=COLUMN")
    raise unknown("task", name, task_names())


def parse_task(spec: str) -> tuple[Task, str, dict[str, str]]:
    """(task, split, options as text) of ``task:split[:key=value,...]``."""
    parsed = parse_spec(spec)
    name, split = parsed.name, parsed.argument
    if name.endswith(".py"):
        attribute, _, split = split.partition(":")
        name = f"{name}:{attribute}"
    return open_task(name), split, parsed.options


def load_problems(
    spec: str, limit: int | None = None, seed: int | None = None, **options: Any
) -> list[Problem]:
    """The problems that ``task:split[:key=value,...]`` names; ``options`` add to those of the spec.

    limit: at most so many. A procedural task makes exactly that many; of a file they are the first ones, or
    with ``seed`` a random choice in random order, the same for the same seed. For a procedural task ``seed``
    is its own option of that name.
    A problem that a file holds twice (same prompt, same answer) is given once.

    Raises UserError for an unknown task, split or option, a malformed row, a bad limit or no problem at all.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit must be 1 or above, not {limit}.")
    task, split, given = parse_task(spec)
    for key in options:
        if key in given:
            raise UserError(f"Option {key!r} is given twice: in {spec!r} and beside it.")
    given = {**given, **options}
    procedural = "n" in task.options and "seed" in task.options
    if procedural:
        if limit is not None:
            given.setdefault("n", limit)
        if seed is not None:
            given.setdefault("seed", seed)
    problems = list({problem.id: problem for problem in task.load(split, **given)}.values())
    if not problems:
        raise UserError(f"{spec!r} holds no problem.")
    if seed is not None and not procedural:
        random.Random(seed).shuffle(problems)
    return problems[:limit]


def verifier_of(spec: str) -> str:
    """The spec of the verifier that judges answers to ``spec``'s problems: the task's, or what the spec's own
    option ``verifier=`` names."""
    task, _, options = parse_task(spec)
    return options.get("verifier") or task.verifier


def _user_task(text: str) -> Task:
    found = load_user_code(text)
    if isinstance(found, Task):
        return found
    if callable(found):
        defaults = {
            name: p.default
            for name, p in list(inspect.signature(found).parameters.items())[1:]
            if p.default is not p.empty
        }
        return Task(name=text, verifier="math", problems=_checked(text, found), options=defaults, splits=())
    raise UserError(
        f"{text} is a {type(found).__name__}; a task is a Task or a function (split) -> problems."
    )


def _checked(text: str, function: Callable[..., Any]) -> Callable[..., list[Problem]]:
    def problems(split: str, **options: Any) -> list[Problem]:
        found = list(function(split, **options))
        for item in found:
            if not isinstance(item, Problem):
                raise UserError(
                    f"{text} gave a {type(item).__name__} where a Problem was expected: make each with "
                    "reasoning.records.Problem.make(prompt, reference)."
                )
        return found

    return problems
