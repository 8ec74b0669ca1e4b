"""Settings that do not go together, each refused with one line that says what to do. Knows no model and no data."""

from __future__ import annotations

import math
from dataclasses import fields

from reasoning.errors import UserError
from reasoning.train.fresh import is_fresh
from reasoning.train.objective import Objective
from reasoning.train.options import TrainOptions

HARMLESS = frozenset({"run", "model", "eval_task", "eval_every", "eval_chains"})
HARMLESS |= {"micro_tokens", "packing", "gradient_checkpointing", "shard"}
HARMLESS |= {"checkpoint_every", "log_every", "device", "max_rows", "eval_preferences"}
"""Settings that do not change what is learned; the others make the lineage that names a model's weights."""


def check(options: TrainOptions, goal: Objective) -> None:
    for name in (
        "steps",
        "problems_per_step",
        "chains_per_problem",
        "epochs",
        "eval_chains",
        "checkpoint_every",
    ):
        if getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be 1 or above, not {getattr(options, name)}.")
    for f in fields(options):
        value = getattr(options, f.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{f.name.replace('_', '-')} must be a finite number, not {value}.")
    if not options.lr > 0:
        raise UserError(f"--lr must be above 0, not {options.lr}.")
    if not options.temperature > 0:
        raise UserError("--temperature must be above 0: greedy roll-outs are all alike and teach nothing.")
    if options.demonstrations and goal.source != "demonstrations":
        raise UserError(f"--demonstrations goes with --objective sft; {goal.name} samples its own chains.")
    for name in ("preferences", "eval_preferences"):
        if getattr(options, name) and goal.source != "preferences":
            raise UserError(f"--{name.replace('_', '-')} goes with --objective dpo, not with {goal.name}.")
    if goal.source == "preferences":
        if not options.preferences:
            raise UserError("dpo learns from pairs:  --preferences FILE.jsonl  (or pool:RUN)")
        if options.minibatch % 2:
            raise UserError(
                f"--minibatch counts chains and a pair has two: make it even, not {options.minibatch}."
            )
    elif not options.task and not options.demonstrations.endswith(".jsonl"):
        raise UserError(
            "Name the problems to train on:  --task word:train  (or jsonl:FILE:question=..,answer=..)"
        )
    if is_fresh(options.model) and goal.source != "demonstrations":
        raise UserError(
            f"{options.model} is an empty model; {goal.name} can only reinforce what a model already does at "
            "times. Cold-start it first:  reasoning train RUN --objective sft ..."
        )
    if goal.compares and options.chains_per_problem < 2:
        raise UserError(
            f"{goal.name} compares the chains of a group: --chains-per-problem must be 2 or above."
        )
