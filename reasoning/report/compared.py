"""Training runs against each other: who is better for the same FLOPs and at the end, and who reached an accuracy for
how much. Functions of `TrainingRun`s alone; what is compared problem by problem is paired.

Between two evaluations a run is taken to go straight from the one to the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from reasoning.report.runs import Floats, TrainingRun, asked
from reasoning.report.seeds import PATHS, SCREEN, every_run
from reasoning.report.words import si
from reasoning.statistics import LEVEL, holm, paired_seeds, resampled_means

SAME_SPENT = 0.02
"""Runs whose FLOPs differ by no more have spent the same: their ends are compared once."""


@dataclass(frozen=True, slots=True)
class Reach:
    """FLOPs at which a run first had the target, with a 95% interval over problems (NaN where its evaluations are not
    known problem by problem). Infinite: it never had it. Of several seeds: where their mean had it, and the first and
    the last of them."""

    flops: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """Run number ``a`` minus run number ``b`` in held-out accuracy, with a 95% interval, over ``problems`` that both
    were evaluated on.

    basis: "flops", where both had spent what the one that spent less has; "end", at their last evaluations. flops: of
    each side. p: sign-flip permutation, or of the t interval over problems and seeds where a side has several;
    p_holm: adjusted for the number of comparisons made.
    """

    a: int
    b: int
    basis: Literal["flops", "end"]
    flops: tuple[float, float]
    accuracies: tuple[float, float]
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    problems: int

    @property
    def supported(self) -> bool:
        return (self.low > 0 or self.high < 0) and self.p_holm <= 1 - LEVEL


@dataclass(frozen=True, slots=True)
class Compared:
    """runs: the lines, each a run or the runs of one method (`seeds.by_method`).
    target: the accuracy to whose cost runs are compared; None where no run rose. chosen: how it was. reaches: one
    a line, none without a target; each: one a run. ratios: (dearer line, cheaper line, ratio, low, high) of those
    that reached it. notes: what a reader of the figures must know."""

    runs: Sequence[TrainingRun]
    metric: str
    target: float | None
    chosen: str
    reaches: Sequence[Reach]
    each: Sequence[Reach]
    ratios: Sequence[tuple[int, int, float, float, float]]
    differences: Sequence[Difference]
    notes: Sequence[str]


def compare_runs(
    runs: Sequence[TrainingRun], metric: str, left_out: Sequence[str] = (), target: float | None = None
) -> Compared:
    """left_out: lines on the folders that were given and are no runs to compare. target: a share; None takes the
    accuracy midway between where the runs start and the best evaluation of any, in whole percent."""
    chosen = "as asked for"
    if target is None:
        start, best = float(np.mean([r.accuracies[0] for r in runs])), max(r.accuracies.max() for r in runs)
        target = round(50 * (start + float(best))) / 100
        chosen = f"midway between the start, {100 * start:.1f}%, and the best evaluation, {100 * best:.1f}%"
        if target <= max(r.accuracies[0] for r in runs):
            target, chosen = None, ""
    reaches, ratios = ([], []) if target is None else _race(runs, target)
    each = [] if target is None else _race(every_run(runs), target)[0]
    found = [d for (i, a), (j, b) in combinations(enumerate(runs), 2) for d in _differences((i, a), (j, b))]
    adjusted = holm([d.p for d in found])
    found = [replace(d, p_holm=p) for d, p in zip(found, adjusted, strict=True)]
    notes = [*_notes(runs, metric), *left_out]
    return Compared(runs, metric, target, chosen, reaches, each, ratios, found, notes)


# ---- the same FLOPs


def at(run: TrainingRun, flops: float) -> Floats:
    """(S, P) accuracies of the run's seeds when it had spent ``flops``, no more than at its last evaluation."""
    assert run.values is not None
    values = run.values[None] if run.by_seed is None else run.by_seed
    spent = run.spent
    after = int(np.searchsorted(spent, flops))
    if after == 0 or spent[after] == flops:
        return values[..., after]
    share = (flops - spent[after - 1]) / (spent[after] - spent[after - 1])
    return (1 - share) * values[..., after - 1] + share * values[..., after]


