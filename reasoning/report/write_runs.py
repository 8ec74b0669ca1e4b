"""Training runs compared, for a reader: a table, sentences, a page and pictures, and an object for machines.

Files appear under their names only when they are whole. Knows nothing of how the figures came about.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reasoning.progress import with_interval
from reasoning.report import page
from reasoning.report.compared import Compared, Difference, Reach, differing
from reasoning.report.files import write_whole
from reasoning.report.runs import MEASURES, Evaluation, TrainingRun
from reasoning.report.table import EMPTY, Table
from reasoning.report.words import count, percent, short, si

NAME = "training_compared"
"""Of the page and the pictures, without suffix."""

MOST_SENTENCES = 6
"""Differences that are told in sentences; all of them stand on the page."""

MOST_NAMED = 4
"""Runs that a heading names."""

LONGEST_NAME = 32
"""Characters of a run's name in the table."""


def write_compared(compared: Compared, folder: Path, refresh_seconds: int = 0) -> tuple[Path, Path]:
    """(page, picture) in ``folder``. refresh_seconds: the page loads itself anew so often; 0 is never. Raises
    PoolError where the disk refuses."""
    from reasoning.report.pictures_runs import runs_compared
    from reasoning.report.style import image

    wide, narrow = (runs_compared(compared, narrow) for narrow in (False, True))
    svg = image(wide, "svg")
    picture = page.Picture(
        heading="Accuracy and what it cost",
        wide=svg,
        narrow=image(narrow, "svg"),
        alt=f"Held-out accuracy of {', '.join(r.name for r in compared.runs)} against FLOPs, seconds and steps",
        caption="One line a run; bands are 95% intervals over problems at each evaluation. A method is the better "
        "use of compute where its line lies higher at the same FLOPs. Seconds depend on the machine and its load.",
    )
    parts = [
        f"<h1>{page.escaped(heading(compared))}</h1>",
        f'<p class="soft">Training runs, evaluated on {page.escaped(_evaluated(compared))}.</p>',
        "<h2>What it shows</h2>",
        page.bullets(sentences(compared, "in the table below"), "findings"),
        page.figure(picture),
        "<h2>The runs</h2>",
        page.summary(runs_table(compared)),
    ]
    if compared.differences:
        parts += ["<h2>Differences, problem by problem</h2>", page.plain_table(*difference_rows(compared))]
    if other := differing(compared.runs):
        columns = ["setting", *(run.name for run in compared.runs)]
        rows = [[name, *values] for name, values in other.items()]
        parts += ["<h2>Settings that differ</h2>", page.plain_table(columns, rows)]
    files = {
        ".svg": svg,
        ".png": image(wide, "png"),
        ".html": page.document(heading(compared), parts, refresh_seconds),
    }
    for suffix, content in files.items():
        write_whole(folder / f"{NAME}{suffix}", content)
    return folder / f"{NAME}.html", folder / f"{NAME}.png"


def heading(compared: Compared) -> str:
    if len(compared.runs) > MOST_NAMED:
        return f"{len(compared.runs)} training runs compared"
    return " and ".join((", ".join(r.name for r in compared.runs[:-1]), compared.runs[-1].name))


def _evaluated(compared: Compared) -> str:
    key = "eval_preferences" if compared.metric.startswith("eval/rewards") else "eval_task"
    asked = dict.fromkeys(str(r.settings.get(key, "?")) for r in compared.runs)
    problems = {len(r.problems) for r in compared.runs if r.problems}
    return " and ".join(asked) + (f" ({problems.pop()} problems)" if len(problems) == 1 else "")


# ---- the table


