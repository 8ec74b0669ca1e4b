"""Break-even by hand on toy curves, and its properties on a whole pool."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from synthetic_pool import synthetic_pool

from reasoning.curves import Measured, Measurement, measure_pool
from reasoning.iso_compute import POINT, iso_compute
from reasoning.select import open_selector


def measurement(model, accuracy, flops, name="majority", problems=40):
    """Accuracies and costs that all problems share, so that means are exact."""
    ks = tuple(2**j for j in range(len(accuracy)))
    values = np.tile(np.array(accuracy, dtype=float), (problems, 1))
    spent = np.tile(np.array(flops, dtype=float), (problems, 1))
    ids = tuple(f"p{i}" for i in range(problems))
    axes = {axis: spent for axis in ("samples", "output_tokens", "flops")}
    return Measurement(
        model, open_selector(name), ks, ids, (None,) * problems, values, np.zeros_like(values), axes
    )


def toy(training, *measurements):
    models = tuple(training)
    return Measured(models, {m: m for m in models}, "numeric", {}, (1, 2, 4), {}, training, measurements)


BASE = measurement("base", [0.30, 0.50, 0.61], [10, 20, 40])


def test_break_even_by_hand():
    # Trained: 60% at 5 FLOPs. The base reaches 60% (one point below its best) at 20 + 20 * 10/11.
    found = iso_compute(
        toy({"base": 100.0, "t": 1100.0}, BASE, measurement("t", [0.60, 0.9, 0.95], [5, 10, 20]))
    )
    assert found is not None
    (b,) = found.headline
    assert b.accuracy == pytest.approx(0.61 - POINT)
    assert b.base_flops == pytest.approx(20 + 20 * 10 / 11)
    assert b.trained_flops == pytest.approx(5)
    assert b.training_flops == 1000.0  # what it cost beyond the base
    assert b.queries == pytest.approx(1000 / (20 + 20 * 10 / 11 - 5))
    assert b.verdict == "break_even"
    # All problems alike: every replicate says the same.
    assert b.low == b.high == pytest.approx(b.queries)


def test_accuracies_that_one_side_never_reaches():
    found = iso_compute(toy({"base": 0.0, "t": 1000.0}, BASE, measurement("t", [0.40, 0.70], [5, 80])))
    assert found is not None
    at = {round(100 * b.accuracy): b for b in found.by_accuracy}
    assert at[40].verdict == "break_even"
    assert at[40].queries == pytest.approx(1000 / (15 - 5))
    # At 58% the base searches for less than the trained model does.
    assert at[58].verdict == "never"
    assert math.isinf(at[58].queries)
    assert at[65].verdict == "base_never"
    assert math.isinf(at[65].base_flops)
    assert at[65].queries == 0.0


def test_training_that_does_not_help_never_pays():
    worse = measurement("t", [0.20, 0.30, 0.40], [10, 20, 40])
    found = iso_compute(toy({"base": 0.0, "t": 1000.0}, BASE, worse))
    assert found is not None
    assert found.headline[0].verdict == "never"
    assert math.isinf(found.headline[0].trained_flops)
    assert math.isinf(found.headline[0].low)


def test_the_oracle_is_left_out():
    ceiling = measurement("base", [0.9, 0.99, 1.0], [10, 20, 40], name="pass")
    trained = measurement("t", [0.60, 0.9, 0.95], [5, 10, 20])
    with_it = iso_compute(toy({"base": 0.0, "t": 1000.0}, BASE, ceiling, trained))
    without = iso_compute(toy({"base": 0.0, "t": 1000.0}, BASE, trained))
    assert with_it is not None
    assert without is not None
    assert with_it.headline == without.headline
    assert with_it.frontiers == without.frontiers


def test_the_frontier_is_what_nothing_cheaper_beats():
    trained = measurement("t", [0.60, 0.9, 0.95], [5, 10, 20])
    found = iso_compute(toy({"base": 0.0, "t": 1000.0}, BASE, trained))
    assert found is not None
    for queries, points in found.frontiers.items():
        every = [(f, a, "base") for f, a in zip([10, 20, 40], [0.30, 0.50, 0.61], strict=True)]
        every += [(f + 1000 / queries, a, "t") for f, a in zip([5, 10, 20], [0.60, 0.9, 0.95], strict=True)]
        expected = [p for p in every if not any(o[0] <= p[0] and o[1] >= p[1] and o != p for o in every)]
        assert [p.model for p in points] == [model for _, _, model in sorted(expected)]
        np.testing.assert_allclose([(p.flops, p.accuracy) for p in points], [e[:2] for e in sorted(expected)])
    few, many = min(found.frontiers), max(found.frontiers)
    assert found.frontiers[few][0].model == "base"
    assert {p.model for p in found.frontiers[many]} == {"t"}


def test_nothing_to_say_without_training_costs_or_flops():
    trained = measurement("t", [0.60, 0.9, 0.95], [5, 10, 20])
    assert iso_compute(toy({"base": None, "t": 1000.0}, BASE, trained)) is None
    assert iso_compute(toy({"base": 0.0, "t": 0.0}, BASE, trained)) is None
    unknown = replace(trained, spent={axis: np.full((40, 3), np.nan) for axis in trained.spent})
    assert iso_compute(toy({"base": 0.0, "t": 1000.0}, BASE, unknown)) is None


def test_on_a_pool(tmp_path):
    with synthetic_pool(tmp_path, problems=40, chains=8) as pool:
        measured = measure_pool(pool, oracle="numeric", scorers=["learned"])
    found = iso_compute(measured)
    assert found is not None
    assert found.base == "base@0"
    assert [b.model for b in found.headline] == ["expert_iteration@5", "grpo@24"]
    for b in found.headline:
        assert b.low <= b.queries <= b.high
        if b.verdict == "break_even":
            # At the break-even both spend the same.
            assert b.training_flops / b.queries + b.trained_flops == pytest.approx(b.base_flops)
    for envelope in found.envelopes:
        assert (np.diff(envelope.flops) > 0).all()
        assert (np.diff(envelope.accuracy) >= 0).all()
        assert np.isnan(envelope.reached(envelope.flops[:1] * 0.9)).all()
        np.testing.assert_array_equal(envelope.reached(envelope.flops), envelope.accuracy)
