"""Comparisons are paired on the same problems; equal FLOPs means what it says."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_pool import synthetic_pool

from reasoning.comparisons import at_flops, compare, find, paired_values
from reasoning.curves import Measurement, measure_pool
from reasoning.select import open_selector
from reasoning.statistics import holm, paired


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    with synthetic_pool(tmp_path_factory.mktemp("run"), problems=40, chains=8) as pool:
        yield measure_pool(pool, oracle="numeric", scorers=["learned"])


@pytest.fixture(scope="module")
def table(measured):
    return compare(measured)


def toy(values, flops, ids=("a", "b"), name="majority", model="m"):
    values, flops = np.array(values, dtype=float), np.array(flops, dtype=float)
    ks = tuple(2**j for j in range(values.shape[1]))
    spent = {axis: flops for axis in ("samples", "output_tokens", "flops")}
    selector = open_selector(name)
    return Measurement(model, selector, ks, ids, (None,) * len(ids), values, np.zeros_like(values), spent)


def test_a_comparison_is_the_paired_difference(measured, table):
    (c,) = find(table, ("grpo@24", "majority"), ("base@0", "majority"))
    a, b = measured.find("grpo@24", "majority"), measured.find("base@0", "majority")
    expected = paired(*paired_values(a, a.column(8), b, b.column(8)))
    assert c.difference == expected.difference
    assert (c.low, c.high, c.p) == (expected.interval.low, expected.interval.high, expected.p)
    assert c.difference == pytest.approx(c.a_accuracy - c.b_accuracy)
    assert (c.a.k, c.b.k, c.basis) == (8, 8, "k")


def test_adjusted_over_the_whole_table(table):
    assert [c.p_holm for c in table] == holm([c.p for c in table])
    for c in table:
        assert c.supported == ((c.low > 0 or c.high < 0) and c.p_holm <= 0.05)


def test_what_reads_the_reference_is_marked(table):
    for c in table:
        reads = any(side.strategy == "pass" and side.k != 1 for side in (c.a, c.b))
        assert c.oracle == reads


def test_equal_flops_mixes_two_neighbouring_ks():
    m = toy([[0.2, 0.6], [0.4, 1.0]], [[10, 20], [10, 20]])
    np.testing.assert_allclose(at_flops(m, 10), [0.2, 0.4])
    np.testing.assert_allclose(at_flops(m, 20), [0.6, 1.0])
    np.testing.assert_allclose(at_flops(m, 15), [0.4, 0.7])
    assert at_flops(m, 9) is None
    assert at_flops(m, 21) is None
    # A problem without a value at the larger k is missing only where that k is used.
    holed = toy([[0.2, np.nan], [0.4, 1.0]], [[10, 20], [10, 20]])
    np.testing.assert_allclose(at_flops(holed, 10), [0.2, 0.4])
    assert np.isnan(at_flops(holed, 15)[0])


def test_unknown_flops_are_not_compared():
    assert at_flops(toy([[0.2], [0.4]], [[np.nan], [np.nan]]), 1.0) is None


def test_equal_flops_spends_the_same(measured, table):
    (c,) = find(table, ("grpo@24", "best_of_n"), ("base@0", "best_of_n"), basis="flops")
    assert c.a.flops == c.b.flops
    tops = [measured.find(m, "best_of_n").spent["flops"][:, -1].mean() for m in ("grpo@24", "base@0")]
    assert c.a.flops == min(tops)


def test_a_verifier_is_held_against_more_votes_for_the_same_flops(measured, table):
    (c,) = find(table, ("base@0", "best_of_n"), ("base@0", "majority"), basis="flops")
    assert c.a.flops == c.b.flops == measured.find("base@0", "majority").spent["flops"][:, -1].mean()


def test_problems_that_one_side_lacks_are_left_out():
    a = toy([[1.0], [0.0], [1.0]], [[1], [1], [1]], ids=("x", "y", "z"))
    b = toy([[0.0], [1.0]], [[1], [1]], ids=("z", "x"))
    left, right = paired_values(a, a.column(1), b, b.column(1))
    assert left.tolist() == [1.0, 1.0]
    assert right.tolist() == [1.0, 0.0]
