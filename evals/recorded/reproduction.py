"""The steps that every reproduction shares: recorded outputs -> pool -> verdicts -> curves -> table beside the
published figures. Knows no publisher's file format and no published figure.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evals.recorded.sources import Recorded
from reasoning.curves import Measured, Measurement, all_curves, curve, write_curves
from reasoning.errors import ReasoningError, UserError
from reasoning.pool import Pool
from reasoning.records import Chain, Cost, Sampling, chain_key
from reasoning.sampling import verify
from reasoning.statistics import Paired, paired, t_interval
from verifiers.base import Verdict, Verifier

LABELS = "published"
"""Name under which a publisher's own verdicts are kept in the pool, beside ours."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A published figure and ours, in percent. low, high: 95% interval over problems; NaN where there is none.
    why: where the two differ, the reason; "" where they agree."""

    name: str
    published: float | None
    ours: float
    low: float = math.nan
    high: float = math.nan
    digits: int = 1
    why: str = ""

    @property
    def agrees(self) -> bool:
        """To the digits that were published."""
        return self.published is not None and abs(self.ours - self.published) < 0.5 * 10**-self.digits


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A chain on which our verdict and the publisher's label differ. index: of the sample, from 0."""

    problem_id: str
    index: int
    reference: str
    label: bool
    verdict: Verdict
    tail: str


# --- into the pool ------------------------------------------------------------------------------------------


def fresh_pool(out: Path) -> Pool:
    """An empty pool at ``out``: recorded outputs are cheap to read again, so nothing old is mixed in."""
    shutil.rmtree(out / "pool", ignore_errors=True)
    return Pool.open(out)


def store(
    pool: Pool,
    model: str,
    label: str,
    recorded: Sequence[Recorded],
    sampling: Sampling,
    scorer: str = "",
    output_tokens: Sequence[int] = (),
) -> None:
    """Put one model's recorded responses, the publisher's labels and its reward model's scores into the pool.

    scorer: name of the reward model; its scores s become 1 / (1 + exp(-s)), which keeps their order.
    output_tokens: mean length of a response to each problem, where the publisher kept it.
    """
    pool.add_model(model, {"label": label})
    pool.add_problems(item.problem for item in recorded)
    chains: list[Chain] = []
    labels: dict[str, Verdict] = {}
    scores: dict[str, Verdict] = {}
    for row, item in enumerate(recorded):
        problem = item.problem
        for index, text in enumerate(item.responses):
            if text is None:
                continue
            key = chain_key(model, sampling, problem.id, problem.prompt, index)
            cost = Cost(output_tokens=output_tokens[row]) if output_tokens else Cost()
            chains.append(Chain(problem.id, index, text, model=model, sampling=sampling, key=key, cost=cost))
            if item.labels:
                answer = item.answers[index] if item.answers else None
                labels[key] = Verdict(float(item.labels[index]), answer)
            if item.scores:
                scores[key] = Verdict(1 / (1 + math.exp(-item.scores[index])))
    pool.append(chains)
    if labels:
        pool.add_verdicts(LABELS, labels, oracle=True)
    if scores:
        pool.add_verdicts(scorer, scores, oracle=False)


def judge(pool: Pool, verifier: Verifier) -> None:
    """Judge all chains by ``verifier`` and print how far it agrees with the publisher's labels."""
    verify(pool, verifier)
    ours, labels = pool.verdicts(verifier.name), pool.verdicts(LABELS)
    for model in pool.models():
        keys = [chain.key for chain in pool.chains(model=model)]
        known = [key for key in keys if key in labels]
        same = sum(ours[key].correct == labels[key].correct for key in known)
        text = f"agrees with the recorded label on {same:,}" if known else "no recorded labels"
        print(
            f"{model}: {len(keys):,} chains; {verifier.name} {text}{f' of {len(known):,}' if known else ''}"
        )


def disagreements(pool: Pool, verifier: str, model: str) -> list[Disagreement]:
    """Where our verdict and the label differ, in pool order."""
    ours, labels, problems = pool.verdicts(verifier), pool.verdicts(LABELS), pool.problems()
    return [
        Disagreement(
            chain.problem_id,
            chain.index,
            str(problems[chain.problem_id].reference),
            labels[chain.key].correct,
            ours[chain.key],
            " ".join(chain.text.split())[-110:],
        )
        for chain in pool.chains(model=model)
        if chain.key in labels and labels[chain.key].correct != ours[chain.key].correct
    ]


