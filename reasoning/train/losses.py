"""The loss of an `Objective`, per token. Torch in, torch out; knows nothing of models, pools or optimizers.

Shapes: N is the number of active (completion) tokens of a micro-batch, laid out flat, chain after chain;
``chain`` (N,) gives the row of each token.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reasoning.train.objective import Objective


def token_weights(lengths: NDArray[np.int64], reduce: str, max_new_tokens: int) -> NDArray[np.float64]:
    """Weight of every token of each chain, so that loss = sum over tokens of weight x token loss.

    lengths: (B,) completion lengths of *all* chains of the optimizer step, whichever micro-batch or rank they
    land in: this is what makes the gradient independent of how the step is cut. Returns (B,).
    """
    chains = max(len(lengths), 1)
    if reduce == "sequence_mean":
        return 1.0 / (chains * np.maximum(lengths, 1))
    if reduce == "token_mean":
        return np.full(len(lengths), 1.0 / max(int(lengths.sum()), 1))
    if reduce == "sequence_sum":
        return np.full(len(lengths), 1.0 / chains)
    return np.full(len(lengths), 1.0 / (chains * max_new_tokens))


@dataclass(frozen=True, slots=True)
class TokenLoss:
    """loss (N,) with gradient; the rest are plain diagnostics, (N,) without gradient. ratio: the importance ratio
    to the policy that the step began with (1 where the surrogate has none). mismatch: the weight that corrects
    the sampler (1 without a correction)."""

    loss: Tensor
    clipped_low: Tensor
    clipped_high: Tensor
    kl: Tensor
    ratio: Tensor
    mismatch: Tensor


def token_loss(
    objective: Objective,
    logprobs: Tensor,  # (N,) under the model being trained, with gradient
    old_logprobs: Tensor,  # (N,) under the model before the step: the trainer's own, or the sampler's if equal
    advantages: Tensor,  # (N,) of the token, or of its chain
    chain: Tensor,  # (N,) row of the token, 0..B-1
    reference_logprobs: Tensor | None = None,  # (N,) under the starting model, when kl is in the loss
    *,
    sampler_logprobs: Tensor
    | None = None,  # (N,) as the sampler returned them, when its mismatch is corrected
    entropy: Tensor
    | None = None,  # (N,) of the next-token distributions, with gradient, when there is a bonus
) -> TokenLoss:
    """-(surrogate) x mismatch weight + kl_weight x KL - entropy_weight x entropy, per token.

    The clipped surrogate is min(rho A, clip(rho) A) (arXiv 1707.06347), never below ratio_cap x A where A < 0
    (arXiv 1912.09729); at the sequence level rho is the exponential of the chain's mean log-ratio (arXiv
    2507.18071). CISPO is sg(min(rho, ratio_cap)) A log pi (arXiv 2506.13585). KL estimators k1, k2, k3 of the
    log-ratio to the reference are those of REINFORCE practice: k3 = exp(ref - theta) - (ref - theta) - 1.
    """
    none = torch.zeros_like(logprobs, dtype=torch.bool)
    low = high = none
    ratio = torch.ones_like(logprobs)
    if objective.surrogate == "logp":
        loss = -advantages * logprobs
    else:
        log_ratio = logprobs - old_logprobs
        if objective.ratio == "sequence":
            log_ratio = chain_mean(log_ratio, chain)
        ratio = torch.exp(log_ratio)
        if objective.surrogate == "cispo":
            loss = -ratio.detach().clamp(max=objective.ratio_cap) * advantages * logprobs
            high = ratio > objective.ratio_cap
        else:
            bounded = ratio.clamp(1 - objective.clip_low, 1 + objective.clip_high)
            gain = torch.minimum(ratio * advantages, bounded * advantages)
            low = (ratio < 1 - objective.clip_low) & (advantages < 0)
            high = (ratio > 1 + objective.clip_high) & (advantages > 0)
            if objective.ratio_cap:
                floor = objective.ratio_cap * advantages
                gain = torch.where(advantages < 0, torch.maximum(gain, floor), gain)
                high = high | ((ratio > objective.ratio_cap) & (advantages < 0))
            loss = -gain
    weight = torch.ones_like(logprobs)
    if sampler_logprobs is not None and objective.corrects:
        weight = mismatch_weight(
            objective.mismatch, objective.mismatch_cap, old_logprobs - sampler_logprobs, chain
        )
        loss = loss * weight
    kl = torch.zeros_like(logprobs)
    if reference_logprobs is not None:
        kl = kl_to_reference(objective.kl, logprobs, reference_logprobs)
        loss = loss + objective.kl_weight * kl
    if entropy is not None and objective.entropy_weight:
        loss = loss - objective.entropy_weight * entropy
    return TokenLoss(loss, low, high, kl.detach(), ratio.detach(), weight)


def mismatch_weight(kind: str, cap: float, log_ratio: Tensor, chain: Tensor) -> Tensor:
    """Importance weight of each token (N,), without gradient, for chains drawn by a sampler that is not quite the
    trainer. log_ratio: (N,) trainer before the step - sampler. "sequence" weights are of the whole chain, the
    exponential of the sum. "truncate" holds them at ``cap``; "mask" gives 0 outside [1/cap, cap]."""
    level, _, action = kind.partition("_")
    with torch.no_grad():
        if level == "sequence":
            rows = int(chain.max()) + 1
            log_ratio = log_ratio.new_zeros(rows).index_add(0, chain, log_ratio)[chain]
        weight = torch.exp(log_ratio.clamp(max=60.0))
        if action == "truncate":
            return weight.clamp(max=cap)
        return torch.where((weight <= cap) & (weight >= 1 / cap), weight, torch.zeros_like(weight))


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Half the squared error of each token's value, (N,); the larger of it and that of the value held within
    ``clip`` of the old one (arXiv 1707.06347 as OpenAI's code has it). clip 0: no bound. All (N,)."""
    loss = (values - returns).square()
    if clip:
        held = old_values + (values - old_values).clamp(-clip, clip)
        loss = torch.maximum(loss, (held - returns).square())
    return loss / 2


