"""Public benchmarks: where their rows lie, how they are asked and judged. How a row reads is in readers.py.

A benchmark is a row of `BENCHMARKS`. Where rows come from, in this order: the option ``path`` (a file, or a folder in
the hub's layout); the folder ``benchmarks`` under the environment variable REASONING_DATA; the hub (extra "hub").
``source=file`` or ``source=hub`` insists. An option that is none filters by a column: ``level=5``.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from reasoning.errors import UserError, unknown
from reasoning.records import Problem
from reasoning.tasks import readers
from reasoning.tasks.base import Demonstration, Task, rng_of
from reasoning.tasks.files import check_filters
from reasoning.tasks.hub import hub_rows, in_random_order
from reasoning.tasks.prompts import render, worked
from reasoning.tasks.readers import Read
from reasoning.tasks.rows import Placed, Row, kept, read_rows

DATA_VARIABLE = "REASONING_DATA"
EXAMPLE_ROWS = 256
"""Few-shot examples are chosen among the first so many worked rows of the training split."""

OPTIONS = {"path": "", "source": "", "template": "", "revision": "", "streaming": False, "shuffle": ""}


@dataclass(frozen=True, slots=True)
class Hub:
    """A data set on the hub, its configurations (read one after the other) and its split."""

    dataset: str
    split: str
    configs: tuple[str | None, ...] = (None,)

    def __str__(self) -> str:
        names = [c for c in self.configs if c]
        return self.dataset + (f" {', '.join(names)}" if names else "") + f" [{self.split}]"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Where a benchmark lies and how to read it.

    verifier: judges its answers. read: turns a row into a problem's parts. files: local file of each split, under
    ``benchmarks``. hub: each split on the hub. template: how it is asked where nothing else is said. examples:
    (benchmark, split) of worked examples for few-shot prompts. columns: those that are read.
    """

    verifier: str
    read: Callable[[Row, str], Read]
    files: Mapping[str, str]
    hub: Mapping[str, Hub]
    about: str
    paper: str
    columns: str
    template: str = "boxed"
    max_new_tokens: int = 1024
    examples: tuple[str, str] | None = None


_SUBJECTS = ("algebra", "counting_and_probability", "geometry", "intermediate_algebra")
_SUBJECTS += ("number_theory", "prealgebra", "precalculus")


def _splits(dataset: str, *splits: str, config: str | None = None) -> dict[str, Hub]:
    return {split: Hub(dataset, split, (config,)) for split in splits}


