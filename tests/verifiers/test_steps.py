"""Steps of a response, and one score made of theirs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifiers.steps import AGGREGATES, STEPS, aggregate, split_steps


@pytest.mark.parametrize(
    ("text", "by", "steps"),
    [
        ("a\nb\n\nc", "line", ["a\n", "b\n\n", "c"]),
        ("a\nb\n\n\nc", "paragraph", ["a\nb\n\n\n", "c"]),
        ("It is 3.5. So 2! Why? x", "sentence", ["It is 3.5.", " So 2!", " Why?", " x"]),
        ("a.\nb", "sentence", ["a.\n", "b"]),
        ("\n\na", "line", ["\n\na"]),
        ("one", "line", ["one"]),
        ("", "sentence", []),
        (" \n", "line", [" \n"]),
    ],
)
def test_where_steps_end(text, by, steps):
    assert split_steps(text, by) == steps


@given(st.text(st.sampled_from("ab .!?\n\t"), max_size=40), st.sampled_from(STEPS))
def test_steps_are_the_whole_text_and_none_is_blank(text, by):
    steps = split_steps(text, by)
    assert "".join(steps) == text
    assert all(step.strip() for step in steps) or not text.strip()


def test_aggregates():
    assert [aggregate([0.5, 0.2, 0.9], how) for how in AGGREGATES] == [0.2, pytest.approx(0.09), 0.9]
