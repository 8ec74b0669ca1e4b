"""Every setting of a training run, with its default and help text. Knows nothing of how they are used."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

from reasoning.options import option
from reasoning.train.objective import AXES


def _axis(help: str, kind: str = "float", choices: tuple[str, ...] = (), high: float | None = None) -> Any:
    bounds = {} if choices or kind == "bool" else {"low": 0, "high": high}
    return option(None, f"{help} (default: the objective's)", choices=choices, **bounds)


@dataclass(frozen=True, kw_only=True)
class AxisOptions:
    """One option for each axis of `objective.Objective`, by the same name; None leaves the preset's."""

    HEADING: ClassVar[str] = "axes of the objective, each in place of what --objective has there"

    advantage: str | None = _axis("credit of a chain", choices=AXES["advantage"])
    ratio: str | None = _axis("importance ratio of a token or of the sequence", choices=AXES["ratio"])
    surrogate: str | None = _axis("form of the loss", choices=AXES["surrogate"])
    clip_low: float | None = _axis("lower clip of the importance ratio")
    clip_high: float | None = _axis("upper clip of the importance ratio")
    ratio_cap: float | None = _axis("largest ratio that counts: dual clip, or the cap of cispo; 0 is none")
    reduce: str | None = _axis("how token losses become one", choices=AXES["reduce"])
    kl: str | None = _axis("penalty towards the starting model", choices=AXES["kl"])
    kl_weight: float | None = _axis("weight of the KL penalty")
    kl_in: str | None = _axis("where the KL penalty goes", choices=AXES["kl_in"])
    entropy_weight: float | None = _axis("weight of an entropy bonus")
    mismatch: str | None = _axis(
        "correction of a sampler that is not quite the trainer", choices=AXES["mismatch"]
    )
    mismatch_cap: float | None = _axis("largest weight of that correction")
    overlong: str | None = _axis("what a chain cut at --max-new-tokens earns", choices=AXES["overlong"])
    overlong_buffer: int | None = _axis(
        "with --overlong shape or shape_mask: tokens before the limit in which the penalty grows"
    )
    dynamic_sampling: bool | None = _axis("replace groups whose rewards are all equal", "bool")
    gamma: float | None = _axis("ppo: discount", high=1)
    lam: float | None = _axis("ppo: lambda of the advantage estimate", high=1)
    value_weight: float | None = _axis("ppo: weight of the value loss")
    value_clip: float | None = _axis("ppo: clip of the value; 0 is none")
    beta: float | None = _axis("dpo: how strongly the starting model holds")
    restart: bool | None = _axis("every step begins from the starting weights", "bool")

    def axes(self) -> dict[str, Any]:
        """The axes that were given."""
        given = {f.name: getattr(self, f.name) for f in fields(AxisOptions)}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class TrainOptions(AxisOptions):
    run: str = option(..., "folder of this run; the trained model ends in RUN/model", metavar="RUN")
    objective: str = option(
        "grpo",
        "what is reinforced: sft, expert_iteration, rest_em, star, grpo, dr_grpo, dapo, gspo, cispo, rloo, "
        "reinforce_pp, reinforce_pp_baseline, ppo, dpo",
    )
    model: str = option(..., "model folder or hub id to start from, or new:tiny for an empty one")
    task: str = option(
        "",
        "problems to train on, task:split[:key=value,...], or several by weight, word:train*2+countdown:train*1 (not "
        "needed with a file of demonstrations or preferences)",
    )
    verifier: str = option(
        "", "verifier that gives the reward, such as math or reward.py:NAME (default: the task's own)"
    )
    eval_task: str = option(
        "", "held-out problems evaluated while training, task:split[:key=value,...], or several by weight"
    )
    eval_verifier: str = option(
        "",
        "verifier that says what is right there (default: --verifier where it reads the reference, else the task's)",
    )
    source: list[str] = option(
        [],
        "with expert_iteration: learn from chains that a verifier accepted in other runs, pool:RUN[:verifier=NAME,"
        "at_least=SCORE] (repeat the flag); those learned from before are left out",
    )
    demonstrations: str = option(
        "",
        "with sft: JSONL file of {prompt, completion} (default: the task's own), or key=value,... of the task's",
    )

    preferences: str = option(
        "",
        "with dpo: JSONL file of {prompt, chosen, rejected}, or pool:RUN for a run's chains judged by --verifier",
    )
    eval_preferences: str = option("", "with dpo: held-out pairs evaluated while training, in the same forms")
    pairs_per_problem: int = option(4, "with pool:RUN: at most so many pairs of a problem", low=1)
    margin: float = option(0.25, "with pool:RUN: least difference of the two scores", low=0, high=1)

    steps: int = option(100, "training steps (for expert_iteration: rounds)", low=1)
    problems_per_step: int = option(32, "problems (demonstrations, pairs) drawn from each step", low=1)
    chains_per_problem: int = option(8, "chains sampled for each problem (the group size)", low=1)
    curriculum: str = option(
        "",
        "LOW-HIGH: problems whose mean score when last asked lies in it come first, and those never asked; 0.1-0.9",
    )
    keep_correct: int = option(
        0,
        "at most this many distinct correct chains a problem are learned from; 0 is all, each as often as drawn",
        low=0,
    )
    max_refill: int = option(
        3, "with --dynamic-sampling: at most so many times --problems-per-step are drawn", low=1
    )
    hint: str = option(
        "{prompt} (The answer is {reference}.)",
        "with star: how a question that no chain solved is asked again",
    )
    on_verifier_error: str = option(
        "stop", "when a verifier fails: stop, or skip (leave those chains out)", choices=("stop", "skip")
    )
    asynchronous: bool = option(
        False, "draw the next step's chains while the learner works, by weights that are a step older"
    )
    max_staleness: int = option(
        1, "with --asynchronous: how many steps older those weights are", low=1, high=8
    )
    engine: str = option(
        "transformers", "what draws the roll-outs: transformers, or vllm[:key=value,...] in this process"
    )
    minibatch: int = option(0, "chains per optimizer step; 0 puts the whole step into one", low=0)
    epochs: int = option(1, "passes over each step's chains", low=1)
    temperature: float = option(1.0, "sampling temperature of the roll-outs")
    max_new_tokens: int = option(256, "longest chain, in tokens", low=1)

    lr: float = option(1e-5, "learning rate")
    schedule: str = option("constant", "learning-rate schedule", choices=("constant", "cosine"))
    warmup: float = option(0.0, "share of the steps over which the rate rises from 0", low=0, high=1)
    optimizer: str = option("adamw", "optimizer", choices=("adamw", "adamw_8bit", "muon"))
    weight_decay: float = option(0.0, "weight decay", low=0)
    max_grad_norm: float = option(1.0, "gradient norm is clipped to this", low=1e-9)

    eval_every: int = option(
        10, "steps between evaluations; 0 is only before the first and after the last", low=0
    )
    eval_chains: int = option(4, "chains per problem in an evaluation", low=1)
    patience: int = option(
        0, "stop after so many evaluations without a better one than the best; 0 never does", low=0
    )
    keep: str = option(
        "last",
        "which weights RUN/model gets (RUN/best holds those of the best evaluation, of equal ones the earliest)",
        choices=("last", "best"),
    )
    budget: str = option(
        "",
        "limit on all that the run spends, such as tokens=2e6 (also flops, seconds, samples); stops within it",
    )
    track: list[str] = option(
        [],
        "metrics also to tensorboard, trackio or wandb (repeat the flag)",
        choices=("tensorboard", "trackio", "wandb"),
    )
    log_every: int = option(0, "steps between lines on the screen; 0 is about 25 lines a run", low=0)
    checkpoint_every: int = option(10, "steps between checkpoints", low=1)
    seed: int = option(0, "seed of everything random in the run")
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    dtype: str = option(
        "float32",
        "of the weights; bfloat16 has float32 copies that the optimizer moves, mixed computes in bfloat16 with "
        "float32 weights and samples from a bfloat16 copy",
        choices=("float32", "bfloat16", "mixed"),
    )
    lora_rank: int = option(0, "train an adapter of this rank beside frozen weights; 0 trains all", low=0)
    lora_alpha: float = option(0.0, "the adapter counts alpha / rank; 0 is 2 x rank", low=0)
    lora_targets: str = option("all", "matrices with an adapter, such as q_proj,v_proj; all in the layers")
    gradient_checkpointing: bool = option(
        False, "compute each layer again in the backward pass: less memory, a third more work"
    )
    packing: str = option(
        "auto",
        "chains one behind another instead of padded; auto: where the model's layers can be computed so",
        choices=("auto", "yes", "no"),
    )
    shard: str = option(
        "ddp",
        "with torchrun: ddp, each process has the whole model, or fsdp, each has a part",
        choices=("ddp", "fsdp"),
    )
    max_rows: int = option(512, "chains sampled side by side", low=1)
    micro_tokens: int = option(
        0, "padded tokens per training forward; 0 is 2048 on a CPU, 8192 on a GPU", low=0
    )