BENCHMARKS = {
    "aime24": Benchmark(
        verifier="math",
        read=readers.read_contest,
        files={"test": "aime24.jsonl"},
        hub={"test": Hub("HuggingFaceH4/aime_2024", "train")},
        about="the 30 problems of AIME 2024, whole numbers from 0 to 999",
        paper="Mathematical Association of America, 2024",
        columns="problem, answer",
        max_new_tokens=8192,
    ),
    "aime25": Benchmark(
        verifier="math",
        read=readers.read_contest,
        files={"test": "aime25.jsonl"},
        hub=_splits("math-ai/aime25", "test"),
        about="the 30 problems of AIME 2025",
        paper="Mathematical Association of America, 2025",
        columns="problem, answer",
        max_new_tokens=8192,
    ),
    "amc23": Benchmark(
        verifier="math",
        read=readers.read_contest,
        files={"test": "amc23.jsonl"},
        hub=_splits("math-ai/amc23", "test"),
        about="40 problems of AMC 12 2023 with a number for an answer",
        paper="Mathematical Association of America, 2023",
        columns="question, answer",
        max_new_tokens=4096,
    ),
    "aqua": Benchmark(
        verifier="choice",
        read=readers.read_aqua,
        files={"test": "aqua.jsonl", "train": "aqua/train.jsonl", "validation": "aqua/validation.jsonl"},
        hub=_splits("deepmind/aqua_rat", "test", "train", "validation", config="raw"),
        about="254 algebra problems with five choices; 97,467 to train on",
        paper="arXiv 1705.04146",
        columns="question, options, correct, rationale",
        examples=("aqua", "train"),
    ),
    "gsm8k": Benchmark(
        verifier="numeric",
        read=readers.read_gsm8k,
        files={"test": "gsm8k/test.jsonl", "train": "gsm8k/train.jsonl"},
        hub=_splits("openai/gsm8k", "test", "train", config="main"),
        about="grade-school word problems, 7,473 train and 1,319 test; difficulty = steps",
        paper="arXiv 2110.14168",
        columns="question, answer (its last line: #### number)",
        max_new_tokens=512,
        examples=("gsm8k", "train"),
    ),
    "humaneval": Benchmark(
        verifier="code",
        read=readers.read_humaneval,
        files={"test": "humaneval.jsonl"},
        hub=_splits("openai/openai_humaneval", "test", config="openai_humaneval"),
        about="164 Python functions to complete from their docstring; template=plain for base models",
        paper="arXiv 2107.03374",
        columns="prompt, test, entry_point, canonical_solution",
        template="function",
        max_new_tokens=1024,
    ),
    "math": Benchmark(
        verifier="math",
        read=readers.read_math,
        files={"test": "math/test.jsonl", "train": "math/train.jsonl"},
        hub={s: Hub("EleutherAI/hendrycks_math", s, _SUBJECTS) for s in ("test", "train")},
        about="competition problems, 7,500 train and 5,000 test; difficulty = level 1 to 5",
        paper="arXiv 2103.03874",
        columns="problem, solution (its last box is the answer), level, type",
        max_new_tokens=2048,
        examples=("math", "train"),
    ),
    "math500": Benchmark(
        verifier="math",
        read=readers.read_math,
        files={"test": "math500.jsonl"},
        hub=_splits("HuggingFaceH4/MATH-500", "test"),
        about="500 problems of MATH's test split; difficulty = level 1 to 5",
        paper="arXiv 2103.03874, 2305.20050",
        columns="problem, answer, level, subject",
        max_new_tokens=2048,
        examples=("math", "train"),
    ),
    "mbpp": Benchmark(
        verifier="code",
        read=readers.read_mbpp,
        files={s: f"mbpp/{s}.jsonl" for s in ("test", "train", "validation", "prompt")},
        hub=_splits("google-research-datasets/mbpp", "test", "train", "validation", "prompt", config="full"),
        about="short Python programs from a sentence and three tests: 500 test, 374 train, 90 validation, 10 prompt",
        paper="arXiv 2108.07732",
        columns="text, code, test_list, test_setup_code",
        template="code",
        max_new_tokens=512,
        examples=("mbpp", "prompt"),
    ),
    "mbpp_sanitized": Benchmark(
        verifier="code",
        read=readers.read_mbpp,
        files={s: f"mbpp_sanitized/{s}.jsonl" for s in ("test", "train", "validation", "prompt")},
        hub=_splits(
            "google-research-datasets/mbpp", "test", "train", "validation", "prompt", config="sanitized"
        ),
        about="the part of MBPP that was checked by hand: 257 test, 120 train, 43 validation, 7 prompt",
        paper="arXiv 2108.07732",
        columns="prompt, code, test_imports, test_list",
        template="code",
        max_new_tokens=512,
        examples=("mbpp_sanitized", "prompt"),
    ),
    "olympiadbench": Benchmark(
        verifier="math",
        read=readers.read_olympiad,
        files={"test": "olympiadbench.jsonl"},
        hub={"test": Hub("Hothan/OlympiadBench", "train", ("OE_TO_maths_en_COMP",))},
        about="olympiad problems in English, text only, open-ended: 675 (674 on the hub)",
        paper="arXiv 2402.14008",
        columns="question, context, final_answer, subfield, unit",
        max_new_tokens=4096,
    ),
    "svamp": Benchmark(
        verifier="numeric",
        read=readers.read_svamp,
        files={"test": "svamp.jsonl"},
        hub={"test": Hub("ChilleD/SVAMP", "train+test")},
        about="1,000 simple word problems with distractors, all of them",
        paper="arXiv 2103.07191",
        columns="Body, Question, Answer, Type",
        max_new_tokens=512,
    ),
}


