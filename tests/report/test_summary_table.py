"""The table says what the curves say, in the terminal as on the page."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from reasoning.report import summary_table, to_rich
from reasoning.report.table import EMPTY
from reasoning.report.words import si


def cell(table, model, k, column):
    at, name = table.columns.index(column), ""
    for row in table.rows:
        name = row[0] or name
        if (name, row[1]) == (model, str(k)):
            return row[at]
    raise AssertionError(f"no row {model} {k}")


def test_cells_are_the_curves(measured, curves):
    table = summary_table(measured, curves)
    columns = (
        "model",
        "k",
        "greedy",
        "pass@1",
        "majority",
        "best-of-n (learned)",
        "oracle",
        "tokens",
        "FLOPs",
        "scored FLOPs",
    )
    assert table.columns == columns
    assert [row[1] for row in table.rows] == ["1", "4", "16"] * 3
    (vote,) = [c for c in curves if (c.model, c.strategy, c.difficulty) == ("grpo@24", "majority", None)]
    point = vote.at(16)
    expected = f"{100 * point.accuracy:.1f} [{100 * point.low:.1f}, {100 * point.high:.1f}]"
    assert cell(table, "grpo", 16, "majority") == expected
    assert cell(table, "grpo", 16, "tokens") == f"{point.output_tokens:,.0f}"
    (best,) = [c for c in curves if (c.model, c.strategy, c.difficulty) == ("grpo@24", "best_of_n", None)]
    assert best.at(16).flops > point.flops  # drawing and scoring
    assert cell(table, "grpo", 16, "FLOPs") == si(point.flops)
    assert cell(table, "grpo", 16, "scored FLOPs") == si(best.at(16).flops)
    assert cell(table, "grpo", 1, "scored FLOPs") == EMPTY  # one chain is not chosen by anybody
    assert cell(table, "grpo", 1, "majority") == EMPTY
    assert cell(table, "grpo", 4, "greedy") == EMPTY
    assert table.columns[table.oracle[0]] == "oracle"


def test_other_ks_and_seconds(measured, curves):
    table = summary_table(measured, curves, ks=[2, 8], seconds={"base@0": 12.4})
    # The largest k is always shown: it is what was paid for.
    assert [row[1] for row in table.rows] == ["2", "8", "16"] * 3
    assert cell(table, "base", 2, "seconds") == "12"
    assert cell(table, "grpo", 2, "seconds") == EMPTY
    said = "Seconds: drawing all chains of the model, by the clock."
    assert said in table.notes
    assert said not in summary_table(measured, curves).notes


def test_notes_name_the_ceiling_and_what_is_missing(measured, curves):
    notes = " ".join(summary_table(measured, curves).notes)
    assert "a ceiling for choosing among k chains" in notes
    assert "Scored FLOPs: the same and scoring these k chains" in notes
    assert "What is right is said by 'numeric'. A chain that was cut off counts as wrong." in notes
    missing = {
        m: sum(int((g.correct != g.correct).sum()) for g in some) for m, some in measured.groups.items()
    }
    for model, number in missing.items():
        said = f"{number} of 768 chains of {measured.labels[model]} have no verdict"
        assert (said in notes) == (number > 0)


def test_cut_chains_are_announced_above_five_percent(measured, curves):
    assert "were cut off" not in " ".join(summary_table(measured, curves).notes)
    for group in measured.groups["base@0"][:20]:
        group.truncated[:4] = True
    notes = " ".join(summary_table(measured, curves).notes)
    for group in measured.groups["base@0"][:20]:
        group.truncated[:4] = False
    assert "of the chains of base were cut off and count as wrong: its accuracy is a lower bound" in notes


def test_the_terminal_shows_every_cell_at_80_and_at_160_columns(measured, curves):
    table = summary_table(measured, curves)
    for width in (80, 160):
        console = Console(width=width, record=True, file=None, force_terminal=False, quiet=False)
        with console.capture() as capture:
            console.print(to_rich(table))
        shown = capture.get().split()
        for row in table.rows:
            for text in row:
                for word in text.split():
                    assert word in shown, f"{word!r} is cut at {width} columns"


def test_an_interval_that_would_cross_a_bound_is_written_out(measured, curves):
    def moved(point):
        return replace(point, accuracy=1.0, low=0.96, high=1.0) if point.k == 4 else point

    changed = [replace(c, points=tuple(map(moved, c.points))) for c in curves]
    table = summary_table(measured, changed)
    assert cell(table, "grpo", 4, "majority") == "100.0 [96.0, 100.0]"
    assert table.notes[1].endswith("[from, to].")
    inside = [
        replace(c, points=tuple(replace(p, accuracy=0.5, low=0.4, high=0.6) for p in c.points))
        for c in curves
    ]
    table = summary_table(measured, inside)
    assert cell(table, "grpo", 4, "majority") == "50.0 ±10.0"
    assert not table.notes[1].endswith("[from, to].")


def test_names_are_shown_as_they_are_without_markup_or_escapes(measured, curves):
    names = ["p[/b]", "llama[base]", "a\x1b[31mb:smile:"]
    labels = dict(zip(measured.models, names, strict=True))
    table = summary_table(replace(measured, labels=labels), curves)
    console = Console(width=160)
    with console.capture() as capture:
        console.print(to_rich(table))
    shown = capture.get()
    assert "p[/b]" in shown
    assert "llama[base]" in shown
    assert "a?[31mb:smile:" in shown
    assert "\x1b" not in shown
