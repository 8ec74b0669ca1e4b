"""Training runs to compare: what each run's files say of it, and its evaluations problem by problem. Works while a
run goes on. Knows nothing of models and pictures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reasoning.budget import Ledger
from reasoning.errors import UserError
from reasoning.pool import Pool
from reasoning.pool.folder import Folder
from reasoning.records import Chain, Sampling
from reasoning.runfile import read_run
from reasoning.select import groups, open_selector
from reasoning.train.journal import BY, read_rows
from reasoning.train.trained import read_training
from reasoning.train.versions import versions_at

Floats = NDArray[np.float64]

MEASURES = {"eval/pass@1": "held-out accuracy", "eval/rewards/accuracies": "held-out pairs right"}
"""What runs can be compared by, in the order of `journal.BY`, as a reader calls it."""

ROUNDING = 1e-6
"""The recorded accuracy and the mean over problems of the same chains differ by less."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """flops, seconds: of roll-outs and updates up to there, without evaluations. low, high: ends of the 95% interval
    over problems; NaN where none was recorded."""

    step: int
    flops: float
    seconds: float
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class TrainingRun:
    """A run as it stands.

    name: the end of the folder's path that tells it from the others. settings: of its run.toml. parent: the model
    that it started from, with its version where the folder says it. parent_flops: what made that one; NaN where
    nothing says so. evaluations: in the order of steps, at least one. step, flops, seconds: of the last step that is
    done. chains: drawn to learn from; None where no ledger says so. values: (P, E) the accuracy on each of
    ``problems`` at each evaluation, or None; ``unpaired`` says why.
    seeds: of a line that stands for several runs of one method (`seeds.mean_of`), those runs: its figures are then
    means over them, ``low`` and ``high`` of its evaluations say how far they lie apart, and by_seed (S, P, E) is
    what ``values`` is the mean of.
    """

    name: str
    folder: Path
    settings: Mapping[str, Any]
    parent: str
    parent_flops: float
    evaluations: Sequence[Evaluation]
    step: int
    flops: float
    seconds: float
    ended: bool
    chains: int | None
    problems: Sequence[str] = ()
    values: Floats | None = None
    unpaired: str = ""
    seeds: Sequence[TrainingRun] = ()
    by_seed: Floats | None = None

    @property
    def objective(self) -> str:
        return str(self.settings.get("objective", "?"))

    @property
    def spent(self) -> Floats:
        """(E,) FLOPs at each evaluation."""
        return np.array([e.flops for e in self.evaluations])

    @property
    def accuracies(self) -> Floats:
        """(E,) as recorded."""
        return np.array([e.accuracy for e in self.evaluations])


def read_runs(folders: Sequence[Path]) -> tuple[list[TrainingRun], str, list[str]]:
    """(the runs in the order given, the metric that they are compared by, lines on the folders left out).

    Left out is what holds no training run or no evaluation, as long as two runs are there to compare. Raises
    UserError where they are not, for a path that does not exist, a folder given twice, and runs that were evaluated
    on different problems altogether.
    """
    places = [folder.resolve() for folder in folders]
    for i, place in enumerate(places):
        if not place.exists():
            raise UserError(f"{folders[i]}: no such run folder.")
        if place in places[:i]:
            raise UserError(f"{folders[i]} is given twice: give each run once.")
    found: list[tuple[Path, list[dict[str, Any]]]] = []
    left_out: list[_Unfit] = []
    for folder in folders:
        try:
            found.append((folder, _rows(folder)))
        except _Unfit as unfit:
            left_out.append(unfit)
    if len(found) < 2:
        raise left_out[0]
    there = {m: [any(m in row for row in rows) for _, rows in found] for m in BY}
    metric = next((m for m in BY if all(there[m])), None)
    if metric is None:
        (one, _), (other, _) = (found[there[m].index(False)] for m in reversed(BY))
        raise UserError(
            f"{one} was evaluated by held-out problems (--eval-task), {other} by held-out pairs "
            "(--eval-preferences): compare runs that have the same."
        )
    names = _names([folder.resolve() for folder, _ in found])
    runs = [_run(name, folder, rows, metric) for name, (folder, rows) in zip(names, found, strict=True)]
    _refuse_strangers(runs, metric)
    reasons = dict.fromkeys(unfit.reason for unfit in left_out)
    told = {reason: ", ".join(str(u.folder) for u in left_out if u.reason == reason) for reason in reasons}
    return runs, metric, [f"Left out, {reason}: {folders}." for reason, folders in told.items()]


def asked(run: TrainingRun, metric: str = BY[0]) -> str:
    """What the run was evaluated on, as its command said."""
    return str(run.settings.get("eval_task" if metric == BY[0] else "eval_preferences", ""))


# ---- one run


class _Unfit(UserError):
    """A folder without a training run that can be compared. reason: in a few words."""

    def __init__(self, folder: Path, message: str, reason: str):
        super().__init__(message)
        self.folder, self.reason = folder, reason


def _rows(folder: Path) -> list[dict[str, Any]]:
    rows = read_rows(folder / "metrics.jsonl")
    if not rows:
        raise _Unfit(
            folder,
            f"{folder} holds no metrics.jsonl with a step in it: it is not a training run, or has not begun.",
            "no training run",
        )
    if not any(metric in row for row in rows for metric in BY):
        raise _Unfit(
            folder,
            f"{folder}/metrics.jsonl has no evaluation to compare by: train with --eval-task TASK:SPLIT (and "
            "--eval-every N).",
            "no evaluation (--eval-task)",
        )
    if any(row["step"] > 0 and not _counted(row) for row in rows):
        raise _Unfit(
            folder,
            f"{folder}/metrics.jsonl has steps without FLOPs: it was not written by this toolkit.",
            "no FLOPs",
        )
    return rows


def _counted(row: Mapping[str, Any]) -> list[float]:
    return [value for name, value in row.items() if name.startswith("flops/")]


def _run(name: str, folder: Path, rows: Sequence[Mapping[str, Any]], metric: str) -> TrainingRun:
    found, seconds = [], 0.0
    for row in rows:
        seconds += row.get("step_time", 0.0)
        if metric in row:
            low, high = (row.get(metric + end, math.nan) for end in ("_low", "_high"))
            found.append(Evaluation(row["step"], sum(_counted(row)), seconds, row[metric], low, high))
    settings = read_run(folder).get("train", {})
    parent, parent_flops = _parent(folder)
    run = TrainingRun(
        name=name,
        folder=folder,
        settings=settings,
        parent=parent or str(settings.get("model", "")),
        parent_flops=parent_flops,
        evaluations=found,
        step=rows[-1]["step"],
        flops=float(sum(_counted(rows[-1]))),
        seconds=seconds,
        ended=(folder / "model" / "training.json").is_file(),
        chains=_chains(folder),
    )
    problems, values, why = _by_problem(run, rows, metric)
    return replace(run, problems=problems, values=values, unpaired=why)


def _parent(folder: Path) -> tuple[str, float]:
    """(name and version of the model that the run began with, FLOPs of its making), as RUN/model or RUN/best says;
    ("", NaN) where neither does yet."""
    for place in (folder / "model", folder / "best"):
        if (place / "training.json").is_file():
            found = read_training(place)
            return str(found.get("parent", "")), found["shared_flops"]
    return "", math.nan


def _chains(folder: Path) -> int | None:
    if not (folder / "ledger.jsonl").is_file():
        return None
    with Ledger(None, folder, read_only=True) as ledger:
        return sum(charge.samples for charge in ledger.charges if charge.phase == "train")


def _names(places: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that are all different."""
    most = max(len(place.parts) for place in places)
    for depth in range(1, most + 1):
        names = ["/".join(place.parts[-depth:]) for place in places]
        if len(set(names)) == len(names):
            break
    return names


