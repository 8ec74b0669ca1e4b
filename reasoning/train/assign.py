"""From groups of rewarded rows to rows that can be learned from: KL in the reward, values and GAE, advantages, the
choice of correct chains, and the trainer's own log-probabilities. The one place where credit meets the learner.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from reasoning.train.credit import Floats, gae, whitened
from reasoning.train.learner import Learner
from reasoning.train.objective import Objective
from reasoning.train.rows import Row


def assign(
    objective: Objective,
    groups: Sequence[Sequence[Row]],
    learner: Learner,
    keep_correct: int = 0,
    figures: dict[str, float] | None = None,
) -> list[Row]:
    """Rows with their advantages, in the groups' order; rows without a judgement are left out.

    keep_correct: at most so many distinct correct chains of a problem, where the objective learns from those alone;
    0 is all. figures: gets "kl", the mean k1 of a token, where that is taken from the reward.
    """
    groups = [[row for row in group if not math.isnan(row.reward)] for group in groups]
    if objective.kl_in == "reward" and objective.kl != "none":
        penalties = _penalties(objective, [row for group in groups for row in group], learner)
        if figures is not None and penalties:
            figures["kl"] = float(np.concatenate(penalties).mean() / objective.kl_weight)
    else:
        penalties = [np.zeros(len(row.ids)) for group in groups for row in group]
    if objective.critic:
        rows = _with_gae(objective, [row for group in groups for row in group], penalties, learner)
    else:
        at = iter(penalties)
        rewards = [np.array([row.reward - next(at).sum() for row in group]) for group in groups]
        rows = []
        for group, advantages in zip(groups, objective.advantages(rewards), strict=True):
            given = [
                dataclasses.replace(row, advantage=float(a)) for row, a in zip(group, advantages, strict=True)
            ]
            rows += _correct_ones(given, keep_correct) if objective.selects else given
    return learner.with_own_logprobs(rows) if objective.corrects else rows


def _penalties(objective: Objective, rows: Sequence[Row], learner: Learner) -> list[Floats]:
    """kl_weight x k1 of every token: old - reference log-probability, (T,) each."""
    reference = learner.rescore(rows, reference=True)
    return [
        objective.kl_weight * (np.array(row.old_logprobs) - theirs.double().numpy())
        for row, (theirs, _) in zip(rows, reference, strict=True)
    ]


def _with_gae(
    objective: Objective, rows: Sequence[Row], penalties: Sequence[Floats], learner: Learner
) -> list[Row]:
    """The verifier's reward comes with the last token, the KL penalty with each."""
    credits, returns, values = [], [], []
    for row, penalty, (_, value) in zip(rows, penalties, learner.rescore(rows), strict=True):
        assert value is not None
        rewards = -penalty
        rewards[-1] += row.reward
        values.append(value.double().numpy())
        advantage, target = gae(rewards, values[-1], objective.gamma, objective.lam)
        credits.append(advantage)
        returns.append(target)
    return [
        dataclasses.replace(
            row,
            token_advantages=tuple(credit.tolist()),
            old_values=tuple(value.tolist()),
            returns=tuple(target.tolist()),
        )
        for row, credit, value, target in zip(rows, whitened(credits), values, returns, strict=True)
    ]


def _correct_ones(rows: Sequence[Row], keep: int) -> list[Row]:
    """The rows with an advantage: all of them, each as often as it was drawn (what the model finds likely then counts
    more than what is right by luck), or the first ``keep`` distinct ones."""
    correct = [row for row in rows if row.advantage]
    if not keep:
        return correct
    distinct: dict[tuple[int, ...], Row] = {}
    for row in correct:
        distinct.setdefault(row.ids, row)
    return list(distinct.values())[:keep]
