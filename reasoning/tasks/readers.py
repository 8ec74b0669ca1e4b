"""How a row of each public benchmark reads: question, reference, metadata. Knows the columns of the data sets as they
are published, not where their files lie.

A reader is ``(row, where) -> Read``; where names the row in an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from reasoning.errors import UserError
from reasoning.tasks.rows import Row, column, text_of
from verifiers.extract import boxes


@dataclass(frozen=True, slots=True)
class Read:
    """work: a worked solution without its final statement, "" where the row has none. whole: the solution states
    its answer itself, as the boxed template asks for it."""

    question: str
    reference: Any
    metadata: dict[str, Any] = field(default_factory=dict)
    work: str = ""
    whole: bool = False


def text(row: Row, name: str, where: str) -> str:
    return text_of(column(row, name, where), name, where)


def optional(row: Row, **names: str) -> dict[str, Any]:
    """Metadata of the columns that a row has: ``optional(row, difficulty="level")``."""
    return {key: row[name] for key, name in names.items() if row.get(name) is not None}


def either(row: Row, names: Sequence[str], where: str) -> str:
    """The text of the first of ``names`` that the row has."""
    return text(row, next((n for n in names if n in row), names[0]), where)


def number(row: Row, name: str, where: str) -> str:
    """A column of numbers: 27.0 and "27.0" are 27."""
    found = text(row, name, where).strip()
    return re.sub(r"^(-?\d+)\.0+$", r"\1", found)


def read_gsm8k(row: Row, where: str) -> Read:
    solution = text(row, "answer", where)
    work, mark, final = solution.rpartition("####")
    if not mark or not final.strip():
        raise UserError(f"{where}: the answer has no final '#### number' line.")
    steps = len([line for line in work.splitlines() if line.strip()])
    metadata = {"solution": work.strip(), "difficulty": steps}
    shown = re.sub(r"<<[^<>]*>>", "", work).strip()  # the calculator's marks
    return Read(text(row, "question", where), final.strip(), metadata, shown)


def read_math(row: Row, where: str) -> Read:
    """MATH has its answer in the box of its solution and calls the subject "type"; MATH-500 names both."""
    metadata = optional(row, difficulty="level", subject="type", solution="solution") | optional(
        row, subject="subject"
    )
    level = re.search(r"\d", str(metadata.get("difficulty", "")))  # 3 or "Level 3"
    if level:
        metadata["difficulty"] = int(level[0])
    solution = str(metadata.get("solution", ""))
    if "answer" in row:
        answer = text(row, "answer", where)
    else:
        found = boxes(text(row, "solution", where))
        if not found or not found[-1].strip():
            raise UserError(f"{where}: the solution has no \\boxed{{}} answer.")
        answer = found[-1].strip()
    return Read(text(row, "problem", where), answer, metadata, solution, whole=True)


def read_contest(row: Row, where: str) -> Read:
    """AIME and AMC: "problem" or "question", and a number."""
    question = either(row, ("question", "problem"), where)
    return Read(question, number(row, "answer", where), optional(row, url="url", solution="solution"))


def read_svamp(row: Row, where: str) -> Read:
    body = text(row, "Body", where).strip()
    if body[-1] not in ".?!":
        body += "."
    question = f"{body} {text(row, 'Question', where).strip()}"
    return Read(question, number(row, "Answer", where), optional(row, kind="Type"))


def read_olympiad(row: Row, where: str) -> Read:
    metadata = optional(
        row, subject="subfield", kind="answer_type", unit="unit", several="is_multiple_answer"
    )
    context = row.get("context")
    question = text(row, "question", where).strip()
    question = f"{context}\n{question}" if context else question
    return Read(question, text(row, "final_answer.0", where), metadata)


def read_aqua(row: Row, where: str) -> Read:
    options = column(row, "options", where)
    if not isinstance(options, list) or not options:
        raise UserError(f"{where}: column 'options' must be a list of choices.")
    choices = [re.sub(r"^([A-Z])\s*[).]\s*", r"(\1) ", str(option)) for option in options]
    question = text(row, "question", where).strip() + "\n" + "\n".join(choices)
    return Read(question, text(row, "correct", where), {"choices": choices}, str(row.get("rationale") or ""))


def read_humaneval(row: Row, where: str) -> Read:
    prompt, entry = text(row, "prompt", where), text(row, "entry_point", where)
    reference = {"check": text(row, "test", where), "function": entry, "prefix": prompt}
    body = row.get("canonical_solution")
    work = (
        f"```python\n{prompt.rstrip()}\n{body.strip(chr(10))}\n```"
        if isinstance(body, str) and body.strip()
        else ""
    )
    return Read(prompt, reference, optional(row, task_id="task_id"), work, whole=True)


def read_mbpp(row: Row, where: str) -> Read:
    """The tests are shown, as the paper does (2108.07732, section 2): only they name the function."""
    asked = either(row, ("text", "prompt"), where)
    tests = column(row, "test_list", where)
    if not isinstance(tests, list) or not tests or not all(isinstance(t, str) for t in tests):
        raise UserError(f"{where}: column 'test_list' must be a list of tests.")
    setup = "\n".join([*(row.get("test_imports") or []), str(row.get("test_setup_code") or "")]).strip()
    question = f"{asked.strip()}\nThe program must pass these tests:\n" + "\n".join(tests)
    code = row.get("code")
    work = f"```python\n{code.strip()}\n```" if isinstance(code, str) and code.strip() else ""
    metadata = optional(row, task_id="task_id")
    return Read(question, {"asserts": list(tests), "setup": setup}, metadata, work, whole=True)
