"""Who is better than whom, and by how much: paired comparisons on the same problems.

Models, and strategies on one model, at equal k and at equal FLOPs. Each comparison carries its
interval, a permutation p, Holm's adjustment over all comparisons made, and the smallest difference it could
have found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from reasoning.curves import Floats, Measured, Measurement
from reasoning.statistics import holm, paired


@dataclass(frozen=True, slots=True)
class Side:
    """What is compared: a strategy on a model. flops: spent per problem; NaN where unknown."""

    model: str
    strategy: str
    scorer: str
    k: int | None
    flops: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """``a`` minus ``b`` in accuracy over the problems that both have, with a 95% interval.

    a_accuracy, b_accuracy: over those problems. basis: "k" (the same number of chains) or "flops" (the same
    FLOPs per problem, k mixed to meet it).
    p: two-sided sign-flip permutation; p_holm: adjusted over all comparisons of the table. detectable: the
    smallest true difference found with 80% power. oracle: one side reads the reference.
    """

    a: Side
    b: Side
    basis: str
    a_accuracy: float
    b_accuracy: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    detectable: float
    problems: int
    oracle: bool

    @property
    def supported(self) -> bool:
        """The interval excludes 0, and so does the permutation test over all comparisons made."""
        return (self.low > 0 or self.high < 0) and self.p_holm <= 0.05


def compare(measured: Measured) -> list[Comparison]:
    """The table of comparisons: models at equal k and at equal FLOPs, then strategies likewise."""
    found = [
        *(c for a, b in _pairs_of_models(measured) for c in _models_at_equal_k(measured, a, b)),
        *(c for a, b in _pairs_of_models(measured) for c in _models_at_equal_flops(measured, a, b)),
        *(c for model in measured.models for c in _strategies(measured, model)),
        *(c for model in measured.models for c in _strategies_at_equal_flops(measured, model)),
    ]
    adjusted = holm([c.p for c in found])
    return [replace(c, p_holm=p) for c, p in zip(found, adjusted, strict=True)]


def at_flops(measurement: Measurement, flops: float) -> Floats | None:
    """(P,) values where the strategy spends ``flops`` per problem on average, or None outside of its range.

    Between two measured ks the value is that of drawing one or the other by chance so as to spend ``flops``,
    which can be done, so nothing is extrapolated.
    """
    means = np.nanmean(measurement.spent["flops"], axis=0) if _priced(measurement) else np.array([np.nan])
    if not means[0] <= flops <= means[-1] * (1 + 1e-12):
        return None
    right = min(max(int(np.searchsorted(means, flops)), 1), len(means) - 1)
    if len(means) == 1:
        return measurement.values[:, 0]
    share = min((flops - means[right - 1]) / (means[right] - means[right - 1]), 1.0)
    # A share of 0 or 1 must not pull in the other column's missing problems.
    if share in (0.0, 1.0):
        return measurement.values[:, right if share else right - 1]
    return (1 - share) * measurement.values[:, right - 1] + share * measurement.values[:, right]


def paired_values(
    a: Measurement, a_values: Floats, b: Measurement, b_values: Floats
) -> tuple[Floats, Floats]:
    """Both sides' values on the problems that both have, in one order."""
    place = {id: i for i, id in enumerate(b.problem_ids)}
    both = [(i, place[id]) for i, id in enumerate(a.problem_ids) if id in place]
    return a_values[[i for i, _ in both]], b_values[[j for _, j in both]]


def _pairs_of_models(measured: Measured) -> list[tuple[str, str]]:
    """(later, earlier) of the models in their order, so that a difference reads as what training added."""
    return [(b, a) for a, b in combinations(measured.models, 2)]


def _models_at_equal_k(measured: Measured, a: str, b: str) -> list[Comparison]:
    found = []
    for m in measured.measurements:
        other = measured.find(b, m.selector.name, m.selector.scorer)
        if m.model != a or other is None or m.selector.name in ("weighted_majority", "majority_of_bests"):
            continue
        ks = (
            {1}
            if m.selector.name == "greedy"
            else {1, max(m.ks)}
            if m.selector.name == "pass"
            else {max(m.ks)}
        )
        found += [_compared(m, other, "k", k=k) for k in sorted(ks & set(m.ks))]
    return found


