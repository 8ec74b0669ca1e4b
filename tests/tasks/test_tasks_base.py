"""Splits by content, option resolution, and the contract that every task with its own problems keeps."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning.errors import UserError
from reasoning.records import Problem, digest
from reasoning.tasks import SPLITS, Task, load_problems, open_task, split_of, task_names
from reasoning.tasks.base import distinct_in_split, resolve, whole_range
from verifiers.registry import open_verifier

PROCEDURAL = ["countdown", "word"]


@given(st.text())
def test_a_split_depends_on_the_content_alone(question):
    problem = Problem.make(question, "1")
    other = Problem.make(f"  {question.upper().lower()} ", "2", "other task")
    if problem.fingerprint == other.fingerprint:
        assert split_of(problem.fingerprint) == split_of(other.fingerprint)
    assert split_of(problem.fingerprint) in SPLITS


def test_splits_take_eight_one_and_one_in_ten():
    counts = dict.fromkeys(SPLITS, 0)
    for i in range(20_000):
        counts[split_of(digest("problem", i))] += 1
    assert counts["train"] == pytest.approx(16_000, abs=300)
    assert counts["dev"] == pytest.approx(2_000, abs=200)
    assert counts["test"] == pytest.approx(2_000, abs=200)


@pytest.mark.parametrize("name", PROCEDURAL)
def test_splits_share_no_problem_whatever_the_seed(name):
    seen = {
        split: {
            p.fingerprint for seed in (0, 1, 2) for p in load_problems(f"{name}:{split}:n=150,seed={seed}")
        }
        for split in SPLITS
    }
    assert not seen["train"] & seen["dev"]
    assert not seen["train"] & seen["test"]
    assert not seen["dev"] & seen["test"]
    assert all(len(marks) > 150 for marks in seen.values())  # another seed gives other problems


@pytest.mark.parametrize("name", PROCEDURAL)
def test_problems_are_distinct_stable_and_nested(name):
    many, few = load_problems(f"{name}:test", limit=60), load_problems(f"{name}:test", limit=20)
    assert len({p.fingerprint for p in many}) == 60
    assert many[:20] == few
    assert load_problems(f"{name}:test", limit=20, seed=5) != few
    assert all(p.task == name and "difficulty" in p.metadata for p in many)


@pytest.mark.parametrize("name", PROCEDURAL)
def test_demonstrations_stay_in_their_split(name):
    shown = open_task(name).demonstrations("train", 40, seed=3)
    assert len(shown) == 40
    assert all(split_of(problem.fingerprint) == "train" and text for problem, text in shown)
    assert shown == open_task(name).demonstrations("train", 40, seed=3)


def test_an_exhausted_generator_says_so():
    def make(rng: random.Random) -> Problem:
        return Problem.make(f"question {rng.randint(1, 30)}", "1")

    with pytest.raises(UserError, match=r"tiny: only \d+ distinct problems .* where 100 were asked for"):
        distinct_in_split("train", 100, make, random.Random(0), "tiny")


def test_options_are_converted_and_unknown_ones_refused():
    assert resolve("t", {"n": 1, "all": True, "name": ""}, {"n": "5", "all": "no"}) == {
        "n": 5,
        "all": False,
        "name": "",
    }
    assert resolve("t", {"n": 1}, {"n": 7}) == {"n": 7}
    with pytest.raises(UserError, match="'five' is not a int"):
        resolve("t", {"n": 1}, {"n": "five"})
    with pytest.raises(UserError, match="Did you mean 'steps'"):
        resolve("t", {"steps": ""}, {"step": "3"})


def test_ranges():
    assert whole_range("2-5", "x") == (2, 5)
    assert whole_range("4", "x") == (4, 4)
    for bad in ("", "a", "2-", "5-2", "-3"):
        with pytest.raises(UserError):
            whole_range(bad, "steps")


def test_every_task_of_the_table_opens():
    for name in task_names():
        task = open_task(name)
        assert isinstance(task, Task)
        assert task.name == name
        assert task.about
        assert open_verifier(task.verifier).name


def test_a_task_without_demonstrations_says_so():
    with pytest.raises(UserError, match="no demonstrations of its own"):
        open_task("gsm8k").demonstrations("train", 1)


def test_a_bad_limit_and_unknown_names():
    with pytest.raises(UserError, match="limit must be 1 or above"):
        load_problems("word:test", limit=0)
    with pytest.raises(UserError, match="Did you mean 'countdown'"):
        load_problems("count-down:test")
    with pytest.raises(UserError, match="Did you mean 'test'"):
        load_problems("word:tests")
    with pytest.raises(UserError, match="Did you mean 'numbers'"):
        load_problems("countdown:test:number=3")
    with pytest.raises(UserError, match="given twice"):
        load_problems("countdown:test:numbers=3", numbers="4")


@pytest.mark.parametrize("steps", ["900-900", "24", "0"])
def test_word_has_as_many_steps_as_there_are_people(steps):
    with pytest.raises(UserError, match="between 1 and 23"):
        load_problems(f"word:test:steps={steps}")
    assert load_problems("word:test:steps=0-1,n=2")
    assert load_problems("word:test:steps=23-99,n=2")
