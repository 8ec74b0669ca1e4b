"""Where problems come from: ``load_problems("gsm8k:test")``. A table of tasks, each imported when asked for.

word:test:steps=2-5,seed=1                       procedural
gym:chain_sum:test:n=100                         reasoning-gym's (extra "gym")
gsm8k:test:few_shot=4                            benchmarks, from files or the hub
math500:test:level=5,subject=algebra,limit=50    rows with these columns
data/my.csv:prompt=question,reference=answer     any local JSONL, JSON, Parquet or CSV (file:, jsonl: say it)
hub:owner/name:split=train,prompt=q,reference=a  any data set of the hub
path/to/file.py:name:split                       a `Task`, or a function (split, **options) -> problems

Options that every task takes are those of `COMMON`.
"""

from __future__ import annotations

import importlib
import inspect
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reasoning.errors import UserError, unknown
from reasoning.records import Problem
from reasoning.spec import load_user_code, parse_spec
from reasoning.tasks.base import SPLITS, Demonstration, Task, resolve, split_of
from reasoning.tasks.contamination import overlap, refuse_overlap, without
from reasoning.tasks.conversation import converse
from reasoning.tasks.fewshot import candidates, shots_for

__all__ = [
    "COMMON",
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
    "text_or_file",
    "verifier_of",
    "without",
]

_BENCHMARKS = (
    "aime24",
    "aime25",
    "amc23",
    "aqua",
    "gsm8k",
    "humaneval",
    "math",
    "math500",
    "mbpp",
    "mbpp_sanitized",
    "olympiadbench",
    "svamp",
)
_TASKS: dict[str, tuple[str, str]] = {  # name -> (module, attribute)
    "countdown": ("reasoning.tasks.countdown", "TASK"),
    "file": ("reasoning.tasks.files", "FILE"),
    "hub": ("reasoning.tasks.files", "HUB"),
    "jsonl": ("reasoning.tasks.files", "TASK"),
    "word": ("reasoning.tasks.word", "TASK"),
}
_ENDINGS = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv")

COMMON = {"limit": 0, "shuffle": "", "system": "", "few_shot": 0, "shots": "", "shots_seed": 0, "prefill": ""}
"""Options of every task (one of the task's own of that name comes first).

limit: at most so many problems. shuffle: a seed; the problems in a random order, the same for the same seed. system:
a system prompt, or @FILE. few_shot: worked examples before each problem, from the task's training rows
(shots=task), or where it has none our own (shots=own), chosen by shots_seed. prefill: the answer's first words.
"""


def task_names() -> list[str]:
    """The tasks that need no further word to be opened. reasoning-gym's are ``gym:<name>``."""
    return sorted([*_TASKS, *_BENCHMARKS])


def open_task(name: str) -> Task:
    """The task of that name: one of `task_names`, ``gym:<name>``, or what ``path/to/file.py:name`` holds.

    Raises UserError for an unknown name (with the nearest one) and for user code that is not a task.
    """
    if name in _BENCHMARKS:
        return importlib.import_module("reasoning.tasks.benchmarks").task(name)
    if name in _TASKS:
        module, attribute = _TASKS[name]
        return getattr(importlib.import_module(module), attribute)
    if name == "gym" or name.startswith("gym:"):
        return importlib.import_module("reasoning.tasks.gym").task(name.partition(":")[2])
    if ".py:" in name:
        return _user_task(name)
    raise unknown("task", name, [*task_names(), "gym"])


def parse_task(spec: str) -> tuple[Task, str, dict[str, str]]:
    """(task, split, options as text) of ``task:split[:key=value,...]``."""
    parsed = parse_spec(spec)
    name, split = parsed.name, parsed.argument
    if name.endswith(".py") or name == "gym":
        attribute, _, split = split.partition(":")
        name = f"{name}:{attribute}"
    elif name.lower().endswith(_ENDINGS):
        name, split = "file", name
    return open_task(name), split, parsed.options


