"""The learning half of a step: rows in minibatches over the epochs, with their rate and their FLOPs. Knows nothing of
problems, pools or checkpoints.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from reasoning.records import Cost
from reasoning.train.assign import assign
from reasoning.train.learner import Learner
from reasoning.train.objective import Objective
from reasoning.train.options import TrainOptions
from reasoning.train.sources import StepData, order_of

TrainingFlops = Callable[[Sequence[int]], float]


@dataclass(frozen=True, slots=True)
class Update:
    """metrics: means over the optimizer steps ("/max" the largest). tokens: that went through forward and backward;
    teaching_tokens: of chains that taught something. cost: what the ledger is charged. computed: the share of
    ``tokens`` that was computed, prompts that are shared once (for the use of the device)."""

    metrics: dict[str, float]
    tokens: int
    teaching_tokens: int
    cost: Cost
    computed: float = 1.0


def update(
    options: TrainOptions,
    goal: Objective,
    learner: Learner,
    training_flops: TrainingFlops,
    data: StepData,
    step: int,
    *,
    first: Mapping[str, Tensor],
    fresh: bool,
) -> Update:
    """Learn from ``data``: ``epochs`` passes in minibatches, in an order that the seed and the step give.

    training_flops: of forward and backward over rows of given lengths. first: the weights that the run began with,
    for an objective that restarts. fresh: the rows were sampled by the present weights (see `Learner.step`).
    """
    started = time.monotonic()
    figures: dict[str, float] = {}
    rows = assign(goal, data.groups, learner, options.keep_correct, figures)
    flops = _reading_flops(goal, training_flops, [len(row) for row in rows])
    unit = goal.together  # rows that stay together: the two of a pair
    units = len(rows) // unit
    size = options.minibatch // unit or max(units, 1)
    per_epoch = math.ceil(units / size)
    if goal.restart:
        learner.restart(dict(first))
    sums: dict[str, list[float]] = {}
    learned = computed = 0
    for epoch in range(options.epochs):
        order = order_of(units, options.seed, step * options.epochs + epoch)
        for i in range(per_epoch):
            part = [rows[j * unit + k] for j in order[i * size : (i + 1) * size] for k in range(unit)]
            within = (epoch + i / per_epoch) / options.epochs
            along = within if goal.restart else (step + within) / options.steps
            on_policy = fresh and epoch == 0 and i == 0 and not goal.restart
            result = learner.step(part, options.lr * rate(options, along), fresh=on_policy)
            for name, value in result.metrics.items():
                sums.setdefault(name, []).append(value)
            learned += sum(result.lengths)
            computed += result.positions
            flops += _learning_flops(goal, training_flops, result.lengths)
    metrics = figures | {
        name: max(v) if name.endswith("/max") else sum(v) / len(v) for name, v in sums.items()
    }
    metrics["optimizer_steps"] = float(per_epoch * options.epochs)
    seconds = time.monotonic() - started
    metrics["update_seconds"] = seconds
    cost = Cost(scored_tokens=learned, flops=flops, seconds=seconds)
    teaching = sum(len(row.ids) for row in rows if row.teaches)
    return Update(metrics, learned, teaching, cost, computed / max(learned, 1))


def rate(options: TrainOptions, along: float) -> float:
    """Factor on the learning rate at ``along`` in [0, 1) of the run."""
    warm = min(1.0, (along + 1 / options.steps) / options.warmup) if options.warmup else 1.0
    return warm * (0.5 * (1 + math.cos(math.pi * along)) if options.schedule == "cosine" else 1.0)


def whole_cost(
    goal: Objective, options: TrainOptions, training_flops: TrainingFlops, lengths: Sequence[int]
) -> Cost:
    """What learning from rows of these lengths (prompt and chain) takes where all of them teach; of a shared prompt
    every copy counts."""
    flops = _reading_flops(goal, training_flops, lengths)
    flops += options.epochs * _learning_flops(goal, training_flops, lengths)
    return Cost(scored_tokens=options.epochs * sum(lengths), flops=flops)


def reading_cost(goal: Objective, training_flops: TrainingFlops, lengths: Sequence[int]) -> Cost:
    """Of the loss of rows of these lengths without its gradient: a forward is a third of forward and backward."""
    forwards = 1 + _compares(goal)
    return Cost(scored_tokens=sum(lengths), flops=forwards * training_flops(list(lengths)) / 3)


def _learning_flops(goal: Objective, training_flops: TrainingFlops, lengths: Sequence[int]) -> float:
    """Forward and backward, and the reference's forward where the loss compares with it."""
    if not lengths:
        return 0.0
    return training_flops(list(lengths)) * (4 / 3 if _compares(goal) else 1)


def _compares(goal: Objective) -> bool:
    """Whether the loss compares with the reference."""
    return goal.needs_reference and goal.kl_in != "reward"


def _reading_flops(goal: Objective, training_flops: TrainingFlops, lengths: Sequence[int]) -> float:
    """Forwards before the first minibatch: the reference for a penalty in the reward, values, own probabilities."""
    passes = (goal.needs_reference and goal.kl_in == "reward") + goal.critic + goal.corrects
    return passes * training_flops(list(lengths)) / 3 if lengths and passes else 0.0
