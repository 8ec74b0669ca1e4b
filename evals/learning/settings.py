"""The tasks, the presets and every number of the comparison, chosen on the dev split. The table is of another one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PROBLEMS, CHAINS = 400, 16
"""Held-out problems, and chains of each, before and after."""
ON_THE_WAY = 100
"""Problems of the evaluations between."""
LEGS = (0.2, 0.5, 1.0)
"""Shares of its budget at which a run stops and is evaluated: early ones, where the quickest reach the target."""


@dataclass(frozen=True, kw_only=True)
class TaskSetting:
    """options: of the task, as in a spec. flops: what a run may spend. train: problems to
    draw from. shown: distinct demonstrations of a gym task, at most. demonstrations: of the cold start, a spec for
    `demonstrations.write_demonstrations` or options of the task's own. model: the empty model."""

    name: str
    options: str
    flops: float
    max_new_tokens: int
    demonstrations: str = ""
    sft_steps: int = 300
    train: int = 2048
    shown: int = 6000
    model: str = "new:tiny"

    def spec(self, split: str, n: int) -> str:
        return f"{self.name}:{split}:n={n},{self.options}"

    @property
    def label(self) -> str:
        return self.name.removeprefix("gym:")


TASKS = {
    t.label: t
    for t in (
        TaskSetting(
            name="word",
            options="steps=2-3",
            demonstrations="steps=1-4,work=0.4",
            flops=5e11,
            max_new_tokens=52,
            sft_steps=400,
        ),
        TaskSetting(
            name="countdown",
            options="numbers=3",
            demonstrations="numbers=3,tries=1",
            flops=4e11,
            max_new_tokens=64,
            sft_steps=350,
        ),
        TaskSetting(
            name="gym:chain_sum",
            options="template=qa,min_terms=3,max_terms=4,max_digits=1",
            flops=3e11,
            max_new_tokens=36,
            sft_steps=400,
        ),
        TaskSetting(
            name="gym:products",
            options="template=qa,max_digits=2",
            flops=3e11,
            max_new_tokens=48,
            sft_steps=900,
        ),
        TaskSetting(
            name="gym:spell_backward",
            options="template=qa,max_word_len=6",
            flops=2e11,
            max_new_tokens=18,
            sft_steps=400,
            model="new:tiny:words=112",
        ),
    )
}

COLD: dict[str, Any] = {
    "objective": "sft",
    "problems_per_step": 32,
    "optimizer": "muon",
    "lr": 6e-3,
    "schedule": "cosine",
    "warmup": 0.05,
}


@dataclass(frozen=True)
class Preset:
    """options: of `TrainOptions`, over `COMMON`. pairs: the share of the budget that goes into drawing the chains
    that its pairs are made of."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    pairs: float = 0.0


COMMON: dict[str, Any] = {
    "steps": 10_000,  # the budget ends the run
    "problems_per_step": 16,
    "chains_per_problem": 8,
    "minibatch": 64,
    "optimizer": "muon",
    "lr": 6e-4,
    "checkpoint_every": 1000,  # each leg's end is one
    "log_every": 10_000,
}
_FROM_THE_START = {"lr": 1.5e-3, "schedule": "cosine", "minibatch": 16}
"""Of presets that begin anew each round, which then has the whole way to go: a higher rate, which falls to 0 within
the round, and more optimizer steps."""

PRESETS = {
    p.name: p
    for p in (
        Preset("expert_iteration", {"problems_per_step": 32}),
        Preset("rest_em", {"problems_per_step": 64, **_FROM_THE_START}),
        Preset("star", {"problems_per_step": 64, **_FROM_THE_START}),
        Preset("grpo"),
        Preset("dr_grpo"),
        Preset("dapo", {"overlong_buffer": 2}),
        Preset("gspo"),
        Preset("cispo"),
        Preset("rloo"),
        Preset("reinforce_pp"),
        Preset("reinforce_pp_baseline"),
        Preset("ppo"),
        Preset("dpo", {"problems_per_step": 32, "chains_per_problem": 8, "lr": 4e-4, "beta": 0.5}, pairs=0.4),
    )
}
