"""reasoning-gym's procedural tasks (arXiv 2505.24760), ``gym:chain_sum:test:n=100,seed=1,min_terms=3``, extra "gym".

Problems are generated, belong to a split by their content alone, and are scored by the library's own scorer through
the verifier ``gym:<task>``. The library is imported when a task is opened.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

from reasoning.errors import MissingExtra, UserError, unknown
from reasoning.records import Problem
from reasoning.spec import convert
from reasoning.tasks.base import Demonstration, Task, split_of
from reasoning.tasks.prompts import render, worked
from reasoning.tasks.rows import plain
from verifiers.gym import UNSUPPORTED, entries, task_names

OWN = {"n": 256, "seed": 0, "template": "tagged"}
"""Options of every task; the others are those of the task's own configuration in the library."""

_MOST_TRIES = 40


def task(name: str) -> Task:
    """The task ``gym:name``. Raises UserError for an unknown one, MissingExtra without the library."""
    configuration = _configuration(name)
    return Task(
        name=f"gym:{name}",
        verifier=f"gym:{name}",
        problems=partial(problems, name),
        examples=partial(examples, name),
        options=OWN | {key: _text(value) for key, value in configuration.items()},
        sampling={"max_new_tokens": 1024},
        about=f"reasoning-gym's {name}, procedural",
        details={
            "source": "arXiv 2505.24760",
            "configuration": ", ".join(f"{k}={_text(v)}" for k, v in configuration.items()),
        },
    )


def problems(
    name: str, split: str, n: int, seed: int, template: str, **configuration: Any
) -> Iterator[Problem]:
    """``n`` distinct problems of ``split``; the first m of n are what a request for m gives."""
    usual = _configuration(name)
    given = {
        key: _value(value, usual[key], f"{key} of gym:{name}")
        for key, value in configuration.items()
        if value != _text(usual[key])
    }
    marks: set[str] = set()
    size = _MOST_TRIES * n + 1000
    try:
        for entry in entries(name, size, seed, **given):
            problem = problem_of(name, entry, template)
            mark = problem.fingerprint
            if mark in marks or split_of(mark) != split:
                continue
            marks.add(mark)
            yield problem
            if len(marks) == n:
                return
    except (AssertionError, ValueError, TypeError) as error:  # how the library refuses a configuration
        raise UserError(f"gym:{name} refuses {given}: {' '.join(str(error).split())[:200]}") from error
    raise UserError(
        f"gym:{name}: only {len(marks)} distinct problems of {split!r} were found where {n} were asked for. Ask for "
        "fewer, or allow harder ones."
    )


def examples(name: str, n: int, seed: int, template: str, **configuration: Any) -> list[Demonstration]:
    """Few-shot examples: problems of the training split with their answers alone, as the library has no work."""
    found = problems(name, "train", n, seed, template, **configuration)
    return [(problem, worked(template, "", problem.reference)) for problem in found]


def problem_of(name: str, entry: dict[str, Any], template: str) -> Problem:
    kept = plain({"question": entry["question"], "answer": entry["answer"], "metadata": entry["metadata"]})
    question = str(entry["question"]).strip()
    metadata = {"question": question, "entry": kept}
    difficulty = entry["metadata"].get("difficulty")
    if isinstance(difficulty, int | float | str):
        metadata["difficulty"] = difficulty
    return Problem.make(render(template, question), kept["answer"], f"gym:{name}", metadata)


def names() -> list[str]:
    """Every task that can be scored. Raises MissingExtra without the library."""
    try:
        import reasoning_gym  # pyright: ignore[reportMissingImports] # noqa: F401
    except ImportError:
        raise MissingExtra("reasoning-gym", "gym", "the task 'gym'") from None
    return task_names()


def _configuration(name: str) -> dict[str, Any]:
    known = names()
    if name in UNSUPPORTED:
        raise UserError(f"gym:{name} is not supported: {UNSUPPORTED[name]}.")
    if name not in known:
        if not name:
            raise UserError(
                "gym needs a task of reasoning-gym: write gym:chain_sum  (reasoning tasks gym lists them)"
            )
        raise unknown("task of reasoning-gym", name, known, "reasoning tasks gym lists them")
    from reasoning_gym.factory import DATASETS  # pyright: ignore[reportMissingImports]

    _, configuration = DATASETS[name]
    out: dict[str, Any] = {}
    for f in dataclasses.fields(configuration):
        if f.name in ("seed", "size"):
            continue
        made = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        if isinstance(made, bool | int | float | str) or _is_series(made):
            out[f.name] = made
    return out


def _is_series(value: Any) -> bool:
    return (
        isinstance(value, list | tuple) and all(type(v) in (str, int, float) for v in value) and bool(value)
    )


def _text(value: Any) -> Any:
    """A list as "a|b", the form in which a spec can give it."""
    return "|".join(map(str, value)) if _is_series(value) else value


def _value(given: Any, default: Any, where: str) -> Any:
    if not _is_series(default):
        return given
    return type(default)(convert(part, default[0], where) for part in str(given).split("|"))
