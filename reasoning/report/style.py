"""How every picture looks, and how it is saved: the same bytes for the same data. Needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib import ticker
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from reasoning.report.words import si

# Okabe and Ito's palette, which people who are colour-blind can tell apart; a marker per model besides.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, GRID = "#222222", "#DDDDDD"

_RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "svg.hashsalt": "reasoning",
    "svg.fonttype": "path",
    "figure.facecolor": "white",
}


@contextmanager
def drawing(width: float, height: float) -> Iterator[Figure]:
    """A figure of ``width`` x ``height`` inches in the house style, on no screen."""
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def image(figure: Figure, kind: str) -> bytes:
    """The figure as ``"png"`` or ``"svg"``, without a date, so that it is the same on every run."""
    out = io.BytesIO()
    with matplotlib.rc_context(_RC):
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        figure.savefig(out, format=kind, dpi=160, metadata=metadata)
    return out.getvalue()


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def marker(index: int) -> str:
    return MARKERS[index % len(MARKERS)]


def nice_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round numbers from 1-2-5 (or 1-3, or 1 alone) per power of ten inside [low, high]."""
    first, last = f"{low:e}", f"{high:e}"
    powers = range(int(first.split("e")[1]), int(last.split("e")[1]) + 1)
    ticks: list[float] = []
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [s * 10.0**p for p in powers for s in steps if low <= s * 10.0**p <= high]
        if len(ticks) <= most:
            break
    return ticks


def number_ticks(axis: Any, ticks: list[float]) -> None:
    """Label a logarithmic axis with these numbers (1, 2, 4, 64, 200 k, 5 G), not with powers."""
    axis.set_major_locator(ticker.FixedLocator(ticks))
    axis.set_major_formatter(ticker.FixedFormatter([tick_text(t) for t in ticks]))
    axis.set_minor_locator(ticker.NullLocator())


def tick_text(value: float) -> str:
    if value < 10_000:
        return f"{value:,.10g}"
    number, _, prefix = si(value).partition(" ")
    return f"{float(number):g} {prefix}"
