"""Curves are means over problems of what the selectors say, with costs that add up and bytes that repeat."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from synthetic_pool import SHAPE, synthetic_pool

from reasoning.curves import (
    all_curves,
    curve_files,
    default_ks,
    difficulty_levels,
    measure_pool,
    plain,
    training_flops,
)
from reasoning.errors import UserError
from reasoning.pool import Pool
from reasoning.records import Sampling
from reasoning.select import groups, open_selector
from reasoning.statistics import accuracy_interval, wilson


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    synthetic_pool(folder, problems=24, chains=8).close()
    return folder


@pytest.fixture(scope="module")
def measured(folder):
    with Pool.open(folder, read_only=True) as pool:
        return measure_pool(pool, oracle="numeric", scorers=["learned"])


@pytest.fixture(scope="module")
def curves(measured):
    return all_curves(measured)


def find(curves, model, strategy, difficulty=None):
    (found,) = [c for c in curves if (c.model, c.strategy, c.difficulty) == (model, strategy, difficulty)]
    return found


def test_models_come_in_the_order_of_what_training_cost(measured):
    assert measured.models == ("base@0", "expert_iteration@5", "grpo@24")
    assert list(measured.labels.values()) == ["base", "expert iteration", "grpo"]
    assert measured.ks == (1, 2, 4, 8)
    assert measured.training["grpo@24"] == 4.1e12 + 3.0e11


def test_a_point_is_the_mean_over_problems(measured, curves, folder):
    with Pool.open(folder, read_only=True) as pool:
        some = groups(pool, "grpo@24", scorers=["learned"])
    for name in ("pass", "majority", "best_of_n"):
        values = open_selector(name, {"learned": False})(some, [1, 2, 4, 8]).mean
        points = find(curves, "grpo@24", name).points
        np.testing.assert_allclose([p.accuracy for p in points], np.nanmean(values, axis=0))
        assert [p.problems for p in points] == (~np.isnan(values)).sum(axis=0).tolist()


def test_every_band_holds_its_point(curves):
    for c in curves:
        for p in c.points:
            assert p.low - 1e-9 <= p.accuracy <= p.high + 1e-9
            assert p.band_low - 1e-9 <= p.accuracy <= p.band_high + 1e-9
            assert p.band_low >= 0
            assert p.band_high <= 1


def test_intervals_of_single_chains(measured, curves):
    greedy = find(curves, "base@0", "greedy").points[0]
    outcomes = [g.greedy_correct for g in measured.groups["base@0"]]
    expected = wilson(int(sum(outcomes)), len(outcomes))
    assert (greedy.low, greedy.high) == (expected.low, expected.high)
    one = find(curves, "base@0", "majority").points[0]
    interval = accuracy_interval(measured.find("base@0", "majority").column(1))
    assert (one.low, one.high) == pytest.approx((interval.low, interval.high))


def test_compute_is_one_prefill_and_k_chains_and_their_scoring(measured, curves, folder):
    sampling = Sampling()
    with Pool.open(folder, read_only=True) as pool:
        chains = pool.chains(model="base@0", sampling=sampling)
        learned = pool.verdicts("learned")
        problems = len(pool.problems())
    prompts = {c.problem_id: len(c.prompt_token_ids) for c in chains}
    prefill = sum(SHAPE.prefill_flops(p) for p in prompts.values()) / problems
    decode = np.mean([SHAPE.decode_flops(len(c.prompt_token_ids), len(c.token_ids)) for c in chains])
    tokens = np.mean([len(c.token_ids) for c in chains])
    score = np.mean([learned[c.key].flops for c in chains])
    four = find(curves, "base@0", "best_of_n").at(4)
    # The mean over the problems that the point rests on, which here are all of them.
    assert four.problems == problems
    assert four.samples == 4
    assert four.output_tokens == pytest.approx(4 * tokens)
    assert four.flops == pytest.approx(prefill + 4 * (decode + score))
    assert find(curves, "base@0", "majority").at(4).flops == pytest.approx(prefill + 4 * decode)


def test_levels_partition_the_problems(measured, curves):
    for model in measured.models:
        whole = find(curves, model, "majority").at(2)
        parts = [c.at(2) for c in curves if c.model == model and c.strategy == "majority" and c.difficulty]
        assert sum(p.problems for p in parts) == whole.problems
        weighted = sum(p.accuracy * p.problems for p in parts) / whole.problems
        assert weighted == pytest.approx(whole.accuracy)


def test_difficulty_levels():
    assert difficulty_levels([2, 3, None, 2]) == ("2", "3", None, "2")
    assert difficulty_levels(["easy", "hard"]) == ("easy", "hard")
    many = difficulty_levels([float(i) for i in range(20)])
    assert len(set(many)) == 4
    assert many[0] == "0–4"
    assert many[-1] == "15–19"
    assert difficulty_levels([None]) == (None,)


def test_the_same_pool_gives_the_same_bytes_however_it_was_written(folder, tmp_path):
    """Chains appended in another order, in several sittings and by several writers make no difference."""
    with Pool.open(folder, read_only=True) as pool:
        chains, problems = pool.chains(), list(pool.problems().values())
        models = pool.models()
        verdicts = {name: pool.verdicts(name) for name in pool.verifiers()}
    order = np.random.default_rng(1).permutation(len(chains))
    for part in np.array_split(order, 3):
        with Pool.open(tmp_path) as other:
            other.add_problems(problems)
            for model in reversed(list(models)):
                other.add_model(model, models[model])
            other.append([chains[i] for i in part])
    with Pool.open(tmp_path) as other:
        for name, table in verdicts.items():
            other.add_verdicts(name, table, oracle=name == "numeric")

    def files(path):
        with Pool.open(path, read_only=True) as pool:
            measured = measure_pool(pool, oracle="numeric", scorers=["learned"])
        return curve_files(all_curves(measured), {"models": measured.models})

    assert files(folder) == files(tmp_path)


def test_the_files_hold_every_point(curves):
    files = curve_files(curves, {"note": float("nan")})
    content = json.loads(files["curves.json"])
    assert content["note"] is None
    assert len(content["curves"]) == len(curves)
    rows = list(csv.DictReader(io.StringIO(files["curves.csv"])))
    assert len(rows) == sum(len(c.points) for c in curves)
    assert float(rows[3]["accuracy"]) == pytest.approx(
        [p for c in curves for p in c.points][3].accuracy, rel=1e-9
    )


def test_plain_values():
    assert plain({"a": (1, 0.1 + 0.2, float("inf"), np.float64(2.5), np.int64(3), None, True)}) == {
        "a": [1, 0.3, None, 2.5, 3, None, True]
    }


def test_training_flops_count_all_that_led_to_a_model():
    models = {
        "base@1": {"training": {"flops": 5.0, "shared_flops": 0.0}},
        "better@1": {"training": {"flops": 7.0, "shared_flops": 5.0, "parent": "base@1"}},
        "hub@1": {},
        "tuned@1": {"training": {"flops": 3.0, "shared_flops": 0.0, "parent": "hub@1"}},
        "stranger@1": {},
    }
    found = training_flops(models)
    assert found == {"base@1": 5.0, "better@1": 12.0, "hub@1": 0.0, "tuned@1": 3.0, "stranger@1": None}


def test_bad_requests_are_one_line(folder, tmp_path):
    with Pool.open(folder, read_only=True) as pool:
        for wrong, says in (
            ({"ks": [9]}, "k = 9 is above the 8 chains"),
            ({"models": ["grp@24"]}, "Did you mean 'grpo@24'"),
            ({"scorers": ["lernd"]}, "Did you mean 'learned'"),
            ({"strategies": ["majorit"]}, "Did you mean 'majority'"),
        ):
            with pytest.raises(UserError, match=says) as caught:
                measure_pool(pool, oracle="numeric", **wrong)
            assert "\n" not in str(caught.value)
    with Pool.open(tmp_path) as empty, pytest.raises(UserError, match="The pool is empty"):
        measure_pool(empty, oracle="numeric")


def test_default_ks_are_powers_of_two_that_every_problem_has(measured):
    assert default_ks(measured.groups.values()) == [1, 2, 4, 8]
    assert default_ks([]) == []


def test_default_ks_count_judged_chains(measured):
    """A pool that is judged in part gets no empty columns."""
    some = next(iter(measured.groups.values()))
    part = [replace(g, correct=np.where(np.arange(g.n) < 3, g.correct, np.nan)) for g in some]
    assert default_ks([part]) == [1, 2]
    none = [replace(part[0], correct=np.full(part[0].n, np.nan)), *part[1:]]
    assert default_ks([none]) == [1, 2]
    assert default_ks([[none[0]]]) == [1, 2, 4, 8]
