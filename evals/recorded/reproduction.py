"""The steps that every reproduction shares: recorded outputs -> pool -> verdicts -> curves -> table beside the
published figures. Knows no publisher's file format and no published figure.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reasoning.agreement import LABEL, Disagreement, agreement
from reasoning.curves import Floats, Measured, Measurement, curve
from reasoning.errors import ReasoningError, UserError
from reasoning.pool import Pool
from reasoning.recorded import import_rows
from reasoning.records import Sampling
from reasoning.report import write_report
from reasoning.sampling import verify
from reasoning.statistics import Paired, paired, t_interval
from reasoning.tasks.files import read_jsonl
from verifiers.base import Verifier

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Figure:
    """A published figure and ours, in percent. low, high: 95% interval over problems; NaN where there is none.
    digits: after the point, as published. why: the reason of a difference that is known."""

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

    @property
    def unexplained(self) -> bool:
        return self.published is not None and not self.agrees and not self.why


# --- into the pool ------------------------------------------------------------------------------------------


def rows(data: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a JSONL file of the data folder."""
    file = data / name
    if not file.is_file():
        raise UserError(f"The data folder {str(data)!r} has no {name!r}; name another by --data FOLDER.")
    return [row for _, row in read_jsonl(file)]


def fresh_pool(out: Path) -> Pool:
    """An empty pool at ``out``: recorded outputs are cheap to read again, so nothing old is mixed in."""
    shutil.rmtree(out / "pool", ignore_errors=True)
    return Pool.open(out)


def read(
    pool: Pool, source: Iterable[Row], mapping: str | Sequence[str], sampling: Sampling, model: str = ""
) -> None:
    """What ``reasoning import`` does, from rows."""
    import_rows(source, mapping, pool, model=model, sampling=sampling)


def judge(pool: Pool, verifier: Verifier) -> None:
    """Judge all chains by ``verifier``; print how far it agrees with the labels, and where it does not."""
    verify(pool, verifier)
    if not pool.verdicts(LABEL):
        print(f"{len(pool.keys()):,} chains judged by {verifier.name}; no labels were recorded")
        return
    for model in pool.models():
        keys = {chain.key for chain in pool.chains(model=model)}
        found = agreement(pool, verifier.name, keys=keys)
        same = found.both + found.neither
        print(f"{model}: {verifier.name} agrees with the recorded label on {same:,} of {len(keys):,} chains")
        alike: dict[tuple[str, float, str], list[Disagreement]] = {}
        for d in found.disagreements:
            alike.setdefault((d.problem_id, d.label, d.verdict.reason), []).append(d)
        for group in alike.values():
            d = group[0]
            samples = ", ".join(str(one.index) for one in group)
            question, end = " ".join(d.question.split())[:60], " ".join(d.response.split())[-100:]
            print(
                f"  {question!r}, reference {d.reference!r}, samples {samples}: label {d.label:g}, ours "
                f"{d.verdict.score:g} ({d.verdict.reason}); the first ends {end!r}"
            )


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


def figure_of(name: str, published: float | None, values: Floats, digits: int = 1, why: str = "") -> Figure:
    """Ours as the mean of one value per problem, (P,), with Student's interval."""
    interval = t_interval(values)
    ours, low, high = (100 * x for x in (interval.estimate, interval.low, interval.high))
    return Figure(name, published, ours, low, high, digits, why)


def label_rates(source: Iterable[Row], read_labels: Callable[[Row], Sequence[Any]]) -> Floats:
    """The share of right responses of each row by its recorded labels, (P,)."""
    return np.array([np.mean([bool(label) for label in read_labels(row)]) for row in source], np.float64)


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


def write(out: Path, pool: Pool, measured: Measured, title: str) -> None:
    """The report of what was measured, with its pictures and curves, into ``out``."""
    written = write_report(
        out,
        pool,
        oracle=measured.oracle,
        scorers=list(measured.scorers),
        models=measured.models,
        ks=measured.ks,
        title=title,
    )
    pictures = " ".join(str(path) for path in written.pictures.values())
    print(f"wrote {written.html} {written.curves_json} {written.curves_csv} {pictures}")


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
    return int(any(f.unexplained for f in figures))
