"""The curves of a training run, from its metrics.jsonl: training.png, training.svg and training.html. Works while the
run goes on. Needs matplotlib; knows nothing of models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reasoning.errors import UserError
from reasoning.progress import with_interval
from reasoning.report.css import CSS
from reasoning.report.files import write_whole
from reasoning.report.style import colour, drawing, image
from reasoning.train.journal import read_rows

PANELS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("Held-out accuracy", (("eval/pass@1", "pass@1"), ("eval/maj@", "majority"), ("eval/pass@", "pass@n"))),
    ("Reward", (("reward", "mean"), ("rewards/margins", "margin of pairs"))),
    ("Loss", (("loss", "loss"),)),
    ("Entropy (nats per token)", (("entropy", "entropy"),)),
    (
        "Length (tokens)",
        (("completions/mean_length", "all"), ("completions/mean_terminated_length", "ended")),
    ),
    (
        "Groups that teach nothing",
        (("frac_reward_zero_std/all_right", "all right"), ("frac_reward_zero_std/all_wrong", "all wrong")),
    ),
    ("Gradient norm", (("grad_norm", "norm"),)),
    ("KL to the start (nats)", (("kl", "KL"),)),
    ("Clipped tokens", (("clip_ratio/high", "above"), ("clip_ratio/low", "below"))),
)
"""Heading -> (metric, label). A metric that ends in "@" stands for any number behind it."""


def write_training(
    run: Path, refresh_seconds: int = 0, out: Path | None = None
) -> tuple[Path, Path, list[dict[str, Any]]]:
    """(page, picture, rows). refresh_seconds: the page loads itself anew so often; 0 is never. out: the folder of
    page and pictures; None is the run's.

    Raises UserError where the folder holds no training run, PoolError where the disk refuses.
    """
    rows = read_rows(run / "metrics.jsonl")
    if not rows:
        raise UserError(
            f"{run} holds no metrics.jsonl with a step in it: it is not a training run, or has not begun."
        )
    samples = read_rows(run / "samples.jsonl")
    wide, narrow = training_curves(rows), training_curves(rows, narrow=True)
    files: dict[str, str | bytes] = {"training.png": image(wide, "png"), "training.svg": image(wide, "svg")}
    files["training.html"] = page(
        run.name, rows, samples, image(wide, "svg").decode(), image(narrow, "svg").decode(), refresh_seconds
    )
    folder = out or run
    for name, content in files.items():
        write_whole(folder / name, content)
    return folder / "training.html", folder / "training.png", rows


def series(rows: Sequence[Mapping[str, Any]], metric: str) -> tuple[list[int], list[float], str]:
    """(steps, values, name of the metric); of one that ends in "@" that with the largest number."""
    if metric.endswith("@"):
        ends = {
            int(name.removeprefix(metric))
            for row in rows
            for name in row
            if name.startswith(metric) and name.removeprefix(metric).isdigit() and not name.endswith("@1")
        }
        if not ends:
            return [], [], metric
        metric += str(max(ends))
    found = [(int(row["step"]), float(row[metric])) for row in rows if metric in row]
    return [step for step, _ in found], [value for _, value in found], metric


def shown(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The panels that have something to show."""
    panels = []
    for heading, metrics in PANELS:
        there = [(metric, label) for metric, label in metrics if series(rows, metric)[0]]
        if there:
            panels.append((heading, there))
    return panels


def training_curves(rows: Sequence[Mapping[str, Any]], narrow: bool = False) -> Figure:
    """A panel per group of metrics over the steps; the 95% interval of held-out pass@1 as bars."""
    panels = shown(rows)
    columns = 1 if narrow else min(3, len(panels))
    height = math.ceil(len(panels) / columns)
    with drawing(4.6 if narrow else 3.9 * columns, 2.5 * height + 0.2) as figure:
        axes = figure.subplots(height, columns, squeeze=False)
        for axis, (heading, metrics) in zip(axes.flat, panels, strict=False):
            accuracy = heading == "Held-out accuracy"
            scale = 100 if accuracy else 1
            for i, (metric, label) in enumerate(metrics):
                steps, values, name = series(rows, metric)
                label = name.removeprefix("eval/") if metric.endswith("@") else label
                mark = "o" if accuracy or len(steps) == 1 else ""
                axis.plot(
                    steps,
                    [scale * v for v in values],
                    mark + "-",
                    color=colour(i),
                    label=label,
                    markersize=3.5,
                )
                if metric == "eval/pass@1":
                    _interval(axis, rows)
            axis.set_title(f"{heading} (%)" if accuracy else heading)
            axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            if len(metrics) > 1:
                axis.legend(fontsize=8)
        for axis in list(axes.flat)[len(panels) :]:
            axis.set_visible(False)
        for axis in list(axes.flat)[max(0, len(panels) - columns) : len(panels)]:
            axis.set_xlabel("step")
    return figure