def load_problems(
    spec: str,
    limit: int | None = None,
    seed: int | None = None,
    *,
    chat_options: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> list[Problem]:
    """The problems that ``task:split[:key=value,...]`` names; ``options`` add to those of the spec.

    limit: at most so many (the smaller of this and the spec's). A procedural task makes exactly that many; of a file
    they are the first ones, or with ``seed`` (``shuffle`` in a spec) a random choice in random order, the same for
    the same seed. For a procedural task ``seed`` is its own option of that name.
    chat_options: variables for the chat template, such as enable_thinking.
    A problem that a file holds twice (same prompt, same answer) is given once; ``say`` is told how many were left
    out. A system prompt, examples, a prefill and chat options are part of a problem's id: chains drawn with others
    have other keys.

    Raises UserError for an unknown task, split or option, a malformed row, a bad limit or no problem at all.
    """
    task, split, given = parse_task(spec)
    for key in options:
        if key in given:
            raise UserError(f"Option {key!r} is given twice: in {spec!r} and beside it.")
    given = {**given, **options}
    mine = {key: given.pop(key) for key in list(given) if key in COMMON and key not in task.options}
    common = resolve(task.name, COMMON, mine)
    limit = _smaller(limit, common)
    seed = _seed(seed, common["shuffle"])
    procedural = "n" in task.options and "seed" in task.options
    if procedural:
        if limit is not None:
            given.setdefault("n", limit)
        if seed is not None:
            given.setdefault("seed", seed)
    shuffled = seed is not None and not procedural
    if shuffled and _streams(task, given):  # rows that are never all at hand are shuffled as they come
        given["shuffle"], shuffled = str(seed), False
    found: dict[str, Problem] = {}
    rows = 0
    for problem in task.stream(split, say, **given):
        rows += 1
        found.setdefault(problem.id, problem)
        if not shuffled and len(found) == limit:
            break
    problems = list(found.values())
    if not problems:
        raise UserError(f"{spec!r} holds no problem.")
    if rows > len(found):
        say(
            f"{spec}: {rows - len(found)} of {rows} problems repeat others (same prompt, same answer) and are left "
            f"out; {len(found)} remain."
        )
    if shuffled:
        random.Random(seed).shuffle(problems)
    return _asked(task, given, problems[:limit], common, chat_options or {})


def _asked(
    task: Task,
    given: Mapping[str, Any],
    problems: list[Problem],
    common: Mapping[str, Any],
    chat_options: Mapping[str, Any],
) -> list[Problem]:
    """``problems`` with the system prompt, examples and prefill that ``common`` says."""
    system, n, prefill = text_or_file(common["system"]), common["few_shot"], common["prefill"]
    if n < 0:
        raise UserError(f"few_shot must be 0 or above, not {n}.")
    if not n and (common["shots"] or common["shots_seed"]):
        raise UserError("shots and shots_seed choose the examples of few_shot=N; give that too.")
    if not (system or n or prefill or chat_options):
        return problems
    examples = candidates(task, n, common["shots_seed"], given, common["shots"]) if n else []
    return [
        converse(
            problem,
            system=system,
            shots=shots_for(problem, examples, n) if n else (),
            prefill=prefill,
            options=chat_options,
        )
        for problem in problems
    ]


def text_or_file(text: str) -> str:
    """``text``, or the content of FILE for ``@FILE`` (its last line break aside)."""
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UserError(f"Cannot read the text in {text[1:]!r}: {reason}.") from None


def _streams(task: Task, given: Mapping[str, Any]) -> bool:
    asked = {key: value for key, value in given.items() if key == "streaming"}
    return "streaming" in task.options and resolve(task.name, {"streaming": False}, asked)["streaming"]


def _smaller(limit: int | None, common: Mapping[str, Any]) -> int | None:
    if limit is not None and limit < 1:
        raise UserError(f"limit must be 1 or above, not {limit}.")
    if common["limit"] < 0:
        raise UserError(f"limit must be 1 or above, not {common['limit']}.")
    return min((x for x in (limit, common["limit"]) if x), default=None)


def _seed(seed: int | None, shuffle: str) -> int | None:
    if not shuffle:
        return seed
    if not shuffle.removeprefix("-").isdigit():
        raise UserError(f"shuffle={shuffle!r} is not a whole number: it is the seed of the order.")
    return int(shuffle) if seed is None else seed


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
