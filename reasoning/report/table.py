"""The summary table: models x k against strategies, as rows for the terminal, for HTML and for tests.

Every accuracy carries its 95% half-width over problems. Knows nothing of pools and pictures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reasoning.curves import Curve, Measured
from reasoning.progress import printable
from reasoning.report.words import count, percent, short_scorer, si

if TYPE_CHECKING:
    from rich.table import Table as RichTable

TABLE_KS = (1, 4, 16, 64)
EMPTY = "–"


@dataclass(frozen=True, slots=True)
class Table:
    """columns: headings. rows: cells as text, the first is the model, the second is k. oracle: indexes of the
    columns that read the reference. notes: what a reader of the numbers must know, a line each."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    oracle: tuple[int, ...]
    notes: tuple[str, ...]


def summary_table(
    measured: Measured,
    curves: Sequence[Curve],
    ks: Sequence[int] = TABLE_KS,
    seconds: Mapping[str, float] | None = None,
) -> Table:
    """One row per model and k: greedy and one chain at the model's first row, then majority, best-of-n by
    each learned verifier and the oracle ceiling; tokens and FLOPs per problem of drawing k chains.

    seconds: model -> wall-clock of drawing its chains, where the caller knows it; fills a last column.
    """
    wanted = [k for k in ks if k in measured.ks] or list(measured.ks)
    if max(measured.ks) > max(wanted):
        wanted.append(max(measured.ks))
    scorers = [name for name, sees_reference in measured.scorers.items() if not sees_reference]
    found = {(c.model, c.strategy, c.scorer): c for c in curves if c.difficulty is None}
    strategies = [("majority", "", "majority")]
    strategies += [("best_of_n", s, f"best-of-n ({short_scorer(s)})") for s in scorers]
    strategies += [("pass", "", "oracle")]
    strategies = [s for s in strategies if any((m, s[0], s[1]) in found for m in measured.models)]
    greedy = any((m, "greedy", "") in found for m in measured.models)
    columns = [
        "model",
        "k",
        *(["greedy"] if greedy else []),
        "pass@1",
        *(title for *_, title in strategies),
    ]
    oracle = tuple(i for i, name in enumerate(columns) if name.startswith("oracle"))
    spent = [p for c in found.values() for p in c.points]
    tokens = any(not math.isnan(p.output_tokens) for p in spent)
    flops = any(not math.isnan(p.flops) for p in spent)
    columns += [name for name, known in (("tokens", tokens), ("FLOPs", flops), ("seconds", seconds)) if known]
    rows = []
    for model in measured.models:
        for k in wanted:
            first = k == wanted[0]
            base = found.get((model, "pass", "")) or found.get((model, "majority", ""))
            at = base.at(k) if base else None
            cells = [measured.labels[model] if first else "", str(k)]
            if greedy:
                cells.append(_accuracy(found.get((model, "greedy", "")), 1) if first else EMPTY)
            cells.append(_accuracy(base, 1) if first else EMPTY)
            cells += [
                EMPTY if k == 1 else _accuracy(found.get((model, name, scorer)), k)
                for name, scorer, _ in strategies
            ]
            cells += [count(at.output_tokens) if at else EMPTY] if tokens else []
            cells += [si(at.flops) if at else EMPTY] if flops else []
            if seconds:
                cells.append(f"{seconds[model]:.0f}" if first and model in seconds else EMPTY)
            rows.append(tuple(cells))
    notes = _notes(measured, curves, tokens or flops)
    if any("[" in cell for row in rows for cell in row[2:]):
        notes.insert(1, "Near 0 and 100 the interval itself is shown: [from, to].")
    return Table(tuple(columns), tuple(rows), oracle, tuple(notes))


def _accuracy(curve: Curve | None, k: int) -> str:
    point = curve.at(k) if curve else None
    if point is None or math.isnan(point.accuracy):
        return EMPTY
    if math.isnan(point.low):
        return percent(point.accuracy)
    half = (point.high - point.low) / 2
    if not half <= point.accuracy <= 1 - half:  # ± would promise less than 0 or more than 100
        return f"{percent(point.accuracy)} [{percent(point.low)}, {percent(point.high)}]"
    return f"{percent(point.accuracy)} ±{percent(half)}"


def _notes(measured: Measured, curves: Sequence[Curve], priced: bool) -> list[str]:
    counts = [p.problems for c in curves if c.difficulty is None for p in c.points] or [0]
    problems = f"{max(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    notes = [f"Accuracy in %; ± is half of the 95% interval over {problems} problems."]
    if priced:
        notes.append("Tokens and FLOPs: generating k chains of one problem, its prompt once.")
    if any(c.oracle for c in curves):
        notes.append("The oracle reads the reference: a ceiling for choosing among k chains, not a strategy.")
    for scorer, sees_reference in measured.scorers.items():
        flops = [
            sum(float(g.score_flops[scorer].mean()) for g in some) / len(some)
            for some in measured.groups.values()
            if scorer in some[0].scores
        ]
        if max(flops, default=0.0) > 0 and not sees_reference:
            k = max(measured.ks)
            ends = dict.fromkeys(si(k * f) for f in (min(flops), max(flops)))
            notes.append(
                f"Scoring with {short_scorer(scorer)!r} adds {' to '.join(ends)} FLOPs a problem at k = {k}."
            )
    for model, some in measured.groups.items():
        total = sum(g.n for g in some)
        cut = sum(int(g.truncated.sum()) for g in some)
        missing = sum(int(np.isnan(g.correct).sum()) for g in some)
        if cut > 0.05 * total:
            notes.append(
                f"{percent(cut / total)}% of the chains of {measured.labels[model]} were cut off and count as "
                "wrong: its accuracy is a lower bound. Allow more new tokens."
            )
        left_out = sum(g.left_out for g in some)
        if left_out:
            notes.append(
                f"{left_out:,} chains of {measured.labels[model]} are left out: a search that stops early drew "
                f"more where chains disagreed; the first {max(g.n for g in some)} of each problem are a fair sample."
            )
        for scorer in some[0].scores:
            unscored = sum(int(np.isnan(g.scores[scorer]).sum()) for g in some)
            if unscored:
                notes.append(
                    f"{unscored:,} of {total:,} chains of {measured.labels[model]} have no score by "
                    f"{short_scorer(scorer)!r}, so its columns rest on fewer chains: verify them first."
                )
        if missing:
            notes.append(
                f"{missing:,} of {total:,} chains of {measured.labels[model]} have no verdict and are left out."
            )
    return notes


def to_rich(table: Table) -> RichTable:
    """The table for a terminal. Oracle columns are dim and say what they are by their heading."""
    from rich.table import Table as RichTable
    from rich.text import Text

    # As Text: square brackets in a model's name are no markup.
    notes = Text(printable("\n".join(table.notes)))
    out = RichTable(box=None, pad_edge=False, padding=(0, 1, 0, 0), caption=notes, caption_justify="left")
    for i, name in enumerate(table.columns):
        # In a narrow terminal cells wrap ("46.0" over "±6.8"); a heading's words stay whole.
        words = name.split() + ([word for row in table.rows for word in row[0].split()] if i == 0 else [])
        widest = max(len(word) for word in words)
        style = "dim" if i in table.oracle else None
        out.add_column(
            Text(printable(name)), justify="left" if i == 0 else "right", style=style, min_width=widest
        )
    for i, row in enumerate(table.rows):
        if i and row[0]:
            out.add_row()  # a blank line between models
        out.add_row(*(Text(printable(cell)) for cell in row))
    return out
