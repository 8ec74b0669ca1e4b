"""Reproductions on recorded outputs: their own rules on small cases, and the published tables on the real files."""

import math
import os
import re
from pathlib import Path

import numpy as np
import pytest

from evals.recorded import game24, gsm8k_examples, llama_aime24, qwen_math100, reproduction, zeroeval
from evals.recorded.reproduction import Figure
from evals.recorded.sources import Recorded, rows
from reasoning.curves import measure_pool
from reasoning.records import Problem, Sampling
from verifiers.base import Attempt
from verifiers.numeric import Numeric

DATA = Path(os.environ.get("REASONING_DATA", "nowhere"))
needs_data = pytest.mark.skipif(
    not (DATA / "recorded").is_dir(), reason="REASONING_DATA does not name a folder with recorded outputs"
)


def recorded(question, reference, responses, labels, **more):
    return Recorded(Problem.make(question, reference), tuple(responses), tuple(labels), **more)


@pytest.fixture
def pool(tmp_path):
    items = [
        recorded("1+1?", "2", ["The answer is 2.", "The answer is 3.", "no idea"], [True, True, False]),
        recorded("2+2?", "4", ["The answer is 4.", None, "The answer is 4."], [True, False, False]),
    ]
    with reproduction.fresh_pool(tmp_path) as pool:
        reproduction.store(pool, "a@recorded", "a", items, Sampling(), output_tokens=[5, 7])
        yield pool


def test_agreement_and_disagreements(pool, capsys):
    reproduction.judge(pool, Numeric())
    assert "5 chains; numeric agrees with the recorded label on 3 of 5" in capsys.readouterr().out
    found = reproduction.disagreements(pool, "numeric", "a@recorded")
    assert [(d.index, d.label, d.verdict.correct) for d in found] == [(1, True, False), (2, False, True)]
    assert [c.cost.output_tokens for c in pool.chains()] == [5, 5, 5, 7, 7]


def test_figures_come_from_the_pool(pool):
    reproduction.judge(pool, Numeric())
    measured = measure_pool(pool, oracle="numeric", ks=[1, 2])
    mean = reproduction.figure("mean", 66.7, measured.find("a@recorded", "pass"), 1)
    assert mean.ours == pytest.approx(100 * (1 / 3 + 1) / 2)
    assert mean.agrees
    labels = reproduction.label_values(pool, "a@recorded")
    np.testing.assert_array_equal(labels, [[1, 1, 0], [1, 0, math.nan]])
    assert reproduction.label_mean("labels", None, labels).ours == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)
    same = reproduction.compare(*[measured.find("a@recorded", "pass")] * 2, 1)
    assert same.difference == 0


def test_a_pool_of_an_earlier_run_is_not_mixed_in(tmp_path):
    for question in ("first?", "second?"):
        with reproduction.fresh_pool(tmp_path) as pool:
            reproduction.store(pool, "a", "a", [recorded(question, "1", ["1"], [True])], Sampling())
            assert [p.prompt for p in pool.problems().values()] == [question]


def test_scores_keep_their_order(tmp_path):
    items = [recorded("q", "1", ["1", "2", "3"], [True, False, False], scores=(-40.0, 0.0, 3.5))]
    with reproduction.fresh_pool(tmp_path) as pool:
        reproduction.store(pool, "a", "a", items, Sampling(), scorer="rm")
        scores = [pool.verdicts("rm")[c.key].score or 0.0 for c in pool.chains()]
        assert 0 < scores[0] < scores[1] == 0.5 < scores[2] < 1
        assert pool.verifiers() == {"published": True, "rm": False}


@pytest.mark.parametrize(
    ("published", "ours", "digits", "agrees"),
    [
        (7.3, 7.34, 1, True),
        (7.3, 7.36, 1, False),
        (93, 92.5, 0, False),
        (None, 5.0, 1, False),
        (33, 33.4, 0, True),
    ],
)
def test_a_figure_agrees_to_the_published_digits(published, ours, digits, agrees):
    assert Figure("f", published, ours, digits=digits).agrees is agrees


