"""List the tasks, or show one: its splits, options, data set on the hub, columns, template and verifier.

reasoning tasks
reasoning tasks math500
reasoning tasks gym              (reasoning-gym's, where it is installed)
reasoning tasks gym:chain_sum
reasoning tasks data/my.csv      (a file's columns, with the first row's values)
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from reasoning.cli.show import note, say
from reasoning.errors import UserError
from reasoning.options import option
from reasoning.spec import parse_spec
from reasoning.tasks import COMMON, SPLITS, open_task, parse_task, task_names
from reasoning.tasks.rows import READERS, column, likely, paths, read_rows


@dataclass(frozen=True, kw_only=True)
class TasksOptions:
    task: str = option("", "the task to show", metavar="TASK")


def run(options: TasksOptions) -> int:
    if not options.task:
        rows = [open_task(name) for name in task_names()]
        for task in rows:
            say(_line(task.name, task.splits, task.verifier, task.about))
        say(_line("gym:NAME", SPLITS, "gym:NAME", "reasoning-gym's procedural tasks (extra gym)"))
        say(_line("FILE.py:NAME", (), "math", "your own: a Task, or a function (split) -> problems"))
        note("Next:  reasoning tasks NAME   one of them    reasoning prompt NAME   its first problem")
        return 0
    if options.task == "gym":
        from reasoning.tasks.gym import names

        say("\n".join(f"gym:{name}" for name in names()))
        return 0
    if parse_spec(options.task).name.lower().endswith(tuple(READERS)):
        return show_file(options.task)
    task = open_task(options.task)
    say(f"{task.name}: {task.about}")
    rows = [
        ("splits", ", ".join(task.splits) or "none: a path or name stands there"),
        ("verifier", task.verifier),
        *task.details.items(),
        ("options", ", ".join(f"{k}={_shown(v)}" for k, v in task.options.items())),
        ("of every task", ", ".join(f"{k}={_shown(v)}" for k, v in COMMON.items())),
        ("sampling", ", ".join(f"{k}={v}" for k, v in task.sampling.items())),
    ]
    if task.columns:
        rows.append(("filters", "COLUMN=VALUE keeps the rows that have it; 3-5 is a range, a|b either"))
    for name, value in rows:
        say(f"  {name:<16}{value}")
    place = {"file": ":FILE.csv", "jsonl": ":FILE.jsonl", "hub": ":OWNER/NAME"}.get(options.task, "")
    note(f"Next:  reasoning prompt {options.task}{':' + task.splits[0] if task.splits else place}")
    return 0


def show_file(spec: str) -> int:
    """The columns of a local file of problems, with what its first row holds, and how to say which are which."""
    _, path, options = parse_task(spec)
    unusable: list[UserError] = []
    first = next(read_rows(path, unusable.append), None)
    if first is None:
        raise unusable[0] if unusable else UserError(f"{path!r} holds no problem.")
    place, row = first
    say(f"{path}: columns, and what {place.removeprefix(f'{path}, ')} holds")
    names = paths(row)
    for name in names:
        value = " ".join(str(column(row, name, place)).split())
        say(f"  {name:<{max(map(len, names))}}  {value if len(value) <= 80 else value[:77] + '...'}")
    named = {"question", "answer", "prompt", "reference"} & options.keys()
    mapping = ",".join([*([] if named else [likely(row)]), *(f"{k}={v}" for k, v in options.items())])
    note(
        f"Next:  reasoning prompt {shlex.quote(f'{path}:{mapping}')}    reasoning tasks file   (its options)"
    )
    return 0


def _line(name: str, splits: Sequence[str], verifier: str, about: str) -> str:
    return f"{name:<16}{'/'.join(splits) or 'PATH or NAME':<30}{verifier:<11}{about}"


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
