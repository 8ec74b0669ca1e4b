"""How numbers and names are written for a reader: one place, so that table, pictures and sentences agree."""

from __future__ import annotations

import math
from collections.abc import Mapping

from reasoning.comparisons import Side
from reasoning.select import Selector


def percent(share: float) -> str:
    """0.6123 -> '61.2'. Points of accuracy, without the sign."""
    return f"{100 * share:.1f}"


def si(value: float) -> str:
    """Three significant digits with a unit prefix: 2.4e9 -> '2.40 G'; '–' for what is not known.

    >>> si(2.4e9), si(640), si(float("nan"))
    ('2.40 G', '640', '–')
    """
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞"
    for power, prefix in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 0.9995 * 10**power:
            return f"{_digits(value / 10**power)} {prefix}"
    return _digits(value) if value % 1 else f"{value:.0f}"


def _digits(value: float) -> str:
    return (
        f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"
    )


def count(value: float) -> str:
    """1234.4 -> '1,234'; '–' for what is not known."""
    return "–" if math.isnan(value) else f"{value:,.0f}"


def queries(value: float) -> str:
    """A number of queries to two significant digits: 498.7 -> '500'."""
    if math.isinf(value):
        return "any number of"
    if value < 10:
        return f"{value:.0f}"
    power = math.floor(math.log10(value)) - 1
    return f"{round(value / 10**power) * 10**power:,.0f}"


def break_even(number: float, low: float, high: float) -> str:
    """From how many queries on: '650 queries on (95% interval 200 to 3,300)'.

    >>> break_even(0.0, 0.0, 1356.0)
    'the first query on (95% interval the first to 1,400)'
    """
    start = "the first query on" if number < 1 else f"{queries(number)} queries on"
    if math.isnan(low):
        return start
    return f"{start} (95% interval {'the first' if low < 1 else queries(low)} to {queries(high)})"


def short(name: str, most: int) -> str:
    """A name in ``most`` characters, both ends kept: what tells runs apart often stands last.

    >>> short("grpo-lr1e-3-seed1", 40), short("grpo-lr1e-3-seed1", 12)
    ('grpo-lr1e-3-seed1', 'grpo-…-seed1')
    """
    half = (most - 1) // 2
    return name if len(name) <= most else f"{name[:half]}…{name[half + 1 - most :]}"


def short_scorer(name: str) -> str:
    """A verifier's spec without its argument: 'learned:runs/demo/verifier' -> 'learned'."""
    return name.partition(":")[0]


STRATEGIES = {
    "greedy": "greedy",
    "pass": "oracle ceiling",
    "majority": "majority",
    "weighted_majority": "weighted majority",
    "best_of_n": "best-of-n",
    "majority_of_bests": "majority of bests",
}


def strategy(name: str, scorer: str = "") -> str:
    """A strategy for a legend: 'best-of-n (learned)'."""
    return STRATEGIES[name] + (f" ({short_scorer(scorer)})" if scorer else "")


def side(labels: Mapping[str, str], one: Side) -> str:
    """One side of a comparison: 'grpo, best-of-n (learned) of 16'."""
    name = "one chain" if one.strategy == "pass" and one.k == 1 else strategy(one.strategy, one.scorer)
    at = "" if one.k is None or one.k == 1 else f" of {one.k}"
    return f"{labels[one.model]}, {name}{at}"


def strategy_at(selector: Selector, k: int) -> str:
    """A strategy at k within a sentence: 'the majority of 64', 'best of 16 (learned)'."""
    by = f" ({short_scorer(selector.scorer)})" if selector.scorer else ""
    return {
        "greedy": "greedy decoding",
        "pass": f"the oracle's choice of {k}" if k > 1 else "one chain",
        "majority": f"the majority of {k}" if k > 1 else "one chain",
        "weighted_majority": f"the weighted majority of {k}{by}",
        "best_of_n": f"the best of {k}{by}",
        "majority_of_bests": f"the majority of bests of {k}{by}",
    }[selector.name]