def _differences(one: tuple[int, TrainingRun], other: tuple[int, TrainingRun]) -> list[Difference]:
    """At equal FLOPs and at the end; one of the two where they are the same."""
    a, b = one[1], other[1]
    ends = float(a.spent[-1]), float(b.spent[-1])
    common = min(ends)
    if a.values is None or b.values is None or not set(a.problems) & set(b.problems):
        return []
    found = []
    if common > 0:
        found.append(_difference(one, other, "flops", (common, common)))
    if max(ends) > common * (1 + SAME_SPENT):
        found.append(_difference(one, other, "end", ends))
    return found


def _difference(
    one: tuple[int, TrainingRun],
    other: tuple[int, TrainingRun],
    basis: Literal["flops", "end"],
    flops: tuple[float, float],
) -> Difference:
    (i, a), (j, b) = one, other
    theirs = set(b.problems)
    both = [id for id in a.problems if id in theirs]
    left, right = (at(r, f)[:, _rows_of(r, both)] for r, f in zip((a, b), flops, strict=True))
    known = ~(np.isnan(left).any(axis=0) | np.isnan(right).any(axis=0))
    left, right = left[:, known], right[:, known]
    found = paired_seeds(left, right)
    return Difference(
        a=i,
        b=j,
        basis=basis,
        flops=flops,
        accuracies=(float(left.mean()), float(right.mean())),
        difference=found.difference,
        low=found.interval.low,
        high=found.interval.high,
        p=found.p,
        p_holm=found.p,
        problems=int(known.sum()),
    )


def _rows_of(run: TrainingRun, problems: Sequence[str]) -> list[int]:
    row = {id: i for i, id in enumerate(run.problems)}
    return [row[id] for id in problems]


# ---- the same accuracy


def first_reached(spent: ArrayLike, accuracies: ArrayLike, target: float) -> Floats:
    """(B,) FLOPs at which ``accuracies`` (B, E), straight between the evaluations at ``spent`` (E,), first come to
    ``target``; infinite where they never do."""
    spent, accuracies = np.asarray(spent, dtype=np.float64), np.asarray(accuracies, dtype=np.float64)
    reached = accuracies >= target
    first = reached.argmax(axis=1)
    rows = np.arange(len(accuracies))
    now, before = accuracies[rows, first], accuracies[rows, np.maximum(first - 1, 0)]
    rise = np.where(now > before, now - before, 1.0)
    share = np.where(first > 0, (target - before) / rise, 0.0)
    start = spent[np.maximum(first - 1, 0)]
    flops = start + share * (spent[first] - start)
    return np.where(reached.any(axis=1), flops, np.inf)


def _race(
    runs: Sequence[TrainingRun], target: float
) -> tuple[list[Reach], list[tuple[int, int, float, float, float]]]:
    reaches, replicates = [], []
    for run in runs:
        flops = float(first_reached(run.spent, run.accuracies[None], target)[0])
        low = high = math.nan
        drawn = None
        if run.seeds:
            each = [float(first_reached(s.spent, s.accuracies[None], target)[0]) for s in run.seeds]
            low, high = min(each), max(each)
        elif run.values is not None and len(run.problems) > 1:
            drawn = first_reached(run.spent, resampled_means(run.values), target)
            low, high = _ends(drawn)
        reaches.append(Reach(flops, low, high))
        replicates.append(drawn)
    order = sorted(
        (i for i, r in enumerate(reaches) if math.isfinite(r.flops)), key=lambda i: reaches[i].flops
    )
    ratios = []
    for i in order[1:]:
        quick = order[0]
        if reaches[quick].flops > 0:
            low, high = _ratio(runs, replicates, i, quick)
            ratios.append((i, quick, reaches[i].flops / reaches[quick].flops, low, high))
    return reaches, ratios


def _ratio(
    runs: Sequence[TrainingRun], replicates: Sequence[Floats | None], dear: int, cheap: int
) -> tuple[float, float]:
    """Ends of the 95% interval; NaN where the two were not evaluated on the same problems, which replicates need to
    move together."""
    above, below = replicates[dear], replicates[cheap]
    if above is None or below is None or runs[dear].problems != runs[cheap].problems:
        return math.nan, math.nan
    known = np.isfinite(above) | np.isfinite(below)  # where neither has it there is no ratio
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(np.isfinite(above), above / below, np.inf)[known]
    return _ends(np.where(np.isnan(ratio), 1.0, ratio))  # 0 / 0: both had it from the start


