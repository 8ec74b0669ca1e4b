"""Problems from rows of a local JSONL file, by a mapping of columns. Knows no benchmark by name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reasoning.errors import UserError, unknown
from reasoning.records import Problem
from reasoning.tasks.base import Task
from reasoning.tasks.prompts import render

Row = Mapping[str, Any]


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) for each non-blank line of a UTF-8 file.

    Raises UserError for a missing file, and for a line that is not a JSON object, naming its number.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"No such file: {str(path)!r}.")
    with file.open("rb") as lines:
        for number, raw in enumerate(lines, 1):
            if not raw.strip():
                continue
            try:
                row = json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}, line {number}: not valid JSON ({error}).") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number}: expected a JSON object, found {type(row).__name__}.")
            yield number, row


def column(row: Row, name: str, where: str) -> Any:
    """The value of a column; ``a.b.0`` reaches into objects and lists (a key that holds dots wins as it is).

    where: names the row in the error ("data.jsonl, line 3"). Raises UserError that offers the nearest column.
    """
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if isinstance(value, Mapping):
            if part not in value:
                raise unknown(
                    "column", name, paths(row), see=f"{where} has: {', '.join(paths(row)) or 'nothing'}"
                )
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise unknown(
                "column", name, paths(row), see=f"{where} has: {', '.join(paths(row)) or 'nothing'}"
            )
    return value


def paths(row: Row, prefix: str = "", depth: int = 3) -> list[str]:
    """The dotted names of a row's columns, objects opened to ``depth``."""
    out: list[str] = []
    for key, value in row.items():
        out.append(f"{prefix}{key}")
        if isinstance(value, Mapping) and depth > 1:
            out += paths(value, f"{prefix}{key}.", depth - 1)
    return out


def text_of(value: Any, name: str, where: str) -> str:
    """A column that must hold text (a number is taken as written). Raises UserError otherwise."""
    if isinstance(value, bool) or value is None or not isinstance(value, str | int | float):
        raise UserError(f"{where}: column {name!r} must hold text, found {type(value).__name__}.")
    text = str(value)
    if not text.strip():
        raise UserError(f"{where}: column {name!r} is empty.")
    return text


def problems(
    path: str, question: str, answer: str, verifier: str, difficulty: str, template: str, name: str
) -> list[Problem]:
    """One problem a row: ``question``, ``answer`` and (optional) ``difficulty`` name its columns."""
    if not path:
        raise UserError("jsonl needs a file: write jsonl:path/to/file.jsonl:question=COLUMN,answer=COLUMN")
    out: list[Problem] = []
    for number, row in read_jsonl(path):
        where = f"{path}, line {number}"
        asked = text_of(column(row, question, where), question, where)
        reference = column(row, answer, where)
        if reference is None:
            raise UserError(f"{where}: column {answer!r} is empty.")
        metadata: dict[str, Any] = {"question": asked}
        if difficulty:
            metadata["difficulty"] = column(row, difficulty, where)
        reference = reference if isinstance(reference, str | list | dict) else json.dumps(reference)
        out.append(Problem.make(render(template, asked), reference, name or Path(path).stem, metadata))
    return out


TASK = Task(
    name="jsonl",
    verifier="math",
    problems=problems,
    options={
        "question": "question",
        "answer": "answer",
        "verifier": "math",
        "difficulty": "",
        "template": "boxed",
        "name": "",
    },
    splits=(),
    sampling={"max_new_tokens": 1024},
    about="any local JSONL: jsonl:PATH:question=COLUMN,answer=COLUMN[,verifier=,difficulty=,template=]",
)
