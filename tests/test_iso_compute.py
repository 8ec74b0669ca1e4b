"""Break-even by hand on toy curves, and its properties on a whole pool."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_pool import synthetic_pool

from reasoning.cli.verify import fitting_flops
from reasoning.curves import Measured, Measurement, measure_pool
from reasoning.iso_compute import POINT, _queries, _Way, iso_compute
from reasoning.select import open_selector
from verifiers.numeric import Numeric


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
    assert (b.low, b.high) == pytest.approx((b.queries, b.queries))


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
        total = (envelope.flops + envelope.training_flops / 50) * (1 + 1e-9)  # the sum is taken apart again
        np.testing.assert_allclose(
            envelope.reached_in_all(total, np.array(50.0)), envelope.accuracy, atol=1e-4
        )


def test_a_verifiers_fit_is_paid_for_by_the_strategies_that_ask_it():
    # Both reach 60% (one point below the base's best) with the verifier alone: at 10 FLOPs a query (base) and at 4.
    fitted = [
        replace(
            measurement(model, accuracy, flops), selector=open_selector("best_of_n:scorer=v", {"v": False})
        )
        for model, accuracy, flops in (("base", [0.60, 0.61], [10, 90]), ("t", [0.60, 0.70], [4, 8]))
    ]
    voting = [measurement("base", [0.30, 0.60], [5, 30]), measurement("t", [0.30, 0.60], [3, 6])]
    before = toy({"base": 0.0, "t": 1200.0}, *fitted)
    found = iso_compute(before)
    assert found is not None
    assert found.headline[0].queries == pytest.approx(1200 / (10 - 4))
    # The fit costs both the same: nothing changes. A vote would do without it: it costs the base 30 a query and
    # the trained model 6. Up to 900 / 20 queries the base does better without the verifier.
    charged = replace(toy({"base": 0.0, "t": 1200.0}, *fitted), fits={"v": 900.0})
    found = iso_compute(charged)
    assert found is not None
    assert found.headline[0].queries == pytest.approx(1200 / (10 - 4))
    charged = replace(toy({"base": 0.0, "t": 1200.0}, *fitted, *voting), fits={"v": 900.0})
    found = iso_compute(charged)
    assert found is not None
    # At Q queries: base min(10 Q + 900, 30 Q), trained min(4 Q + 900, 6 Q) + 1200: equal at 10 Q + 900 = 6 Q + 1200.
    assert found.headline[0].queries == pytest.approx(300 / 4)
    assert (found.headline[0].low, found.headline[0].high) == pytest.approx((300 / 4, 300 / 4))
    # The map says the same: both reach 60% there for what they cost in all, and not for a little less.
    cost = np.array([900 / 75 + 10, (900 + 1200) / 75 + 4, 30, 1200 / 75 + 6])
    for envelope, price in zip(found.envelopes, (min(cost[0], cost[2]), min(cost[1], cost[3])), strict=True):
        assert envelope.reached_in_all(np.array(price), np.array(75.0)) == pytest.approx(0.6)
        assert not envelope.reached_in_all(np.array(price * 0.999), np.array(75.0)) >= 0.6
    points = {(p.model, p.strategy, p.k): p.flops for p in found.frontiers[1000.0]}
    assert points["t", voting[1].selector.label, 1] == pytest.approx(3 + 1200 / 1000)
    assert points["t", fitted[1].selector.label, 1] == pytest.approx(4 + (1200 + 900) / 1000)
    assert points["t", fitted[1].selector.label, 2] == pytest.approx(8 + (1200 + 900) / 1000)


@given(
    st.floats(1, 100),
    *[st.lists(st.tuples(st.sampled_from([0.0, 30.0, 200.0]), st.floats(1, 50)), min_size=1, max_size=3)] * 2,
)
def test_from_the_break_even_on_the_trained_model_is_the_cheaper_one(training, base, trained):
    sides = [[_Way(fit, np.array([spend])) for fit, spend in side] for side in (base, trained)]
    queries = float(_queries(training, *sides)[0])

    def lead(q):  # what the base's cheapest way costs in all beyond the trained model's
        return min(f + s * q for f, s in base) - min(f + s * q for f, s in trained) - training

    if math.isinf(queries):
        assert min(s for _, s in base) <= min(s for _, s in trained)
    for beyond in (1.001, 2.0, 100.0, 1e5):
        if math.isfinite(queries) and queries > 0:
            assert lead(queries * beyond) >= -1e-6 * queries * beyond * 50
    if 0 < queries < math.inf:
        assert lead(queries) == pytest.approx(0, abs=1e-6 * (1 + queries * 50))


def test_a_fit_is_registered_beside_the_verdicts_and_is_no_model(tmp_path):
    card = SimpleNamespace(measured={"flops": {"features": 2e9, "finetuned": 3e9}})
    assert fitting_flops(SimpleNamespace(card=card)) == 5e9  # type: ignore[arg-type]
    assert fitting_flops(Numeric()) == 0.0
    with synthetic_pool(tmp_path, problems=4, chains=4) as pool:
        before = pool.summary()["models"]
        assert measure_pool(pool, oracle="numeric", scorers=["learned"]).fits == {}
        pool.add_model("learned", {"verifier": True, "training": {"flops": 5e9}})
        measured = measure_pool(pool, oracle="numeric", scorers=["learned"])
        assert measured.fits == {"learned": 5e9}
        assert "learned" not in measured.models
        assert pool.summary()["models"] == before