def _ends(drawn: Floats) -> tuple[float, float]:
    """Quantiles of replicates some of which may be infinite: those that are drawn, never between two."""
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
    return float(low), float(high)


# ---- what to know


def differing(runs: Sequence[TrainingRun]) -> dict[str, list[str]]:
    """Setting -> its value in each run, of those that are not the same in all."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    told = {n: ["–" if (v := r.settings.get(n)) in ("", [], None) else str(v) for r in runs] for n in names}
    return {n: values for n, values in told.items() if len(set(values)) > 1 and n not in PATHS | SCREEN}


def _notes(runs: Sequence[TrainingRun], metric: str) -> list[str]:
    notes = [
        "FLOPs: roll-outs and updates, without evaluations and without what made the model that a run starts from.",
        *_on_seeds(runs),
    ]
    going = [r for r in every_run(runs) if not r.ended]
    if going:
        notes.append("Not ended: " + ", ".join(f"{r.name} (at step {r.step}{_of(r)})" for r in going) + ".")
    if best := [r.name for r in runs if r.settings.get("keep") == "best"]:
        notes.append(
            f"RUN/model of {', '.join(best)} is that of the best evaluation (--keep best), not of the last."
        )
    for setting, what in (
        ("max_new_tokens", "Chains may be of different length, in evaluations too"),
        ("eval_verifier", "What is right is said by different verifiers"),
    ):
        if setting in (other := differing(runs)):
            each = "; ".join(f"{', '.join(n)} {value}" for value, n in _grouped(runs, other[setting]).items())
            notes.append(f"{what}: {each}.")
    if len({r.parent.rpartition("@")[2] for r in runs}) > 1:
        starts = [f"{r.parent}{_made_by(r)}" for r in runs]
        each = "; ".join(f"{', '.join(n)} from {start}" for start, n in _grouped(runs, starts).items())
        notes.append(f"They start from different models, each at 0 FLOPs here: {each}.")
    unpaired = [r for r in runs if r.values is None]
    by_why = _grouped(unpaired, [r.unpaired for r in unpaired])
    notes += [f"Not compared problem by problem: {', '.join(n)} ({why})." for why, n in by_why.items()]
    sets = {frozenset(r.problems) for r in runs if r.problems}
    if len(sets) > 1 or (len({asked(r, metric) for r in runs}) > 1 and not all(r.problems for r in runs)):
        sides = _grouped(runs, [asked(r, metric) for r in runs])
        each = "; ".join(f"{', '.join(n)} {problems}" for problems, n in sides.items())
        notes.append(
            f"Not evaluated on the same problems: {each}. A line is of all that its run has, a difference of those "
            "that both have."
        )
    return notes


def _on_seeds(runs: Sequence[TrainingRun]) -> list[str]:
    several = [r for r in runs if r.seeds]
    if not several:
        return [
            "Intervals are over problems, of these runs: another --seed of the same command may end elsewhere."
        ]
    each = "; ".join(f"{r.name}: {', '.join(s.name for s in r.seeds)}" for r in several)
    notes = [
        f"Runs that differ in their --seed alone are one line, their mean ({each}); --each has every run. What a "
        "line spent is what one run did on average. Intervals of a difference count problems and seeds."
    ]
    if single := [r.name for r in runs if not r.seeds]:
        notes.append(f"Of one seed, so that its spread is not known: {', '.join(single)}.")
    return notes


def _grouped(runs: Sequence[TrainingRun], values: Sequence[str]) -> dict[str, list[str]]:
    """Value -> the names of the runs that have it."""
    found: dict[str, list[str]] = {}
    for run, value in zip(runs, values, strict=True):
        found.setdefault(value, []).append(run.name)
    return found


def _made_by(run: TrainingRun) -> str:
    return f" ({si(run.parent_flops)} FLOPs before)" if run.parent_flops > 0 else ""


def _of(run: TrainingRun) -> str:
    steps: Any = run.settings.get("steps")
    return f" of {steps}" if steps else ""
