"""Each strategy alone, driven by hand: no engine, no ledger, no pool."""

import random
from collections import Counter
from fractions import Fraction
from math import factorial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betainc

from reasoning.errors import UserError
from reasoning.records import Chain, Cost, Draw, Problem, Sampling
from reasoning.search import SEARCHES, Answer, Candidate, Judge, list_searches, open_search
from reasoning.search.adaptive import leads

PROBLEM = Problem.make("q", "1")
S = Sampling()


def play(search, answers, scores=None, purse=10**9):
    """Drive a search with given answers by sample index; returns (Answer, indices that were drawn)."""
    candidates = [
        Candidate(Chain(PROBLEM.id, i, a or "", key=f"{i:032x}", cost=Cost(output_tokens=1)), a)
        for i, a in enumerate(answers)
    ]
    steps, result, drawn = search(PROBLEM, S), None, []
    try:
        while True:
            request = next(steps) if result is None else steps.send(result)
            if isinstance(request, Draw):
                got = [i for i in request.indices if i < len(answers)][: purse - len(drawn)]
                drawn += got
                result = [candidates[i] for i in got]
            else:
                assert isinstance(request, Judge)
                assert scores is not None
                result = [scores[c.chain.index] for c in request.candidates]
    except StopIteration as end:
        return end.value, drawn


def test_majority_takes_the_most_frequent_and_of_equals_the_earliest():
    answer, drawn = play(open_search("majority:n=6"), ["7", "5", None, "5", "7", "3", "never drawn"])
    assert (answer.answer, answer.chain.index) == ("7", 0)
    assert answer.votes == {"7": 2, "5": 2, "3": 1}
    assert drawn == list(range(6))


def test_best_of_n_takes_the_best_score_and_leaves_out_what_has_none():
    search = open_search("best_of_n:n=4")
    answer, _ = play(search, ["1", "2", "3", "4"], [0.2, 0.9, None, 0.9])
    assert (answer.answer, answer.chain.index) == ("2", 1)
    unscored, _ = play(search, ["1", "2", "2"], [None, None, None])
    assert (unscored.answer, unscored.chain.index) == ("2", 1), "without any score the votes decide"
    best, _ = play(search, [None, "2"], [0.9, 0.1])
    assert best.answer is None
    assert best.chain.index == 0, "the scorer chose a chain without an answer"


def test_weighted_majority_sums_scores():
    search = open_search("weighted_majority:n=5")
    answer, _ = play(search, ["1", "2", "2", None, "3"], [0.8, 0.5, 0.4, 9.0, None])
    assert answer.answer == "2"
    assert answer.votes == {"1": 0.8, "2": 0.9}


@pytest.mark.parametrize("name", sorted(SEARCHES))
def test_an_empty_purse_gives_no_answer(name):
    search = open_search(name)
    assert play(search, ["1"] * 99, [0.5] * 99, purse=0) == (Answer(), [])
    some, drawn = play(search, ["1"] * 99, [0.5] * 99, purse=2)
    assert some.answer == "1"
    assert drawn == [0, 1]


@pytest.mark.parametrize("name", sorted(SEARCHES))
def test_chains_without_answers_give_no_vote(name):
    answer, _ = play(open_search(name), [None] * 99, [0.5] * 99)
    assert answer.answer is None
    assert not answer.votes


@given(st.lists(st.integers(0, 30), max_size=5))
def test_the_stopping_rule_is_the_beta_rule(votes):
    first, second, *_ = [*sorted(votes, reverse=True), 0, 0]
    assert leads(votes) == pytest.approx(1 - betainc(first + 1, second + 1, 0.5), abs=1e-12)
    # and by its definition, the share of Beta(v1 + 1, v2 + 1) above one half
    a, b = first + 1, second + 1
    beta = Fraction(factorial(a - 1) * factorial(b - 1), factorial(a + b - 1))
    below = sum(
        Fraction((-1) ** j * factorial(b - 1), factorial(j) * factorial(b - 1 - j) * (a + j) * 2 ** (a + j))
        for j in range(b)
    )
    assert leads(votes) == pytest.approx(float(1 - below / beta), abs=1e-9)


def test_adaptive_stops_when_the_leader_is_safe():
    answer, drawn = play(open_search("adaptive:n=20,step=1"), ["1"] * 20)
    assert (answer.answer, drawn) == ("1", [0, 1, 2, 3]), "four equal answers: 1 - 2^-5 = 0.97"
    assert not answer.unused
    answer, drawn = play(open_search("adaptive:n=6,step=1"), ["1", "2"] * 10)
    assert drawn == list(range(6))
    answer, drawn = play(open_search("adaptive:n=20,step=1"), [None, None, *["1"] * 18])
    assert drawn == list(range(6)), "who abstains uses up a draw and has no vote"


def test_adaptive_decides_in_issue_order_and_names_what_was_in_flight():
    search = open_search("adaptive:n=20,step=8")
    answer, drawn = play(search, ["1", "1", "1", "1", "2", "2", "2", "2"] + ["3"] * 12)
    assert drawn == list(range(8))
    assert answer.votes == {"1": 4}
    assert answer.unused == {f"{i:032x}" for i in range(4, 8)}


def test_adaptive_equals_majority_of_all_when_it_never_stops():
    rng = random.Random(0)
    for _ in range(50):
        answers = [rng.choice("123") for _ in range(16)]
        adaptive, _ = play(open_search("adaptive:n=16,step=3,confidence=1"), answers)
        majority, _ = play(open_search("majority:n=16"), answers)
        assert adaptive == majority
        assert adaptive.votes == Counter(answers)


def test_adaptive_agrees_with_majority_about_as_often_as_it_says():
    rng = random.Random(1)
    agreed = drawn = 0
    for _ in range(400):
        answers = [("1" if rng.random() < 0.55 else rng.choice("234")) for _ in range(40)]
        adaptive, used = play(open_search("adaptive:n=40,step=1"), answers)
        majority, _ = play(open_search("majority:n=40"), answers)
        agreed += adaptive.answer == majority.answer
        drawn += len(used)
    assert agreed / 400 > 0.93
    assert drawn / 400 < 20


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("best-of-m", "Did you mean 'best_of_n'"),
        ("majority:m=3", "Unknown 'majority' option 'm'"),
        ("majority:n=0", "n must be 1 or above"),
        ("adaptive:confidence=2", "confidence must lie"),
        ("adaptive:step=x", "'x' is not a int"),
        ("majority:16", "key=value"),
    ],
)
def test_bad_specs_are_one_clear_line(spec, says):
    with pytest.raises(UserError, match=says) as e:
        open_search(spec)
    assert "\n" not in str(e.value)


def test_names_open_the_same_search_again():
    for spec in [*SEARCHES, "adaptive:n=8,confidence=0.9"]:
        search = open_search(spec)
        assert open_search(search.name) == search
    listed = list_searches()
    assert set(SEARCHES) == {spec.partition(":")[0] for spec in listed}
    assert all("arXiv" in line and line.endswith(".") for line in listed.values())


def test_user_code(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from reasoning.search.majority import Majority\n"
        "def mine():\n    return Majority(n=3)\n"
        "MINE = Majority(n=2)\nnothing = dict\nneeds = int.from_bytes\n"
    )
    assert open_search(f"{file}:mine").name == "majority:n=3"
    assert open_search(f"{file}:MINE").name == "majority:n=2"
    with pytest.raises(UserError, match="is not a search"):
        open_search(f"{file}:nothing")
    with pytest.raises(UserError, match="without arguments"):
        open_search(f"{file}:needs")
