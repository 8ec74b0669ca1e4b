"""The iso-compute picture: for my compute, should I train more or search more? Needs matplotlib.

Left, what one answer of a given quality costs once training, and the fit of a verifier that the search asks, are
spread over the queries they serve: two lines that cross at the break-even. Right, the map: for a number of queries
and a spend per query in all, which model reaches the highest accuracy, with lines of equal accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.patheffects as effects
import numpy as np
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from scipy.ndimage import binary_erosion

from reasoning.iso_compute import BreakEven, IsoCompute
from reasoning.report import words
from reasoning.report.style import colour, drawing, nice_ticks, number_ticks

SAME = 0.01
"""Models within a point of the best count as equally good on the map: the difference would decide nothing."""
_SAME_TINT = (0.86, 0.86, 0.86)
_HALO = [effects.withStroke(linewidth=3, foreground="white")]


def training_or_search(
    iso: IsoCompute, labels: Mapping[str, str], models: Sequence[str], narrow: bool = False
) -> Figure:
    """Both panels; colours are those of ``models``' order in every picture."""
    rows, columns = (2, 1) if narrow else (1, 2)
    with drawing(*((4.8, 9.6) if narrow else (11.5, 5.3))) as figure:
        left, right = figure.subplots(rows, columns, squeeze=False).flat
        inks = {model: colour(models.index(model)) for model in models}
        _amortised(left, iso, labels, inks)
        present = _map(right, iso, labels, inks)
        handles = [
            Patch(color=_tint(inks[e.model]), label=f"{'train' if i else 'search'} {labels[e.model]}")
            for i, e in enumerate(iso.envelopes)
            if i in present
        ]
        if len(iso.envelopes) in present:
            handles.append(Patch(color=_SAME_TINT, label="the same within a point"))
        right.legend(
            handles=handles,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.14),
            ncols=2 if narrow or len(handles) > 3 else 3,
            fontsize=9,
        )
    return figure


def _query_range(iso: IsoCompute) -> tuple[float, float]:
    """From where training costs ten times the longest search to where it costs a tenth of the cheapest."""
    training = [e.training_flops for e in iso.envelopes if e.training_flops > 0]
    most, least = max(e.flops[-1] for e in iso.envelopes), min(e.flops[0] for e in iso.envelopes)
    low, high = min(training) / most / 10, max(training) / least * 10
    crossings = [b.queries for b in iso.headline if b.verdict == "break_even"]
    return max(min([low, *(q / 20 for q in crossings)]), 1.0), max([high, *(q * 5 for q in crossings)])


def _cost(queries: Any, training: float, ways: Sequence[tuple[float, float]]) -> Any:
    """FLOPs of a query in all by the cheapest way: search, and its share of training and of the verifier's fit."""
    return np.min([(training + fit) / queries + spend for fit, spend in ways], axis=0)


def _amortised(panel: Any, iso: IsoCompute, labels: Mapping[str, str], inks: Mapping[str, str]) -> None:
    first, last = _query_range(iso)
    queries = np.geomspace(first, last, 400)
    first_one = iso.headline[0]
    lines = {iso.base: _cost(queries, 0.0, first_one.base_ways or ((0.0, first_one.base_flops),))}
    for b in iso.headline:
        if math.isfinite(b.trained_flops):
            ways = b.trained_ways or ((0.0, b.trained_flops),)
            lines[b.model] = _cost(queries, b.training_flops, ways)
    bottom = min(line.min() for line in lines.values()) / 1.6
    top = lines[iso.base][-1] * 25
    names = list(lines)
    cheapest = np.argmin([lines[name] for name in names], axis=0)
    trains = cheapest > 0
    for search, action in ((True, "search more"), (False, "train more")):
        where = queries[trains != search]
        if len(where) == 0:
            continue
        # The colour of whoever is cheapest in the middle of the stretch.
        ink = inks[names[int(np.median(cheapest[trains != search]))]]
        panel.axvspan(where[0], where[-1], color=ink, alpha=0.10, linewidth=0)
        # Below the base's line on the left and above it on the right nothing else is drawn.
        height = math.sqrt(bottom * lines[iso.base][-1]) if search else top / 2
        if math.log(where[-1] / where[0]) > 0.2 * math.log(last / first):
            panel.text(
                math.sqrt(where[0] * where[-1]),
                height,
                action,
                ha="center",
                va="center",
                fontsize=10.5,
                weight="bold",
                color=ink,
                in_layout=False,
                path_effects=_HALO,
            )
    for name, line in lines.items():
        b = next((b for b in iso.headline if b.model == name), None)
        panel.plot(queries, line, color=inks[name], linewidth=2.4, label=_legend_line(labels[name], b))
    for b in iso.headline:
        if b.verdict == "break_even" and first <= b.queries <= last:
            _mark(panel, b, inks[b.model], (first, last), bottom)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlim(first, last)
    panel.set_ylim(bottom, top)
    number_ticks(panel.xaxis, nice_ticks(first, last, 8))
    number_ticks(panel.yaxis, nice_ticks(bottom, top, 8))
    panel.set_title(f"What one answer costs at {words.percent(iso.headline[0].accuracy)}% accuracy")
    panel.set_xlabel("queries that the training serves")
    panel.set_ylabel(f"total FLOPs per query: search, training{', verifier' if _fits(iso) else ''}")
    panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), fontsize=9)


