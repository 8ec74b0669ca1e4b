"""Which chains expert iteration and its family learn from, and how often each counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reasoning.train.assign import assign
from reasoning.train.fresh import new_model
from reasoning.train.learner import Learner
from reasoning.train.logprobs import logprobs_of
from reasoning.train.objective import objective
from reasoning.train.rows import Row

SMALL = "new:tiny:hidden=32,layers=2,heads=2,kv_heads=1,ffn=48,words=110"
LIKELY, LUCKY, WRONG = (7, 8, 9), (11, 12), (13,)
GROUP = [
    Row((5, 6), ids, reward=reward)
    for ids, reward in ((LIKELY, 1.0), (WRONG, 0.0), (LIKELY, 1.0), (LUCKY, 1.0), (LIKELY, 1.0))
]


@pytest.fixture
def learner():
    model, _ = new_model(SMALL, ["a b c"], seed=3)
    return Learner(model, objective("expert_iteration"), lr=1e-3)


@pytest.mark.parametrize("name", ["expert_iteration", "rest_em", "star"])
def test_a_right_chain_counts_as_often_as_it_was_drawn(learner, name):
    found = assign(objective(name), [GROUP], learner)
    assert [row.ids for row in found] == [LIKELY, LIKELY, LUCKY, LIKELY]


def test_keep_correct_takes_the_first_distinct_ones(learner):
    goal = objective("expert_iteration")
    assert [row.ids for row in assign(goal, [GROUP], learner, keep_correct=8)] == [LIKELY, LUCKY]
    assert [row.ids for row in assign(goal, [GROUP], learner, keep_correct=1)] == [LIKELY]


def test_the_gradient_is_that_of_reward_times_log_likelihood_over_the_drawn_chains(learner):
    """The M step of arXiv 2312.06585, equation 4: the sum over drawn chains of reward x log p, here a mean over the
    tokens of the right ones."""
    learner.gradients(assign(learner.objective, [GROUP], learner))
    got = {name: p.grad.clone() for name, p in learner.model.named_parameters()}
    learner.model.zero_grad()
    rewarded = torch.stack([row.reward * logprobs_of(learner.model, [row])[0].sum() for row in GROUP])
    (-rewarded.sum() / sum(len(row.ids) for row in GROUP if row.reward)).backward()
    for name, parameter in learner.model.named_parameters():
        np.testing.assert_allclose(got[name].numpy(), parameter.grad.numpy(), atol=1e-6, err_msg=name)
