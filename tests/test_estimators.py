"""Every estimator against enumeration of all subsets, and at sizes where enumeration is out of reach."""

from __future__ import annotations

from itertools import combinations
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasoning.estimators import (
    best_of_k,
    expected_cost,
    maj_at_k,
    majority_of_bests_at_k,
    pass_at_k,
    pass_hat_k,
    weighted_majority_at_k,
)


@st.composite
def pools(draw, min_size=1, max_size=7, missing=True, consistent=False):
    """(correct, answers, scores) of a few chains: ties, abstentions, missing verdicts and scores included."""
    n = draw(st.integers(min_size, max_size))
    answers = np.array(draw(st.lists(st.integers(-1, 3), min_size=n, max_size=n)))
    right = st.sampled_from([0.0, 1.0, 1.0, float("nan")] if missing else [0.0, 1.0])
    if consistent:
        correct = (answers == draw(st.integers(0, 3))).astype(float)
    else:
        correct = np.array(draw(st.lists(right, min_size=n, max_size=n)))
    levels = [0.0, 0.25, 0.5, 0.75, 1.0] + ([float("nan")] if missing else [])
    scores = np.array(draw(st.lists(st.sampled_from(levels), min_size=n, max_size=n)))
    return correct, answers, scores


def enumerated(pool, k, rule, scored=False):
    """Mean of the rule over all subsets of k of the chains that have a verdict (and a score)."""
    correct, answers, scores = pool
    keep = ~np.isnan(correct) & (~np.isnan(scores) if scored else True)
    correct, answers, scores = correct[keep], answers[keep], scores[keep]
    if k > len(correct):
        return float("nan")
    subsets = (list(s) for s in combinations(range(len(correct)), k))
    # A chosen class is worth its mean correctness in the whole pool.
    worth = {a: correct[answers == a].mean() for a in set(answers.tolist()) if a >= 0}
    return fmean(rule(correct[s], answers[s], scores[s], worth) for s in subsets)


def the_best(correct, answers, scores, worth):
    return correct[scores == scores.max()].mean()


def the_most_frequent(correct, answers, scores, worth, weights=None):
    totals = {}
    weights = np.ones(len(answers)) if weights is None else weights
    for answer, weight in zip(answers.tolist(), weights, strict=True):
        if answer >= 0:
            totals[answer] = totals.get(answer, 0.0) + weight
    if not totals:
        return 0.0
    top = max(totals.values())
    return fmean(worth[a] for a, total in totals.items() if total >= top - 1e-9)


def the_heaviest(correct, answers, scores, worth):
    return the_most_frequent(correct, answers, scores, worth, scores + 1e-6)


def the_most_often_best(m):
    def rule(correct, answers, scores, worth):
        weights = np.zeros(len(scores))
        bests = list(combinations(range(len(scores)), min(m, len(scores))))
        for subset in bests:
            top = [i for i in subset if scores[i] == scores[list(subset)].max()]
            weights[top] += 1 / len(top) / len(bests)
        # Answers that were never the best of any m are not candidates.
        totals = {a: weights[answers == a].sum() for a in set(answers.tolist()) if a >= 0}
        top = max(totals.values(), default=0.0)
        if top <= 1e-12:
            return 0.0
        return fmean(worth[a] for a, total in totals.items() if total >= top - 1e-9)

    return rule


@given(pools())
def test_pass_at_k_and_pass_hat_k_equal_enumeration(pool):
    ks = range(1, len(pool[0]) + 1)
    some = [enumerated(pool, k, lambda c, *_: c.max()) for k in ks]
    every = [enumerated(pool, k, lambda c, *_: c.min()) for k in ks]
    np.testing.assert_allclose(pass_at_k(pool[0], ks), some, atol=1e-12)
    np.testing.assert_allclose(pass_hat_k(pool[0], ks), every, atol=1e-12)


@given(pools())
def test_best_of_k_equals_enumeration(pool):
    ks = range(1, len(pool[0]) + 1)
    expected = [enumerated(pool, k, the_best, scored=True) for k in ks]
    np.testing.assert_allclose(best_of_k(pool[0], pool[2], ks), expected, atol=1e-12)


@given(pools(max_size=9))
def test_maj_at_k_equals_enumeration(pool):
    ks = range(1, len(pool[0]) + 1)
    expected = [enumerated(pool, k, the_most_frequent) for k in ks]
    np.testing.assert_allclose(maj_at_k(pool[0], pool[1], ks), expected, atol=1e-12)