def _legend_line(label: str, b: BreakEven | None) -> str:
    if b is None:
        return f"search {label}"
    if b.verdict not in ("break_even", "base_never"):
        return f"train {label}: never cheaper"
    start = words.break_even(b.queries, b.low, b.high).replace("95% interval ", "")
    return f"train {label}: cheaper from {start}"


def _fits(iso: IsoCompute) -> bool:
    """Whether any way to search pays for fitting a verifier."""
    return any(fit > 0 for e in iso.envelopes for fit in e.by_fit)


def _mark(panel: Any, b: BreakEven, ink: str, limits: tuple[float, float], bottom: float) -> None:
    """The crossing, its interval along the base's line, and a dotted line down to the axis."""
    height = float(_cost(b.queries, 0.0, b.base_ways or ((0.0, b.base_flops),)))
    panel.plot([b.queries], [height], marker="o", markersize=9, color=ink, markeredgecolor="white", zorder=7)
    panel.plot([b.queries] * 2, [height, bottom], color=ink, linewidth=1.1, linestyle=":")
    if not math.isnan(b.low):
        ends = [min(max(v, limits[0]), limits[1]) for v in (b.low, b.high)]
        panel.plot(ends, [height] * 2, color=ink, linewidth=6, alpha=0.4, solid_capstyle="round", zorder=5)


def _map(panel: Any, iso: IsoCompute, labels: Mapping[str, str], inks: Mapping[str, str]) -> set[int]:
    """The map. Returns which regions it has: numbers of ``envelopes``, and the one after them for "the
    same"."""
    first, last = _query_range(iso)
    least, most = min(e.flops[0] for e in iso.envelopes), max(e.flops[-1] for e in iso.envelopes)
    queries, spend = np.geomspace(first, last, 420), np.geomspace(least * 1.1, most * 3, 380)
    reached = np.stack(
        [e.reached_in_all(spend[:, None], queries[None, :]) for e in iso.envelopes]
    )  # (models, spends, queries)
    reached = np.where(np.isnan(reached), -1.0, reached)
    best = reached.max(axis=0)
    # Of several trained models within a point of each other the one that training cost least has the region.
    trained = reached[1:]
    winner = np.argmax(trained >= trained.max(axis=0) - SAME, axis=0) + 1
    winner = np.where(reached[0] >= trained.max(axis=0), 0, winner)
    same = (reached[0] >= 0) & (np.abs(reached[0] - trained.max(axis=0)) <= SAME)
    region = np.where(same, len(iso.envelopes), winner)
    tints = [_tint(inks[e.model]) for e in iso.envelopes] + [_SAME_TINT]
    panel.pcolormesh(
        queries,
        spend,
        region,
        cmap=ListedColormap(tints),
        vmin=-0.5,
        vmax=len(tints) - 0.5,
        shading="nearest",
        rasterized=True,
    )
    panel.set_xscale("log")
    panel.set_yscale("log")
    levels = _levels(best)
    if levels:
        lines = panel.contour(queries, spend, 100 * best, levels=levels, colors="#333333", linewidths=0.8)
        panel.clabel(lines, fmt=lambda level: f"{level:g}%", fontsize=8, inline_spacing=2)
    for i, e in enumerate(iso.envelopes):
        spot = _roomy_spot(region == i)
        if spot is not None:
            text = f"train {labels[e.model]}" if i else f"search {labels[e.model]}"
            panel.text(
                queries[spot[1]],
                spend[spot[0]],
                text,
                color=inks[e.model],
                ha="center",
                va="center",
                weight="bold",
                fontsize=11,
                path_effects=_HALO,
                zorder=6,
                in_layout=False,
            )
    for b in iso.headline:
        if b.verdict == "break_even" and first <= b.queries <= last:
            panel.plot(
                [b.queries],
                [float(_cost(b.queries, 0.0, b.base_ways or ((0.0, b.base_flops),)))],
                marker="o",
                markersize=8,
                color=inks[b.model],
                markeredgecolor="white",
                zorder=7,
            )
    panel.grid(False)
    number_ticks(panel.xaxis, nice_ticks(first, last, 8))
    number_ticks(panel.yaxis, nice_ticks(spend[0], spend[-1], 8))
    panel.set_title("Where a budget reaches most (lines: accuracy)")
    panel.set_xlabel("queries that the training serves")
    panel.set_ylabel("total FLOPs per query that you can spend")
    return set(np.unique(region).tolist())


def _tint(ink: str) -> tuple[float, float, float]:
    red, green, blue = (1 - 0.32 * (1 - channel) for channel in to_rgb(ink))
    return red, green, blue


def _levels(best: Any) -> list[float]:
    """Whole tens, 95 and 99, that lie inside the range of accuracies."""
    inside = 100 * best
    return [v for v in (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99) if inside.min() < v < inside.max()]


def _roomy_spot(mask: Any) -> tuple[int, int] | None:
    """(row, column) in the middle of a region that has room for its name; None where there is none."""
    rows, columns = mask.shape
    # Text is wide and flat: a box of 30% x 8% of the panel must fit, so erosion is by that box.
    fits = binary_erosion(mask, np.ones((1, columns * 3 // 10)))
    fits = binary_erosion(fits, np.ones((rows * 8 // 100, 1)))
    if not fits.any():
        return None
    where = np.argwhere(fits)
    row, column = where[np.argmin(((where - where.mean(axis=0)) ** 2).sum(axis=1))]
    return int(row), int(column)