# ---- its evaluations, problem by problem


class _Evaluated:
    """A pool, as far as `groups` reads it for the evaluations of a run: each table once, chains of one sampling."""

    def __init__(self, pool: Pool, sampling: Sampling):
        self.problems = cache(pool.problems)
        self.models = cache(pool.models)
        self.verifiers = cache(pool.verifiers)
        self.charges = cache(pool.charges)
        self.verdicts = cache(pool.verdicts)
        self._by_model: dict[str, list[Chain]] = {}
        for chain in pool.chains(sampling=sampling):
            self._by_model.setdefault(chain.model, []).append(chain)

    def chains(self, model: str | None = None) -> Sequence[Chain]:
        assert model is not None
        return self._by_model.get(model, [])


def _by_problem(
    run: TrainingRun, rows: Sequence[Mapping[str, Any]], metric: str
) -> tuple[tuple[str, ...], Floats | None, str]:
    """(problems, (P, E) accuracy on each at each evaluation, why there is none). Read from the chains of the
    evaluations in the run's pool and the verdicts whose mean is the recorded accuracy."""
    if metric != BY[0]:
        return (), None, "evaluations of pairs are recorded as one figure"
    if any(name.startswith(f"{metric}/") for row in rows for name in row):
        return (), None, "its evaluation mixes several tasks by weight"
    if not Folder(run.folder / "pool").exists():
        return (), None, "it has no pool any more"
    try:
        sampling = Sampling(
            max_new_tokens=run.settings["max_new_tokens"], seed=run.settings["seed"] + 1
        )  # as the loop draws evaluations
    except (KeyError, TypeError, ValueError):
        return (), None, "its run.toml does not say how evaluations were drawn"
    with Pool.open(run.folder, create=False, read_only=True) as pool:
        models = {name.rpartition("@")[2]: name for name in pool.models()}
        versions = versions_at([e.step for e in run.evaluations], models)
        if not versions:
            return (), None, "its pool lacks the chains of some evaluation"
        read = _Evaluated(pool, sampling)
        problems = tuple(
            dict.fromkeys(c.problem_id for v in versions.values() for c in read.chains(models[v]))
        )
        for verifier in pool.verifiers():
            columns = []
            for e in run.evaluations:
                found = _column(read, models[versions[e.step]], sampling, verifier)
                if not found or abs(np.nanmean(list(found.values())) - e.accuracy) > ROUNDING:
                    break
                columns.append([found.get(id, math.nan) for id in problems])
            else:
                return problems, np.array(columns).T, ""
    return problems, None, "no verdicts in its pool give the accuracies that were recorded"