def assert_within_error(got, expected, shuffles):
    """Each value lies within 6 of its own standard errors, with room for an outcome too rare to be drawn."""
    value, error = got
    assert ((np.abs(value - expected) <= 6 * error + 12 / shuffles) | np.isnan(expected)).all()
    np.testing.assert_array_equal(np.isnan(value), np.isnan(expected))


@settings(max_examples=50)
@given(pools())
def test_weighted_majority_equals_enumeration(pool):
    ks = range(1, len(pool[0]) + 1)
    expected = np.array([enumerated(pool, k, the_heaviest, scored=True) for k in ks])
    got = weighted_majority_at_k(*pool, ks, shuffles=2000)
    assert_within_error(got, expected, 2000)
    known = int((~np.isnan(pool[0]) & ~np.isnan(pool[2])).sum())
    for k in {1, known} & set(range(1, known + 1)):
        np.testing.assert_allclose(got[0][k - 1], expected[k - 1], atol=1e-9)
        assert got[1][k - 1] == 0


@settings(max_examples=50)
@given(pools(max_size=6), st.integers(1, 6))
def test_majority_of_bests_equals_enumeration(pool, m):
    ks = range(1, len(pool[0]) + 1)
    expected = np.array([enumerated(pool, k, the_most_often_best(m), scored=True) for k in ks])
    value, error = majority_of_bests_at_k(*pool, [m], ks, shuffles=2000)
    assert_within_error((value[0], error[0]), expected, 2000)


@given(pools(min_size=2, missing=False))
def test_majority_of_bests_is_majority_at_one_and_best_of_n_at_n(pool):
    correct, answers, scores = pool
    n = len(correct)
    answers = np.maximum(answers, 0)
    correct = (answers == 1).astype(float)
    scores = scores + np.arange(n) * 1e-3  # no ties
    value, _ = majority_of_bests_at_k(correct, answers, scores, [1, n], [n])
    np.testing.assert_allclose(value[0], maj_at_k(correct, answers, [n]), atol=1e-12)
    np.testing.assert_allclose(value[1], best_of_k(correct, scores, [n]), atol=1e-12)


@given(pools(min_size=2, max_size=30, consistent=True))
def test_majority_of_one_and_two_is_one_sample_where_nothing_abstains(pool):
    correct, answers, _ = pool
    correct, answers = correct[answers >= 0], answers[answers >= 0]
    if len(correct) >= 2:
        one, two = maj_at_k(correct, answers, [1, 2])
        assert one == pytest.approx(pass_at_k(correct, [1])[0], abs=1e-12)
        assert two == pytest.approx(one, abs=1e-12)


@given(pools(max_size=20, missing=False))
def test_the_oracle_is_best_of_k_by_correctness(pool):
    ks = range(1, len(pool[0]) + 1)
    np.testing.assert_allclose(pass_at_k(pool[0], ks), best_of_k(pool[0], pool[0], ks), atol=1e-12)


@pytest.mark.parametrize("classes", [1, 2, 5, 64, 256])
def test_majority_is_stable_at_256_chains(classes):
    """With equal classes each wins equally often, whatever k: the value is 1/classes to the last digits."""
    answers = np.arange(256) * classes // 256
    sizes = np.bincount(answers)
    correct = (answers == 0).astype(float)
    ks = [1, 2, 3, 7, 64, 128, 255, 256]
    if (sizes == sizes[0]).all():
        np.testing.assert_allclose(maj_at_k(correct, answers, ks), 1 / classes, rtol=1e-11)
    # Whatever the classes, their chances add up to 1 when nothing abstains.
    total = sum(maj_at_k((answers == a).astype(float), answers, ks) for a in range(classes))
    np.testing.assert_allclose(total, 1.0, rtol=1e-11)


def test_majority_at_256_chains_equals_simulation():
    rng = np.random.default_rng(5)
    answers = np.minimum(rng.geometric(0.3, 256), 9) - 1
    answers[:20] = -1
    correct = (answers == 1).astype(float)
    hits = 0.0
    for _ in range(4000):
        drawn = answers[rng.permutation(256)[:33]]
        votes = np.bincount(drawn[drawn >= 0], minlength=10)
        winners = np.flatnonzero(votes == votes.max())
        hits += (1 in winners) / len(winners)
    exact = maj_at_k(correct, answers, [33])[0]
    assert abs(hits / 4000 - exact) < 4 * np.sqrt(exact * (1 - exact) / 4000)