def test_the_table_names_what_is_not_explained(capsys):
    reproduction.print_figures(
        [Figure("a", 5.0, 5.01), Figure("b", 5.0, 6.0), Figure("c", 5.0, 6.0, why="because")]
    )
    lines = capsys.readouterr().out.strip().splitlines()[2:]
    assert [line.split(" | ")[-1].rstrip(" |") for line in lines] == ["none", "not explained", "because"]


def test_status_and_messages_of_the_command(monkeypatch, capsys, tmp_path):
    def command(figures):
        return reproduction.command("game24", "about", lambda data, out: figures)

    monkeypatch.setattr("sys.argv", ["game24", "--data", str(tmp_path)])
    assert command([Figure("a", 5.0, 5.01), Figure("b", 5.0, 6.0, why="because")]) == 0
    assert command([Figure("a", 5.0, 6.0)]) == 1
    assert reproduction.command("game24", "", lambda data, out: list(rows(data, "none.jsonl"))) == 2
    assert "has no 'none.jsonl'; name another by --data FOLDER" in capsys.readouterr().err
    monkeypatch.delenv("REASONING_DATA", raising=False)
    monkeypatch.setattr("sys.argv", ["game24"])
    assert command([]) == 2
    assert "set the environment variable REASONING_DATA" in capsys.readouterr().err


def test_a_vote_over_text_takes_the_first_of_equals():
    item = recorded(
        "24?", "24", ["a\nx = 24", "b\ny = 24", "c\ny = 24", "d\nx = 24"], [False, True, True, False]
    )
    assert game24.text_vote([item]) == [("x = 24", 2, False)]
    item = recorded("24?", "24", ["4", "5", "5"], [False, True, True], answers=("4", "5", "5"))
    assert qwen_math100.text_vote([item, item]) == (100.0, [])
    tied = recorded("24?", "24", ["4", "5"], [False, True], answers=("4", "5"))
    assert qwen_math100.text_vote([tied]) == (0.0, ["4 and 5 with 1 votes each; reference 24"])


def test_the_publishers_rule_of_the_first_number():
    texts = {
        "$1,200": 1200,
        "2:00 pm": 2,
        "22 + 9 = 31": 22,
        "3/4": 0.75,
        "-5.5 m": -5.5,
        "1/0": 1,
        "none": None,
    }
    assert {text: zeroeval.first_number(text) for text in texts} == texts


def test_numbers_are_compared_as_numbers_and_the_rest_as_text():
    attempts = [
        Attempt("", r"so \boxed{4.50}", "4.5"),
        Attempt("", r"so \boxed{4a-2}", "4a-2"),
        Attempt("", r"so \boxed{4a}", "4a-2"),
    ]
    assert [v.correct for v in qwen_math100.NumberOrText().verify(attempts)] == [True, True, False]


@needs_data
@pytest.mark.parametrize("recipe", [game24, llama_aime24, qwen_math100, gsm8k_examples])
def test_the_published_figures_are_met_or_the_difference_is_explained(recipe, tmp_path, capsys):
    figures = recipe.reproduce(DATA, tmp_path)
    published = [f for f in figures if f.published is not None]
    assert len(published) >= 4
    assert [f.name for f in published if not f.agrees and not f.why] == []
    assert sum(f.agrees for f in published) >= 3
    assert all(math.isnan(f.low) or f.low <= f.ours <= f.high for f in figures)
    assert (tmp_path / "curves.json").stat().st_size > 0
    agreement = re.findall(r"recorded label on ([\d,]+) of ([\d,]+)", capsys.readouterr().out)
    for same, of in (tuple(int(number.replace(",", "")) for number in pair) for pair in agreement):
        assert same >= (of if recipe in (game24, gsm8k_examples) else 0.98 * of)
    assert len(agreement) == {game24: 3, llama_aime24: 2, qwen_math100: 1, gsm8k_examples: 4}[recipe]


@needs_data
def test_most_of_44_models_are_met_by_the_publishers_own_rule(tmp_path, capsys):
    zeroeval.reproduce(DATA, tmp_path)
    table = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if " | 1319 | " in line]
    assert len(table) == 43
    assert sum(row[2] == row[3] for row in table) >= 33