def _column(read: _Evaluated, model: str, sampling: Sampling, verifier: str) -> dict[str, float]:
    """Problem -> share of its chains that ``verifier`` finds right; {} where it judged none."""
    judged = read.verdicts(verifier)
    if not any(chain.key in judged for chain in read.chains(model)):
        return {}
    found = groups(read, model, sampling, oracle=verifier)
    means = open_selector("pass")(found, [1]).mean[:, 0]
    return {g.problem_id: float(m) for g, m in zip(found, means, strict=True)}


def _refuse_strangers(runs: Sequence[TrainingRun], metric: str) -> None:
    """Raises UserError where two runs have no evaluated problem in common."""
    for i, a in enumerate(runs):
        for b in runs[:i]:
            known = bool(a.problems and b.problems)
            apart = not set(a.problems) & set(b.problems)
            if (known and apart) or (not known and _task(a, metric) != _task(b, metric)):
                raise UserError(
                    f"{b.name} was evaluated on {asked(b, metric)} and {a.name} on {asked(a, metric)}: they have no "
                    "problem in common, so their accuracies cannot be compared. Compare runs of one --eval-task."
                )


def _task(run: TrainingRun, metric: str) -> list[str]:
    """The tasks that the evaluation is of, whichever of their problems."""
    text = asked(run, metric)
    return [part.partition(":")[0] for part in text.split("+")] if metric == BY[0] else [text]
