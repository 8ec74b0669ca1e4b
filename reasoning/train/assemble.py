"""From a loaded model to what a run works with: the learner, in the form that the options ask for, and the engine
that samples from the learner's weights. Knows nothing of steps or sources.
"""

from __future__ import annotations

import torch

from reasoning.engines.transformers import DTYPES, TransformersEngine
from reasoning.errors import UserError
from reasoning.train.distributed import ALONE, Ranks
from reasoning.train.generators import has_own_weights
from reasoning.train.learner import Learner
from reasoning.train.objective import Objective
from reasoning.train.options import TrainOptions
from reasoning.train.policy import new_value_head, open_policy

PACKING = {"auto": None, "yes": True, "no": False}


def precision(options: TrainOptions, ranks: Ranks = ALONE) -> str:
    """ "float32", "bfloat16" or "mixed". Cut among ranks, bfloat16 is mixed: what each rank keeps is its part of the
    float32 copy, and the bfloat16 weights are made of it for each layer's computation."""
    cut = ranks.size > 1 and options.shard == "fsdp"
    return "mixed" if cut and options.dtype == "bfloat16" else options.dtype


def loaded_dtype(options: TrainOptions, ranks: Ranks = ALONE) -> str:
    """The type that the model's weights are loaded in."""
    return "float32" if precision(options, ranks) == "mixed" else options.dtype


def open_learner(
    options: TrainOptions, goal: Objective, engine: TransformersEngine, ranks: Ranks = ALONE
) -> tuple[TransformersEngine, Learner]:
    """(engine, learner) of the model in ``engine``, which is used up: its module is changed in place. The learner
    keeps what the engine samples from up to date; `TransformersEngine.refresh` takes it over."""
    model = engine.module
    kind = DTYPES[loaded_dtype(options, ranks)]
    if next(model.parameters()).dtype != kind:
        model.to(kind)
    if ranks.size > 1 and options.asynchronous:
        raise UserError("--asynchronous is for one process: leave it out, or start without torchrun.")
    if ranks.size == 1 and options.shard == "fsdp":
        raise UserError(
            "--shard fsdp cuts the model among processes, and there is one: start with  torchrun --nproc-per-node N "
            "-m reasoning train ...,  or leave it out."
        )
    sharded = ranks.size > 1 and options.shard == "fsdp"
    if sharded and options.optimizer != "adamw":
        raise UserError(f"--optimizer {options.optimizer} needs whole matrices: use adamw, or --shard ddp.")
    policy = open_policy(
        model,
        source=options.model,
        needs_reference=goal.needs_reference,
        value_head=new_value_head(model) if goal.critic else None,
        lora_rank=options.lora_rank,
        lora_alpha=options.lora_alpha,
        lora_targets=options.lora_targets,
        seed=options.seed,
        dtype=precision(options, ranks),
        recompute=options.gradient_checkpointing,
        packed=PACKING[options.packing],
        ranks=ranks,
        sharded=sharded,
        apart=has_own_weights(options.engine),
    )
    learner = Learner(
        policy,
        goal,
        lr=options.lr,
        optimizer=options.optimizer,
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        temperature=options.temperature,
        max_new_tokens=options.max_new_tokens,
        micro_tokens=options.micro_tokens,
    )
    if policy.sampler is None:
        engine.release()  # beside a learner that is wrapped or cut now; it still asks and decodes
    elif policy.sampler is not engine.module or kind != torch.float32:
        name, _, version = engine.model.partition("@")
        engine = TransformersEngine(
            policy.sampler, engine.tokenizer, name=name, version=version, max_rows=options.max_rows
        )
    return engine, learner
