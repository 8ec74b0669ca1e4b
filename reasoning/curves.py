"""Accuracy against compute: measurements, curves with bands, and the content of `curves.json` and
`curves.csv`.

Everything here is a pure function of a pool's records: no clock, no host, no order of arrival. The same pool
gives the same bytes. Compute is counted on three axes: samples, output tokens, and FLOPs of the generator
(the prompt's prefill once for all chains of a problem, then k chains) plus the verifier that the strategy
uses.

Knows nothing of pictures; comparisons are in `reasoning.comparisons`, training against search in
`reasoning.iso_compute`.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reasoning.errors import UserError
from reasoning.progress import printable
from reasoning.select import Group, ReadOnce, Records, Selector, groups, open_selector
from reasoning.statistics import curve_bands

Floats = NDArray[np.float64]

AXES = ("samples", "output_tokens", "flops")
_MOST_LEVELS = 6


@dataclass(frozen=True, slots=True, eq=False)
class Measurement:
    """One strategy on one model's chains, problem by problem.

    values, error: (P, K) expected accuracy and its Monte-Carlo error. spent: axis -> (P, K). problem_ids and
    levels (difficulty): (P,). Rows and columns of all of them agree.
    """

    model: str
    selector: Selector
    ks: tuple[int, ...]
    problem_ids: tuple[str, ...]
    levels: tuple[Any, ...]
    values: Floats
    error: Floats
    spent: Mapping[str, Floats]

    def column(self, k: int) -> Floats:
        """(P,) values at ``k``."""
        return self.values[:, self.ks.index(k)]

    def rows(self, wanted: Sequence[bool] | NDArray[np.bool_]) -> Measurement:
        """The same for some of the problems."""
        keep = np.asarray(wanted, dtype=bool)
        return Measurement(
            self.model,
            self.selector,
            self.ks,
            tuple(p for p, kept in zip(self.problem_ids, keep, strict=True) if kept),
            tuple(d for d, kept in zip(self.levels, keep, strict=True) if kept),
            self.values[keep],
            self.error[keep],
            {axis: spent[keep] for axis, spent in self.spent.items()},
        )


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a curve: a mean over problems.

    samples, output_tokens, flops: spent per problem; NaN where the records do not say.
    low, high: 95% interval over problems (`reasoning.statistics.accuracy_interval`). band_low, band_high: 95% band
    of the whole curve. monte_carlo_error: of the estimate itself, 0 where it is exact.
    problems: how many the point rests on.
    """

    k: int
    accuracy: float
    low: float
    high: float
    band_low: float
    band_high: float
    monte_carlo_error: float
    problems: int
    samples: float
    output_tokens: float
    flops: float

    def compute(self, axis: str) -> float:
        return {"samples": self.samples, "output_tokens": self.output_tokens, "flops": self.flops}[axis]


@dataclass(frozen=True, slots=True)
class Curve:
    """A strategy on a model. difficulty: None for all problems. oracle: a ceiling that cannot be deployed."""

    name: str
    strategy: str
    scorer: str
    model: str
    oracle: bool
    difficulty: str | None
    points: tuple[Point, ...]

    def at(self, k: int) -> Point | None:
        return next((point for point in self.points if point.k == k), None)