# --- figures ------------------------------------------------------------------------------------------------


def figure(
    name: str,
    published: float | None,
    measurement: Measurement | None,
    k: int,
    digits: int = 1,
    why: str = "",
) -> Figure:
    """Ours at ``k`` with the curve's own interval."""
    assert measurement is not None
    point = curve(measurement).at(k)
    assert point is not None
    ours, low, high = (100 * x for x in (point.accuracy, point.low, point.high))
    return Figure(name, published, ours, low, high, digits, why)


def label_values(pool: Pool, model: str) -> np.ndarray:
    """The publisher's labels of one model, (problems, samples), NaN where a problem has fewer samples."""
    labels = pool.verdicts(LABELS)
    by_problem: dict[str, list[float]] = {}
    for chain in pool.chains(model=model):
        by_problem.setdefault(chain.problem_id, []).append(float(labels[chain.key].correct))
    most = max(map(len, by_problem.values()))
    return np.array([row + [math.nan] * (most - len(row)) for row in by_problem.values()])


def label_mean(name: str, published: float | None, values: np.ndarray, digits: int = 1) -> Figure:
    """The mean of per-problem label rates."""
    interval = t_interval(np.nanmean(values, axis=1))
    ours, low, high = (100 * x for x in (interval.estimate, interval.low, interval.high))
    return Figure(name, published, ours, low, high, digits)


def compare(a: Measurement | None, b: Measurement | None, k: int, other_k: int = 0) -> Paired:
    """``a`` at ``k`` minus ``b`` at ``other_k`` (the same k where it is 0), problem by problem."""
    assert a is not None
    assert b is not None
    if a.problem_ids != b.problem_ids:
        raise ValueError("the two measurements are not of the same problems")
    return paired(a.column(k), b.column(other_k or k))


# --- on paper -----------------------------------------------------------------------------------------------


def print_figures(figures: Sequence[Figure]) -> None:
    print("\n| figure | published | ours | 95% interval | difference |\n|---|---:|---:|---:|---|")
    for f in figures:
        published = "" if f.published is None else f"{f.published:.{f.digits}f}"
        interval = "" if math.isnan(f.low) else f"{f.low:.1f} to {f.high:.1f}"
        verdict = "" if f.published is None else "none" if f.agrees else f.why or "not explained"
        digits = max(f.digits, 1) if f.agrees else 2
        print(f"| {f.name} | {published} | {f.ours:.{digits}f} | {interval} | {verdict} |")
    print()


def print_paired(what: str, result: Paired) -> None:
    interval = result.interval
    print(
        f"{what}: {100 * result.difference:+.2f} points, 95% interval {100 * interval.low:+.2f} to "
        f"{100 * interval.high:+.2f} over {interval.problems} problems, p = {result.p:.2g}; a difference of "
        f"{100 * result.detectable:.1f} points would have been found with 80% power."
    )


def print_disagreements(found: Sequence[Disagreement], most: int = 10) -> None:
    for d in found[:most]:
        print(
            f"  problem {d.problem_id}, sample {d.index}, reference {d.reference!r}: label {d.label}, ours "
            f"{d.verdict.correct} ({d.verdict.status}: {d.verdict.reason}); text ends {d.tail!r}"
        )
    if len(found) > most:
        print(f"  and {len(found) - most} more")


def write(out: Path, measured: Measured) -> None:
    """``curves.json``, ``curves.csv`` and the pictures into ``out``."""
    curves = all_curves(measured)
    for path in write_curves(out, curves):
        print(f"wrote {path}")


# --- the command --------------------------------------------------------------------------------------------


def command(name: str, about: str | None, reproduce: Callable[[Path, Path], list[Figure]]) -> int:
    """Run ``reproduce(data folder, output folder)`` for the arguments of the command line; exit status 1 where
    a figure differs from the published one and no reason is known."""
    parser = argparse.ArgumentParser(prog=f"python -m evals.recorded.{name}", description=about)
    parser.add_argument("--data", default=os.environ.get("REASONING_DATA", ""), help="the data folder")
    parser.add_argument("--out", default=f"runs/recorded/{name}", help="where pool and curves go")
    arguments = parser.parse_args()
    try:
        if not arguments.data:
            raise UserError(
                "No data folder: give --data FOLDER, or set the environment variable REASONING_DATA."
            )
        figures = reproduce(Path(arguments.data), Path(arguments.out))
    except ReasoningError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return int(any(f.published is not None and not f.agrees and not f.why for f in figures))
