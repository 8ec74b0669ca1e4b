"""Public benchmarks in their own row formats, from local files or from the hub.

A benchmark is a row of `BENCHMARKS`: where its rows lie and how one becomes question, answer and metadata.
Where rows come from, in this order: the option ``path``; the folder ``benchmarks`` under the environment
variable REASONING_DATA; the hub (``datasets``, extra "hub"). ``source=file`` or ``source=hub`` insists.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from reasoning.errors import MissingExtra, UserError, unknown
from reasoning.records import Problem
from reasoning.tasks.base import Task
from reasoning.tasks.files import Row, column, read_jsonl, text_of
from reasoning.tasks.prompts import render

DATA_VARIABLE = "REASONING_DATA"

Read = Callable[[Row, str], tuple[str, Any, dict[str, Any]]]
"""(row, where) -> (question, reference, further metadata)."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Where a benchmark lies and how to read it.

    verifier: judges its answers. read: turns a row into a problem's parts. files: local file of each split,
    under ``benchmarks``. hub: dataset, configuration and split on the hub, of each split that is there.
    """

    verifier: str
    read: Read
    files: Mapping[str, str]
    about: str
    hub: Mapping[str, tuple[str, str | None, str]] = field(default_factory=dict)
    max_new_tokens: int = 1024


def text(row: Row, name: str, where: str) -> str:
    return text_of(column(row, name, where), name, where)


def optional(row: Row, **names: str) -> dict[str, Any]:
    """Metadata of the columns that a row has: ``optional(row, difficulty="level")``."""
    return {key: row[name] for key, name in names.items() if row.get(name) is not None}


def read_gsm8k(row: Row, where: str) -> tuple[str, Any, dict[str, Any]]:
    solution = text(row, "answer", where)
    work, mark, final = solution.rpartition("####")
    if not mark or not final.strip():
        raise UserError(f"{where}: the answer has no final '#### number' line.")
    steps = len([line for line in work.splitlines() if line.strip()])
    return text(row, "question", where), final.strip(), {"solution": work.strip(), "difficulty": steps}


def read_math(row: Row, where: str) -> tuple[str, Any, dict[str, Any]]:
    metadata = optional(row, difficulty="level", subject="subject", solution="solution")
    level = re.search(r"\d", str(metadata.get("difficulty", "")))  # 3 or "Level 3"
    if level:
        metadata["difficulty"] = int(level[0])
    return text(row, "problem", where), text(row, "answer", where), metadata


def read_aime(row: Row, where: str) -> tuple[str, Any, dict[str, Any]]:
    name = "question" if "question" in row else "problem"
    return text(row, name, where), text(row, "answer", where), optional(row, url="url", solution="solution")


def read_svamp(row: Row, where: str) -> tuple[str, Any, dict[str, Any]]:
    body = text(row, "Body", where).strip()
    if body[-1] not in ".?!":
        body += "."
    answer = column(row, "Answer", where)
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    question = f"{body} {text(row, 'Question', where).strip()}"
    return question, text_of(answer, "Answer", where), optional(row, kind="Type")


def read_olympiad(row: Row, where: str) -> tuple[str, Any, dict[str, Any]]:
    metadata = optional(
        row, subject="subfield", kind="answer_type", unit="unit", several="is_multiple_answer"
    )
    context = row.get("context")
    question = text(row, "question", where).strip()
    return f"{context}\n{question}" if context else question, text(row, "final_answer.0", where), metadata


def read_aqua(row: Row, where: str) -> tuple[str, Any, dict[str, Any]]:
    options = column(row, "options", where)
    if not isinstance(options, list) or not options:
        raise UserError(f"{where}: column 'options' must be a list of choices.")
    choices = [re.sub(r"^([A-Z])\s*[).]\s*", r"(\1) ", str(option)) for option in options]
    question = text(row, "question", where).strip() + "\n" + "\n".join(choices)
    return question, text(row, "correct", where), {"choices": choices}


BENCHMARKS = {
    "gsm8k": Benchmark(
        verifier="numeric",
        read=read_gsm8k,
        files={"test": "gsm8k/test.jsonl", "train": "gsm8k/train.jsonl"},
        hub={"test": ("openai/gsm8k", "main", "test"), "train": ("openai/gsm8k", "main", "train")},
        about="grade-school word problems, 7,473 train and 1,319 test (2110.14168); difficulty = steps",
        max_new_tokens=512,
    ),
    "math500": Benchmark(
        verifier="math",
        read=read_math,
        files={"test": "math500.jsonl"},
        hub={"test": ("HuggingFaceH4/MATH-500", None, "test")},
        about="500 competition problems (2103.03874, 2305.20050); difficulty = level 1 to 5",
        max_new_tokens=2048,
    ),
    "aime24": Benchmark(
        verifier="math",
        read=read_aime,
        files={"test": "aime24.jsonl"},
        hub={"test": ("HuggingFaceH4/aime_2024", None, "train")},
        about="the 30 problems of AIME 2024",
        max_new_tokens=8192,
    ),
    "svamp": Benchmark(
        verifier="numeric",
        read=read_svamp,
        files={"test": "svamp.jsonl"},
        about="1,000 simple word problems with distractors (2103.07191)",
        max_new_tokens=512,
    ),
    "olympiadbench": Benchmark(
        verifier="math",
        read=read_olympiad,
        files={"test": "olympiadbench.jsonl"},
        about="675 olympiad problems in English, text only, open-ended (2402.14008)",
        max_new_tokens=4096,
    ),
    "aqua": Benchmark(
        verifier="choice",
        read=read_aqua,
        files={"test": "aqua.jsonl"},
        about="254 algebra problems with five choices (1705.04146)",
    ),
}


def problems(name: str, split: str, path: str, source: str, template: str) -> list[Problem]:
    """The rows of one benchmark as problems, in file order."""
    benchmark = BENCHMARKS[name]
    out: list[Problem] = []
    for where, row in rows(name, split, path, source):
        question, reference, metadata = benchmark.read(row, where)
        out.append(
            Problem.make(render(template, question), reference, name, {"question": question} | metadata)
        )
    return out


def rows(name: str, split: str, path: str, source: str) -> Iterable[tuple[str, Row]]:
    """(where, row) pairs. Raises UserError or MissingExtra where there is no way to get them."""
    if source not in ("", "file", "hub"):
        raise unknown(f"source of {name!r}", source, ["file", "hub"])
    if path and source == "hub":
        raise UserError(f"{name}: path={path} and source=hub contradict each other; give one.")
    file = Path(path) if path else local_file(name, split)
    if source != "hub" and file is not None and (path or source == "file" or file.is_file()):
        return ((f"{file}, line {number}", row) for number, row in read_jsonl(file))
    if source == "file":
        raise UserError(f"{name}: give path=FILE, or name the data folder by {DATA_VARIABLE}.")
    return hub_rows(name, split)


def local_file(name: str, split: str) -> Path | None:
    folder = os.environ.get(DATA_VARIABLE)
    return Path(folder, "benchmarks", BENCHMARKS[name].files[split]) if folder else None


def hub_rows(name: str, split: str) -> Iterable[tuple[str, Row]]:
    if split not in BENCHMARKS[name].hub:
        raise UserError(
            f"{name} is read from a local file: give path=FILE, or name the data folder by {DATA_VARIABLE}."
        )
    dataset, configuration, hub_split = BENCHMARKS[name].hub[split]
    try:
        from datasets import load_dataset
    except ImportError:
        raise MissingExtra("datasets", "hub", f"{name} without a local file (path=FILE)") from None
    try:
        loaded = load_dataset(dataset, configuration, split=hub_split)
    except OSError as error:  # no network, no such dataset
        raise UserError(
            f"Could not get {dataset} from the hub ({type(error).__name__}); give path=FILE, or name the "
            f"data folder by {DATA_VARIABLE}."
        ) from error
    return ((f"{dataset} {hub_split}, row {number}", row) for number, row in enumerate(loaded))  # type: ignore[misc]


def task(name: str) -> Task:
    benchmark = BENCHMARKS[name]
    return Task(
        name=name,
        verifier=benchmark.verifier,
        problems=partial(problems, name),
        options={"path": "", "source": "", "template": "boxed"},
        splits=tuple(benchmark.files),
        sampling={"max_new_tokens": benchmark.max_new_tokens},
        about=benchmark.about,
    )
