"""Training runs as one picture: held-out accuracy against FLOPs, seconds and steps. Needs matplotlib.

A colour and a marker a line, the same in every panel; where a line is the mean of several seeds, each of them is a
thin one behind it. It comes wide (a page, a screen) and narrow (a phone).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from matplotlib import ticker
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reasoning.report.compared import Compared
from reasoning.report.runs import MEASURES, Evaluation, TrainingRun
from reasoning.report.seeds import every_run
from reasoning.report.style import INK, MARKERS, colour, drawing, marker, nice_ticks, number_ticks, tick_text
from reasoning.report.words import short

AXES: tuple[tuple[str, str, Callable[[Evaluation], float]], ...] = (
    ("training FLOPs", "FLOPs of training", lambda e: e.flops),
    ("training time", "seconds of training", lambda e: e.seconds),
    ("steps", "steps", lambda e: e.step),
)
"""Title, label of the axis, and where an evaluation lies on it."""

LONGEST_NAME = 30
"""Characters of a run's name in the key."""

FAR_APART = 12
"""Where one run went so many times as far as another the axis is logarithmic."""


def runs_compared(compared: Compared, narrow: bool = False) -> Figure:
    """A panel an axis. Bands: 95% intervals over problems at each evaluation, of several seeds from the lowest to the
    highest (of more than a few the 95% interval of their mean)."""
    runs, measure = compared.runs, MEASURES[compared.metric]
    every = every_run(runs)
    axes = [a for a in AXES if any(a[2](e) > 0 for r in every for e in r.evaluations)] or list(AXES[:1])
    rows, columns = (len(axes), 1) if narrow else (1, len(axes))
    width, height = (4.6, 3.1 * len(axes) + 0.6) if narrow else (4.2 * max(len(axes), 2), 4.2)
    per_row = 1 if narrow else 3
    size = (width, height + 0.22 * math.ceil(len(runs) / per_row))
    with drawing(*size) as figure:
        panels = figure.subplots(rows, columns, squeeze=False, sharey=not narrow).flat
        for i, (panel, (title, label, place)) in enumerate(zip(panels, axes, strict=True)):
            _draw(panel, compared, place)
            panel.set_title(f"{measure.removeprefix('held-out ').capitalize()} against {title}")
            panel.set_xlabel(label)
            panel.set_ylim(*_limits(compared))
            panel.yaxis.set_major_locator(ticker.MaxNLocator(8, steps=[1, 2, 5, 10]))
            if narrow or i == 0:
                panel.set_ylabel(f"{measure} (%)")
        handles = [
            Line2D([], [], color=colour(i), marker=_marker(i), markersize=5, linewidth=2.2, label=_label(run))
            for i, run in enumerate(runs)
        ]
        if compared.target is not None:
            aim = f"{100 * compared.target:g}%, to which costs are compared"
            handles.append(Line2D([], [], color=INK, linewidth=1, linestyle=(0, (1, 2)), label=aim))
        figure.legend(handles=handles, loc="outside lower center", ncols=per_row, fontsize=9)
    return figure


def _label(run: TrainingRun) -> str:
    name = short(run.name, LONGEST_NAME)
    text = name if run.objective in run.name else f"{name} ({run.objective})"
    text = f"{text}, {len(run.seeds)} seeds" if run.seeds else text
    text = text if run.ended else f"{text}, not ended"
    return ("\u200b" if text.startswith("_") else "") + text.replace(
        "$", r"\$"
    )  # no formula, and never left out


def _marker(index: int) -> str:
    """Another one when the colours begin anew."""
    return marker(index + index // len(MARKERS))


def _draw(panel: Any, compared: Compared, place: Callable[[Evaluation], float]) -> None:
    runs, every = compared.runs, every_run(compared.runs)
    ends = [place(run.evaluations[-1]) for run in every]
    later = [place(e) for run in every for e in run.evaluations if place(e) > 0]
    far = bool(later) and max(ends) > FAR_APART * min([e for e in ends if e > 0])
    origin = min(later) / 2 if far else 0.0  # a logarithm has no 0: before training stands at the left end
    for i, run in enumerate(runs):
        for seed in run.seeds:
            panel.plot(
                [place(e) or origin for e in seed.evaluations],
                [100 * e.accuracy for e in seed.evaluations],
                color=colour(i),
                linewidth=0.8,
                alpha=0.55,
                zorder=3,
            )
        x = [place(e) or origin for e in run.evaluations]
        panel.plot(
            x,
            [100 * e.accuracy for e in run.evaluations],
            color=colour(i),
            linewidth=2,
            marker=_marker(i),
            markersize=5,
            markeredgecolor="white",
            markeredgewidth=0.6,
            zorder=4,
        )
        known = [(at, e) for at, e in zip(x, run.evaluations, strict=True) if not math.isnan(e.low)]
        low, high = (
            [100 * v for v in side] for side in ([e.low for _, e in known], [e.high for _, e in known])
        )
        if len(known) == 1:  # a band of one point is a bar
            panel.plot([known[0][0]] * 2, [low[0], high[0]], color=colour(i), linewidth=1, alpha=0.6)
        elif known:
            panel.fill_between([at for at, _ in known], low, high, color=colour(i), alpha=0.13, linewidth=0)
    if compared.target is not None:
        panel.axhline(100 * compared.target, color=INK, linewidth=1, linestyle=(0, (1, 2)), zorder=3)
    if far:
        panel.set_xscale("log")
        panel.set_xlim(origin * 0.8, max(later) * 1.15)
        ticks = nice_ticks(min(later), max(later), most=6)
        number_ticks(panel.xaxis, ticks)
        panel.xaxis.set_major_locator(ticker.FixedLocator([origin, *ticks]))
        panel.xaxis.set_major_formatter(ticker.FixedFormatter(["start", *(tick_text(t) for t in ticks)]))
    else:
        top = max(ends) or 1.0
        panel.set_xlim(-0.02 * top, 1.04 * top)
        panel.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=top >= 4))
        panel.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: tick_text(value)))


def _limits(compared: Compared) -> tuple[float, float]:
    found = [v for r in compared.runs for e in r.evaluations for v in (e.accuracy, e.low, e.high)]
    found += [e.accuracy for r in every_run(compared.runs) for e in r.evaluations]
    values = [100 * v for v in found if not math.isnan(v)]
    low = math.floor((min(values) - 2) / 5) * 5
    return max(low, 0) - 1, min(math.ceil((max(values) + 1) / 5) * 5, 100) + 1
