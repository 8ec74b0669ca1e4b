"""Benchmarks in their own formats: from rows written here, and from the real files where they are at hand."""

import json
import os
import shutil
import sys
from functools import partial

import pytest

from reasoning import hub
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
    monkeypatch.setattr(hub, "_in_the_way", lambda *asked: None)  # it answers
    (problem,) = load_problems("gsm8k:test")
    assert problem.reference == "2"
    with pytest.raises(UserError, match=r"Could not get openai/gsm8k from the hub \(ConnectionError\)"):
        load_problems("gsm8k:train")
    monkeypatch.setattr(hub, "_in_the_way", lambda *asked: hub.Absence("it is away", "wait"))
    with pytest.raises(UserError, match=r"Could not get openai/gsm8k: it is away. Wait, or give path=FILE"):
        load_problems("gsm8k:train")
    assert asked.pop() == asked[1]
    assert asked == [("openai/gsm8k", "main", "test"), ("openai/gsm8k", "main", "train")]


ROWS = {
    "aime24": {
        "id": 1,
        "problem": "Find $n$.",
        "solution": "It is 24.",
        "answer": "024",
        "url": "u",
        "year": "2024",
    },
    "aime25": {"id": "0", "problem": "Find $n$.", "answer": "70"},
    "amc23": {"id": 0, "question": "Find $n$.", "answer": 27.0, "url": "u"},
    "aqua": {"question": "Which?", "options": ["A)5", "B)6"], "rationale": "3 + 3 = 6", "correct": "B"},
    "gsm8k": {"question": "How many?", "answer": "1 + 1 = <<1+1=2>>2\n#### 2"},
    "humaneval": {
        "task_id": "HumanEval/0",
        "prompt": 'import math\n\n\ndef area(r: float) -> float:\n    """ Area of a disc, rounded down. """\n',
        "canonical_solution": "    return math.floor(math.pi * r * r)\n",
        "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate(1) == 3\n"
        "    assert candidate(2) == 12\n",
        "entry_point": "area",
    },
    "math": {
        "problem": "What is half of $x$?",
        "level": "Level 3",
        "type": "Algebra",
        "solution": "$x$ over two is $\\boxed{\\frac{x}{2}}$.",
    },
    "math500": {
        "problem": "What is half of $1$?",
        "solution": "It is $\\boxed{\\frac12}$.",
        "answer": "\\frac12",
        "subject": "Algebra",
        "level": 5,
        "unique_id": "test/algebra/1.json",
    },
    "mbpp": {
        "task_id": 2,
        "text": "Write a function to turn a pair round.",
        "code": "def turn(p):\r\n  return (p[1], p[0])",
        "test_list": ["assert turn((1, 2)) == (2, 1)", "assert turn((0, 0)) == (0, 0)"],
        "test_setup_code": "",
        "challenge_test_list": [],
    },
    "mbpp_sanitized": {
        "source_file": "s.ipynb",
        "task_id": 2,
        "prompt": "Write a function to halve a number.",
        "code": "def halve(x):\n    return x / 2",
        "test_imports": ["import math"],
        "test_list": ["assert math.isclose(halve(3), 1.5)"],
    },
    "olympiadbench": {
        "id": 1,
        "question": "Find all $n$.",
        "solution": ["..."],
        "final_answer": ["$1,2$"],
        "context": None,
        "is_multiple_answer": True,
        "unit": None,
        "answer_type": "Numerical",
        "error": None,
        "subfield": "Algebra",
    },
    "svamp": {
        "ID": "chal-1",
        "Body": "Ann has 3 hats",
        "Question": "How many hats?",
        "Equation": "( 3.0 )",
        "Answer": "3.0",
        "Type": "Addition",
        "question_concat": "Ann has 3 hats How many hats?",
    },
}
"""One invented row of each data set, in its columns on the hub."""

RIGHT = {
    "aime24": "024",
    "amc23": "27",
    "math": "x/2",
    "math500": "0.5",
    "olympiadbench": "1, 2",
    "aqua": "B",
}


def right_answer(name):
    row = ROWS[name]
    if name == "humaneval":
        return f"```python\n{row['prompt']}{row['canonical_solution']}```"
    if name.startswith("mbpp"):
        return f"```python\n{row['code']}\n```"
    return f"So \\boxed{{{RIGHT.get(name) or {'aime25': 70, 'gsm8k': 2, 'svamp': 3}[name]}}}."


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """A folder for each data set in the hub's layout: Parquet files, and configurations where it has some."""
    import pyarrow
    from pyarrow import parquet

    root = tmp_path_factory.mktemp("hub")
    for name, benchmark in BENCHMARKS.items():
        folder = root / name
        lines = []
        for config in benchmark.hub[next(iter(benchmark.hub))].configs:
            splits = sorted({s for hub in benchmark.hub.values() for s in hub.split.split("+")})
            lines += [f"- config_name: {config or 'default'}", "  data_files:"]
            for split in splits:
                file = folder / (config or "data") / f"{split}-00000-of-00001.parquet"
                file.parent.mkdir(parents=True, exist_ok=True)
                row = ROWS[name] | ({"problem": f"{config}: half of $x$?"} if name == "math" else {})
                parquet.write_table(pyarrow.Table.from_pylist([row]), file)
                lines += [f"  - split: {split}", f"    path: {file.relative_to(folder)}"]
        (folder / "README.md").write_text("---\nconfigs:\n" + "\n".join(lines) + "\n---\n")
    return root


