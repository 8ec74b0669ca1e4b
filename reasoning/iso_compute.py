"""Train more or search more? Training spread over the queries it serves, plus search, on one axis.

A model whose training cost T FLOPs more than the base, asked Q queries, spends T/Q + (search) per query; the
base spends its search alone. The break-even Q at an accuracy is T / (base's search - trained model's search),
both at the cheapest deployable strategy that reaches it. A strategy that asks a fitted verifier pays for its fit as
a model pays for its training, on either side. Oracle strategies are left out: nobody can deploy
them.
Between two measured ks of a strategy its chords are used: drawing either k by chance meets any point on them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from reasoning.curves import Floats, Measured, Measurement
from reasoning.statistics import LEVEL, REPLICATES, resampled_means

POINT = 0.01
"""The base counts as matched one point below its best: where its curve is flat, its last tenth of a point
would otherwise decide what it costs."""


@dataclass(frozen=True, slots=True)
class BreakEven:
    """Where a trained model becomes cheaper than the base at equal accuracy.

    verdict: "break_even" (cheaper from ``queries`` on), "never" (the trained model's search is no cheaper, or
    it does not get there; queries infinite) or "base_never" (the base does not get there; queries 0).
    base_flops, trained_flops: search per query; infinite where the accuracy is not reached. low, high: 95%
    bootstrap interval of ``queries`` over problems (infinite: in that share of replicates it never pays off).
    """

    model: str
    accuracy: float
    base_flops: float
    trained_flops: float
    training_flops: float
    queries: float
    low: float
    high: float
    verdict: str
    base_ways: tuple[tuple[float, float], ...] = ()
    trained_ways: tuple[tuple[float, float], ...] = ()
    """(FLOPs of fitting its verifier, search FLOPs of a query) of each way that reaches the accuracy."""


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """A way to spend: total FLOPs per query (training's share included) and what it reaches."""

    flops: float
    accuracy: float
    model: str
    strategy: str
    k: int


@dataclass(frozen=True, slots=True, eq=False)
class Envelope:
    """The best that a model reaches with a given search spend: (flops, accuracy) ascending, both (N,).

    by_fit: FLOPs of fitting a verifier -> the same by the strategies that ask it (0: by those that ask none).
    """

    model: str
    training_flops: float
    flops: Floats
    accuracy: Floats
    by_fit: Mapping[float, tuple[Floats, Floats]] = field(default_factory=dict)

    def reached(self, flops: Floats) -> Floats:
        """Accuracy for a search spend; NaN below the cheapest answer."""
        return _on(flops, self.flops, self.accuracy)

    def reached_in_all(self, flops: Floats, queries: Floats) -> Floats:
        """Accuracy for ``flops`` per query in all, the shares of training and of a verifier's fit included, when
        there are so many queries; NaN below the cheapest answer. The two are broadcast."""
        ways = self.by_fit or {0.0: (self.flops, self.accuracy)}
        found = [_on(flops - (self.training_flops + fit) / queries, *way) for fit, way in ways.items()]
        return np.fmax.reduce(found)


def _on(flops: Floats, grid: Floats, accuracy: Floats) -> Floats:
    return np.where(np.asarray(flops) < grid[0], np.nan, np.interp(flops, grid, accuracy))


@dataclass(frozen=True, slots=True)
class IsoCompute:
    """The whole analysis. base: the model that the others are held against.

    headline: per trained model, at one point below the base's best. by_accuracy: per trained model and whole
    point of accuracy. frontiers: queries -> the points that nothing cheaper beats.
    """

    base: str
    headline: tuple[BreakEven, ...]
    by_accuracy: tuple[BreakEven, ...]
    frontiers: dict[float, tuple[FrontierPoint, ...]]
    envelopes: tuple[Envelope, ...]


def iso_compute(measured: Measured) -> IsoCompute | None:
    """The analysis of a pool, or None where no model has a training cost or FLOPs are not known."""
    costs = {model: cost for model, cost in measured.training.items() if cost is not None}
    usable = {model: _deployable(measured, model) for model in costs}
    costs = {model: cost for model, cost in costs.items() if usable[model]}
    if len(costs) < 2:
        return None
    base = min(costs, key=lambda m: costs[m])
    extra = {model: cost - costs[base] for model, cost in costs.items()}
    trained = sorted((model for model in costs if extra[model] > 0), key=lambda m: extra[m])
    if not trained:
        return None
    curves = {model: [_mean_curve(m) for m in usable[model]] for model in costs}
    envelopes = tuple(
        _envelope(model, extra[model], curves[model], [_fit(measured, m) for m in usable[model]])
        for model in (base, *trained)
    )
    headline = tuple(
        _headline(measured, model, extra[model], usable[base], usable[model], envelopes[0])
        for model in trained
    )
    lowest = min(curve[1][0] for curve in curves[base])
    highest = max(envelope.accuracy[-1] for envelope in envelopes)
    grid = np.arange(math.ceil(lowest * 100), math.floor(highest * 100 + 1e-9) + 1) / 100
    by_accuracy = tuple(
        _at_accuracy(
            model, extra[model], float(a), _ways(measured, usable[base], a), _ways(measured, usable[model], a)
        )
        for model in trained
        for a in grid
    )
    frontiers = {
        float(queries): _frontier(measured, usable, extra, float(queries))
        for queries in query_decades(envelopes)
    }
    return IsoCompute(base, headline, by_accuracy, frontiers, envelopes)


def query_decades(envelopes: Sequence[Envelope]) -> Floats:
    """Powers of ten from where training dwarfs all search to where its share is lost in one chain."""
    training = [e.training_flops for e in envelopes if e.training_flops > 0]
    most, least = max(e.flops[-1] for e in envelopes), min(e.flops[0] for e in envelopes)
    first = max(math.floor(math.log10(min(training) / most)) - 1, 0)
    last = max(math.ceil(math.log10(max(training) / least)) + 1, first + 1)
    return np.array([10.0**power for power in range(first, last + 1)])


# --- pieces -------------------------------------------------------------------------------------------------


def _deployable(measured: Measured, model: str) -> list[Measurement]:
    return [
        m
        for m in measured.measurements
        if m.model == model
        and not m.selector.oracle
        and not np.isnan(m.spent["flops"]).any()
        and not np.isnan(m.values).all(axis=0).any()
    ]


def _mean_curve(m: Measurement) -> tuple[Floats, Floats]:
    return m.spent["flops"].mean(axis=0), np.nanmean(m.values, axis=0)


def _envelope(
    model: str, training: float, curves: Sequence[tuple[Floats, Floats]], fits: Sequence[float]
) -> Envelope:
    """curves, fits: of each strategy."""
    by_fit = {
        fit: _best([c for c, f in zip(curves, fits, strict=True) if f == fit]) for fit in sorted(set(fits))
    }
    return Envelope(model, training, *_best(curves), by_fit)


def _best(curves: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    """Best of all strategies at every spend at which one of them has a point or passes one."""
    grid = np.unique(np.concatenate([flops for flops, _ in curves]))
    best = np.full(len(grid), -np.inf)
    for flops, accuracy in curves:
        inside = grid >= flops[0]
        best[inside] = np.maximum(best[inside], np.interp(grid[inside], flops, accuracy))
    return grid, np.maximum.accumulate(best)


def _reach(flops: Floats, accuracy: Floats, target: Floats) -> Floats:
    """Where curves (B, K) first reach their targets (B,), along their chords; infinite where they do not."""
    there = accuracy >= target[:, None] - 1e-12
    first = np.argmax(there, axis=1)
    row = np.arange(len(target))
    before = np.maximum(first - 1, 0)
    rise = accuracy[row, first] - accuracy[row, before]
    share = np.where(rise > 0, (target - accuracy[row, before]) / np.where(rise > 0, rise, 1.0), 1.0)
    share = np.clip(share, 0.0, 1.0)
    spend = flops[row, before] + share * (flops[row, first] - flops[row, before])
    return np.where(there.any(axis=1), spend, np.inf)


@dataclass(frozen=True, slots=True)
class _Way:
    """A strategy in B replicates: what fitting its verifier cost, and FLOPs per query to the accuracy, (B,)."""

    fit: float
    spend: Floats


def _queries(training: float, base: Sequence[_Way], trained: Sequence[_Way]) -> Floats:
    """(B,) break-even queries: from there on the trained model's cheapest way costs no more in all than the base's.
    0 where it does from the first query on (as where the base never gets there), infinite where it never does.

    With x = 1 / queries a way costs spend + x (fit + training) per query. For each way of the base the least x is
    sought at which every way of the trained model costs as much; the least of those ends its lead.
    """
    ends = []
    for b in base:
        least, most = np.zeros(len(b.spend)), np.full(len(b.spend), np.inf)
        for t in trained:
            slope = training + t.fit - b.fit
            gap = np.where(np.isinf(t.spend), -np.inf, b.spend - np.where(np.isinf(t.spend), 0.0, t.spend))
            if slope > 0:
                least = np.maximum(least, gap / slope)
            else:
                over = gap > 0 if slope == 0 else gap > -np.inf
                bound = np.full(len(gap), -np.inf) if slope == 0 else gap / slope
                most = np.where(over, np.minimum(most, np.where(gap > 0, -np.inf, bound)), most)
        ends.append(np.where((least <= most) & np.isfinite(b.spend), least, np.inf))
    end = np.min(ends, axis=0)
    never = np.isinf(np.min([t.spend for t in trained], axis=0))
    with np.errstate(divide="ignore"):
        return np.where(never, np.inf, 1.0 / end)


def _ways(measured: Measured, some: Sequence[Measurement], accuracy: float) -> list[_Way]:
    ways = []
    for m in some:
        flops, values = _mean_curve(m)
        ways.append(_Way(_fit(measured, m), _reach(flops[None], values[None], np.array([accuracy]))))
    return ways


def _fit(measured: Measured, m: Measurement) -> float:
    """FLOPs of fitting the verifier that a strategy uses."""
    return measured.fits.get(m.selector.scorer, 0.0)


def _at_accuracy(
    model: str, training: float, accuracy: float, base: Sequence[_Way], trained: Sequence[_Way]
) -> BreakEven:
    queries = float(_queries(training, base, trained)[0])
    base_flops, flops = (min(float(way.spend[0]) for way in side) for side in (base, trained))
    if math.isinf(base_flops) and math.isfinite(flops):
        verdict = "base_never"
    else:
        verdict = "break_even" if math.isfinite(queries) else "never"
    told = [
        tuple((way.fit, float(way.spend[0])) for way in side if math.isfinite(way.spend[0]))
        for side in (base, trained)
    ]
    return BreakEven(
        model, accuracy, base_flops, flops, training, queries, math.nan, math.nan, verdict, told[0], told[1]
    )


def _headline(
    measured: Measured,
    model: str,
    training: float,
    base: Sequence[Measurement],
    trained: Sequence[Measurement],
    envelope: Envelope,
) -> BreakEven:
    """At one point below the base's best, with an interval: problems are resampled, and in each replicate the
    base's best, what both cost there and the break-even are found anew."""
    target = float(envelope.accuracy[-1]) - POINT
    at = _at_accuracy(
        model, training, target, _ways(measured, base, target), _ways(measured, trained, target)
    )
    shared = sorted(set(base[0].problem_ids) & set(trained[0].problem_ids))
    if len(shared) < 2:
        return at
    replicates = [[_replicates(m, shared) for m in side] for side in (base, trained)]
    targets = np.max([accuracy.max(axis=1) for _, accuracy in replicates[0]], axis=0) - POINT
    ways = [
        [_Way(_fit(measured, m), _reach(f, a, targets)) for m, (f, a) in zip(side, drawn, strict=True)]
        for side, drawn in zip((base, trained), replicates, strict=True)
    ]
    queries = np.sort(_queries(training, *ways))
    low, high = (queries[round(share * (len(queries) - 1))] for share in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return replace(at, low=float(low), high=float(high))


def _replicates(m: Measurement, problem_ids: Sequence[str]) -> tuple[Floats, Floats]:
    """(flops, accuracy), each (B, K), of the same resamplings of the same problems for every measurement."""
    place = {id: i for i, id in enumerate(m.problem_ids)}
    rows = [place[id] for id in problem_ids]
    flops = resampled_means(m.spent["flops"][rows], REPLICATES)
    return flops, np.nan_to_num(resampled_means(m.values[rows], REPLICATES), nan=0.0)


def _frontier(
    measured: Measured,
    usable: dict[str, list[Measurement]],
    extra: dict[str, float],
    queries: float,
) -> tuple[FrontierPoint, ...]:
    """The measured points that no cheaper one beats, cheapest first."""
    points = [
        FrontierPoint(
            float(spend) + (extra[model] + _fit(measured, m)) / queries,
            float(value),
            model,
            m.selector.label,
            k,
        )
        for model, measurements in usable.items()
        for m in measurements
        for k, spend, value in zip(m.ks, *_mean_curve(m), strict=True)
    ]
    best, kept = -math.inf, []
    for point in sorted(points, key=lambda p: (p.flops, -p.accuracy, p.model, p.strategy, p.k)):
        if point.accuracy > best:
            best = point.accuracy
            kept.append(point)
    return tuple(kept)
