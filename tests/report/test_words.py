"""Numbers and names as a reader sees them."""

from __future__ import annotations

import pytest

from reasoning.report.words import count, percent, queries, short_scorer, si


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (640, "640"),
        (999.4, "999"),
        (999.6, "1.00 k"),
        (1234, "1.23 k"),
        (2.4e9, "2.40 G"),
        (12.34e9, "12.3 G"),
        (123.4e9, "123 G"),
        (999.9e9, "1.00 T"),
        (3e24, "3000000 E"),
        (float("nan"), "–"),
        (float("inf"), "∞"),
    ],
)
def test_si(value, text):
    assert si(value) == text


def test_others():
    assert percent(0.6123) == "61.2"
    assert count(1234.4) == "1,234"
    assert count(float("nan")) == "–"
    assert [queries(v) for v in (3.2, 498.7, 12345, 999.9)] == ["3", "500", "12,000", "1,000"]
    assert queries(float("inf")) == "any number of"
    assert short_scorer("learned:runs/demo/verifier") == "learned"