def runs_table(compared: Compared) -> Table:
    """A row a run: what it is, what it spent, held-out accuracy before and after, and FLOPs to the target."""
    named = all(run.name == run.objective for run in compared.runs)  # a name that says it already
    columns = ["run", *([] if named else ["objective"]), "steps", "chains", "FLOPs", "before", "after"]
    if compared.target is not None:
        columns.append(f"FLOPs to {100 * compared.target:g}%")
    rows = []
    for i, run in enumerate(compared.runs):
        first, last = run.evaluations[0], run.evaluations[-1]
        steps = count(run.step) if run.ended else f"{count(run.step)} of {run.settings.get('steps', '?')}"
        cells = [short(run.name, LONGEST_NAME), *([] if named else [run.objective]), steps]
        cells += [EMPTY if run.chains is None else count(run.chains), si(run.flops)]
        cells.append(_accuracy(first) if first.step == 0 else EMPTY)
        cells.append(_accuracy(last) if last.step > 0 else EMPTY)
        if compared.target is not None:
            cells.append(_reach(compared.reaches[i]))
        rows.append(tuple(cells))
    return Table(tuple(columns), tuple(rows), (), tuple(table_notes(compared)))


def table_notes(compared: Compared) -> list[str]:
    measure = MEASURES[compared.metric].capitalize()
    known = any(not math.isnan(e.low) for r in compared.runs for e in r.evaluations)
    notes = [
        f"{measure} in %"
        + ("; ± is half of the 95% interval, [from, to] the interval itself." if known else ".")
    ]
    notes.append("Before: at step 0, by chains of each run's own. After: at the last evaluation so far.")
    if compared.target is None:
        notes.append(
            "No FLOPs to a common accuracy: no evaluation is clear of where a run starts (--target sets one)."
        )
    else:
        notes.append(
            f"{100 * compared.target:g}%: {compared.chosen}. Between two evaluations a run is taken to go straight."
        )
    return notes + list(compared.notes)


def _accuracy(e: Evaluation) -> str:
    return with_interval(e.accuracy, e.low, e.high, sign="")


def _reach(reach: Reach) -> str:
    if math.isinf(reach.flops):
        return "not reached"
    if math.isnan(reach.low):
        return si(reach.flops)
    return f"{si(reach.flops)} [{si(reach.low)}, {_or_not_reached(reach.high)}]"


def _or_not_reached(flops: float) -> str:
    return "not reached" if math.isinf(flops) else si(flops)


# ---- the sentences


def sentences(compared: Compared, rest: str = "on the page") -> list[str]:
    """What holds and what is open: differences for the same FLOPs, those at the end, and what the target took. rest:
    where differences beyond the first few stand."""
    told = sorted(compared.differences, key=lambda d: (d.basis != "flops", d.a, d.b))
    if len(told) > MOST_SENTENCES:  # the telling ones first
        told.sort(key=lambda d: not d.supported)
    found = [_difference(compared, d) for d in told[:MOST_SENTENCES]]
    if len(told) > MOST_SENTENCES:
        found.append(f"{len(told) - MOST_SENTENCES} more differences are {rest}.")
    return [*found, *_race(compared)] or [
        "Nothing to compare yet: no run rose above its start, and no two have evaluations of the same problems."
    ]


def _difference(compared: Compared, d: Difference) -> str:
    a, b = compared.runs[d.a].name, compared.runs[d.b].name
    left, right = (f"{percent(share)}%" for share in d.accuracies)
    if d.basis == "flops":
        where = f"For the same {si(d.flops[0])} FLOPs"
    else:
        where = f"At the last evaluation, after {si(d.flops[0])} and {si(d.flops[1])} FLOPs,"
    if d.low > 0 or d.high < 0:
        more = "more" if d.difference > 0 else "fewer"
        low, high = sorted((abs(d.low), abs(d.high)))
        text = (
            f"{where} {a} is at {left} and {b} at {right}: {percent(abs(d.difference))} points {more} (95% interval "
            f"{percent(low)} to {percent(high)}, {d.problems} problems)"
        )
        if not d.supported:
            text += f", which may be chance: {_p(d.p_holm)} once adjusted for {_made(compared)} (Holm)"
        return f"{text}."
    if math.isnan(d.low):
        return f"{where} {a} is at {left} and {b} at {right}, of one problem: that has no interval."
    return (
        f"{where} {a} ({left}) and {b} ({right}) cannot be told apart: {_signed(d.difference)} points (95% interval "
        f"{_signed(d.low)} to {_signed(d.high)}, {d.problems} problems)."
    )


