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
    return np.full(len(lengths), 1.0 / (chains * max_new_tokens))


@dataclass(frozen=True, slots=True)
class TokenLoss:
    """loss (N,) with gradient; the rest are plain diagnostics, (N,) without gradient."""

    loss: Tensor
    clipped_low: Tensor
    clipped_high: Tensor
    kl: Tensor


def token_loss(
    objective: Objective,
    logprobs: Tensor,  # (N,) under the model being trained, with gradient
    old_logprobs: Tensor,  # (N,) under the model that sampled
    advantages: Tensor,  # (N,) of the token's chain
    chain: Tensor,  # (N,) row of the token, 0..B-1
    reference_logprobs: Tensor | None = None,  # (N,) under the starting model, when kl is on
) -> TokenLoss:
    """-(surrogate) + kl_weight x KL, per token.

    The clipped surrogate is min(rho A, clip(rho) A) (arXiv 1707.06347); at the sequence level rho is the
    exponential of the chain's mean log-ratio (arXiv 2507.18071). KL estimators k1, k2, k3 of the log-ratio to
    the reference are those of REINFORCE practice: k3 = exp(ref - theta) - (ref - theta) - 1.
    """
    none = torch.zeros_like(logprobs, dtype=torch.bool)
    low = high = none
    if objective.surrogate == "logp":
        loss = -advantages * logprobs
    else:
        log_ratio = logprobs - old_logprobs
        if objective.ratio == "sequence":
            log_ratio = chain_mean(log_ratio, chain)
        ratio = torch.exp(log_ratio)
        bounded = ratio.clamp(1 - objective.clip_low, 1 + objective.clip_high)
        loss = -torch.minimum(ratio * advantages, bounded * advantages)
        low = (ratio < 1 - objective.clip_low) & (advantages < 0)
        high = (ratio > 1 + objective.clip_high) & (advantages > 0)
    kl = torch.zeros_like(logprobs)
    if reference_logprobs is not None:
        kl = kl_to_reference(objective.kl, logprobs, reference_logprobs)
        loss = loss + objective.kl_weight * kl
    return TokenLoss(loss, low, high, kl.detach())


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
