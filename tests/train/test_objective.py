import math
import re
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from reasoning.errors import UserError
from reasoning.records import Chain
from reasoning.train.losses import chain_mean, kl_to_reference, token_loss, token_weights
from reasoning.train.objective import AXES, PRESETS, objective
from reasoning.train.options import AxisOptions
from reasoning.train.rollouts import Shaping
from verifiers import Verdict

REWARDS = np.array([1.0, 0.0, 0.0, 1.0, 0.5])


def test_group_mean_std_is_the_z_score_of_the_group():
    got = objective("grpo").advantages([REWARDS])[0]
    assert got == pytest.approx((REWARDS - REWARDS.mean()) / (REWARDS.std(ddof=1) + 1e-6))


def test_leave_one_out_subtracts_the_mean_of_the_others():
    got = objective("rloo").advantages([REWARDS])[0]
    others = [(REWARDS.sum() - r) / (len(REWARDS) - 1) for r in REWARDS]
    assert got == pytest.approx(REWARDS - np.array(others))


def test_expert_iteration_learns_from_correct_chains_only():
    assert objective("expert_iteration").advantages([REWARDS])[0].tolist() == [1, 0, 0, 1, 0]


def test_a_missing_reward_is_left_out_of_its_group_not_taken_for_zero():
    got = objective("dr_grpo").advantages([np.array([1.0, np.nan, 0.0])])[0]
    assert got[0] == 0.5
    assert math.isnan(got[1])
    assert got[2] == -0.5


@pytest.mark.parametrize("name", sorted(set(PRESETS) - {"ppo"}))
def test_a_group_without_any_reward_has_no_advantage(name):
    assert np.isnan(objective(name).advantages([np.array([np.nan, np.nan])])[0]).all()


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline"])
@pytest.mark.parametrize("reward", [1.0, 0.1])  # the mean of three times 0.1 is another number
def test_equal_rewards_teach_nothing(name, reward):
    assert objective(name).advantages([np.full(3, reward)])[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"advantage": "group_mean_sdt"}, "Did you mean 'group_mean_std'"),
        ({"reduce": "tokenmean"}, "Did you mean 'token_mean'"),
        ({"kl": "k3"}, "needs a weight"),
        ({"kl_weight": 0.1}, "--kl is none"),
    ],
)
def test_values_outside_an_axis_are_refused(change, words):
    with pytest.raises(UserError, match=words):
        objective("grpo", **change)


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'grpo'"):
        objective("grppo")


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_clipped_surrogate_equals_a_loop_over_tokens(ratio):
    rng = np.random.default_rng(0)
    chain = np.repeat(np.arange(12), rng.integers(1, 5, 12))
    n = len(chain)
    new, old = rng.normal(-1, 0.5, n), rng.normal(-1, 0.5, n)
    advantage = rng.normal(0, 1, 12)[chain]
    goal = objective("grpo", ratio=ratio, clip_low=0.2, clip_high=0.28)
    got = token_loss(goal, *(torch.tensor(x) for x in (new, old, advantage, chain)))
    for t in range(n):
        gap = new[t] - old[t] if ratio == "token" else (new - old)[chain == chain[t]].mean()
        rho, a = math.exp(gap), advantage[t]
        expected = -min(rho * a, min(max(rho, 0.8), 1.28) * a)
        assert float(got.loss[t]) == pytest.approx(expected)
        assert bool(got.clipped_low[t]) == (rho < 0.8 and a < 0)
        assert bool(got.clipped_high[t]) == (rho > 1.28 and a > 0)
    assert got.clipped_low.any()
    assert got.clipped_high.any()


def test_a_clipped_token_gets_no_gradient_and_an_unclipped_one_does():
    logprobs = torch.tensor([0.0, -1.0], requires_grad=True)
    old = torch.tensor([-1.0, -1.0])  # ratios e (above 1.2) and 1
    goal = objective("grpo")
    token_loss(goal, logprobs, old, torch.ones(2), torch.tensor([0, 1])).loss.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [0.0, -1.0]


def test_loss_gradient_equals_finite_differences():
    torch.manual_seed(0)
    old, reference = torch.randn(6, dtype=torch.float64) - 1, torch.randn(6, dtype=torch.float64) - 1
    advantage = torch.tensor([1.0, 1.0, -1.0, -1.0, 0.5, 0.5], dtype=torch.float64)
    chain = torch.tensor([0, 0, 1, 1, 2, 2])
    for name, ratios in (("grpo", ("token", "sequence")), ("rloo", ("token",))):
        for ratio in ratios:
            for kl in ("k1", "k2", "k3"):
                goal = objective(name, ratio=ratio, kl=kl, kl_weight=0.1)
                point = (old + 0.05 * torch.randn(6, dtype=torch.float64)).requires_grad_()
                assert torch.autograd.gradcheck(
                    lambda x, goal=goal: token_loss(goal, x, old, advantage, chain, reference).loss, (point,)
                )


def test_kl_estimators_average_to_the_kl_of_two_categoricals():
    torch.manual_seed(1)
    p, q = torch.randn(5).log_softmax(-1).double(), torch.randn(5).log_softmax(-1).double()
    exact = float((p.exp() * (p - q)).sum())
    for kind in ("k1", "k3"):  # unbiased under samples from p
        assert float((p.exp() * kl_to_reference(kind, p, q)).sum()) == pytest.approx(exact)
    assert (kl_to_reference("k3", p, q) >= 0).all()
    assert (kl_to_reference("k2", p, q) >= 0).all()


def test_token_weights_sum_as_each_reduction_says():
    lengths = np.array([2, 6, 0])
    assert (token_weights(lengths, "sequence_mean", 10) * lengths).tolist() == pytest.approx(
        [1 / 3, 1 / 3, 0]
    )
    assert (token_weights(lengths, "token_mean", 10) * lengths).sum() == pytest.approx(1)
    assert (token_weights(lengths, "max_length", 10) * lengths).sum() == pytest.approx(8 / 30)


def test_chain_mean():
    got = chain_mean(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 1]))
    assert got.tolist() == [2, 2, 5]


@pytest.mark.parametrize(
    ("overlong", "reward"), [("zero", 0.0), ("judge", 0.7), ("mask", float("nan")), ("shape", -1.0)]
)
def test_what_a_chain_earns_that_was_cut(overlong, reward):
    cut = Chain("p", 0, "1", tuple(range(8)), (-1.0,) * 8, finish_reason="length")
    shaping = Shaping(objective("grpo", overlong=overlong), 8)
    assert shaping.reward(Verdict(0.7), cut) == pytest.approx(reward, nan_ok=True)
    assert shaping.reward(Verdict(0.7), replace(cut, finish_reason="stop")) == pytest.approx(
        -0.3 if overlong == "shape" else 0.7
    )


def test_what_is_refused_is_named_as_it_is_typed():
    """Whatever is changed of whatever objective: the message has the flag, never the bare name of an axis."""
    names = [f.name for f in fields(AxisOptions)]
    odd = re.compile(
        rf"(?<![-\w])(?:{'|'.join(n for n in names if n != 'advantage')})(?:=|\s+(?:has|must|goes))"
    )
    said = []
    for preset in PRESETS:
        for name in names:
            values = AXES.get(name, ("yes",)) if name in AXES else (-1.0, 0.5, 7.0)
            for value in (*values, "none-such") if name in AXES else values:
                try:
                    objective(preset, **{name: value})
                except UserError as error:
                    said.append(str(error))
    assert len(said) > 100
    assert {text for text in said if "_has_" in text or odd.search(text) or "--" not in text} == set()