def preference_loss(chosen: Tensor, rejected: Tensor, beta: float = 1.0) -> Tensor:
    """-log sigmoid(beta (chosen - rejected)), (P,): Bradley-Terry over scores of pairs, and, with
    ``chosen`` and ``rejected`` the log-ratios of a policy to its reference, DPO (arXiv 2305.18290)."""
    return -torch.nn.functional.logsigmoid(beta * (chosen - rejected))


@dataclass(frozen=True, slots=True)
class PairLoss:
    """Of P pairs: loss (P,) with gradient; rewards (2P,) without, those that the policy implies: beta x log-ratio to
    the reference, of each row."""

    loss: Tensor
    rewards: Tensor


def pair_loss(
    objective: Objective,
    logprobs: Tensor,  # (N,) under the model being trained, with gradient
    reference_logprobs: Tensor,  # (N,) under the starting model
    advantages: Tensor,  # (2P,) 1 for the chosen row of a pair, -1 for the rejected one
    chain: Tensor,  # (N,) row of the token, 0..2P-1; rows 2p and 2p+1 are a pair
) -> PairLoss:
    """-log sigmoid(margin) of each pair, the margin being beta x sum over its two rows of advantage x log-ratio
    (arXiv 2305.18290, equation 7)."""
    difference = logprobs - reference_logprobs
    rows = len(advantages)
    ratios = difference.new_zeros(rows).index_add(0, chain, difference)
    if objective.reduce == "sequence_mean":
        ratios = ratios / difference.new_zeros(rows).index_add(0, chain, torch.ones_like(difference))
    margins = (advantages * ratios).view(-1, 2).sum(1)
    loss = preference_loss(margins, torch.zeros_like(margins), objective.beta)
    return PairLoss(loss, objective.beta * ratios.detach())


def chain_mean(values: Tensor, chain: Tensor) -> Tensor:
    """Each token's value replaced by the mean over its chain. values, chain: (N,)."""
    rows = int(chain.max()) + 1
    total = values.new_zeros(rows).index_add(0, chain, values)
    count = values.new_zeros(rows).index_add(0, chain, torch.ones_like(values))
    return (total / count)[chain]


def kl_to_reference(kind: str, logprobs: Tensor, reference: Tensor) -> Tensor:
    """Per-token estimate of KL(theta || reference) from sampled tokens. (N,)"""
    difference = reference - logprobs
    if kind == "k1":
        return -difference
    if kind == "k2":
        return difference.square() / 2
    return torch.exp(difference) - difference - 1
