"""Runs of one method that differ in their seed, as one line: their mean, and how far they lie apart. Functions of
`TrainingRun`s alone.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import MISSING, fields, replace
from typing import Any

import numpy as np

from reasoning.report.runs import Evaluation, Floats, TrainingRun
from reasoning.statistics import t_interval
from reasoning.train.fresh import is_fresh
from reasoning.train.options import TrainOptions

PATHS = frozenset({"run", "config"})
SCREEN = frozenset({"log_every", "track", "checkpoint_every"})
"""Settings of no weight in a comparison."""

FEW_SEEDS = 3
"""Up to so many a band goes from the lowest seed to the highest; of more it is Student's t interval of their mean."""

_PARTS = re.compile(r"[^\W\d_]+|\d+|[\W_]+")
_MARKS = "-_/. "


def by_method(runs: Sequence[TrainingRun]) -> tuple[list[TrainingRun], list[str]]:
    """(a line for each method, in the order of the first run of each; notes). Runs are of one method where model,
    data and every recorded setting but seed and folder are the same. A single seed stays the run that it is."""
    methods: dict[str, list[TrainingRun]] = {}
    notes: list[str] = []
    for i, run in enumerate(runs):
        key = _method(run)
        before = methods.setdefault(key or str(i), [])
        twin = next((r.name for r in before if r.settings["seed"] == run.settings["seed"]), None)
        if twin is None:
            before.append(run)
        else:
            notes.append(f"{run.name} has the settings and the seed of {twin}: it is a line of its own.")
            methods[str(i)] = [run]
    lines = [part for some in methods.values() for part in ([some] if _steps(some) else [[r] for r in some])]
    return [mean_of(some, name) for some, name in zip(lines, _names(lines), strict=True)], notes


def mean_of(runs: Sequence[TrainingRun], name: str) -> TrainingRun:
    """The line of runs that differ in their seed: means over them at the steps at which all were evaluated, of which
    there must be one. Of one run, that run."""
    if len(runs) == 1:
        return runs[0]
    steps = _steps(runs)
    at = [{e.step: i for i, e in enumerate(run.evaluations)} for run in runs]
    taken = [[run.evaluations[where[step]] for step in steps] for run, where in zip(runs, at, strict=True)]
    problems, by_seed, why = _by_seed(runs, [[where[step] for step in steps] for where in at])
    return replace(
        runs[0],
        name=name,
        settings={**runs[0].settings, "seed": ", ".join(str(r.settings["seed"]) for r in runs)},
        evaluations=[_mean(some) for some in zip(*taken, strict=True)],
        step=min(run.step for run in runs),
        flops=float(np.mean([run.flops for run in runs])),
        seconds=float(np.mean([run.seconds for run in runs])),
        ended=all(run.ended for run in runs),
        chains=_mean_count([run.chains for run in runs]),
        problems=problems,
        values=None if by_seed is None else by_seed.mean(axis=0),
        unpaired=why,
        seeds=tuple(runs),
        by_seed=by_seed,
    )


def spread(figures: Sequence[float]) -> tuple[float, float]:
    """Ends of the band of one figure of several seeds."""
    if len(figures) <= FEW_SEEDS:
        return min(figures), max(figures)
    interval = t_interval(figures)
    return interval.low, interval.high


def lowest_and_highest(line: TrainingRun, evaluation: Evaluation) -> tuple[float, float]:
    """Of the seeds of ``line``, at one of its evaluations."""
    there = [e.accuracy for run in line.seeds for e in run.evaluations if e.step == evaluation.step]
    return min(there), max(there)


def every_run(lines: Sequence[TrainingRun]) -> list[TrainingRun]:
    """The runs that the lines stand for."""
    return [run for line in lines for run in (line.seeds or (line,))]


# ---- pieces


def _method(run: TrainingRun) -> str:
    """What is equal in runs of one method; "" where the run does not say how it was made."""
    if "seed" not in run.settings:
        return ""
    defaults = {f.name: _default(f) for f in fields(TrainOptions)}
    kept = {
        name: value
        for name, value in run.settings.items()
        if name not in PATHS | SCREEN | {"seed"} and value != defaults.get(name, MISSING)
    }
    if not is_fresh(str(kept.get("model", ""))):  # an empty model is another one for each seed
        kept["model"] = run.parent.rpartition("@")[2]
    if "device" in kept:  # seeds side by side have a GPU each
        kept["device"] = str(kept["device"]).partition(":")[0]
    return json.dumps(kept, sort_keys=True, default=str)


def _default(f: dataclasses.Field[Any]) -> Any:
    return f.default_factory() if f.default_factory is not MISSING else f.default


def _steps(runs: Sequence[TrainingRun]) -> list[int]:
    """Those at which all were evaluated."""
    others = [{e.step for e in run.evaluations} for run in runs[1:]]
    return [e.step for e in runs[0].evaluations if all(e.step in other for other in others)]


def _mean(some: Sequence[Evaluation]) -> Evaluation:
    """Of one evaluation of each seed."""
    accuracies = [e.accuracy for e in some]
    low, high = spread(accuracies)
    return Evaluation(
        some[0].step,
        float(np.mean([e.flops for e in some])),
        float(np.mean([e.seconds for e in some])),
        float(np.mean(accuracies)),
        low,
        high,
    )


def _mean_count(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return round(float(np.mean(known))) if len(known) == len(counts) else None


def _by_seed(
    runs: Sequence[TrainingRun], columns: Sequence[Sequence[int]]
) -> tuple[tuple[str, ...], Floats | None, str]:
    """(problems that all were evaluated on, (S, P, E) accuracies on them, why there are none)."""
    problems = tuple(id for id in runs[0].problems if all(id in run.problems for run in runs))
    found = []
    for run, taken in zip(runs, columns, strict=True):
        if run.values is None:
            return problems, None, run.unpaired
        rows = {id: i for i, id in enumerate(run.problems)}
        found.append(run.values[[rows[id] for id in problems]][:, list(taken)])
    return problems, np.array(found), ""


def _names(methods: Sequence[Sequence[TrainingRun]]) -> list[str]:
    """What the names of a method's runs have in common; its objective, or the first run's name, where that is nothing
    or another line's."""
    names: list[str] = []
    alone = [some[0].name for some in methods if len(some) == 1]
    for some in methods:
        first = some[0]
        if len(some) == 1:
            names.append(first.name)
            continue
        taken = {*names, *alone}
        choices = (_common([r.name for r in some]), first.objective, *(r.name for r in some))
        names.append(next((name for name in choices if name and name not in taken), first.name))
    return names


def _common(names: Sequence[str]) -> str:
    """ "grpo" of "grpo-seed0" and "grpo-seed1", or of "0/grpo" and "1/grpo"; "" where they share nothing."""
    cut = [_PARTS.findall(name) for name in names]
    if len({len(parts) for parts in cut}) == 1:
        kept = [some[0] for some in zip(*cut, strict=True) if len(set(some)) == 1]
    else:
        kept = []
        for some in zip(*cut, strict=False):
            if len(set(some)) > 1:
                break
            kept.append(some[0])
    text = "".join(kept).strip(_MARKS)
    return re.sub(r"(^|(?<=[\W_]))(seed|s)$", "", text, flags=re.IGNORECASE).strip(_MARKS)
