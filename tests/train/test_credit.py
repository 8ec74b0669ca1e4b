import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reasoning.train.credit import ADVANTAGES, gae, overlong_penalty, whitened
from reasoning.train.objective import PRESETS, objective

GROUPS = [np.array([1.0, 0.0, 0.0, 1.0, 0.5]), np.array([0.0, 0.0, 1.0]), np.array([1.0, 1.0])]
EVERY = np.concatenate(GROUPS)


def test_batch_mean_std_is_the_z_score_over_the_step():
    got = np.concatenate(ADVANTAGES["batch_mean_std"](GROUPS))
    assert got == pytest.approx((EVERY - EVERY.mean()) / (EVERY.std(ddof=1) + 1e-6))


def test_group_mean_batch_std_centres_by_group_and_scales_by_step():
    centred = np.concatenate([g - g.mean() for g in GROUPS])
    got = np.concatenate(ADVANTAGES["group_mean_batch_std"](GROUPS))
    assert got == pytest.approx(centred / (centred.std(ddof=1) + 1e-6))


@pytest.mark.parametrize("name", sorted(ADVANTAGES))
def test_odd_steps_give_finite_advantages_of_the_same_shape(name):
    for groups in (
        [],
        [np.zeros(0)],
        [np.array([1.0])],
        [np.ones(3), np.zeros(0)],
        [np.zeros(2), np.ones(2)],
    ):
        got = ADVANTAGES[name](groups)
        assert [len(g) for g in got] == [len(g) for g in groups]
        assert all(np.isfinite(g).all() for g in got)


def test_missing_rewards_are_left_out_of_batch_statistics_too():
    rewards = [np.array([1.0, np.nan, 0.0]), np.array([np.nan, 1.0])]
    got = np.concatenate(objective("reinforce_pp").advantages(rewards))
    assert np.isnan(got[[1, 3]]).all()
    known = np.array([1.0, 0.0, 1.0])
    assert got[[0, 2, 4]] == pytest.approx((known - known.mean()) / (known.std(ddof=1) + 1e-6))


@given(
    st.integers(1, 8).flatmap(lambda n: st.tuples(*[st.lists(st.floats(-2, 2), min_size=n, max_size=n)] * 2)),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_gae_equals_its_definition(pair, gamma, lam):
    """Sum over l of (gamma lam)^l delta_(t+l), with the value after the last token 0."""
    rewards, values = (np.array(x) for x in pair)
    after = np.append(values[1:], 0.0)
    delta = rewards + gamma * after - values
    n = len(rewards)
    expected = [sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, n)) for t in range(n)]
    advantages, returns = gae(rewards, values, gamma, lam)
    assert advantages == pytest.approx(np.array(expected), abs=1e-9)
    assert returns == pytest.approx(np.array(expected) + values, abs=1e-9)


def test_gae_of_lambda_one_is_what_was_to_come_minus_the_value():
    rewards, values = np.array([0.0, 0.1, 1.0]), np.array([0.3, 0.2, 0.6])
    assert gae(rewards, values, 1.0, 1.0)[0] == pytest.approx([1.1 - 0.3, 1.1 - 0.2, 1.0 - 0.6])


def test_whitened_has_mean_0_and_deviation_1_over_all_tokens():
    got = np.concatenate(whitened([np.array([1.0, 2.0]), np.array([5.0, 0.0, -3.0])]))
    assert got.mean() == pytest.approx(0, abs=1e-9)
    assert got.std(ddof=1) == pytest.approx(1, abs=1e-5)


def test_overlong_penalty_is_linear_in_the_buffer():
    got = [overlong_penalty(n, False, 100, 20) for n in (10, 80, 90, 100)]
    assert got == pytest.approx([0, 0, -0.5, -1])
    assert overlong_penalty(100, True, 100, 20) == -1


ONE_STEP = ["rloo", "reinforce_pp", "grpo", "dr_grpo", "dapo", "gspo", "cispo", "reinforce_pp_baseline"]


@pytest.mark.parametrize("name", ONE_STEP)
def test_on_policy_gradient_of_a_tabular_policy_is_the_policy_gradient(name):
    """A softmax over five actions, every action drawn as often as its probability says: the loss's gradient is
    -(scale) x the exact gradient of the expected reward, since every baseline here is constant over the draws."""
    from reasoning.train.losses import token_loss

    counts = np.array([4, 3, 2, 1, 6])
    reward_of = np.array([1.0, 0.0, 0.5, 1.0, 0.0])
    drawn = np.repeat(np.arange(5), counts)
    logits = torch.tensor(np.log(counts / counts.sum()), requires_grad=True)
    goal = objective(name)
    [advantage] = goal.advantages([reward_of[drawn]])
    logprobs = torch.log_softmax(logits, -1)[drawn]
    result = token_loss(goal, logprobs, logprobs.detach(), torch.tensor(advantage), torch.arange(len(drawn)))
    result.loss.mean().backward()
    policy = torch.tensor(np.log(counts / counts.sum()), requires_grad=True)
    (torch.softmax(policy, -1) * torch.tensor(reward_of)).sum().backward()
    assert logits.grad is not None
    assert policy.grad is not None
    scale = -(logits.grad @ policy.grad) / (policy.grad @ policy.grad)
    assert scale > 0
    assert torch.allclose(-logits.grad, scale * policy.grad, atol=1e-9)
    if name in ("dr_grpo",):
        assert float(scale) == pytest.approx(1.0)
    if name == "rloo":
        assert float(scale) == pytest.approx(16 / 15)


def test_every_preset_is_consistent_and_named_by_its_key():
    for name in PRESETS:
        assert objective(name).name == name


def test_ppo_with_a_new_value_head_credits_every_token_of_a_chain_alike():
    """Its values are 0 and the reward comes with the last token: a lambda below 1 would leave the first tokens of a
    long right chain below the mean, and so push them down."""
    goal = PRESETS["ppo"]
    right, wrong = np.zeros(40), np.zeros(40)
    right[-1] = 1.0
    found = whitened([gae(r, np.zeros(40), goal.gamma, goal.lam)[0] for r in (right, wrong, wrong)])
    assert found[0].min() == pytest.approx(found[0].max())
    assert found[0].min() > 0
    lower = whitened([gae(r, np.zeros(40), goal.gamma, 0.95)[0] for r in (right, wrong, wrong)])
    assert lower[0][0] < 0 < lower[0][-1]