def problems(
    name: str, split: str, where: Mapping[str, str], template: str, **source: Any
) -> Iterator[Problem]:
    """The rows of one benchmark as problems, in file order, those that pass the filters."""
    benchmark = BENCHMARKS[name]
    template = template or benchmark.template
    shuffle = source.pop("shuffle")
    found = rows(name, split, **source)
    for place, row in in_random_order(found, int(shuffle)) if shuffle else found:
        read = benchmark.read(row, place)
        seen = {**row, **read.metadata}
        check_filters(seen, where, OPTIONS, name)
        if kept(seen, where, place):
            yield problem_of(name, read, template)


def problem_of(name: str, read: Read, template: str) -> Problem:
    metadata = {"question": read.question} | read.metadata
    return Problem.make(render(template, read.question), read.reference, name, metadata)


def examples(name: str, n: int, seed: int, template: str, **source: Any) -> list[Demonstration]:
    """Worked rows of the training split in a random order that ``seed`` decides; none where there is no such split.

    A ``path`` that is a file holds one split and is no place to look for another.
    """
    benchmark = BENCHMARKS[name]
    if benchmark.examples is None:
        return []
    home, split = benchmark.examples
    del source["shuffle"]
    if home != name or not os.path.isdir(source["path"]):
        source["path"] = source["revision"] = ""
    template = template or benchmark.template
    shown: list[Demonstration] = []
    found = (BENCHMARKS[home].read(row, place) for place, row in rows(home, split, **source))
    for read in itertools.islice((read for read in found if read.work), EXAMPLE_ROWS):
        stated = read.whole and (template == benchmark.template or not isinstance(read.reference, str))
        answer = read.work if stated else worked(template, read.work, str(read.reference))
        shown.append((problem_of(name, read, template), answer))
    rng_of("examples", name, seed).shuffle(shown)
    return shown


def rows(name: str, split: str, path: str, source: str, revision: str, streaming: bool) -> Iterable[Placed]:
    """(where, row) pairs. Raises UserError or MissingExtra where there is no way to get them."""
    benchmark = BENCHMARKS[name]
    if source not in ("", "file", "hub"):
        raise unknown(f"source of {name!r}", source, ["file", "hub"])
    if path and source == "hub":
        raise UserError(f"{name}: path={path} and source=hub contradict each other; give one.")
    hub = benchmark.hub[split]
    more: dict[str, Any] = {"revision": revision, "streaming": streaming}
    if path and Path(path).is_dir():
        return hub_rows(path, hub.configs, hub.split, **more)
    file = Path(path) if path else local_file(name, split)
    if source != "hub" and file is not None and (path or source == "file" or file.is_file()):
        return read_rows(file)
    if source == "file":
        raise UserError(f"{name}: give path=FILE, or name the data folder by {DATA_VARIABLE}.")
    instead = f"give path=FILE, or name the data folder by {DATA_VARIABLE}"
    return hub_rows(hub.dataset, hub.configs, hub.split, instead=instead, **more)


def local_file(name: str, split: str) -> Path | None:
    folder = os.environ.get(DATA_VARIABLE)
    return Path(folder, "benchmarks", BENCHMARKS[name].files[split]) if folder else None


def task(name: str) -> Task:
    benchmark = BENCHMARKS[name]
    local = {split: local_file(name, split) for split in benchmark.files}
    here = [f"{split}: {file}" for split, file in local.items() if file is not None and file.is_file()]
    return Task(
        name=name,
        verifier=benchmark.verifier,
        problems=partial(problems, name),
        options=OPTIONS | {"template": benchmark.template},
        splits=tuple(benchmark.files),
        sampling={"max_new_tokens": benchmark.max_new_tokens},
        about=benchmark.about,
        examples=partial(examples, name) if benchmark.examples else None,
        columns=True,
        details={
            "source": benchmark.paper,
            "hub": "; ".join(f"{split} = {hub}" for split, hub in benchmark.hub.items()),
            "columns": benchmark.columns,
            "examples": ":".join(benchmark.examples or ("the toolkit's own",)),
        }
        | ({"on this machine": "; ".join(here)} if here else {}),
    )
