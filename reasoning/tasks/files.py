"""Problems from rows of any data set, by a mapping of columns: local files, and data sets of the hub by their id.

file:data/my.csv:prompt=question,reference=answer          .jsonl .json .parquet .csv .tsv
data/my.parquet:prompt=problem,reference=answer,level=5    the same without "file:"; level=5 keeps those rows
hub:owner/name:config=main,split=train,prompt=question,reference=answer

Knows no benchmark by name. A prompt column may hold a conversation ([{"role": ..., "content": ...}, ...]).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from reasoning.errors import UserError, unknown
from reasoning.records import Problem
from reasoning.tasks.base import Task
from reasoning.tasks.conversation import check_messages, with_messages
from reasoning.tasks.hub import hub_rows, in_random_order
from reasoning.tasks.prompts import render
from reasoning.tasks.rows import (
    READERS,
    Placed,
    Row,
    column,
    kept,
    likely,
    paths,
    plain,
    read_jsonl,
    read_rows,
    text_of,
)

__all__ = ["Row", "column", "paths", "read_jsonl", "read_rows", "text_of"]

ENDINGS = tuple(READERS)

MAPPING = {
    "question": "question",
    "answer": "answer",
    "prompt": "",
    "reference": "",
    "verifier": "math",
    "difficulty": "",
    "template": "boxed",
    "name": "",
    "broken": "stop",
}
"""Options that name columns, and how a row becomes a problem. ``prompt`` and ``reference`` are other names for
``question`` and ``answer``. ``broken``: whether a row that cannot be used stops, or is left out ("skip")."""


class Unusable:
    """What happens to rows that cannot be used: the first stops, or with ``skip`` they are counted."""

    def __init__(self, broken: str, name: str):
        if broken not in ("stop", "skip"):
            raise unknown("value of broken", broken, ("stop", "skip"))
        self.skip, self.name, self.used = broken == "skip", name, 0
        self.found: list[UserError] = []

    def __call__(self, error: UserError) -> None:
        self.found.append(error)
        if not self.skip:
            hint = "  (broken=skip leaves such rows out)" if self.used else ""
            raise UserError(f"{error}{hint}") from error

    def told(self) -> str:
        """One line on what was left out; "" where that is nothing."""
        if not self.found:
            return ""
        count = len(self.found)
        some = " ".join(str(error) for error in self.found[:3])
        rest = f" (and {count - 3} more)" if count > 3 else ""
        rows = "1 row cannot be used and is" if count == 1 else f"{count} rows cannot be used and are"
        return f"{self.name}: {rows} left out: {some}{rest}"


def mapped(
    rows: Callable[[Unusable], Iterable[Placed]],
    where: Mapping[str, str],
    *,
    say: Callable[[str], None],
    broken: str,
    question: str,
    answer: str,
    prompt: str,
    reference: str,
    difficulty: str,
    template: str,
    name: str,
) -> Iterator[Problem]:
    """One problem a row that passes the filters ``where``. rows: read, given what is told of broken ones."""
    for first, second, default in ((question, prompt, "question"), (answer, reference, "answer")):
        if second and first != default:
            raise UserError(
                f"{name}: {first!r} and {second!r} are both given as the column of the {default}."
            )
    question, answer = prompt or question, reference or answer
    unusable = Unusable(broken, name)
    try:
        for place, row in rows(unusable):
            try:
                check_filters(row, where, MAPPING, name)
                if not kept(row, where, place):
                    continue
                problem = problem_of(row, place, question, answer, difficulty, template, name)
            except UserError as error:
                unusable(error)
                continue
            unusable.used += 1
            yield problem
        if unusable.found and not unusable.used:
            raise UserError(f"{name}: none of {len(unusable.found)} rows can be used. {unusable.found[0]}")
    finally:  # also where no more was asked for
        if unusable.skip and unusable.used and (told := unusable.told()):
            say(told)


def problem_of(
    row: Row, place: str, question: str, answer: str, difficulty: str, template: str, name: str
) -> Problem:
    hint = f"; say which:  FILE:{likely(row)}"
    asked = column(row, question, place, hint)
    reference = column(row, answer, place, hint)
    if reference is None or reference != reference or (isinstance(reference, str) and not reference.strip()):
        raise UserError(f"{place}: column {answer!r} is empty.")  # NaN is how some libraries write that
    reference = plain(reference)
    reference = reference if isinstance(reference, str | list | dict) else json.dumps(reference)
    metadata: dict[str, Any] = {}
    if difficulty:
        metadata["difficulty"] = plain(column(row, difficulty, place))
    if isinstance(asked, list) and asked and isinstance(asked[0], Mapping):  # a conversation
        messages = check_messages(asked, f"{place}, column {question!r}")
        metadata["question"] = next(m["content"] for m in reversed(messages) if m["role"] == "user")
        return with_messages(Problem.make(metadata["question"], reference, name, metadata), messages)
    text = text_of(asked, question, place)
    return Problem.make(render(template, text), reference, name, {"question": text} | metadata)


def check_filters(row: Row, where: Mapping[str, str], options: Mapping[str, Any], name: str) -> None:
    """Raise UserError for a filter that is neither a column of ``row`` nor, mistyped, an option."""
    for key in where:
        if key not in row and key not in (known := [*options, *paths(row)]):
            raise unknown(f"option or column of {name!r}", key, known, f"columns: {', '.join(paths(row))}")


def file_problems(
    path: str,
    where: Mapping[str, str],
    say: Callable[[str], None],
    verifier: str,
    name: str,
    **columns: Any,
) -> Iterator[Problem]:
    if not path:
        raise UserError("file needs a path: write file:path/to/file.jsonl:prompt=COLUMN,reference=COLUMN")
    yield from mapped(
        lambda broken: read_rows(path, broken), where, name=name or Path(path).stem, say=say, **columns
    )


def jsonl_problems(
    path: str,
    where: Mapping[str, str],
    say: Callable[[str], None],
    verifier: str,
    name: str,
    **columns: Any,
) -> Iterator[Problem]:
    if not path:
        raise UserError("jsonl needs a file: write jsonl:path/to/file.jsonl:question=COLUMN,answer=COLUMN")

    def rows(broken: Unusable) -> Iterator[Placed]:
        return ((f"{path}, line {number}", row) for number, row in read_jsonl(path, broken))

    yield from mapped(rows, where, name=name or Path(path).stem, say=say, **columns)


def hub_problems(
    dataset: str,
    where: Mapping[str, str],
    say: Callable[[str], None],
    config: str,
    split: str,
    revision: str,
    streaming: bool,
    shuffle: str,
    verifier: str,
    name: str,
    **columns: Any,
) -> Iterator[Problem]:
    if not dataset:
        raise UserError(
            "hub needs a data set: write hub:owner/name:split=train,prompt=COLUMN,reference=COLUMN"
        )
    rows = hub_rows(dataset, (config or None,), split, revision=revision, streaming=streaming)
    rows = in_random_order(rows, int(shuffle)) if shuffle else rows
    name = name or dataset.rstrip("/").rpartition("/")[2]
    yield from mapped(lambda broken: rows, where, name=name, say=say, **columns)


_COMMON: dict[str, Any] = {
    "splits": (),
    "verifier": "math",
    "sampling": {"max_new_tokens": 1024},
    "columns": True,
    "tells": True,
}
_DETAILS = {
    "columns": "prompt=COLUMN, reference=COLUMN, difficulty=COLUMN; a.b.0 reaches into objects and lists",
    "broken rows": "broken=skip leaves out rows that cannot be used; else the first one stops",
    "judging": "verifier=NAME judges the answers; template=NAME, or a text with {question}, asks for them",
}

FILE = Task(
    name="file",
    problems=file_problems,
    options=MAPPING,
    about=f"rows of a local file ({' '.join(ENDINGS)}): file:PATH:prompt=COLUMN,reference=COLUMN",
    details=_DETAILS,
    **_COMMON,
)
TASK = Task(
    name="jsonl",
    problems=jsonl_problems,
    options=MAPPING,
    about="the same of JSON Lines whatever the file's ending: jsonl:PATH:question=COLUMN,answer=COLUMN",
    details=_DETAILS,
    **_COMMON,
)
HUB = Task(
    name="hub",
    problems=hub_problems,
    options={**MAPPING, "config": "", "split": "train", "revision": "", "streaming": False, "shuffle": ""},
    about="any data set of the hub: hub:OWNER/NAME:split=train,prompt=COLUMN,reference=COLUMN",
    details=_DETAILS,
    **_COMMON,
)
