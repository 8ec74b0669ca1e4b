"""The curves as pictures: accuracy against compute, and by difficulty. Needs matplotlib.

Colour is the model, line style the strategy, in every panel. Each picture comes wide (a page, a screen) and
narrow (a phone), from the same data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import ticker
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reasoning.curves import AXES, Curve
from reasoning.report import words
from reasoning.report.style import colour, drawing, marker, nice_ticks, number_ticks

TITLES = {
    "samples": "chains per problem (k)",
    "output_tokens": "output tokens per problem",
    "flops": "FLOPs per problem (generator + verifier)",
}
STYLES: Mapping[str, Any] = {
    "majority": "-",
    "best_of_n": (0, (5, 1.2, 1, 1.2)),
    "weighted_majority": (0, (3, 1, 1, 1, 1, 1)),
    "majority_of_bests": (0, (7, 1.5)),
    "pass": (0, (2, 1.6)),
}


def shown(curves: Sequence[Curve]) -> list[Curve]:
    """The curves that a picture has room for: of the learned strategies, best-of-n by the first verifier."""
    scorers = [c.scorer for c in curves if c.strategy == "best_of_n" and not c.oracle]
    return [
        c
        for c in curves
        if c.difficulty is None
        and (
            c.strategy in ("greedy", "majority", "pass")
            or (c.strategy == "best_of_n" and scorers and c.scorer == scorers[0])
        )
    ]


def accuracy_against_compute(
    curves: Sequence[Curve], labels: Mapping[str, str], narrow: bool = False
) -> Figure:
    """One panel per axis on which compute is known. Bands: simultaneous 95% bands over problems."""
    curves = shown(curves)
    axes = [a for a in AXES if any(not math.isnan(p.compute(a)) for c in curves for p in c.points)]
    rows, columns = (len(axes), 1) if narrow else (1, len(axes))
    size = (4.6, 3.3 * len(axes) + 1.5) if narrow else (4.4 * max(len(axes), 2), 5.2)
    models = list(dict.fromkeys(c.model for c in curves))
    with drawing(*size) as figure:
        panels = figure.subplots(rows, columns, squeeze=False, sharey=not narrow).flat
        for i, (panel, axis) in enumerate(zip(panels, axes, strict=True)):
            for c in curves:
                _draw(panel, c, axis, models.index(c.model))
            _dress(panel, curves, axis)
            panel.set_title(f"Accuracy against {TITLES[axis].partition(' per')[0]}")
            if narrow or i == 0:
                panel.set_ylabel("accuracy (%)")
        _legend(figure, curves, models, labels, narrow)
    return figure


def _draw(panel: Any, c: Curve, axis: str, model: int) -> None:
    points = [p for p in c.points if not math.isnan(p.accuracy) and not math.isnan(p.compute(axis))]
    if not points:
        return
    x, y = [p.compute(axis) for p in points], [100 * p.accuracy for p in points]
    ink = colour(model)
    if c.strategy == "greedy":
        low, high = points[0].low, points[0].high
        if not math.isnan(low):
            panel.plot([x[0]] * 2, [100 * low, 100 * high], color=ink, linewidth=1, alpha=0.6, zorder=3)
        panel.plot(
            x, y, marker="*", color=ink, markersize=12, markeredgecolor="white", linestyle="", zorder=5
        )
        return
    ceiling = c.oracle
    panel.plot(
        x,
        y,
        linestyle=STYLES[c.strategy],
        color=ink,
        linewidth=1.3 if ceiling else 2,
        alpha=0.75 if ceiling else 1,
        marker=None if ceiling else marker(model),
        markersize=4.5,
        markeredgecolor="white",
        markeredgewidth=0.6,
        zorder=2 if ceiling else 4,
    )
    if not ceiling and not math.isnan(points[0].band_low):
        low, high = [100 * p.band_low for p in points], [100 * p.band_high for p in points]
        panel.fill_between(x, low, high, color=ink, alpha=0.13, linewidth=0)


def _dress(panel: Any, curves: Sequence[Curve], axis: str) -> None:
    spent = [p.compute(axis) for c in curves for p in c.points if not math.isnan(p.compute(axis))]
    low, high = min(spent), max(spent)
    panel.set_xscale("log", base=2)
    if high > low:
        panel.set_xlim(low / (high / low) ** 0.04, high * (high / low) ** 0.04)
    if axis == "samples":
        number_ticks(panel.xaxis, sorted({float(p.k) for c in curves for p in c.points})[-12:])
    else:
        number_ticks(panel.xaxis, nice_ticks(low, high) or [low])
    low, high = _accuracy_limits([p for c in curves for p in c.points])
    panel.set_ylim(low, high)
    panel.yaxis.set_major_locator(ticker.MultipleLocator(20 if high - low > 85 else 10))
    panel.set_xlabel(TITLES[axis])


def _accuracy_limits(points: Sequence[Any]) -> tuple[float, float]:
    values = [100 * v for p in points for v in (p.accuracy, p.low, p.high) if not math.isnan(v)]
    low = math.floor((min(values) - 3) / 10) * 10
    return max(low, 0) - 1, min(math.ceil((max(values) + 1) / 10) * 10, 100) + 2


def _legend(
    figure: Figure, curves: Sequence[Curve], models: Sequence[str], labels: Mapping[str, str], narrow: bool
) -> None:
    """Two keys side by side: colours are models, lines are strategies."""
    of_models = [
        Line2D([], [], color=colour(i), marker=marker(i), linewidth=2.5, markersize=5, label=labels[model])
        for i, model in enumerate(models)
    ]
    of_strategies = []
    # Best-of-n, the vote, one greedy chain; the ceiling, which is none of them, last.
    strategies = dict.fromkeys((c.strategy, c.scorer, c.oracle) for c in curves)
    for strategy, scorer, oracle in sorted(strategies, key=lambda s: (s[2], s[0] == "greedy", s[0])):
        name = words.strategy(strategy, scorer)
        look: dict[str, Any] = {"linestyle": STYLES.get(strategy, ""), "linewidth": 1.8}
        if strategy == "greedy":
            name, look = "greedy, one chain", {"linestyle": "", "marker": "*", "markersize": 11}
        of_strategies.append(
            Line2D([], [], color="#555555", label=f"{name} (reads the reference)" if oracle else name, **look)
        )
    rows = max(len(of_strategies), 4)
    handles = [
        handle
        for heading, key in (
            ("Colour: the model", of_models),
            ("Line: how an answer is chosen", of_strategies),
        )
        for start in range(0, len(key), rows)
        for handle in _column(heading if start == 0 else "", key[start : start + rows], rows)
    ]
    legend = figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles) // (rows + 1),
        fontsize=9,
        handlelength=2.4 if narrow else 3.2,
        columnspacing=1.5 if narrow else 4,
    )
    for text in legend.get_texts():
        if text.get_text().startswith(("Colour: ", "Line: ")):
            text.set_fontweight("bold")


def _column(heading: str, key: Sequence[Line2D], rows: int) -> list[Line2D]:
    """A column of a legend: its heading and ``rows`` entries, empty ones below."""
    blank = [Line2D([], [], linestyle="", label="") for _ in range(rows - len(key))]
    return [Line2D([], [], linestyle="", label=heading), *key, *blank]


def accuracy_by_difficulty(
    curves: Sequence[Curve], labels: Mapping[str, str], narrow: bool = False
) -> Figure | None:
    """One chain, the majority and best-of-n at the largest k, each against difficulty; None without
    levels."""
    levels = list(dict.fromkeys(c.difficulty for c in curves if c.difficulty is not None))
    if len(levels) < 2:
        return None
    k = max(p.k for c in curves if c.difficulty for p in c.points)
    panels_of = [("pass", 1, "one chain")]
    if k > 1:
        panels_of.append(("majority", k, f"majority of {k}"))
        scorer = next((c.scorer for c in curves if c.strategy == "best_of_n" and not c.oracle), None)
        if scorer is not None:
            panels_of.append(("best_of_n", k, f"best of {k} ({words.short_scorer(scorer)})"))
    models = list(dict.fromkeys(c.model for c in curves))
    rows, columns = (len(panels_of), 1) if narrow else (1, len(panels_of))
    size = (4.6, 2.6 * len(panels_of) + 1) if narrow else (4.0 * max(len(panels_of), 2), 3.9)
    drawn: list[Any] = []
    with drawing(*size) as figure:
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flat
        for i, (panel, (strategy, at, title)) in enumerate(zip(panels, panels_of, strict=True)):
            for j, model in enumerate(models):
                found = {
                    c.difficulty: p
                    for c in curves
                    if c.model == model and c.strategy == strategy and c.difficulty and (p := c.at(at))
                }
                xs = [x for x, level in enumerate(levels) if level in found]
                points = [found[levels[x]] for x in xs]
                drawn += points
                shift = 0.07 * (j - (len(models) - 1) / 2)
                y = [100 * p.accuracy for p in points]
                reach = [
                    [100 * (p.accuracy - p.low) for p in points],
                    [100 * (p.high - p.accuracy) for p in points],
                ]
                panel.errorbar(
                    [x + shift for x in xs],
                    y,
                    yerr=[[max(v, 0) if v == v else 0 for v in side] for side in reach],
                    color=colour(j),
                    marker=marker(j),
                    markersize=5.5,
                    markeredgecolor="white",
                    linewidth=1.8,
                    elinewidth=1,
                )
            crowded = sum(len(level) for level in levels) > 28
            panel.set_xticks(range(len(levels)), levels, fontsize=7.5 if crowded else 9.5)
            panel.set_title(title)
            panel.set_xlabel("difficulty")
            panel.yaxis.set_major_locator(ticker.MultipleLocator(20))
            if narrow or i == 0:
                panel.set_ylabel("accuracy (%)")
        figure.axes[0].set_ylim(*_accuracy_limits(drawn))
        handles = [
            Line2D([], [], color=colour(j), marker=marker(j), linewidth=2.5, markersize=5, label=labels[m])
            for j, m in enumerate(models)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2 if narrow else 4, fontsize=9)
    return figure
