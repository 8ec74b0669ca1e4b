"""Training refuses evaluation problems, whatever their template, case, spacing or answer."""

import pytest

from reasoning.errors import UserError
from reasoning.records import Problem
from reasoning.tasks import load_problems, overlap, refuse_overlap, without


def test_overlap_is_found_under_another_template():
    train = load_problems("countdown:train:template=boxed", limit=20)
    asked = load_problems("countdown:train:template=qa", limit=3)
    assert {p.id for p in train}.isdisjoint(p.id for p in asked)
    assert overlap(train, asked) == train[:3]
    with pytest.raises(
        UserError, match=r"3 of 20 training problems are evaluation problems too, .*'Use each"
    ):
        refuse_overlap(train, asked)
    assert without(train, asked) == train[3:]
    refuse_overlap(without(train, asked), asked)


def test_case_and_spacing_do_not_hide_a_problem():
    train = [Problem.make("What is  2 + 2?\n", "4"), Problem.make("another", "1")]
    with pytest.raises(UserError, match="1 of 2 training problems"):
        refuse_overlap(train, [Problem.make("what is 2 + 2?", "5")])


def test_procedural_splits_pass():
    refuse_overlap(load_problems("word:train"), load_problems("word:test"))
    refuse_overlap(load_problems("countdown:train"), load_problems("countdown:dev"))