@pytest.fixture
def cache(tmp_path_factory, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed (extra: hub)")
    monkeypatch.setattr(
        datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.getbasetemp() / "datasets")
    )
    datasets.disable_progress_bars()


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_every_benchmark_reads_its_rows_through_datasets_and_judges_a_right_answer(name, copies):
    for split in BENCHMARKS[name].hub:
        problems = load_problems(f"{name}:{split}:path={copies / name}")
        assert len(problems) == (7 if name == "math" else 1)
    problem = problems[0]
    assert problem.question.strip() in problem.prompt
    if open_task(name).verifier == "code" and not shutil.which("bwrap"):
        pytest.skip("bubblewrap (bwrap) is not installed")
    verifier = open_verifier(open_task(name).verifier)
    ask = partial(Attempt, problem.prompt, reference=problem.reference, metadata=problem.metadata)
    good, bad = verifier.verify([ask(response=right_answer(name)), ask(response="So \\boxed{999}.")])
    assert good.correct, good
    assert bad.score == 0, bad


@pytest.mark.usefixtures("cache")
def test_streaming_reads_the_same_rows_and_names_what_is_not_there(copies):
    whole = load_problems(f"math:train:path={copies / 'math'}")
    assert load_problems(f"math:train:path={copies / 'math'},streaming=true") == whole
    assert load_problems(f"math:train:path={copies / 'math'},streaming=true,limit=2") == whole[:2]
    shuffled = load_problems(f"math:train:path={copies / 'math'},streaming=true,shuffle=1")
    assert sorted(p.id for p in shuffled) == sorted(p.id for p in whole)
    with pytest.raises(UserError, match="main"):  # the configurations that there are
        load_problems(f"hub:{copies / 'gsm8k'}:config=nowhere")
    with pytest.raises(UserError, match="validation"):
        load_problems(f"hub:{copies / 'gsm8k'}:config=main,split=validation")
    (one,) = load_problems(
        f"hub:{copies / 'svamp'}:split=train,prompt=Question,reference=Answer,Type=addition"
    )
    assert (one.reference, one.task) == ("3.0", "svamp")


@pytest.mark.parametrize("name", ["gsm8k", "math", "mbpp", "aqua"])
def test_worked_examples_of_the_training_split(name, tmp_path, monkeypatch):
    monkeypatch.setenv("REASONING_DATA", str(tmp_path))
    home, split = BENCHMARKS[name].examples
    path = tmp_path / "benchmarks" / BENCHMARKS[home].files[split]
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(ROWS[home]) + "\n")
    ((problem, answer),) = open_task(name).worked(1)
    assert problem == load_problems(f"{home}:{split}")[0]
    if open_task(name).verifier == "code" and not shutil.which("bwrap"):
        pytest.skip("bubblewrap (bwrap) is not installed")
    attempt = Attempt(problem.prompt, answer, problem.reference, problem.metadata)
    assert open_verifier(open_task(name).verifier).verify([attempt])[0].correct, answer
    assert "<<" not in answer


def test_filters_by_columns(tmp_path, monkeypatch):
    path = tmp_path / "math.jsonl"
    levels = [("Level 1", "Algebra"), ("Level 5", "Algebra"), ("Level 5", "Geometry"), ("Level 3", "Algebra")]
    rows = [
        ROWS["math"] | {"problem": f"{i}", "level": level, "type": kind}
        for i, (level, kind) in enumerate(levels)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def found(options):
        return [p.question for p in load_problems(f"math:test:path={path},{options}")]

    assert found("level=5") == ["1", "2"]
    assert found("level=5,subject=algebra") == ["1"]
    assert found("type=GEOMETRY") == ["2"]
    assert found("level=1-3") == ["0", "3"]
    assert found("subject=geometry|algebra,difficulty=3") == ["3"]
    assert found("level=5,limit=1") == ["1"]
    assert sorted(found("shuffle=3")) == ["0", "1", "2", "3"]
    assert found("shuffle=3") == found("shuffle=3")
    with pytest.raises(UserError, match=r"Unknown option or column of 'math' 'levl'\. Did you mean 'level'"):
        found("levl=5")
    with pytest.raises(UserError, match="Did you mean 'template'"):
        found("tempalte=plain")
    with pytest.raises(UserError, match="holds no problem"):
        found("level=4")


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
    assert set(open_task(name).splits) == set(BENCHMARKS[name].files) == set(BENCHMARKS[name].hub)


@needs_data
def test_gsm8k_train_and_test_do_not_overlap():
    assert overlap(load_problems("gsm8k:train"), load_problems("gsm8k:test")) == []


@needs_data
@pytest.mark.parametrize("name", ["aime24", "aqua", "gsm8k", "math500", "olympiadbench", "svamp"])
def test_references_are_accepted_by_the_benchmarks_verifier(name):
    problems = load_problems(f"{name}:test", limit=100, seed=0)
    attempts = [Attempt(p.prompt, f"So \\boxed{{{p.reference}}}.", p.reference, p.metadata) for p in problems]
    verdicts = open_verifier(open_task(name).verifier).verify(attempts)
    assert [v for v in verdicts if not v.correct] == []