def _models_at_equal_flops(measured: Measured, a: str, b: str) -> list[Comparison]:
    found = []
    for m in measured.measurements:
        other = measured.find(b, m.selector.name, m.selector.scorer)
        if m.model != a or other is None or m.selector.name not in ("majority", "best_of_n"):
            continue
        found += _at_equal_flops(m, other)
    return found


def _strategies(measured: Measured, model: str) -> list[Comparison]:
    """At the largest k: each deployable strategy against one sample, and each, the oracle too, against the
    majority."""
    k = max(measured.ks)
    one, vote = measured.find(model, "pass"), measured.find(model, "majority")
    found = []
    for m in measured.measurements:
        if m.model != model or m.selector.name == "greedy" or k == 1:
            continue
        if one is not None and 1 in one.ks and not m.selector.oracle:
            found.append(_compared(m, one, "k", k=k, other_k=1))
        if vote is not None and m.selector.name != "majority":
            found.append(_compared(m, vote, "k", k=k))
    return found


def _strategies_at_equal_flops(measured: Measured, model: str) -> list[Comparison]:
    """What a verifier's scoring costs could have bought more votes instead: each against the majority."""
    vote = measured.find(model, "majority")
    found = []
    for m in measured.measurements:
        if m.model == model and vote is not None and m.selector.scorer and not m.selector.oracle:
            found += _at_equal_flops(m, vote)
    return found


def _at_equal_flops(m: Measurement, other: Measurement) -> list[Comparison]:
    """At the most FLOPs that both reach; empty where they are not known or do not meet."""
    if not (_priced(m) and _priced(other)) or len(m.ks) < 2:
        return []
    flops = min(float(np.nanmean(s.spent["flops"][:, -1])) for s in (m, other))
    if at_flops(m, flops) is None or at_flops(other, flops) is None:
        return []
    return [_compared(m, other, "flops", flops=flops)]


def _compared(
    a: Measurement, b: Measurement, basis: str, k: int = 0, other_k: int = 0, flops: float = float("nan")
) -> Comparison:
    if basis == "flops":
        a_values, b_values = at_flops(a, flops), at_flops(b, flops)
        assert a_values is not None
        assert b_values is not None
        sides = [Side(m.model, m.selector.name, m.selector.scorer, None, flops) for m in (a, b)]
    else:
        ks = (k, other_k or k)
        a_values, b_values = a.column(ks[0]), b.column(ks[1])
        sides = [
            Side(m.model, m.selector.name, m.selector.scorer, at, _mean_flops(m, at))
            for m, at in zip((a, b), ks, strict=True)
        ]
    a_values, b_values = paired_values(a, a_values, b, b_values)
    result, both = paired(a_values, b_values), ~np.isnan(a_values - b_values)
    # One chain is one chain, whoever could have picked it: pass@1 reads no reference to choose.
    oracle = any(m.selector.oracle and side.k != 1 for m, side in zip((a, b), sides, strict=True))
    return Comparison(
        a=sides[0],
        b=sides[1],
        basis=basis,
        a_accuracy=float(a_values[both].mean()) if both.any() else float("nan"),
        b_accuracy=float(b_values[both].mean()) if both.any() else float("nan"),
        difference=result.difference,
        low=result.interval.low,
        high=result.interval.high,
        p=result.p,
        p_holm=result.p,
        detectable=result.detectable,
        problems=result.interval.problems,
        oracle=oracle,
    )


def _mean_flops(m: Measurement, k: int) -> float:
    return float(m.spent["flops"][:, m.ks.index(k)].mean())


def _priced(m: Measurement) -> bool:
    return not np.isnan(m.spent["flops"]).all()


def find(
    comparisons: Sequence[Comparison], a: tuple[str, str], b: tuple[str, str], basis: str = "k"
) -> list[Comparison]:
    """The comparisons of (model, strategy) ``a`` with ``b``."""
    return [
        c
        for c in comparisons
        if (c.a.model, c.a.strategy) == a and (c.b.model, c.b.strategy) == b and c.basis == basis
    ]