def test_small_cases_by_hand():
    # One of eight is right: the best of all eight is right for certain (resampling would say 0.656).
    one_of_eight = [1, 0, 0, 0, 0, 0, 0, 0]
    assert pass_at_k(one_of_eight, [1, 4, 8]).tolist() == [0.125, 0.5, 1.0]
    assert pass_hat_k([1, 1, 0, 0], [1, 2, 3]).tolist() == [0.5, 1 / 6, 0.0]
    # Two against one against an abstention: 3 chains of 4.
    assert maj_at_k([1, 1, 0, 0], [0, 0, 1, -1], [4]).tolist() == [1.0]
    assert maj_at_k([0, 0], [-1, -1], [1, 2]).tolist() == [0.0, 0.0]


def test_missing_verdicts_are_missing_and_not_wrong():
    nan = float("nan")
    assert pass_at_k([1, nan, 0], [1])[0] == 0.5
    np.testing.assert_array_equal(np.isnan(pass_at_k([1, nan, 0], [1, 2, 3])), [False, False, True])
    assert best_of_k([1, 0, 1], [0.2, 0.9, nan], [2])[0] == 0.0
    for estimate in (
        maj_at_k([nan, nan], [0, 0], [1]),
        best_of_k([nan, nan], [0, 0], [1]),
        weighted_majority_at_k([nan, nan], [0, 0], [1, 1], [1])[0],
        majority_of_bests_at_k([nan, nan], [0, 0], [1, 1], [1], [1])[0],
    ):
        assert np.isnan(estimate).all()


def test_k_outside_the_pool_is_an_error_and_never_clipped():
    for call in (
        lambda k: pass_at_k([1, 0], [k]),
        lambda k: pass_hat_k([1, 0], [k]),
        lambda k: best_of_k([1, 0], [0, 1], [k]),
        lambda k: maj_at_k([1, 0], [0, 1], [k]),
        lambda k: weighted_majority_at_k([1, 0], [0, 1], [1, 1], [k]),
        lambda k: majority_of_bests_at_k([1, 0], [0, 1], [1, 1], [1], [k]),
        lambda k: expected_cost([1, 0], [k]),
    ):
        for k in (0, 3):
            with pytest.raises(ValueError, match=f"k = {k} is outside 1..2"):
                call(k)


def test_bad_arrays_are_refused():
    with pytest.raises(ValueError, match="0, 1 or NaN"):
        pass_at_k([0.5, 1], [1])
    with pytest.raises(ValueError, match="flat array"):
        pass_at_k([[1, 0]], [1])
    with pytest.raises(ValueError, match="answers has shape"):
        maj_at_k([1, 0], [0], [1])
    with pytest.raises(ValueError, match="weights must be 0 or above"):
        weighted_majority_at_k([1, 0], [0, 1], [1, -1], [1])
    with pytest.raises(ValueError, match="m must be"):
        majority_of_bests_at_k([1], [0], [1], [0], [1])


def test_weight_ties_do_not_depend_on_the_order_of_adding():
    # 0.1 + 0.2 and 0.3 differ as floats; as weights they tie, and two votes beat one.
    value, _ = weighted_majority_at_k([1, 1, 0], [0, 0, 1], [0.1, 0.2, 0.3], [3])
    assert value[0] == 1.0
    value, _ = weighted_majority_at_k([1, 1, 0, 0], [0, 0, 1, 1], [0.1, 0.3, 0.2, 0.2], [4])
    assert value[0] == 0.5


def test_shuffled_estimates_are_the_same_every_time():
    rng = np.random.default_rng(0)
    correct, answers, scores = (rng.random(20) < 0.5).astype(float), rng.integers(0, 4, 20), rng.random(20)
    first = weighted_majority_at_k(correct, answers, scores, [4, 8])
    again = weighted_majority_at_k(correct, answers, scores, [4, 8])
    np.testing.assert_array_equal(first, again)
    other = weighted_majority_at_k(correct, answers, scores, [4, 8], seed=1)
    assert not np.array_equal(first[0], other[0])


def test_expected_cost_pays_the_shared_part_once():
    assert expected_cost([10, 20, 30], [1, 2, 3], shared=5).tolist() == [25.0, 45.0, 65.0]
