"""What is reinforced and by how much: independent axes, and the published methods as rows of a table.

Knows nothing of models or tensors: an `Objective` is a frozen description. Advantages are in `credit`, the loss
that follows from one is in `losses`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reasoning.errors import UserError, unknown
from reasoning.options import flag
from reasoning.train.credit import ADVANTAGES, Floats

AXES: dict[str, tuple[str, ...]] = {
    "advantage": (*ADVANTAGES, "gae"),
    "ratio": ("token", "sequence"),
    "surrogate": ("clip", "cispo", "logp", "dpo"),
    "reduce": ("sequence_mean", "token_mean", "max_length", "sequence_sum"),
    "kl": ("none", "k1", "k2", "k3"),
    "kl_in": ("loss", "reward"),
    "mismatch": ("none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
    "overlong": ("zero", "judge", "mask", "shape", "shape_mask"),
    "source": ("model", "rationalised", "demonstrations", "preferences"),
}


@dataclass(frozen=True, slots=True)
class Objective:
    """A training objective.

    advantage: name in `credit.ADVANTAGES`, computed within the group of chains of one problem or over the step;
        or "gae", per token from a value head (arXiv 1506.02438).
    ratio: importance ratio per "token", or per "sequence" (exp of the mean log-ratio; GSPO, arXiv 2507.18071).
    surrogate: "clip", the PPO minimum (arXiv 1707.06347); "cispo", the advantage times the log-probability,
        weighted by the ratio capped at ratio_cap and held constant (arXiv 2506.13585); "logp", advantage x
        log-probability alone; or "dpo", -log sigmoid of the margin of a pair: beta x its chains' log-ratios to
        the starting model, each with the sign of its advantage (arXiv 2305.18290).
    clip_low, clip_high: the ratio is held in [1 - clip_low, 1 + clip_high] (surrogate "clip" only).
    ratio_cap: largest ratio that counts; 0 is none. With "clip" it bounds chains of negative advantage, which
        the minimum leaves open: the dual clip of arXiv 1912.09729 and the two-sided delta of arXiv 2505.07291.
        With "cispo" it is the absolute cap itself.
    reduce: "sequence_mean" (mean over a chain's tokens, then over chains; GRPO), "token_mean" (mean over all
        tokens of the optimizer step; DAPO, arXiv 2503.14476), "max_length" (sum / (chains x max_new_tokens);
        Dr. GRPO), "sequence_sum" (sum over a chain's tokens, mean over chains; REINFORCE as it is written, RLOO).
        Denominators are those of the whole optimizer step, however it is cut into micro-batches or ranks. With
        "dpo" it says how a chain's log-ratio is made of its tokens': their sum ("sequence_sum", as published) or
        their mean ("sequence_mean"); pairs are averaged.
    kl, kl_weight: penalty towards the starting model: "none", "k1", "k2" or "k3". kl_in "loss" adds it to the
        loss (where k1 has no expected gradient of its own; k2 and k3 have), "reward" takes it from the reward
        (k1 only; REINFORCE++, PPO).
    entropy_weight: bonus for the entropy of the next-token distribution.
    mismatch: correction of a sampler whose probabilities are not the trainer's: importance weights on (trainer
        before the step - sampler) log-probabilities, per token or of the whole sequence, truncated at
        mismatch_cap or set to 0 outside [1/mismatch_cap, mismatch_cap].
    overlong: a chain cut at max_new_tokens has reward 0 ("zero"); what the verifier gives it ("judge"); is left
        out of the loss and of its group's statistics ("mask"); or has reward -1, and one that ends in the last
        overlong_buffer tokens (0: a fifth of max_new_tokens) a linear penalty ("shape"); or the penalty there, and
        cut ones are left out ("shape_mask"): the soft punishment of DAPO with its overlong filtering, arXiv
        2503.14476, section 3.4.
    dynamic_sampling: groups whose rewards are all equal are replaced by groups of further problems (DAPO).
    gamma, lam, value_weight, value_clip: of "gae": discount, lambda, weight of the value loss, and how far a
        value may move from the old one before its loss is clipped (0: no clip).
    beta: of "dpo": how strongly the policy is held to the starting model (its KL weight there).
    restart: every step begins from the starting weights (ReST-EM, arXiv 2312.06585; STaR).
    source: "model" samples chains from the model being trained; "rationalised" also asks again, with the answer
        as a hint, where no chain was right (STaR, arXiv 2203.14465); "demonstrations" reads the task's own;
        "preferences" reads pairs of a chosen and a rejected chain.
    """

    name: str
    advantage: str
    ratio: Literal["token", "sequence"] = "token"
    surrogate: Literal["clip", "cispo", "logp", "dpo"] = "clip"
    clip_low: float = 0.2
    clip_high: float = 0.2
    ratio_cap: float = 0.0
    reduce: Literal["sequence_mean", "token_mean", "max_length", "sequence_sum"] = "sequence_mean"
    kl: Literal["none", "k1", "k2", "k3"] = "none"
    kl_weight: float = 0.0
    kl_in: Literal["loss", "reward"] = "loss"
    entropy_weight: float = 0.0
    mismatch: str = "none"
    mismatch_cap: float = 2.0
    overlong: Literal["zero", "judge", "mask", "shape", "shape_mask"] = "zero"
    overlong_buffer: int = 0
    dynamic_sampling: bool = False
    gamma: float = 1.0
    lam: float = 1.0
    value_weight: float = 0.0
    value_clip: float = 0.0
    beta: float = 0.0
    restart: bool = False
    source: Literal["model", "rationalised", "demonstrations", "preferences"] = "model"

    @property
    def compares(self) -> bool:
        """Whether a chain is measured against the others of its group, so that equal rewards teach nothing."""
        return self.advantage.startswith("group") or self.advantage == "leave_one_out"

    @property
    def critic(self) -> bool:
        """Whether a value head is trained."""
        return self.advantage == "gae"

    @property
    def selects(self) -> bool:
        """Whether only correct chains are learned from (expert iteration and its family)."""
        return self.advantage == "correct"

    @property
    def kl_in_loss(self) -> bool:
        return self.kl != "none" and self.kl_in == "loss"

    @property
    def needs_reference(self) -> bool:
        """Whether the frozen starting model is read."""
        return self.kl != "none" or self.surrogate == "dpo"

    @property
    def together(self) -> int:
        """Consecutive rows that are one term of the loss, and so go through the model together."""
        return 2 if self.surrogate == "dpo" else 1

    @property
    def corrects(self) -> bool:
        return self.mismatch != "none"

    def advantages(self, groups: Sequence[Floats]) -> list[NDArray[np.float64]]:
        """One advantage a chain, of all groups of a step. groups: rewards (G,) each, NaN where a verdict is
        missing; such chains get NaN and are left out of every statistic. Not for "gae"."""
        rewards = [np.asarray(group, dtype=np.float64) for group in groups]
        known = [~np.isnan(group) for group in rewards]
        found = ADVANTAGES[self.advantage]([r[k] for r, k in zip(rewards, known, strict=True)])
        out = [np.full(len(group), np.nan) for group in rewards]
        for values, k, advantage in zip(out, known, found, strict=True):
            values[k] = advantage
        return out


_EXPERT = Objective("expert_iteration", "correct", surrogate="logp", reduce="token_mean")
_GRPO = Objective("grpo", "group_mean_std")

PRESETS: dict[str, Objective] = {
    o.name: o
    for o in (
        Objective("sft", "one", surrogate="logp", reduce="token_mean", source="demonstrations"),
        _EXPERT,
        dataclasses.replace(_EXPERT, name="rest_em", restart=True),
        dataclasses.replace(_EXPERT, name="star", restart=True, source="rationalised"),
        _GRPO,
        dataclasses.replace(_GRPO, name="dr_grpo", advantage="group_mean", reduce="max_length"),
        dataclasses.replace(
            _GRPO,
            name="dapo",
            clip_high=0.28,
            reduce="token_mean",
            overlong="shape_mask",
            dynamic_sampling=True,
        ),
        dataclasses.replace(_GRPO, name="gspo", ratio="sequence", clip_low=3e-4, clip_high=4e-4),
        dataclasses.replace(_GRPO, name="cispo", surrogate="cispo", ratio_cap=5.0, reduce="token_mean"),
        Objective("rloo", "leave_one_out", surrogate="logp", reduce="sequence_sum"),
        Objective("reinforce_pp", "batch_mean_std", reduce="token_mean"),
        Objective("reinforce_pp_baseline", "group_mean_batch_std", reduce="token_mean"),
        Objective("dpo", "preferred", surrogate="dpo", reduce="sequence_sum", beta=0.1, source="preferences"),
        Objective("ppo", "gae", reduce="token_mean", value_weight=0.5, value_clip=0.2),
    )
}
"""Published methods by name. Sources: sft; expert_iteration (2312.06585 without its restarts), rest_em (2312.06585),
star (2203.14465), grpo (2402.03300), dr_grpo (2503.20783), dapo (2503.14476), gspo (2507.18071), cispo (2506.13585),
rloo (2402.14740), reinforce_pp and its form with a group baseline (2501.03262), dpo (2305.18290),
ppo (1707.06347; lam of 1 as in 2503.24290: a new value head knows nothing yet, and less would credit early tokens
least)."""


def objective(name: str, **changes: Any) -> Objective:
    """A preset with some axes changed: ``objective("grpo", clip_high=0.28)``.

    Raises UserError for an unknown preset, a value outside its axis, or axes that contradict each other.
    """
    if name not in PRESETS:
        raise unknown("objective", name, PRESETS)
    known = [f.name for f in dataclasses.fields(Objective) if f.name != "name"]
    for axis in changes:
        if axis not in known:
            raise unknown("axis of an objective", axis, known)
    preset = PRESETS[name]
    made = dataclasses.replace(preset, **changes)
    check(made)
    for axis in changes:
        if getattr(made, axis) != getattr(preset, axis) and (lacks := _idle(made, axis)):
            raise UserError(f"{flag(axis)} has no effect {lacks}: drop it.")
    return made


def _idle(made: Objective, axis: str) -> str:
    """Why ``axis`` changes nothing; "" where it does."""
    clips, ratios = made.surrogate == "clip", made.surrogate in ("clip", "cispo")
    surrogate = f"with --surrogate {made.surrogate}"
    without = {
        "clip_low": (clips, f"{surrogate}, which does not clip"),
        "clip_high": (clips, f"{surrogate}, which does not clip"),
        "ratio": (ratios, f"{surrogate}, which uses no ratio"),
        "mismatch_cap": (made.corrects, "without a correction (--mismatch token_truncate, say)"),
        "kl_in": (made.kl != "none", "without a penalty (--kl k1 --kl-weight 0.01, say)"),
        "overlong_buffer": (
            made.overlong.startswith("shape"),
            f"with --overlong {made.overlong} (shape has it)",
        ),
        "gamma": (made.critic, "without a value head (--objective ppo has one)"),
        "lam": (made.critic, "without a value head (--objective ppo has one)"),
    }
    used, why = without.get(axis, (True, ""))
    return "" if used else why


def check(made: Objective) -> None:
    """Raise UserError for a value outside its axis, or axes that contradict each other."""
    for axis, known in AXES.items():
        if getattr(made, axis) not in known:
            raise unknown(flag(axis), str(getattr(made, axis)), known)
    for f in dataclasses.fields(made):
        value = getattr(made, f.name)
        if isinstance(value, float) and not (math.isfinite(value) and value >= 0):
            raise UserError(f"{flag(f.name)} must be a number of 0 or above, not {value}.")
    if made.kl == "none" and made.kl_weight:
        raise UserError("--kl-weight is set but --kl is none: add --kl k3 (or k1, k2), or drop --kl-weight.")
    if made.kl != "none" and not made.kl_weight > 0:
        raise UserError(f"--kl {made.kl} needs a weight: add --kl-weight 0.01, say.")
    if made.kl_in == "reward" and made.kl not in ("k1", "none"):
        raise UserError(f"--kl-in reward takes --kl k1 from the reward, not {made.kl}.")
    if made.surrogate == "cispo" and not made.ratio_cap > 0:
        raise UserError("--surrogate cispo needs a cap on the ratio: --ratio-cap 5, say.")
    if made.surrogate == "clip" and made.ratio_cap and made.ratio_cap <= 1 + made.clip_high:
        raise UserError(
            f"--ratio-cap {made.ratio_cap:g} lies within the clip range (up to {1 + made.clip_high:g}): raise it."
        )
    if made.surrogate == "logp" and made.ratio_cap:
        raise UserError("--ratio-cap has no effect with --surrogate logp, which uses no ratio: drop it.")
    if made.surrogate == "clip" and made.clip_low >= 1:
        raise UserError(f"--clip-low {made.clip_low:g} leaves no lower bound: it must be below 1.")
    if made.mismatch != "none" and not made.mismatch_cap > 1:
        raise UserError(f"--mismatch-cap must be above 1, not {made.mismatch_cap:g}.")
    if made.dynamic_sampling and not made.compares:
        raise UserError(f"--dynamic-sampling is for group-relative advantages, not {made.advantage}.")
    if made.advantage == "gae" and not (made.gamma <= 1 and made.lam <= 1):
        raise UserError(f"--gamma and --lam lie in 0 to 1, not {made.gamma:g} and {made.lam:g}.")
    if made.advantage != "gae" and (made.value_weight or made.value_clip):
        raise UserError("--value-weight and --value-clip go with --advantage gae (--objective ppo).")
    if made.advantage == "gae" and not made.value_weight > 0:
        raise UserError("--advantage gae trains a value head: --value-weight must be above 0.")
    pairs = (made.surrogate == "dpo", made.source == "preferences", made.advantage == "preferred")
    if any(pairs) and not all(pairs):
        raise UserError(
            "--surrogate dpo, --advantage preferred and pairs to learn from go together: take --objective dpo."
        )
    if made.surrogate == "dpo" and not made.beta > 0:
        raise UserError(f"--beta must be above 0, not {made.beta:g}: try --beta 0.1.")
    if made.surrogate != "dpo" and made.beta:
        raise UserError(f"--beta goes with --objective dpo; {made.name} has --kl-weight.")
    if made.surrogate == "dpo":
        _check_pairs(made)
    if made.source == "demonstrations" and (made.advantage != "one" or made.dynamic_sampling):
        raise UserError(
            "Demonstrations have no rewards: --objective sft goes with --advantage one, without --dynamic-sampling."
        )


def _check_pairs(made: Objective) -> None:
    """Axes that a loss over pairs has no use for are refused, not ignored."""
    if made.reduce not in ("sequence_sum", "sequence_mean"):
        raise UserError(f"--surrogate dpo takes --reduce sequence_sum or sequence_mean, not {made.reduce}.")
    unused = {
        "kl": made.kl != "none",
        "mismatch": made.corrects,
        "entropy_weight": made.entropy_weight > 0,
        "overlong": made.overlong != "zero",
        "ratio": made.ratio != "token",
        "ratio_cap": made.ratio_cap > 0,
        "restart": made.restart,
    }
    for axis, given in unused.items():
        if given:
            raise UserError(f"{flag(axis)} has no effect with --surrogate dpo: drop it.")