def _interval(axis: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    wide = [r for r in rows if "eval/pass@1_low" in r]
    axis.errorbar(
        [r["step"] for r in wide],
        [100 * r["eval/pass@1"] for r in wide],
        [
            [100 * (r["eval/pass@1"] - r["eval/pass@1_low"]) for r in wide],
            [100 * (r["eval/pass@1_high"] - r["eval/pass@1"]) for r in wide],
        ],
        fmt="none",
        ecolor=colour(0),
        alpha=0.4,
    )


def evaluations(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """(columns, rows) of the evaluations as text."""
    wanted = ["eval/pass@1", "eval/pass@", "eval/maj@", "eval/mean_length", "eval/clipped_ratio"]
    wanted.append("eval/rewards/accuracies")
    names = [series(rows, metric)[2] for metric in wanted]
    names = [name for name in names if any(name in row for row in rows)]
    body = []
    for row in rows:
        if any(name in row for name in names):
            cells = [str(row["step"])]
            for name in names:
                value = row.get(name)
                if value is None:
                    cells.append("")
                elif name.endswith("length"):
                    cells.append(f"{value:.1f}")
                else:
                    ends = (row.get(name + end, math.nan) for end in ("_low", "_high"))
                    cells.append(with_interval(value, *ends))
            body.append(cells)
    return ["step", *(name.removeprefix("eval/") for name in names)], body


def page(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    samples: Sequence[Mapping[str, Any]],
    wide: str,
    narrow: str,
    refresh_seconds: int,
) -> str:
    """One file without scripts. Whatever a model or a data set wrote is escaped."""
    columns, body = evaluations(rows)
    table = ""
    if body:
        head = "".join(f"<th>{escape(c)}</th>" for c in columns)
        lines = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in r) + "</tr>" for r in body)
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
        table = f'<h2>Evaluations</h2><div class="scroll">{table}</div>'
    last = max((s["step"] for s in samples), default=None)
    read = "".join(_sample(s) for s in samples if s["step"] == last)
    chains = f"<h2>Chains of step {last}</h2>{read}" if read else ""
    again = f'<meta http-equiv="refresh" content="{refresh_seconds}">' if refresh_seconds else ""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n{again}'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(name)}</title>\n<style>{CSS}\n"
        "svg{max-width:100%;height:auto} .narrow{display:none}\n"
        "@media (max-width:640px){.narrow{display:block}.wide{display:none}}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{escape(name)}</h1><p class="soft">Training, step {rows[-1]["step"]}. Bars: 95% intervals over '
        "problems.</p>"
        f'<figure><div class="wide">{_inline(wide)}</div><div class="narrow">{_inline(narrow)}</div></figure>'
        f"{table}{chains}\n</main>\n</body>\n</html>\n"
    )


def _inline(svg: str) -> str:
    return svg[svg.index("<svg") :]


def _sample(row: Mapping[str, Any]) -> str:
    score = row.get("score")
    verdict = "no verdict" if score is None else f"score {score:g}"
    return (
        f'<article><p class="soft">{escape(str(row.get("task", "")))} · {verdict} · '
        f"{escape(str(row.get('finish_reason', '')))}</p><p><b>Problem.</b> {escape(str(row.get('prompt', '')))}</p>"
        f"<pre>{escape(str(row.get('chain', '')))}</pre>"
        f'<p class="soft">Reference answer: {escape(str(row.get("reference", "")))}</p></article>'
    )
