"""What is drawn: the right lines, in the right place, labelled; not how it looks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from reasoning.report.pictures import accuracy_against_compute, accuracy_by_difficulty, shown
from reasoning.report.pictures_iso import training_or_search
from reasoning.report.style import image, nice_ticks, tick_text


@pytest.mark.parametrize("narrow", [False, True])
def test_curves_are_drawn_where_their_points_are(curves, measured, narrow):
    figure = accuracy_against_compute(curves, measured.labels, narrow)
    assert [panel.get_title(loc="left").split(" against ")[1] for panel in figure.axes] == [
        "chains",
        "output tokens",
        "FLOPs",
    ]
    (vote,) = [c for c in curves if (c.model, c.strategy, c.difficulty) == ("grpo@24", "majority", None)]
    for panel, axis in zip(figure.axes, ("samples", "output_tokens", "flops"), strict=True):
        drawn = [np.column_stack(line.get_data()) for line in panel.lines]
        expected = np.array([(p.compute(axis), 100 * p.accuracy) for p in vote.points])
        assert any(d.shape == expected.shape and np.allclose(d, expected) for d in drawn)
    ticks = [t.get_text() for t in figure.axes[0].get_xticklabels()]
    assert ticks == ["1", "2", "4", "8", "16"]
    (legend,) = figure.legends
    texts = [t.get_text() for t in legend.get_texts()]
    assert texts[:5] == ["Colour: the model", "base", "expert iteration", "grpo", ""]
    assert texts[5:] == ["Line: how an answer is chosen", "best-of-n (learned)", "majority", "greedy, one chain",
                         "oracle ceiling (reads the reference)"]  # fmt: skip


def test_the_ceiling_is_dashed_and_nothing_else_is(curves, measured):
    panel = accuracy_against_compute(curves, measured.labels).axes[0]
    ceilings = [c for c in shown(curves) if c.oracle]
    assert {c.strategy for c in ceilings} == {"pass"}
    for c in shown(curves):
        if c.strategy in ("pass", "majority"):
            y = [100 * p.accuracy for p in c.points]
            (line,) = [
                x for x in panel.lines if len(x.get_ydata()) == len(y) and np.allclose(x.get_ydata(), y)
            ]
            assert line.is_dashed() == c.oracle


def test_an_axis_that_is_not_recorded_is_left_out(curves, measured):
    nan = float("nan")
    blind = [
        replace(c, points=tuple(replace(p, flops=nan, output_tokens=nan) for p in c.points)) for c in curves
    ]
    assert len(accuracy_against_compute(blind, measured.labels).axes) == 1


def test_difficulty_panels(curves, measured):
    figure = accuracy_by_difficulty(curves, measured.labels)
    assert figure is not None
    titles = [panel.get_title(loc="left") for panel in figure.axes]
    assert titles == ["one chain", "majority of 16", "best of 16 (learned)"]
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["2", "3", "4", "5"]
    assert accuracy_by_difficulty([c for c in curves if c.difficulty is None], measured.labels) is None


@pytest.mark.parametrize("narrow", [False, True])
def test_the_iso_picture_marks_the_break_even(iso, measured, narrow):
    figure = training_or_search(iso, measured.labels, measured.models, narrow)
    left, right = figure.axes
    marks = {
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for line in left.lines
        if line.get_marker() == "o"
    }
    assert marks == {(b.queries, b.base_flops) for b in iso.headline if b.verdict == "break_even"}
    texts = [t.get_text() for t in left.get_legend().get_texts()]
    assert texts[0] == "search base"
    assert all("cheaper from" in t or "never cheaper" in t for t in texts[1:])
    assert any(t.get_text() == "search base" for t in right.texts)


def test_the_iso_picture_where_training_never_pays(iso, measured):
    never = tuple(
        replace(b, verdict="never", queries=float("inf"), trained_flops=float("inf")) for b in iso.headline
    )
    figure = training_or_search(replace(iso, headline=never), measured.labels, measured.models)
    assert len(image(figure, "png")) > 10_000


def test_pictures_are_the_same_bytes_every_time(curves, measured):
    for kind in ("png", "svg"):
        first = image(accuracy_against_compute(curves, measured.labels), kind)
        assert first == image(accuracy_against_compute(curves, measured.labels), kind)


def test_ticks():
    assert nice_ticks(27, 2400) == [50, 100, 200, 500, 1000, 2000]
    assert nice_ticks(1.1e8, 1.2e10) == [2e8, 5e8, 1e9, 2e9, 5e9, 1e10]
    assert nice_ticks(10, 1e6) == [10, 100, 1000, 10000, 100000, 1000000]
    assert [tick_text(v) for v in (64, 1000, 20000.0, 5e9)] == ["64", "1,000", "20 k", "5 G"]
