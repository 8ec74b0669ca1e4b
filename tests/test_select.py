"""From a pool to arrays, and every selector against its estimator; what cannot be selected says so in a
line."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_pool import SHAPE, synthetic_pool

from reasoning import estimators
from reasoning.errors import UserError
from reasoning.pool import Pool
from reasoning.records import Chain, Problem, Sampling, chain_key, digest
from reasoning.select import SELECTORS, Group, groups, open_selector
from verifiers.base import Verdict

MODEL = "tiny@1"
SAMPLED, GREEDY = Sampling(), Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    with synthetic_pool(tmp_path_factory.mktemp("pool"), problems=12, chains=8) as pool:
        yield pool


@pytest.fixture(scope="module")
def some(pool):
    return groups(pool, "base@0", scorers=["learned"])


def one_problem(path, verdicts, *, finish=(), texts=(), sampling=SAMPLED, n=None):
    """A pool with one problem whose chains got these verdicts of "numeric"."""
    pool = Pool.open(path)
    problem = Problem.make("How many?", "7", "word", {"difficulty": 3})
    pool.add_problems([problem])
    pool.add_model(MODEL, {})
    keys = []
    for i in range(n or len(verdicts)):
        key = chain_key(MODEL, sampling, problem.id, problem.prompt, i)
        keys.append(key)
        reason = finish[i] if i < len(finish) else "stop"
        chain = Chain(
            problem.id, i, "", (1, 2, 3), finish_reason=reason, model=MODEL, sampling=sampling, key=key
        )
        pool.append([chain])
    pool.add_verdicts("numeric", {k: v for k, v in zip(keys, verdicts, strict=False) if v}, oracle=True)
    return pool


def test_in_a_pool_judged_in_part_a_cut_off_chain_counts_no_sooner_than_a_finished_one(tmp_path):
    right, wrong = Verdict(1.0, "7"), Verdict(0.0, "8")
    finish = ("stop", "length", "stop", "length", "length", "length")
    with one_problem(tmp_path, [right, wrong, right], finish=finish, n=6) as pool:
        [group] = groups(pool, MODEL)
    np.testing.assert_array_equal(group.correct, [1.0, 0.0, 1.0, np.nan, np.nan, np.nan])


def test_groups_read_what_the_pool_holds(pool, some):
    problems = pool.problems()
    assert [g.problem_id for g in some] == list(problems)
    numeric, learned = pool.verdicts("numeric"), pool.verdicts("learned")
    for group in some:
        assert group.n == 8
        assert group.difficulty == problems[group.problem_id].metadata["difficulty"]
        for i, key in enumerate(group.keys):
            assert group.scores["learned"][i] == learned[key].score
            if not group.truncated[i] and not numeric[key].missing:
                assert group.correct[i] == numeric[key].correct
            assert (group.answers[i] >= 0) == (numeric[key].answer is not None)
        # Chains of one class gave one answer.
        for label in set(group.answers[group.answers >= 0].tolist()):
            said = {numeric[k].answer for k, a in zip(group.keys, group.answers, strict=True) if a == label}
            assert len(said) == 1
        assert group.greedy_correct in (0.0, 1.0)
        assert group.sampling == SAMPLED
    chains = [c for c in pool.chains(model="base@0", sampling=SAMPLED) if c.problem_id == some[0].problem_id]
    np.testing.assert_array_equal(some[0].output_tokens, [len(c.token_ids) for c in chains])
    prompt = len(chains[0].prompt_token_ids)
    assert some[0].prefill_flops == SHAPE.prefill_flops(prompt)
    assert some[0].decode_flops[2] == SHAPE.decode_flops(prompt, len(chains[2].token_ids))


def test_a_cut_chain_is_wrong_and_abstains_and_a_missing_verdict_is_missing(tmp_path):
    right = Verdict(1.0, answer="7")
    failed = Verdict(None, answer="7", status="error")
    with one_problem(tmp_path, [right, right, failed, None], finish=["stop", "length"]) as pool:
        (group,) = groups(pool, MODEL)
    np.testing.assert_array_equal(group.correct, [1.0, 0.0, np.nan, np.nan])
    np.testing.assert_array_equal(group.answers, [0, -1, 0, -1])
    np.testing.assert_array_equal(group.truncated, [False, True, False, False])
    # Without a shape the FLOPs are what the records were charged: here nothing, so they are not known.
    assert np.isnan(group.decode_flops).all()


def test_partial_credit_is_not_correct(tmp_path):
    with one_problem(tmp_path, [Verdict(0.7, answer="a"), Verdict(1.0, answer="b")]) as pool:
        assert groups(pool, MODEL)[0].correct.tolist() == [0.0, 1.0]


def test_a_pool_of_greedy_chains_alone_is_measured_as_it_is(tmp_path):
    with one_problem(tmp_path, [Verdict(1.0, answer="7")], sampling=GREEDY) as pool:
        (group,) = groups(pool, MODEL)
    assert group.n == 1
    assert group.greedy_correct == 1.0


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 8, 2048])
def test_a_second_greedy_sampling_of_some_problems_stays_out_of_the_greedy_column(tmp_path, tokens):
    with synthetic_pool(tmp_path, problems=4, chains=2) as pool:
        before = groups(pool, "base@0")
        stray = Sampling(temperature=0.0, max_new_tokens=tokens)
        problem = next(iter(pool.problems().values()))
        key = chain_key("base@0", stray, problem.id, problem.prompt, 0)
        pool.append(
            [
                Chain(
                    problem.id,
                    0,
                    "",
                    (1,) * 9,
                    finish_reason="length",
                    model="base@0",
                    sampling=stray,
                    key=key,
                )
            ]
        )
        pool.add_verdicts("numeric", {key: Verdict(0.0)}, oracle=True)
        after = groups(pool, "base@0")
    for name in ("greedy_correct", "greedy_output_tokens", "greedy_decode_flops"):
        assert [getattr(g, name) for g in after] == [getattr(g, name) for g in before]


@pytest.mark.parametrize(
    ("spec", "estimate"),
    [
        ("pass", lambda g, ks: estimators.pass_at_k(g.correct, ks)),
        ("majority", lambda g, ks: estimators.maj_at_k(g.correct, g.answers, ks)),
        ("best_of_n", lambda g, ks: estimators.best_of_k(g.correct, g.scores["learned"], ks)),
        (
            "weighted_majority",
            lambda g, ks: estimators.weighted_majority_at_k(g.correct, g.answers, g.scores["learned"], ks)[0],
        ),
        (
            "majority_of_bests:m=2",
            lambda g, ks: estimators.majority_of_bests_at_k(
                g.correct, g.answers, g.scores["learned"], [2], ks, shuffles=200
            )[0][0],
        ),
    ],
)
def test_a_selector_is_its_estimator_problem_by_problem(some, spec, estimate):
    got = open_selector(spec, {"learned": False})(some, [1, 2, 8])
    np.testing.assert_array_equal(got.mean, [estimate(g, [1, 2, 8]) for g in some])
    assert got.error.shape == got.mean.shape


def test_greedy_is_the_one_chain_at_temperature_zero(some):
    got = open_selector("greedy")(some, [1])
    assert got.mean[:, 0].tolist() == [g.greedy_correct for g in some]


def test_m_is_chosen_on_the_other_half_of_the_problems(some):
    ks = [1, 4, 8]
    chosen = open_selector("majority_of_bests", {"learned": False})(some, ks).mean
    fixed = {
        m: open_selector(f"majority_of_bests:m={m}", {"learned": False})(some, ks).mean for m in (1, 2, 4, 8)
    }
    # Each problem's value is that of some m, and within a half of the problems it is the same m.
    for j in range(len(ks)):
        used = [
            {m for m, values in fixed.items() if np.array_equal(values[i, j], chosen[i, j], equal_nan=True)}
            for i in range(len(some))
        ]
        assert all(used)
    # Turning every answer of one problem round can move the other half's choice, never that of its own half.
    flipped = [
        Group(
            **{name: getattr(g, name) for name in Group.__dataclass_fields__}
            | ({"correct": 1 - g.correct} if i == 0 else {})
        )
        for i, g in enumerate(some)
    ]
    again = open_selector("majority_of_bests", {"learned": False})(flipped, ks).mean
    half = [int(digest(g.problem_id)[:2], 16) % 2 for g in some]
    mine = [i for i in range(1, len(some)) if half[i] == half[0]]
    np.testing.assert_array_equal(again[mine], chosen[mine])


def test_a_problem_with_fewer_chains_is_missing_at_larger_k(some):
    short = Group(
        problem_id="short",
        correct=np.array([1.0, 0.0]),
        answers=np.array([0, 1]),
        truncated=np.zeros(2, dtype=bool),
        output_tokens=np.full(2, 9.0),
        decode_flops=np.full(2, np.nan),
    )
    got = open_selector("majority")([*some, short], [1, 2, 8]).mean
    assert got[-1, :2].tolist() == [0.5, 0.5]
    assert np.isnan(got[-1, 2])


def test_oracle_flags():
    assert open_selector("pass").oracle
    assert not open_selector("majority").oracle
    assert open_selector("best_of_n:scorer=numeric", {"numeric": True}).oracle
    assert not open_selector("best_of_n:scorer=learned", {"learned": False}).oracle


@pytest.mark.parametrize(
    ("spec", "scorers", "says"),
    [
        ("best-of-m", {}, "Did you mean 'best_of_n'"),
        ("majorty", {}, "Did you mean 'majority'"),
        ("majority:scorer=x", {}, "Unknown 'majority' option"),
        ("best_of_n", {}, "needs a scorer"),
        ("best_of_n", {"a": False, "b": False}, "one of: a, b"),
        ("best_of_n:scorer=lerned", {"learned": False}, "Did you mean 'learned'"),
        ("majority_of_bests:m=-1", {"learned": False}, "must be 1 or above"),
        ("majority_of_bests:m=two", {"learned": False}, "'two' is not a int"),
    ],
)
def test_a_spec_that_cannot_be_opened_says_why(spec, scorers, says):
    with pytest.raises(UserError, match=says) as caught:
        open_selector(spec, scorers)
    assert "\n" not in str(caught.value)


def test_every_selector_of_the_table_opens(some):
    for name in SELECTORS:
        selector = open_selector(name, {"learned": False})
        assert selector(some, [1]).mean.shape == (len(some), 1)


def test_k_above_the_pool_is_an_error(some):
    for name in ("pass", "majority"):
        with pytest.raises(UserError, match="k = 9 is above the 8 chains per problem"):
            open_selector(name)(some, [1, 9])
    with pytest.raises(UserError, match="no chains"):
        open_selector("pass")([], [1])


def test_a_pool_that_cannot_be_grouped_says_why(pool, tmp_path):
    with Pool.open(tmp_path / "empty") as empty, pytest.raises(UserError, match="The pool is empty"):
        groups(empty, "base@0")
    with pytest.raises(UserError, match=r"Unknown model 'bas@0'. Did you mean 'base@0'"):
        groups(pool, "bas@0")
    with pytest.raises(UserError, match=r"Unknown verifier 'math'.*verdicts of: learned, numeric"):
        groups(pool, "base@0", oracle="math")
    with pytest.raises(UserError, match="no chains of 'base@0' with"):
        groups(pool, "base@0", Sampling(temperature=0.3))
    with one_problem(tmp_path / "silent", [], n=1) as silent, pytest.raises(UserError, match="no verdicts"):
        groups(silent, MODEL)
    with Pool.open(tmp_path / "bare") as bare:
        bare.add_model(MODEL, {})
        bare.add_verdicts("numeric", {}, oracle=True)
        with pytest.raises(UserError, match="no chains of 'tiny@1'"):
            groups(bare, MODEL)


def test_a_scorer_that_judged_nothing_of_a_model_is_left_out(tmp_path):
    with one_problem(tmp_path, [Verdict(1.0, answer="7")]) as pool:
        pool.add_verdicts("learned", {}, oracle=False)
        assert groups(pool, MODEL, scorers=["learned"])[0].scores == {}
