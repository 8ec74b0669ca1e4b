"""A finding is said only where its paired interval supports it, and with the comparison's own numbers."""

from __future__ import annotations

from dataclasses import replace

from reasoning.report import findings
from reasoning.report.words import percent


def test_supported_differences_are_told(measured, comparisons, iso):
    lines = findings(measured, comparisons, iso)
    (c,) = [
        c
        for c in comparisons
        if (c.a.model, c.b.model, c.a.strategy, c.a.k, c.basis) == ("grpo@24", "base@0", "pass", 1, "k")
    ]
    assert c.supported
    assert lines[0] == (
        f"One chain of grpo is right {percent(c.a_accuracy)}% of the time, one of base {percent(c.b_accuracy)}%: "
        f"{percent(c.difference)} points more (95% interval {percent(c.low)} to {percent(c.high)})."
    )


def test_unsupported_differences_are_not_told(measured, comparisons):
    unsure = [replace(c, p_holm=0.2) for c in comparisons]
    (line,) = findings(measured, unsure)
    assert line.startswith(
        f"No difference stands out: none of the {len(unsure)} comparisons made passes its test"
    )
    alone = sum(c.low > 0 or c.high < 0 for c in unsure)
    assert f"though {alone} have an interval without 0. With 48 problems the smallest difference" in line
    straddling = [replace(c, low=-abs(c.difference), high=abs(c.difference)) for c in comparisons]
    (line,) = findings(measured, straddling)
    assert "interval without 0" not in line


def test_what_holds_is_told_where_nothing_usual_does(measured, comparisons):
    """Best-of-n beats one chain, and no vote was taken: the page must not say that nothing stands out."""
    only = [
        replace(c, difference=0.2, low=0.1, high=0.3, p_holm=0.01)
        for c in comparisons
        if (c.a.strategy, c.b.strategy, c.basis) == ("best_of_n", "pass", "k")
    ]
    assert only
    lines = findings(measured, only)
    assert len(lines) == len(only)
    name = measured.labels[only[0].a.model]
    assert lines[0].startswith(
        f"{name}, best-of-n (learned) of 16 gets 20.0 points more (95% interval 10.0 to"
    )
    assert lines[0].endswith(f"than {name}, one chain.")


def test_too_few_problems_to_show_anything_are_said(measured, comparisons):
    few = [replace(c, p_holm=1.0, problems=5) for c in comparisons[:4]]
    (line,) = findings(measured, few)
    assert "With 5 problems none could: that takes 8" in line  # 4 comparisons x 2 / 2^8 = 0.03; 2^7: 0.06
    assert "nothing to compare" in findings(measured, [])[0]


def test_a_loss_is_told_as_a_loss(measured, comparisons):
    turned = [
        replace(
            c,
            difference=-c.difference,
            low=-c.high,
            high=-c.low,
            a_accuracy=c.b_accuracy,
            b_accuracy=c.a_accuracy,
        )
        for c in comparisons
        if (c.a.strategy, c.a.k, c.b.strategy, c.b.k) == ("pass", 1, "pass", 1)
    ]
    lines = findings(measured, turned)
    assert all("fewer (95% interval" in line for line in lines)
    low, high = sorted(abs(v) for v in (turned[1].low, turned[1].high))
    assert f"{percent(low)} to {percent(high)}" in lines[0]


def test_a_fallen_ceiling_is_told(measured, comparisons):
    fallen = [
        replace(c, difference=-0.1, low=-0.15, high=-0.05, p_holm=0.01)
        for c in comparisons
        if (c.a.model, c.b.model, c.a.strategy, c.a.k) == ("grpo@24", "base@0", "pass", 16)
    ]
    assert any("The oracle ceiling of 16 fell with training" in line for line in findings(measured, fallen))


def test_break_even_is_told_where_it_is_known_from_when_on(measured, comparisons, iso):
    def told(**change):
        headline = tuple(replace(b, **change) for b in iso.headline)
        return [
            line
            for line in findings(measured, [], replace(iso, headline=headline))
            if "pays for itself" in line
        ]

    both = told(verdict="break_even", queries=100.0, low=50.0, high=200.0)
    assert len(both) == 2
    assert "from about 100 queries on (95% interval 50 to 200)" in both[0]
    assert both[1].endswith("For fewer queries, search more.")
    assert not told(verdict="break_even", queries=100.0, low=50.0, high=float("inf"))
    early = told(verdict="break_even", queries=0.0, low=0.0, high=200.0, base_ways=((3e12, 5e9),))
    assert "from the first query on (95% interval the first to 200)" in early[0]
    assert "whose verifier took 3.00 T to fit" in early[0]
    assert not [line for line in early if "search more" in line]
    assert not told(verdict="never", queries=float("inf"))


def test_training_that_is_not_known_to_pay_is_told_too(measured, comparisons, iso):
    def told(**change):
        headline = tuple(replace(b, **change) for b in iso.headline[:1])
        return findings(measured, comparisons, replace(iso, headline=headline))[-1]

    never = float("inf")
    unsure = told(verdict="break_even", queries=100.0, low=50.0, high=never)
    assert "is open: for" in unsure
    assert "as measured from 100 queries on" in unsure
    assert "runs from 50 queries to never. Draw more problems" in unsure
    assert "as measured never" in told(verdict="never", queries=never, low=50.0, high=never)
    dear = told(verdict="never", queries=never, low=never, high=never, base_flops=1e9, trained_flops=3e9)
    assert "takes 1.00 G FLOPs a query, and" in dear
    assert dear.endswith("3.00 G. Search more.")
    short = told(verdict="never", queries=never, low=never, high=never, base_flops=1e9, trained_flops=never)
    assert short.endswith("does not get there. Search more.")
