"""Every setting of a training run, with its default and help text. Knows nothing of how they are used."""

from __future__ import annotations

from dataclasses import dataclass

from reasoning.options import option


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    run: str = option(..., "folder of this run; the trained model ends in RUN/model", metavar="RUN")
    objective: str = option("grpo", "what is reinforced: sft, expert_iteration, grpo, dr_grpo, rloo")
    model: str = option(..., "model folder or hub id to start from, or new:tiny for an empty one")
    task: str = option(
        "", "problems to train on, task:split[:key=value,...] (not needed with a demonstrations file)"
    )
    verifier: str = option("", "verifier that gives the reward (default: the task's own)")
    eval_task: str = option("", "held-out problems evaluated while training, task:split[:key=value,...]")
    demonstrations: str = option(
        "",
        "with sft: JSONL file of {prompt, completion} (default: the task's own), or key=value,... of the task's",
    )

    steps: int = option(100, "training steps (for expert_iteration: rounds)", low=1)
    problems_per_step: int = option(32, "problems drawn from each step", low=1)
    chains_per_problem: int = option(8, "chains sampled for each problem (the group size)", low=1)
    keep_correct: int = option(
        0, "at most this many distinct correct chains a problem are learned from; 0 is all", low=0
    )
    minibatch: int = option(0, "chains per optimizer step; 0 puts the whole step into one", low=0)
    epochs: int = option(1, "passes over each step's chains", low=1)
    temperature: float = option(1.0, "sampling temperature of the roll-outs")
    max_new_tokens: int = option(256, "longest chain, in tokens", low=1)

    lr: float = option(1e-5, "learning rate")
    schedule: str = option("constant", "learning-rate schedule", choices=("constant", "cosine"))
    warmup: float = option(0.0, "share of the steps over which the rate rises from 0", low=0, high=1)
    optimizer: str = option("adamw", "optimizer", choices=("adamw", "muon"))
    weight_decay: float = option(0.0, "weight decay", low=0)
    max_grad_norm: float = option(1.0, "gradient norm is clipped to this", low=1e-9)
    clip_low: float | None = option(
        None, "lower clip of the importance ratio (default: the objective's)", low=0
    )
    clip_high: float | None = option(
        None, "upper clip of the importance ratio (default: the objective's)", low=0
    )
    kl: str | None = option(
        None,
        "penalty towards the starting model (default: the objective's)",
        choices=("none", "k1", "k2", "k3"),
    )
    kl_weight: float = option(0.0, "weight of the KL penalty", low=0)

    eval_every: int = option(
        10, "steps between evaluations; 0 is only before the first and after the last", low=0
    )
    eval_chains: int = option(4, "chains per problem in an evaluation", low=1)
    log_every: int = option(0, "steps between lines on the screen; 0 is about 25 lines a run", low=0)
    checkpoint_every: int = option(10, "steps between checkpoints", low=1)
    seed: int = option(0, "seed of everything random in the run")
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    dtype: str = option("float32", "of weights and optimizer state", choices=("float32", "bfloat16"))
    max_rows: int = option(512, "chains sampled side by side", low=1)
    micro_tokens: int = option(16384, "padded tokens per training forward", low=1)
