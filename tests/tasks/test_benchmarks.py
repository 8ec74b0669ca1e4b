"""Benchmarks in their own formats: from rows written here, and from the real files where they are at hand."""

import json
import os
import sys

import pytest

from reasoning.errors import MissingExtra, UserError
from reasoning.tasks import load_problems, open_task, overlap
from reasoning.tasks.benchmarks import BENCHMARKS
from verifiers.base import Attempt
from verifiers.registry import open_verifier

needs_data = pytest.mark.skipif(
    not os.path.isdir(os.path.join(os.environ.get("REASONING_DATA", ""), "benchmarks"))
    or not os.environ.get("REASONING_DATA"),
    reason="REASONING_DATA does not name a data folder",
)


@pytest.fixture
def one(tmp_path):
    def one(task, row):
        path = tmp_path / "rows.jsonl"
        path.write_text(json.dumps(row) + "\n")
        (problem,) = load_problems(f"{task}:test:path={path},template=plain")
        return problem

    return one


def test_gsm8k(one):
    problem = one("gsm8k", {"question": "How many?", "answer": "2*3=<<2*3=6>>6\n6+1,066=1,072\n#### 1,072"})
    assert (problem.prompt, problem.reference, problem.metadata["difficulty"]) == ("How many?", "1,072", 2)
    with pytest.raises(UserError, match="line 1: the answer has no final '#### number' line"):
        one("gsm8k", {"question": "How many?", "answer": "seven"})


def test_math500(one):
    row = {"problem": "Find $x$.", "answer": "\\frac{1}{2}", "level": "Level 4", "subject": "Algebra"}
    problem = one("math500", row)
    assert (problem.reference, problem.metadata["difficulty"]) == ("\\frac{1}{2}", 4)


def test_svamp(one):
    problem = one("svamp", {"Body": "Ann has 3 hats", "Question": "How many?", "Answer": 3.0, "Type": "Sum"})
    assert (problem.prompt, problem.reference) == ("Ann has 3 hats. How many?", "3")


def test_olympiadbench(one):
    row = {"question": "Find n.", "final_answer": ["$2n-2$"], "context": None, "unit": None}
    assert one("olympiadbench", row).reference == "$2n-2$"
    with pytest.raises(UserError, match=r"Unknown column 'final_answer\.0'"):
        one("olympiadbench", row | {"final_answer": []})


def test_aqua(one):
    problem = one("aqua", {"question": "Which?", "options": ["A)5", "B)6 (m)"], "correct": "B"})
    assert problem.prompt == "Which?\n(A) 5\n(B) 6 (m)"
    assert problem.reference == "B"
    with pytest.raises(UserError, match="'options' must be a list"):
        one("aqua", {"question": "Which?", "options": "A)5", "correct": "B"})


def test_without_a_file_the_hub_is_asked_and_its_extra_named(monkeypatch):
    monkeypatch.delenv("REASONING_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "datasets", None)  # as if it were not installed
    with pytest.raises(MissingExtra, match=r"pip install 'reasoning-toolkit\[hub\]'"):
        load_problems("gsm8k:test")
    with pytest.raises(UserError, match="svamp is read from a local file"):
        load_problems("svamp")
    with pytest.raises(UserError, match="give path=FILE"):
        load_problems("gsm8k:test:source=file")
    with pytest.raises(UserError, match="contradict"):
        load_problems("gsm8k:test:source=hub,path=a.jsonl")
    with pytest.raises(UserError, match="Unknown source"):
        load_problems("gsm8k:test:source=hubb")


def test_hub_rows_are_read_like_file_rows(monkeypatch):
    asked = []

    class Hub:
        @staticmethod
        def load_dataset(name, configuration, split):
            asked.append((name, configuration, split))
            if split == "train":
                raise ConnectionError("no route")
            return [{"question": "1+1?", "answer": "easy\n#### 2"}]

    monkeypatch.delenv("REASONING_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "datasets", Hub)
    (problem,) = load_problems("gsm8k:test")
    assert problem.reference == "2"
    with pytest.raises(UserError, match=r"Could not get openai/gsm8k from the hub \(ConnectionError\)"):
        load_problems("gsm8k:train")
    assert asked == [("openai/gsm8k", "main", "test"), ("openai/gsm8k", "main", "train")]


@needs_data
@pytest.mark.parametrize(
    ("name", "split", "rows"),
    [
        ("gsm8k", "train", 7473),
        ("gsm8k", "test", 1319),
        ("math500", "test", 500),
        ("aime24", "test", 30),
        ("svamp", "test", 1000),
        ("olympiadbench", "test", 675),
        ("aqua", "test", 254),
    ],
)
def test_the_real_files_load_whole(name, split, rows):
    problems = load_problems(f"{name}:{split}:source=file")
    assert len(problems) == rows
    assert all(p.question.strip() and str(p.reference).strip() for p in problems)
    assert set(open_task(name).splits) == set(BENCHMARKS[name].files)


@needs_data
def test_gsm8k_train_and_test_do_not_overlap():
    assert overlap(load_problems("gsm8k:train"), load_problems("gsm8k:test")) == []


@needs_data
@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_references_are_accepted_by_the_benchmarks_verifier(name):
    problems = load_problems(f"{name}:test", limit=100, seed=0)
    attempts = [Attempt(p.prompt, f"So \\boxed{{{p.reference}}}.", p.reference, p.metadata) for p in problems]
    verdicts = open_verifier(open_task(name).verifier).verify(attempts)
    assert [v for v in verdicts if not v.correct] == []
