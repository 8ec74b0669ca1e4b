"""Intervals and tests against SciPy, enumeration and small coverage simulations."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from reasoning.statistics import (
    FEW_PROBLEMS,
    accuracy_interval,
    bca_interval,
    curve_bands,
    holm,
    mcnemar,
    paired,
    resampled_means,
    sign_flip,
    t_interval,
    wilson,
)


def rates(problems, seed=0, samples=8):
    """Per-problem accuracies as a pool gives them: a rate per problem, then a few chains each."""
    rng = np.random.default_rng(seed)
    return rng.binomial(samples, rng.beta(0.8, 1.2, problems)) / samples


def test_t_interval_equals_scipy():
    values = rates(40)
    got = t_interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high))
    assert got.problems == 40
    with_missing = t_interval(np.r_[values, np.nan])
    assert with_missing == got


@pytest.mark.parametrize(("successes", "trials"), [(0, 5), (3, 10), (10, 10), (41, 200)])
def test_wilson_equals_scipy(successes, trials):
    expected = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    got = wilson(successes, trials)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_refuses_what_is_not_a_proportion():
    for successes, trials in ((1, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="not a proportion"):
            wilson(successes, trials)


def test_bca_agrees_with_scipy():
    values = rates(60, seed=3) ** 3  # skewed
    got = bca_interval(values, replicates=20000)
    expected = stats.bootstrap(
        (values,), np.mean, method="BCa", n_resamples=20000, rng=np.random.default_rng(1)
    ).confidence_interval
    width = expected.high - expected.low
    assert abs(got.low - expected.low) < 0.03 * width
    assert abs(got.high - expected.high) < 0.03 * width


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(11)
    truth, inside = 0.8 / 2.0, {"t": 0, "bca": 0}
    runs = 300
    for run in range(runs):
        values = rng.binomial(8, rng.beta(0.8, 1.2, 60)) / 8
        for name, interval in (
            ("t", t_interval(values)),
            ("bca", bca_interval(values, replicates=500, seed=run)),
        ):
            inside[name] += interval.low <= truth <= interval.high
    # 95% nominal; three standard errors of 300 runs are 3.8 points.
    assert inside["t"] / runs > 0.91
    assert inside["bca"] / runs > 0.90


def test_the_simultaneous_band_holds_the_whole_curve_and_the_pointwise_one_does_not():
    rng = np.random.default_rng(2)
    ks, runs = np.array([1, 2, 4, 8, 16, 32]), 200
    rate = rng.beta(0.7, 1.0, 200000)
    truth = (1 - (1 - rate[:, None]) ** ks).mean(axis=0)
    whole = pointwise = 0
    for run in range(runs):
        curves = 1 - (1 - rng.choice(rate, 80)[:, None]) ** ks
        bands = curve_bands(curves, replicates=400, seed=run, bounds=(0.0, 1.0))
        whole += ((bands.band_low <= truth) & (truth <= bands.band_high)).all()
        pointwise += ((bands.low <= truth) & (truth <= bands.high)).all()
    assert whole / runs > 0.89
    assert pointwise < whole


def test_bands_contain_the_estimate_and_respect_the_bounds():
    curves = np.column_stack([rates(25, seed=s) for s in range(4)])
    bands = curve_bands(curves, bounds=(0.0, 1.0))
    np.testing.assert_allclose(bands.estimate, curves.mean(axis=0))
    assert (bands.low <= bands.estimate).all()
    assert (bands.estimate <= bands.high).all()
    assert (bands.band_low <= bands.low).all()
    assert (bands.band_high >= bands.high).all()
    assert (bands.band_high <= 1).all()
    assert (bands.band_low >= 0).all()


@pytest.mark.parametrize("problems", [5, 9, 29, 30, 60])
def test_one_rule_for_the_interval_of_an_accuracy(problems):
    """The same for a single figure and for a point of a curve, however few problems there are."""
    several = np.column_stack([rates(problems, seed=s) for s in range(3)])
    bands = curve_bands(several, bounds=(0.0, 1.0))
    for j, values in enumerate(several.T):
        got = accuracy_interval(values)
        assert (got.low, got.high) == (bands.low[j], bands.high[j])
        expected = t_interval(values) if problems < FEW_PROBLEMS else bca_interval(values)
        assert (got.low, got.high) == (max(expected.low, 0), min(expected.high, 1))
    single = np.arange(problems) % 3 == 0
    got, expected = accuracy_interval(single), wilson(int(single.sum()), problems)
    assert (got.estimate, got.low, got.high) == (expected.estimate, expected.low, expected.high)
    for values in (np.zeros(problems), np.ones(problems)):  # never a width of 0
        assert accuracy_interval(values).half_width > 0.02


def test_few_problems_are_covered_about_as_often_as_said():
    rng, runs = np.random.default_rng(5), 400
    inside = band = 0
    for run in range(runs):
        values = rng.beta(2, 2, (8, 1))
        bands = curve_bands(values, replicates=300, seed=run, bounds=(0.0, 1.0))
        inside += bands.low[0] <= 0.5 <= bands.high[0]
        band += bands.band_low[0] <= 0.5 <= bands.band_high[0]
    assert inside / runs > 0.91  # BCa: 0.87
    assert band / runs > 0.91


def test_all_right_is_not_certainty():
    bands = curve_bands(np.ones((20, 1)), bounds=(0.0, 1.0))
    assert bands.low[0] == bands.band_low[0] == pytest.approx(wilson(20, 20).low)
    assert bands.high[0] == 1.0
    # Where no bounds are given the values are no proportion, and equal values have no spread.
    assert curve_bands(np.ones((20, 1))).low[0] == 1.0


def test_missing_problems_are_left_out_point_by_point():
    curves = np.column_stack([rates(30), rates(30, seed=1)])
    holed = curves.copy()
    holed[:5, 1] = np.nan
    bands = curve_bands(holed)
    assert bands.problems.tolist() == [30, 25]
    assert bands.estimate[1] == pytest.approx(curves[5:, 1].mean())
    lonely = curve_bands(np.array([[0.5], [np.nan]]))
    assert lonely.estimate[0] == 0.5
    assert np.isnan([lonely.low[0], lonely.high[0], lonely.band_low[0]]).all()
    assert np.isnan(curve_bands(np.full((3, 1), np.nan)).estimate[0])


def test_resamplings_are_shared_between_curves_and_repeat():
    a, b = rates(30)[:, None], rates(30, seed=1)[:, None]
    np.testing.assert_allclose(resampled_means(a) - resampled_means(b), resampled_means(a - b), atol=1e-12)
    np.testing.assert_array_equal(resampled_means(a), resampled_means(a))
    assert not np.array_equal(resampled_means(a), resampled_means(a, seed=1))


def test_paired_equals_scipy():
    a, b = rates(40), rates(40, seed=9)
    got = paired(a, b)
    result = stats.ttest_rel(a, b)
    interval = result.confidence_interval(0.95)
    assert (got.interval.low, got.interval.high) == pytest.approx((interval.low, interval.high))
    permuted = stats.permutation_test(
        (a, b),
        lambda x, y, axis: (x - y).mean(axis=axis),
        permutation_type="samples",
        n_resamples=9999,
        vectorized=True,
        rng=np.random.default_rng(4),
    )
    assert got.p == pytest.approx(permuted.pvalue, abs=0.02)
    # At the true difference `detectable`, a t test of this size and spread finds it 80% of the time.
    spread = (a - b).std(ddof=1)
    power = 1 - stats.nct.cdf(stats.t.ppf(0.975, 39), 39, got.detectable / spread * np.sqrt(40))
    assert power == pytest.approx(0.8, abs=0.01)


def test_paired_outcomes_of_0_and_1_get_the_exact_test():
    a, b = np.r_[np.ones(30), np.zeros(10)], np.r_[np.zeros(12), np.ones(24), np.zeros(4)]
    assert paired(a, b).p == mcnemar(a, b) == pytest.approx(stats.binomtest(12, 18).pvalue)
    assert paired(np.r_[a, np.nan], np.r_[b, 1.0]).p == mcnemar(a, b)


def test_paired_says_when_there_is_nothing_to_say():
    same = paired(rates(20), rates(20))
    assert (same.difference, same.p, same.supported) == (0.0, 1.0, False)
    better = paired(np.ones(20), np.zeros(20))
    assert better.supported
    assert better.interval.low == better.interval.high == 1.0
    one = paired([1.0], [0.0])
    assert np.isnan(one.detectable)
    assert not one.supported
    with pytest.raises(ValueError, match="same problems"):
        paired([1.0], [0.0, 1.0])


def test_paired_bca_interval_is_near_the_t_interval():
    a, b = rates(100), rates(100, seed=9)
    t, bca = paired(a, b), paired(a, b, method="bca")
    assert bca.interval.low == pytest.approx(t.interval.low, abs=0.01)
    assert bca.interval.high == pytest.approx(t.interval.high, abs=0.01)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=8))
def test_sign_flip_enumerates_small_cases(differences):
    sums = [abs(np.dot(signs, differences)) for signs in product((-1, 1), repeat=len(differences))]
    expected = np.mean(np.array(sums) >= abs(sum(differences)))
    assert sign_flip(differences) == pytest.approx(expected)


def test_sign_flip_draws_where_it_cannot_enumerate():
    differences = np.r_[np.full(9, 0.3), np.full(7, -0.1)]
    signs = np.array(list(product((-1, 1), repeat=16)), dtype=np.int8)
    exact = (np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9).mean()
    assert sign_flip(differences) == pytest.approx(exact, abs=4 * np.sqrt(exact / 9999))
    assert sign_flip(np.ones(400)) == 1 / 10000  # never 0


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), max_size=30))
def test_mcnemar_is_the_exact_binomial_test_of_the_discordant_pairs(pairs):
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    wins, losses = sum(x > y for x, y in pairs), sum(y > x for x, y in pairs)
    expected = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert mcnemar(a, b) == pytest.approx(expected)


def test_mcnemar_refuses_rates():
    with pytest.raises(ValueError, match="0 and 1"):
        mcnemar([0.5], [1.0])


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values):
    adjusted = holm(p_values)
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    going, rejected = True, set()
    for rank, i in enumerate(order):
        going = going and p_values[i] * (len(p_values) - rank) <= 0.05
        if going:
            rejected.add(i)
    assert {i for i, p in enumerate(adjusted) if p <= 0.05} == rejected
