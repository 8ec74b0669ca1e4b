"""The summary table: models x k against strategies, as rows for the terminal, for HTML and for tests.

Every accuracy carries its 95% half-width over problems. Knows nothing of pools and pictures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reasoning.curves import Curve, Measured
from reasoning.progress import printable, with_interval
from reasoning.report.words import count, percent, short_scorer, si

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType

TABLE_KS = (1, 4, 16, 64)
EMPTY = "–"


@dataclass(frozen=True, slots=True)
class Table:
    """columns: headings. rows: cells as text, the first is the model, "" where it is that of the row above. oracle:
    indexes of the columns that read the reference. notes: what a reader of the numbers must know, a line each."""

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
    each learned verifier and the oracle ceiling; tokens and FLOPs per problem of drawing k chains, and the FLOPs of
    drawing and scoring them where scoring costs some.

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
    scored = [
        s for s in scorers if flops and _scoring(measured, s)
    ]  # best-of-n by these costs more than its draws
    columns += [name for name, known in (("tokens", tokens), ("FLOPs", flops)) if known]
    columns += [f"scored FLOPs ({short_scorer(s)})" if len(scored) > 1 else "scored FLOPs" for s in scored]
    columns += ["seconds"] if seconds else []
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
            for scorer in scored:
                best = found.get((model, "best_of_n", scorer))
                point = best.at(k) if best and k > 1 else None
                cells.append(si(point.flops) if point else EMPTY)
            if seconds:
                cells.append(f"{seconds[model]:.0f}" if first and model in seconds else EMPTY)
            rows.append(tuple(cells))
    notes = _notes(measured, curves, tokens or flops, scored, bool(seconds))
    if any("[" in cell for row in rows for cell in row[2:]):
        notes.insert(1, "Near 0 and 100 the interval itself is shown: [from, to].")
    return Table(tuple(columns), tuple(rows), oracle, tuple(notes))


def _accuracy(curve: Curve | None, k: int) -> str:
    point = curve.at(k) if curve else None
    if point is None or math.isnan(point.accuracy):
        return EMPTY
    return with_interval(point.accuracy, point.low, point.high, sign="")


def _scoring(measured: Measured, scorer: str) -> bool:
    """Whether scoring by ``scorer`` cost FLOPs."""
    return any(
        bool(g.score_flops[scorer].any())
        for some in measured.groups.values()
        if scorer in some[0].scores
        for g in some
    )


def _notes(
    measured: Measured, curves: Sequence[Curve], priced: bool, scored: Sequence[str], timed: bool
) -> list[str]:
    counts = [p.problems for c in curves if c.difficulty is None for p in c.points] or [0]
    problems = f"{max(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    notes = [
        f"Accuracy in %; ± is half of the 95% interval over {problems} problems."
        if max(counts) > 1
        else "Accuracy in %, of one problem: that has no interval."
    ]
    if priced:
        notes.append("Tokens and FLOPs: generating k chains of one problem, its prompt once.")
        if scored:
            notes.append("Scored FLOPs: the same and scoring these k chains, as best-of-n does.")
    if timed:
        notes.append("Seconds: drawing all chains of the model, by the clock.")
    cut = " A chain that was cut off counts as wrong." if _cut(measured) else ""
    notes.append(f"What is right is said by {measured.oracle!r}.{cut}")
    if any(c.oracle for c in curves):
        notes.append("The oracle reads the reference: a ceiling for choosing among k chains, not a strategy.")
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


def _cut(measured: Measured) -> bool:
    """Whether any chain was cut off."""
    return any(bool(g.truncated.any()) for some in measured.groups.values() for g in some)


def to_rich(table: Table) -> ConsoleRenderable:
    """The table for a terminal. Oracle columns are dim and say what they are by their heading."""
    return _Fitted(table)


class _Fitted:
    """The table in the width of whatever console shows it: in a narrow one cells wrap between words ("46.0" over
    "±6.8") and never inside of one."""

    def __init__(self, table: Table):
        self.table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from rich.table import Table as RichTable
        from rich.text import Text

        table = self.table
        out = RichTable(box=None, pad_edge=False, padding=(0, 1, 0, 0))
        for i, (name, width) in enumerate(
            zip(table.columns, column_widths(table, options.max_width), strict=True)
        ):
            style = "dim" if i in table.oracle else None
            justify = "left" if i == 0 else "right"
            out.add_column(Text(printable(name)), justify=justify, style=style, width=width)
        several = any(not row[0] for row in table.rows)  # rows of one model
        for i, row in enumerate(table.rows):
            if i and row[0] and several:
                out.add_row()  # a blank line between models
            out.add_row(*(Text(printable(cell)) for cell in row))  # as Text: brackets in a name are no markup
        yield out
        yield Text(printable("\n".join(table.notes)), style="dim")


def column_widths(table: Table, width: int) -> list[int]:
    """Characters of each column in ``width`` with a space between them: what its cells take where there is room,
    at least its longest word."""
    columns = [[name, *(row[i] for row in table.rows)] for i, name in enumerate(table.columns)]
    widths = [max(len(word) for cell in cells for word in cell.split() or [""]) for cells in columns]
    wanted = [max(len(cell) for cell in cells[1:]) for cells in columns]  # headings may wrap in any case
    spare = width - sum(widths) - len(widths) + 1
    # Narrow figures first: they get by with a little, and a wrapped "12.3 G" is the hardest to read.
    for i in sorted(range(len(widths)), key=lambda i: wanted[i] - widths[i]):
        more = max(0, min(wanted[i] - widths[i], spare))
        widths[i] += more
        spare -= more
    return widths
