"""The results as Markdown, a pure function of the stored records: presets by tasks at a glance, then a row a task and
preset with every seed.

A gain is a mean difference over the held-out problems, each with its chains' share of right answers before and after,
with a 95% interval (Student's t) over problems.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reasoning.progress import human
from reasoning.statistics import Paired, paired

Record = dict[str, Any]


def read(
    folder: Path, tasks: Collection[str], presets: Collection[str], seeds: Collection[int]
) -> list[Record]:
    """The finished runs, by task and preset in the order given, then by seed."""
    found = []
    for task in tasks:
        for preset in presets:
            for seed in seeds:
                path = folder / f"{task}.{preset}.{seed}.json"
                if path.is_file():
                    found.append(json.loads(path.read_text()))
    return found


def gain(record: Record) -> Paired:
    return paired(record["after"], record["before"])


def target(records: Sequence[Record]) -> float:
    """The accuracy of a task to whose cost presets are compared: midway between the mean before and the best preset's
    mean after, in whole percent."""
    before = np.mean([np.mean(r["before"]) for r in records])
    finals = [np.mean([np.mean(r["after"]) for r in found]) for found in _by_preset(records).values()]
    return round(50 * float(before + max(finals))) / 100


def flops_to(record: Record, accuracy: float) -> float:
    """FLOPs at which the run reached ``accuracy``, on straight lines between its evaluations (those on the way are of
    fewer problems, so each is moved by what those were easier before); infinite where it never did."""
    before = float(np.mean(record["before"]))
    spent, reached = 0.0, before
    for point in record["points"]:
        now = point["accuracy"] - point["same_problems_before"] + before
        if now >= accuracy:
            share = (accuracy - reached) / (now - reached) if now > reached else 0.0
            return spent + max(share, 0.0) * (point["flops"] - spent)
        spent, reached = point["flops"], now
    return float("inf")


def markdown(records: Sequence[Record]) -> str:
    """Both tables, with a line between."""
    if not records:
        return "No run is finished."
    return f"{overview(records)}\n\n{every_seed(records)}"


def overview(records: Sequence[Record]) -> str:
    """A row a preset, a column a task: mean gain and FLOPs to reach the task's accuracy, and how many seeds were
    raised or reached it where not all were."""
    tasks = {t: [r for r in records if r["task"] == t] for t in dict.fromkeys(r["task"] for r in records)}
    goals = {task: target(own) for task, own in tasks.items()}
    heads = [
        f"{task}: {np.mean([np.mean(r['before']) for r in own]):.0%}, to reach {goals[task]:.0%}"
        for task, own in tasks.items()
    ]
    lines = [f"| preset | {' | '.join(heads)} |", "|---|" + "---|" * len(tasks)]
    for preset in dict.fromkeys(r["preset"] for r in records):
        cells = [preset]
        for task, own in tasks.items():
            found = [r for r in own if r["preset"] == preset]
            cells.append(_cell(found, goals[task]) if found else "not run")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def every_seed(records: Sequence[Record]) -> str:
    lines = [
        "| task | preset | before | after | gain by seed, points [95%] | raised | to reach | FLOPs spent | steps |",
        "|---|---|---:|---:|---|---:|---:|---:|---:|",
    ]
    for task in dict.fromkeys(r["task"] for r in records):
        own = [r for r in records if r["task"] == task]
        goal = target(own)
        for at, (preset, found) in enumerate(_by_preset(own).items()):
            first = f"{task}, to {goal:.0%} in {human(own[0]['budget'])}" if at == 0 else ""
            cells = [
                first,
                preset,
                f"{100 * np.mean([np.mean(r['before']) for r in found]):.1f}",
                f"{100 * np.mean([np.mean(r['after']) for r in found]):.1f}",
                "; ".join(_points(gain(r)) for r in found),
                _raised(found),
                _reach([flops_to(r, goal) for r in found]),
                human(float(np.mean([r["points"][-1]["flops"] for r in found]))),
                f"{np.mean([r['points'][-1]['steps'] for r in found]):.0f}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(found: Sequence[Record], goal: float) -> str:
    """ "+12.0, 45G"; "+4.1 (**2 of 3**), 264G (1 of 3)"."""
    raised = _raised(found)
    told = f" ({raised})" if raised.startswith("**") else ""
    mean = 100 * np.mean([gain(r).difference for r in found])
    return f"{mean:+.1f}{told}, {_reach([flops_to(r, goal) for r in found])}"


def _raised(found: Sequence[Record]) -> str:
    """Of how many seeds the interval lies above 0; in bold where not of all."""
    raised = sum(gain(r).interval.low > 0 for r in found)
    text = f"{raised} of {len(found)}"
    return text if raised == len(found) else f"**{text}**"


def _points(g: Paired) -> str:
    return f"{100 * g.difference:+.1f} [{100 * g.interval.low:.1f}, {100 * g.interval.high:.1f}]"


def _reach(flops: Sequence[float]) -> str:
    """Mean over the runs that reached it, with their number where not all did."""
    known = [f for f in flops if np.isfinite(f)]
    if not known:
        return "–"
    text = human(float(np.mean(known)))
    return text if len(known) == len(flops) else f"{text} ({len(known)} of {len(flops)})"


def _by_preset(records: Sequence[Record]) -> dict[str, list[Record]]:
    return {p: [r for r in records if r["preset"] == p] for p in dict.fromkeys(r["preset"] for r in records)}
