"""Which problems come next: shares of tasks, a curriculum, and the spec that names them."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasoning.errors import UserError
from reasoning.records import Problem
from reasoning.train.sources import choose
from reasoning.train.stream import PATIENCE, Stream, Weighted, labels, parse_band, parse_mixture


def problems(name, n):
    return [Problem.make(f"{name} {i}?", str(i), name) for i in range(n)]


def stream(*tasks, band=None, seed=0):
    return Stream([Weighted(name, weight, problems(name, n)) for name, weight, n in tasks], seed, band)


def test_one_task_comes_in_the_order_of_a_plain_walk():
    s = stream(("a", 1, 10))
    found = [p.prompt for _ in range(5) for p in s.next(4)]
    assert found == [f"a {i}?" for i in choose(10, 0, 20, 0)]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 40))
def test_shares_are_kept_to_within_one_problem(weights, count):
    s = stream(*[(str(i), w, 7) for i, w in enumerate(weights)])
    for _ in range(count):
        s.next(1)
        total = sum(s.state["given"])
        for weight, given_ in zip(weights, s.state["given"], strict=True):
            assert abs(given_ - total * weight / sum(weights)) < len(weights)


def test_a_curriculum_passes_over_what_is_outside_of_the_band_and_tries_it_again():
    s = stream(("a", 1, 6), band=(0.1, 0.9))
    first = s.next(6)
    easy, hard = first[0], first[1]
    s.tell({p.id: 0.5 for p in first} | {easy.id: 1.0, hard.id: 0.0})
    for _ in range(PATIENCE):
        assert not {easy.id, hard.id} & {p.id for p in s.next(4)}
    assert {easy.id, hard.id} <= {p.id for p in s.next(6)}


def test_where_all_are_outside_the_nearest_come():
    s = stream(("a", 1, 4), band=(0.2, 0.8))
    rates = [0.0, 0.15, 1.0, 0.9]
    every = s.next(4)
    s.tell({p.id: rate for p, rate in zip(every, rates, strict=True)})
    assert s.next(1) == [every[1]]


def test_state_as_json_goes_on_where_it_was():
    one, two = (stream(("a", 2, 5), ("b", 1, 4), band=(0.1, 0.9)) for _ in range(2))
    for step in range(4):
        one.tell({p.id: (step % 3) / 2 for p in one.next(3)})
    two.state.update(json.loads(json.dumps(one.state)))
    assert [one.next(3) for _ in range(5)] == [two.next(3) for _ in range(5)]


def test_tasks_by_weight():
    assert parse_mixture("word:train:steps=2-3*2 + countdown:train*0.5") == [
        ("word:train:steps=2-3", 2.0),
        ("countdown:train", 0.5),
    ]
    assert parse_mixture("file:a+b.jsonl") == [("file:a+b.jsonl", 1.0)]
    assert labels(["word:train", "countdown:train"]) == ["word", "countdown"]
    assert labels(["word:train:steps=2", "word:train:steps=5"]) == [
        "word:train:steps=2",
        "word:train:steps=5",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("word:train*2+countdown:train", "each needs a weight"),
        ("word:train*0+countdown:train*1", "above 0"),
        ("word:train*1+word:train*2", "names a task twice"),
    ],
)
def test_mixtures_that_say_too_little(text, words):
    with pytest.raises(UserError, match=words):
        parse_mixture(text)


@pytest.mark.parametrize("text", ["0.9-0.1", "0.5", "low-high", "-1-0.5", "0-2", "0.5-0.5"])
def test_bands_that_are_none(text):
    with pytest.raises(UserError, match="LOW-HIGH"):
        parse_band(text)
    assert parse_band(" 0.1-.9 ") == (0.1, 0.9)
