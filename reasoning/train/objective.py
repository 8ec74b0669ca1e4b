"""What is reinforced and by how much: independent axes, and the published methods as rows of a table.

Knows nothing of models or tensors: an `Objective` is a frozen description, and advantages are NumPy.
The loss that follows from one is in `losses`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from reasoning.errors import UserError, unknown

Floats = NDArray[np.float64]


def group_mean_std(rewards: Floats) -> Floats:
    """(r - mean) / (std + 1e-6), the sample standard deviation of the group; GRPO, arXiv 2402.03300."""
    return group_mean(rewards) / (rewards.std(ddof=1) + 1e-6) if len(rewards) > 1 else np.zeros(len(rewards))


def group_mean(rewards: Floats) -> Floats:
    """r - mean; Dr. GRPO, arXiv 2503.20783."""
    return rewards - rewards.mean()


def leave_one_out(rewards: Floats) -> Floats:
    """r minus the mean of the others, G/(G-1) (r - mean); RLOO, arXiv 2402.14740."""
    n = len(rewards)
    return group_mean(rewards) * n / (n - 1) if n > 1 else np.zeros(n)


def correct(rewards: Floats) -> Floats:
    """1 for a correct chain, else 0: likelihood of the correct ones; expert iteration, arXiv 2312.06585."""
    return (rewards >= 0.99).astype(np.float64)


def one(rewards: Floats) -> Floats:
    """1 for every chain: maximum likelihood of what is shown (supervised)."""
    return np.ones(len(rewards))


ADVANTAGES: dict[str, Callable[[Floats], Floats]] = {
    f.__name__: f for f in (group_mean_std, group_mean, leave_one_out, correct, one)
}


@dataclass(frozen=True, slots=True)
class Objective:
    """A training objective.

    advantage: name in `ADVANTAGES`, computed within the group of chains of one problem.
    ratio: importance ratio per "token", or per "sequence" (exp of the mean log-ratio; GSPO, arXiv 2507.18071).
    surrogate: "clip", the PPO minimum (arXiv 1707.06347); or "logp", advantage x log-probability.
    clip_low, clip_high: the ratio is held in [1 - clip_low, 1 + clip_high] (surrogate "clip" only).
    reduce: "sequence_mean" (mean over a chain's tokens, then over chains; GRPO), "token_mean" (mean over all
        tokens of the optimizer step; DAPO, arXiv 2503.14476), "max_length" (sum / (chains x max_new_tokens);
        Dr. GRPO). Denominators are those of the whole optimizer step, however it is cut into micro-batches.
    kl, kl_weight: penalty towards the starting model: "none", "k1", "k2" or "k3" (as part of a loss, k1 has no
        expected gradient of its own; k2 and k3 have).
    source: "model" samples chains from the model being trained; "demonstrations" reads the task's own.
    """

    name: str
    advantage: str
    ratio: Literal["token", "sequence"] = "token"
    surrogate: Literal["clip", "logp"] = "clip"
    clip_low: float = 0.2
    clip_high: float = 0.2
    reduce: Literal["sequence_mean", "token_mean", "max_length"] = "sequence_mean"
    kl: Literal["none", "k1", "k2", "k3"] = "none"
    kl_weight: float = 0.0
    source: Literal["model", "demonstrations"] = "model"

    def advantages(self, rewards: Floats) -> Floats:
        """Advantages of one group. rewards: (G,), NaN where a verdict is missing; such chains get NaN and are
        left out of the group's statistics."""
        rewards = np.asarray(rewards, dtype=np.float64)
        known = ~np.isnan(rewards)
        out = np.full(len(rewards), np.nan)
        if known.any():
            out[known] = ADVANTAGES[self.advantage](rewards[known])
        return out


PRESETS: dict[str, Objective] = {
    o.name: o
    for o in (
        Objective("sft", "one", surrogate="logp", reduce="token_mean", source="demonstrations"),
        Objective("expert_iteration", "correct", surrogate="logp", reduce="token_mean"),
        Objective("grpo", "group_mean_std"),
        Objective("dr_grpo", "group_mean", reduce="max_length"),
        Objective("rloo", "leave_one_out", surrogate="logp", reduce="token_mean"),
    )
}


def objective(name: str, **changes: float | str) -> Objective:
    """A preset with some axes changed: ``objective("grpo", clip_high=0.28)``.

    Raises UserError for an unknown preset, or a value outside its axis.
    """
    if name not in PRESETS:
        raise unknown("objective", name, PRESETS)
    made = dataclasses.replace(PRESETS[name], **changes)  # type: ignore[arg-type]
    axes = {
        "advantage": tuple(ADVANTAGES),
        "ratio": ("token", "sequence"),
        "surrogate": ("clip", "logp"),
        "reduce": ("sequence_mean", "token_mean", "max_length"),
        "kl": ("none", "k1", "k2", "k3"),
    }
    for axis, known in axes.items():
        if getattr(made, axis) not in known:
            raise unknown(axis, str(getattr(made, axis)), known)
    if made.kl == "none" and made.kl_weight:
        raise UserError("kl_weight is set but kl is 'none': add --kl k3 (or k1, k2), or drop --kl-weight.")
    if made.kl != "none" and not made.kl_weight > 0:
        raise UserError(f"kl={made.kl} needs a weight: add --kl-weight 0.01, say.")
    return made
