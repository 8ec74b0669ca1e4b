"""Countdown: solvable by brute force, solutions accepted by the verifier, demonstrations that check out."""

import ast
import itertools
import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasoning.errors import UserError
from reasoning.tasks import load_problems, open_task
from reasoning.tasks.base import rng_of
from reasoning.tasks.countdown import derive
from verifiers.base import Attempt
from verifiers.countdown import Countdown


def reachable(numbers):
    """Every value that uses up ``numbers``, by enumeration over exact fractions."""
    if len(numbers) == 1:
        return {numbers[0]}
    out = set()
    for i, j in itertools.permutations(range(len(numbers)), 2):
        rest = [n for k, n in enumerate(numbers) if k not in (i, j)]
        a, b = numbers[i], numbers[j]
        for value in (a + b, a - b, a * b, *([a / b] if b else [])):
            out |= reachable([*rest, value])
    return out


def evaluate(text):
    """Oracle for expressions that this test's own subject wrote: the standard library's parser, exact."""

    def walk(node):
        if isinstance(node, ast.Constant):
            return Fraction(node.value)
        assert isinstance(node, ast.BinOp)
        a, b = walk(node.left), walk(node.right)
        operators = {
            ast.Add: lambda: a + b,
            ast.Sub: lambda: a - b,
            ast.Mult: lambda: a * b,
            ast.Div: lambda: a / b,
        }
        return operators[type(node.op)]()

    return walk(ast.parse(text, mode="eval").body)


def test_problems_are_solvable_by_brute_force():
    for problem in load_problems("countdown:test:numbers=2-4,n=40"):
        numbers = [Fraction(n) for n in problem.metadata["numbers"]]
        assert Fraction(problem.metadata["target"]) in reachable(numbers)


@pytest.mark.parametrize("use_all", [True, False])
def test_references_are_accepted_by_the_verifier(use_all):
    problems = load_problems("countdown:train", numbers="3-6", n=200, use_all=use_all)
    verdicts = Countdown().verify(
        [Attempt(p.prompt, f"The answer is {p.reference}.", p.reference, p.metadata) for p in problems]
    )
    assert all(v.correct for v in verdicts)
    assert {p.metadata["difficulty"] for p in problems} == {3, 4, 5, 6}


@given(st.lists(st.integers(1, 25), min_size=2, max_size=6), st.integers(0, 10**6))
@settings(max_examples=200)
def test_a_derivation_says_what_it_computes(numbers, seed):
    derivation = derive(numbers, rng_of(seed))
    assert evaluate(derivation.result.text) == derivation.result.value
    assert sorted(map(int, re.findall(r"\d+", derivation.result.text))) == sorted(numbers)
    for line in derivation.work.split(", "):
        left, right = line.split("=")
        assert evaluate(left) == int(right)


@pytest.mark.parametrize("use_all", [True, False])
def test_demonstrations_end_in_an_accepted_answer_and_their_work_is_right(use_all):
    shown = open_task("countdown").demonstrations("train", 150, seed=1, use_all=use_all)
    verdicts = Countdown().verify([Attempt(p.prompt, text, None, p.metadata) for p, text in shown])
    assert all(v.correct for v in verdicts)
    tries = 0
    for problem, text in shown:
        work, answer = text.split(" The answer is ")
        assert evaluate(answer.removesuffix(".")) == problem.metadata["target"]
        *misses, hit = re.split(r"(?<=no\.) ", work)
        tries += len(misses)
        for attempt in misses:
            assert int(re.findall(r"=(\d+)", attempt)[-1]) != problem.metadata["target"]
        assert hit.endswith("yes.")
        for left, right in re.findall(r"([\d+*/-]+)=(\d+)", text):
            assert evaluate(left) == int(right)
    assert tries > 100  # they do try and check


def test_one_problem_has_one_id_however_it_was_made():
    by_question = {}
    for seed in range(30):
        for problem in load_problems("countdown:train:numbers=2,largest=5,n=10", seed=seed):
            by_question.setdefault(problem.question, set()).add(problem.id)
    assert len(by_question) > 10
    assert all(len(ids) == 1 for ids in by_question.values())


def test_bad_options():
    with pytest.raises(UserError, match="at least 2 are needed"):
        load_problems("countdown:test:numbers=1")
    with pytest.raises(UserError, match="distinct problems were found"):
        load_problems("countdown:test:numbers=2,largest=3")
    with pytest.raises(UserError, match=r"Unknown template 'boxd'\. Did you mean 'boxed'"):
        load_problems("countdown:test:template=boxd")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("numbers=99", "at most 16, not 99"),
        ("numbers=3,highest=0", "none has a target of 1 to 0"),
        ("numbers=3,largest=1000000000,highest=2", "none has a target of 1 to 2"),
    ],
)
def test_what_no_derivation_reaches_is_said(options, words):
    with pytest.raises(UserError, match=words):
        load_problems(f"countdown:test:{options}")
