"""Training runs compared, for a reader: a table, sentences, a page and pictures, and an object for machines.

Files appear under their names only when they are whole. Knows nothing of how the figures came about.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from reasoning.progress import with_interval
from reasoning.report import page
from reasoning.report.compared import Compared, Difference, Reach, differing
from reasoning.report.files import write_whole
from reasoning.report.runs import MEASURES, Evaluation, TrainingRun
from reasoning.report.seeds import FEW_SEEDS, every_run, lowest_and_highest
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

    several = any(run.seeds for run in compared.runs)
    wide, narrow = (runs_compared(compared, narrow) for narrow in (False, True))
    svg = image(wide, "svg")
    picture = page.Picture(
        heading="Accuracy and what it cost",
        wide=svg,
        narrow=image(narrow, "svg"),
        alt=f"Held-out accuracy of {', '.join(r.name for r in compared.runs)} against FLOPs, seconds and steps",
        caption=f"{_lines_and_bands(compared)} A method is the better use of compute where its line lies higher at "
        "the same FLOPs. Seconds depend on the machine and its load.",
    )
    parts = [
        f"<h1>{page.escaped(heading(compared))}</h1>",
        f'<p class="soft">Training runs, evaluated on {page.escaped(_evaluated(compared))}.</p>',
        "<h2>What it shows</h2>",
        page.bullets(sentences(compared, "in the table below"), "findings"),
        page.figure(picture),
        f"<h2>The {'methods' if several else 'runs'}</h2>",
        page.summary(runs_table(compared)),
    ]
    if several:
        each = replace(compared, runs=every_run(compared.runs), reaches=compared.each)
        parts += [
            "<h2>Every run</h2>",
            page.summary(replace(runs_table(each), notes=(table_notes(each)[0],))),
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


def _lines_and_bands(compared: Compared) -> str:
    """How the picture is to be read."""
    single = "bands are 95% intervals over problems at each evaluation"
    seeds = {len(run.seeds) for run in compared.runs if run.seeds}
    if not seeds:
        return f"One line a run; {single}."
    ends = [
        *(["from the lowest to the highest"] if min(seeds) <= FEW_SEEDS else []),
        *(["the 95% interval of their mean"] if max(seeds) > FEW_SEEDS else []),
    ]
    some = "" if all(run.seeds for run in compared.runs) else f" Of a run with one seed {single}."
    return (
        f"One line a method, the mean of its seeds, each of which is a thin line; bands over seeds are "
        f"{' or, of more, '.join(ends)}.{some}"
    )


def _evaluated(compared: Compared) -> str:
    key = "eval_preferences" if compared.metric.startswith("eval/rewards") else "eval_task"
    asked = dict.fromkeys(str(r.settings.get(key, "?")) for r in compared.runs)
    problems = {len(r.problems) for r in compared.runs if r.problems}
    return " and ".join(asked) + (f" ({problems.pop()} problems)" if len(problems) == 1 else "")


# ---- the table


def runs_table(compared: Compared) -> Table:
    """A row a line: what it is, what it spent, held-out accuracy before and after, and FLOPs to the target."""
    named = all(run.name == run.objective for run in compared.runs)  # a name that says it already
    several = any(run.seeds for run in compared.runs)
    columns = ["method" if several else "run", *(["seeds"] if several else [])]
    columns += [*([] if named else ["objective"]), "steps", "chains", "FLOPs", "before", "after"]
    if compared.target is not None:
        columns.append(f"FLOPs to {100 * compared.target:g}%")
    rows = []
    for i, run in enumerate(compared.runs):
        first, last = run.evaluations[0], run.evaluations[-1]
        cells = [short(run.name, LONGEST_NAME), *([str(len(run.seeds) or 1)] if several else [])]
        cells += [*([] if named else [run.objective]), _steps(run)]
        cells += [EMPTY if run.chains is None else count(run.chains), si(run.flops)]
        cells.append(_accuracy(run, first) if first.step == 0 else EMPTY)
        cells.append(_accuracy(run, last) if last.step > 0 else EMPTY)
        if compared.target is not None:
            cells.append(_reach(compared.reaches[i], bool(run.seeds)))
        rows.append(tuple(cells))
    return Table(tuple(columns), tuple(rows), (), tuple(table_notes(compared)))


def _steps(run: TrainingRun) -> str:
    """ "24"; "8 of 24" of one that goes on; "8 to 24" where seeds have come to different steps."""
    done = sorted({one.step for one in run.seeds or (run,)})
    text = count(done[0]) if len(done) == 1 else f"{count(done[0])} to {count(done[-1])}"
    return text if run.ended else f"{text} of {run.settings.get('steps', '?')}"


def table_notes(compared: Compared) -> list[str]:
    measure = MEASURES[compared.metric].capitalize()
    known = any(not math.isnan(e.low) for r in compared.runs if not r.seeds for e in r.evaluations)
    notes = [
        f"{measure} in %"
        + ("; ± is half of the 95% interval, [from, to] the interval itself." if known else ".")
    ]
    if any(run.seeds for run in compared.runs):
        notes[0] += " (from, to) is the range of the seeds, beside their mean."
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


def _accuracy(run: TrainingRun, e: Evaluation) -> str:
    if run.seeds:
        low, high = lowest_and_highest(run, e)
        return f"{percent(e.accuracy)} ({percent(low)}, {percent(high)})"
    return with_interval(e.accuracy, e.low, e.high, sign="")


def _reach(reach: Reach, seeds: bool) -> str:
    ends = "()" if seeds else "[]"
    if math.isinf(reach.flops) and not (seeds and math.isfinite(reach.low)):
        return "not reached"
    if math.isnan(reach.low):
        return si(reach.flops)
    return f"{_or_not_reached(reach.flops)} {ends[0]}{si(reach.low)}, {_or_not_reached(reach.high)}{ends[1]}"


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
    if len(compared.runs) == 1:
        found.append(_alone(compared.runs[0]))
    return [*found, *_race(compared)] or [
        "Nothing to compare yet: no run rose above its start, and no two have evaluations of the same problems."
    ]


def _alone(run: TrainingRun) -> str:
    """The one line that there is."""
    first, last = run.evaluations[0], run.evaluations[-1]
    low, high = (percent(share) for share in lowest_and_highest(run, last))
    return (
        f"{run.name} went from {percent(first.accuracy)}% to {percent(last.accuracy)}% by step {last.step}, the mean "
        f"of {len(run.seeds)} seeds that end between {low}% and {high}%."
    )


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
            f"{percent(low)} to {percent(high)}, {_of(compared, d)})"
        )
        if not d.supported:
            text += f", which may be chance: {_p(d.p_holm)} once adjusted for {_made(compared)} (Holm)"
        return f"{text}."
    if math.isnan(d.low):
        return f"{where} {a} is at {left} and {b} at {right}, of one problem: that has no interval."
    return (
        f"{where} {a} ({left}) and {b} ({right}) cannot be told apart: {_signed(d.difference)} points (95% interval "
        f"{_signed(d.low)} to {_signed(d.high)}, {_of(compared, d)})."
    )


def _of(compared: Compared, d: Difference) -> str:
    """What a difference rests on: "64 problems", "64 problems, 3 and 1 seeds"."""
    seeds = [len(compared.runs[i].seeds) or 1 for i in (d.a, d.b)]
    if max(seeds) == 1:
        return f"{d.problems} problems"
    return (
        f"{d.problems} problems, {seeds[0] if seeds[0] == seeds[1] else f'{seeds[0]} and {seeds[1]}'} seeds"
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
    parts = [f"{runs[quick].name} took {si(reaches[quick].flops)} FLOPs{_range(compared, quick)}"]
    dearer = {dear: (ratio, low, high) for dear, _, ratio, low, high in compared.ratios}
    if len(runs) > MOST_SENTENCES:
        return [f"To {100 * compared.target:g}%: {parts[0]}, the least; the table has the others."]
    for i, run in enumerate(runs):
        if i == quick:
            continue
        if i in dearer and not math.isnan(dearer[i][1]):
            parts.append(f"{run.name} {_times(*dearer[i])}")
        elif i in dearer and run.seeds:
            parts.append(f"{run.name} {_fold(dearer[i][0])} times as much{_range(compared, i)}")
        elif math.isinf(reaches[i].flops):
            parts.append(f"{run.name} never had it (best {percent(run.accuracies.max())}%)")
        else:
            parts.append(f"{run.name} {si(reaches[i].flops)}")
    return [f"To {100 * compared.target:g}%: {', '.join(parts)}."]


def _range(compared: Compared, i: int) -> str:
    """Of line number ``i``: what its seeds took, "" of a single run."""
    reach = compared.reaches[i]
    if not compared.runs[i].seeds:
        return ""
    if math.isinf(reach.high):
        return f" (its seeds {si(reach.low)} or more, some never)"
    return f" (its seeds {si(reach.low)} to {si(reach.high)})"


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
    methods = [_method(run) for run in compared.runs]
    for method, reach in zip(methods, compared.reaches, strict=False):
        method["target_flops"] = asdict(reach)
    runs = [_object(run) for run in every_run(compared.runs)]
    for run, reach in zip(runs, compared.each, strict=False):
        run["target_flops"] = asdict(reach)
    return _finite(
        {
            "metric": compared.metric,
            "target": compared.target,
            "target_chosen": compared.chosen,
            "methods": methods,
            "runs": runs,
            "differences": [
                asdict(d) | {"a": compared.runs[d.a].name, "b": compared.runs[d.b].name}
                for d in compared.differences
            ],
            "settings": differing(compared.runs),
            "notes": list(compared.notes),
        }
    )


def _method(run: TrainingRun) -> dict[str, Any]:
    """A line: figures of one run on average. low, high: the band of the picture; lowest, highest: of the seeds."""
    evaluations = []
    for e in run.evaluations:
        lowest, highest = lowest_and_highest(run, e) if run.seeds else (e.accuracy, e.accuracy)
        evaluations.append(asdict(e) | {"lowest": lowest, "highest": highest})
    return {
        "name": run.name,
        "objective": run.objective,
        "seeds": len(run.seeds) or 1,
        "runs": [one.name for one in run.seeds or (run,)],
        **_progress(run),
        "evaluations": evaluations,
    }


def _object(run: TrainingRun) -> dict[str, Any]:
    return {
        "name": run.name,
        "folder": str(run.folder),
        "objective": run.objective,
        "seed": run.settings.get("seed"),
        **_progress(run),
        "evaluations": [asdict(e) for e in run.evaluations],
    }


def _progress(run: TrainingRun) -> dict[str, Any]:
    return {
        "ended": run.ended,
        "step": run.step,
        "chains": run.chains,
        "flops": run.flops,
        "seconds": run.seconds,
        "problems": len(run.problems) or None,
    }


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