def default_ks(some: Iterable[Sequence[Group]]) -> list[int]:
    """Powers of two up to the number of chains that every problem of every model has, and that were judged of nine
    problems in ten (of those of which any was: the others have no part in a curve)."""
    most = []
    for groups_ in some:
        judged = sorted(n for group in groups_ if (n := int((~np.isnan(group.correct)).sum())))
        most += [group.n for group in groups_] + judged[len(judged) // 10 :][:1]
    return [2**i for i in range(min(most, default=0).bit_length())]


def measure(selector: Selector, model: str, some: Sequence[Group], ks: Sequence[int]) -> Measurement:
    """Apply a selector to a model's groups. Greedy is one chain, so it has the single column k = 1."""
    ks = (1,) if selector.name == "greedy" else tuple(ks)
    values = selector(some, ks)
    counts = np.array(ks, dtype=np.float64)
    if selector.name == "greedy":
        output = np.array([[group.greedy_output_tokens] for group in some])
        flops = np.array([[group.prefill_flops + group.greedy_decode_flops] for group in some])
    else:
        output = np.array([group.output_tokens.mean() * counts for group in some])
        flops = np.array(
            [
                group.prefill_flops
                + counts * (group.decode_flops.mean() + _scoring_flops(group, selector.scorer))
                for group in some
            ]
        )
    return Measurement(
        model=model,
        selector=selector,
        ks=ks,
        problem_ids=tuple(group.problem_id for group in some),
        levels=difficulty_levels([group.difficulty for group in some]),
        values=values.mean,
        error=values.error,
        spent={"samples": np.tile(counts, (len(some), 1)), "output_tokens": output, "flops": flops},
    )


def _scoring_flops(group: Group, scorer: str) -> float:
    return float(group.score_flops[scorer].mean()) if scorer else 0.0


def difficulty_levels(difficulties: Sequence[Any]) -> tuple[str | None, ...]:
    """Difficulties as few levels: as they are, or as ranges of about equal size where there are many
    numbers."""
    known = sorted({d for d in difficulties if isinstance(d, (int, float)) and d == d})
    if len(known) <= _MOST_LEVELS:
        return tuple(None if d is None else str(d) for d in difficulties)
    numbers = np.array([d for d in difficulties if isinstance(d, (int, float)) and d == d], dtype=np.float64)
    edges = np.unique(np.quantile(numbers, [0.25, 0.5, 0.75], method="lower"))
    names: dict[int, str] = {}
    for bin_ in range(len(edges) + 1):
        inside = [d for d in known if np.searchsorted(edges, d) == bin_]
        if inside:
            names[bin_] = f"{inside[0]:g}" if len(inside) == 1 else f"{inside[0]:g}–{inside[-1]:g}"
    return tuple(
        names[int(np.searchsorted(edges, d))] if isinstance(d, (int, float)) and d == d else None
        for d in difficulties
    )


def curve(measurement: Measurement, difficulty: str | None = None) -> Curve:
    """The mean curve with its intervals; ``difficulty`` names the level that ``measurement`` was cut to."""
    m, selector = measurement, measurement.selector
    bands = curve_bands(m.values, bounds=(0.0, 1.0))
    points = []
    for j, k in enumerate(m.ks):
        n, known = int(bands.problems[j]), ~np.isnan(m.values[:, j])
        spent = {axis: float(m.spent[axis][known, j].mean()) if n else math.nan for axis in AXES}
        points.append(
            Point(
                k=k,
                accuracy=float(bands.estimate[j]),
                low=float(bands.low[j]),
                high=float(bands.high[j]),
                band_low=float(bands.band_low[j]),
                band_high=float(bands.band_high[j]),
                monte_carlo_error=float(np.sqrt((m.error[known, j] ** 2).sum()) / n) if n else math.nan,
                problems=n,
                **spent,
            )
        )
    return Curve(
        selector.label, selector.name, selector.scorer, m.model, selector.oracle, difficulty, tuple(points)
    )


def curves_by_difficulty(measurement: Measurement) -> list[Curve]:
    """One curve per level of difficulty that has at least two problems, easiest first; none where all are
    alike."""
    levels = sorted({level for level in measurement.levels if level is not None}, key=_by_number)
    if len(levels) < 2:
        return []
    cut = [(level, [other == level for other in measurement.levels]) for level in levels]
    return [curve(measurement.rows(keep), level) for level, keep in cut if sum(keep) >= 2]


def _by_number(level: str) -> tuple[float, str]:
    try:
        return float(level.split("–")[0]), level
    except ValueError:
        return math.inf, level


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """All that is measured of a pool: what every table, picture and file is made from.

    labels: model -> its name for a reader. groups: model -> its groups. measurements: every (model,
    strategy), models in the order asked for.
    oracle: the verifier that says what is correct. scorers: name -> reads the reference. training: model ->
    FLOPs of all training that led to it, None where that is not recorded. fits: scorer -> FLOPs of fitting it, where
    that is recorded.
    """

    models: tuple[str, ...]
    labels: Mapping[str, str]
    oracle: str
    scorers: Mapping[str, bool]
    ks: tuple[int, ...]
    groups: Mapping[str, Sequence[Group]]
    training: Mapping[str, float | None]
    measurements: Sequence[Measurement]
    recorded: Mapping[str, bool] = field(default_factory=dict)
    fits: Mapping[str, float] = field(default_factory=dict)

    def find(self, model: str, strategy: str, scorer: str = "") -> Measurement | None:
        """The measurement of a strategy; without a scorer's name the first one."""
        return next(
            (
                m
                for m in self.measurements
                if m.model == model and m.selector.name == strategy and scorer in ("", m.selector.scorer)
            ),
            None,
        )


def measure_pool(
    pool: Records,
    *,
    oracle: str,
    scorers: Sequence[str] = (),
    models: Sequence[str] | None = None,
    ks: Sequence[int] | None = None,
    strategies: Sequence[str] | None = None,
) -> Measured:
    """Measure every model and strategy of a pool.

    models: None takes all, the one that training cost least first. strategies: specs for `open_selector`;
    None takes greedy (where drawn), the oracle ceiling, majority and, for each scorer that does not read the
    reference, weighted majority, best-of-n and majority-of-bests. ks: None takes `default_ks`. Raises
    UserError for an empty pool and for names and ks that it does not have.
    """
    pool = ReadOnce(pool)
    known = pool.models()
    training = training_flops(known)
    if not models:
        models = sorted(pool.drawn_from(), key=lambda m: (training[m] or 0.0, m))
    if not models:
        raise UserError("The pool is empty: draw chains first (reasoning sample).")
    grouped = {model: groups(pool, model, oracle=oracle, scorers=scorers) for model in models}
    flags = {name: pool.verifiers()[name] for name in scorers}
    if strategies is None:
        drawn = any(not math.isnan(g.greedy_correct) for some in grouped.values() for g in some)
        voting = any(bool((g.answers >= 0).any()) for some in grouped.values() for g in some)
        strategies = [*(["greedy"] if drawn else []), "pass", *(["majority"] if voting else [])]
        for scorer, sees_reference in flags.items():
            if not sees_reference:
                votes = ("weighted_majority", "majority_of_bests") if voting else ()
                names = ("best_of_n", *votes)
                strategies += [f"{name}:scorer={scorer}" for name in names]
    selectors = [open_selector(spec, flags) for spec in strategies]
    wanted = tuple(sorted(set(ks or default_ks(grouped.values()))))
    return Measured(
        models=tuple(models),
        labels=_labels({model: known[model] for model in models}),
        oracle=oracle,
        scorers=flags,
        ks=wanted,
        groups=grouped,
        training={model: training[model] for model in models},
        fits={name: cost for name in flags if (cost := training.get(name)) is not None},
        recorded={model: bool(known[model].get("recorded")) for model in models},
        measurements=[
            measure(selector, model, grouped[model], wanted)
            for model in models
            for selector in selectors
            if not selector.scorer or selector.scorer in grouped[model][0].scores
        ],
    )


def training_flops(models: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """FLOPs of all training that led to each model ("flops" of its own run + "shared_flops" of those before
    it).

    None where that is not recorded, except for a model that a recorded one was trained from: what that one
    has before its own run is what this one cost.
    """
    found: dict[str, float | None] = dict.fromkeys(models)
    for info in models.values():
        training = info.get("training", {})
        if training.get("parent") in found:
            found[training["parent"]] = float(training.get("shared_flops", 0.0))
    for model, info in models.items():
        if "flops" in info.get("training", {}):
            found[model] = float(info["training"]["flops"] + info["training"].get("shared_flops", 0.0))
    return found


def _labels(models: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The registered label, or the last part of the name without its weights; the whole id where two
    agree."""
    short = {
        model: str(info.get("label") or model.partition("@")[0].rpartition("/")[2].replace("_", " ") or model)
        for model, info in models.items()
    }
    names = list(short.values())
    unique = {model: label if names.count(label) == 1 else model for model, label in short.items()}
    return {model: printable(" ".join(label.split())) for model, label in unique.items()}


def all_curves(measured: Measured) -> list[Curve]:
    """Every curve over all problems, then every curve by difficulty."""
    return [curve(m) for m in measured.measurements] + [
        c for m in measured.measurements for c in curves_by_difficulty(m)
    ]


# --- files --------------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """``value`` as JSON with stable floats: ten significant digits, null for what is not a finite number."""
    if isinstance(value, (bool, str, int)) or value is None:
        return value
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.10g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, np.integer):
        return int(value)
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return [plain(inner) for inner in value]


def curve_files(curves: Sequence[Curve], extra: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The content of ``curves.json`` (the curves and ``extra``) and ``curves.csv`` (one row per point)."""
    content = {"curves": plain(curves), **plain(extra or {})}
    table = io.StringIO()
    about = ("model", "strategy", "scorer", "oracle", "difficulty")
    columns = list(Point.__dataclass_fields__)
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([*about, *columns])
    for c in curves:
        for point in c.points:
            row = [getattr(c, name) for name in about] + [plain(getattr(point, name)) for name in columns]
            writer.writerow(["" if cell is None else cell for cell in row])
    text = json.dumps(content, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    return {"curves.json": text, "curves.csv": table.getvalue()}
