"""Calibration: scaling makes figures probabilities, turns no ranking, and is measured on what it has not seen."""

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize

from reasoning.train.calibration import (
    auc,
    by_length,
    by_step,
    calibration_error,
    cross_calibrated,
    measure,
    platt,
)
from verifiers.learned import sigmoid


def drawn(n=4000, slope=0.4, shift=-0.7, seed=0):
    """Logits of an overconfident scorer: the truth is sigmoid(slope x logit + shift)."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 4, n)
    return z, (rng.random(n) < sigmoid(slope * z + shift)).astype(float)


def test_platt_finds_the_scale_and_shift_and_mends_the_calibration():
    z, y = drawn()
    slope, shift = platt(z, y)
    assert slope == pytest.approx(0.4, abs=0.04)
    assert shift == pytest.approx(-0.7, abs=0.1)
    assert calibration_error(sigmoid(z), y) > 0.1
    assert calibration_error(sigmoid(slope * z + shift), y) < 0.03


@pytest.mark.parametrize("soft", [False, True])
def test_platt_is_the_minimum_that_scipy_finds(soft):
    z, y = drawn(300, seed=3)
    y = np.clip(y * 0.7 + 0.1, 0, 1) if soft else y
    targets = (1 - y) / (len(y) - y.sum() + 2) + y * (y.sum() + 1) / (y.sum() + 2)

    def loss(w):
        t = w[0] * z + w[1]
        return (np.logaddexp(0, t) - targets * t).sum()

    found = minimize(loss, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-10})
    assert platt(z, y) == pytest.approx(found.x, abs=1e-5)


def test_separable_scores_get_finite_figures_and_backward_ones_keep_their_order():
    z, y = np.array([-3.0, -2.0, 2.0, 3.0]), np.array([0.0, 0.0, 1.0, 1.0])
    slope, shift = platt(z, y)
    p = sigmoid(slope * z + shift)
    assert 0 < slope < 10
    assert (np.diff(p) > 0).all()
    assert p[0] > 0.01
    slope, shift = platt(-z, y)
    assert slope == 1e-3
    assert sigmoid(slope * -z + shift) == pytest.approx(np.full(4, 0.5), abs=0.01)
    assert platt(np.zeros(4), y)[0] == 1e-3


def test_each_half_is_scaled_by_the_other():
    z, y = drawn(200, seed=1)
    halves = np.arange(200) % 2 == 0
    p = cross_calibrated(z, y, halves)
    slope, shift = platt(z[~halves], y[~halves])
    assert p[halves] == pytest.approx(sigmoid(slope * z[halves] + shift))
    one_sided = cross_calibrated(z, y, np.ones(200, bool))
    assert one_sided == pytest.approx(sigmoid(platt(z, y)[0] * z + platt(z, y)[1]))


def test_soft_labels_count_as_right_from_a_half_on():
    scores, labels = np.array([0.9, 0.6, 0.2]), np.array([1.0, 0.5, 0.25])
    assert measure(scores, labels) == {
        "auc": 1.0,
        "ece": pytest.approx(0.25 / 3),
        "accuracy": 1.0,
        "base_rate": 1.75 / 3,
    }
    assert np.isnan(auc(scores, np.ones(3)))


def test_figures_by_length_and_by_step_cover_everything_once():
    rng = np.random.default_rng(2)
    lengths = rng.integers(3, 60, 103).tolist()
    scores, labels = rng.random(103), (rng.random(103) < 0.5).astype(float)
    rows = by_length(scores, labels, lengths)
    assert sum(row["count"] for row in rows) == 103
    assert len(rows) == 4
    assert max(r["count"] for r in rows) < 2 * min(r["count"] for r in rows)
    assert all(a["tokens"][1] < b["tokens"][0] for a, b in itertools.pairwise(rows))
    first = np.array(lengths) <= rows[0]["tokens"][1]
    assert rows[0]["auc"] == auc(scores[first], labels[first])
    steps = [min((n - 3) // 4 + 1, 12) for n in lengths]
    rows = by_step(scores, labels, steps)
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert rows[-1]["count"] == sum(k >= 8 for k in steps)
    assert by_length(scores[:3], np.ones(3), [5, 5, 5]) == [
        {"tokens": [5, 5], "count": 3, **measure(scores[:3], np.ones(3)), "auc": None}
    ]