def _made(compared: Compared) -> str:
    n = len(compared.differences)
    return f"{n} comparisons" if n > 1 else "the one comparison"


def _p(p: float) -> str:
    return f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}"


def _race(compared: Compared) -> list[str]:
    """One sentence: who reached the target for the least, what the others took, who never did."""
    if compared.target is None or all(math.isinf(r.flops) for r in compared.reaches):
        return []
    runs, reaches = compared.runs, compared.reaches
    quick = min(range(len(runs)), key=lambda i: reaches[i].flops)
    parts = [f"{runs[quick].name} took {si(reaches[quick].flops)} FLOPs"]
    dearer = {dear: (ratio, low, high) for dear, _, ratio, low, high in compared.ratios}
    if len(runs) > MOST_SENTENCES:
        return [f"To {100 * compared.target:g}%: {parts[0]}, the least; the table has the others."]
    for i, run in enumerate(runs):
        if i == quick:
            continue
        if i in dearer and not math.isnan(dearer[i][1]):
            parts.append(f"{run.name} {_times(*dearer[i])}")
        elif math.isinf(reaches[i].flops):
            parts.append(f"{run.name} never had it (best {percent(run.accuracies.max())}%)")
        else:
            parts.append(f"{run.name} {si(reaches[i].flops)}")
    return [f"To {100 * compared.target:g}%: {', '.join(parts)}."]


def _times(ratio: float, low: float, high: float) -> str:
    text = f"{_fold(ratio)} times as much"
    if math.isinf(low):
        return text
    ends = f"{_fold(low)} times or more" if math.isinf(high) else f"{_fold(low)} to {_fold(high)} times"
    return f"{text} (95% interval {ends})"


def _fold(ratio: float) -> str:
    """Two digits or so: 1.0, 3.5, 26."""
    return f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:.0f}"


def difference_rows(compared: Compared) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    columns = (
        "A",
        "B",
        "compared",
        "A (%)",
        "B (%)",
        "A - B (points)",
        "95% interval",
        "p (Holm)",
        "problems",
    )
    names = [run.name for run in compared.runs]
    rows = [
        (
            names[d.a],
            names[d.b],
            f"at {si(d.flops[0])} FLOPs" if d.basis == "flops" else "at the last evaluation",
            percent(d.accuracies[0]),
            percent(d.accuracies[1]),
            _signed(d.difference),
            f"{_signed(d.low)} to {_signed(d.high)}",
            _p(d.p_holm).removeprefix("p ").removeprefix("= "),
            str(d.problems),
        )
        for d in compared.differences
    ]
    return columns, rows


# ---- for machines


def as_object(compared: Compared) -> dict[str, Any]:
    """All of it as JSON values; what is infinite or not known is null."""
    runs = [_object(run) for run in compared.runs]
    for run, reach in zip(runs, compared.reaches, strict=False):
        run["target_flops"] = asdict(reach)
    return _finite(
        {
            "metric": compared.metric,
            "target": compared.target,
            "target_chosen": compared.chosen,
            "runs": runs,
            "differences": [
                asdict(d) | {"a": compared.runs[d.a].name, "b": compared.runs[d.b].name}
                for d in compared.differences
            ],
            "settings": differing(compared.runs),
            "notes": list(compared.notes),
        }
    )


def _object(run: TrainingRun) -> dict[str, Any]:
    return {
        "name": run.name,
        "folder": str(run.folder),
        "objective": run.objective,
        "ended": run.ended,
        "step": run.step,
        "chains": run.chains,
        "flops": run.flops,
        "seconds": run.seconds,
        "problems": len(run.problems) or None,
        "evaluations": [asdict(e) for e in run.evaluations],
    }


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
