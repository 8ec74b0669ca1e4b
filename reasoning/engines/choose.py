"""From logits to tokens: temperature, top-k, top-p and a random stream of its own for every chain.

Row by row and position by position: a row's token depends on its own logits, seed and position alone, never on
the rows beside it. Knows nothing of models, caches or text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniforms(seeds: NDArray[np.uint64], positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Counter-based random numbers in (0, 1): element i is number ``positions[i]`` of stream ``seeds[i]``.

    SplitMix64 from a mixed start, so that no state has to be kept or moved along with a chain.
    """
    bits = _mix(_mix(seeds) + (positions.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    return ((bits >> np.uint64(32)).astype(np.float64) + 0.5) * 2.0**-32


@dataclass(slots=True)
class Rules:
    """How each row chooses; tensors of shape (rows,), or None where no row needs the step.

    temperature: 1 for greedy rows. top_k: the vocabulary's size where off. greedy: True takes the likeliest.
    """

    temperature: Tensor | None = None
    top_k: Tensor | None = None
    top_p: Tensor | None = None
    greedy: Tensor | None = None


def choose(logits: Tensor, rules: Rules, u: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens (rows,) int64 and the log-probability of each (rows,) float32, from ``logits`` (rows, vocab).

    Inverse transform sampling with one uniform number ``u`` (rows,) float64 for each row: the first token at
    which the cumulated probability exceeds it. The log-probabilities are those of the distribution sampled
    from; a greedy row reports the one at temperature 1. A row without a finite distribution has log-probability
    NaN.
    """
    scores = logits.float()
    if rules.temperature is not None:
        scores = scores / rules.temperature[:, None]
    if rules.top_k is not None and rules.top_p is not None:
        scores = truncate(scores, rules.top_k, rules.top_p)
    probabilities = torch.softmax(scores, -1)
    cumulated = torch.cumsum(probabilities, -1, dtype=torch.float64)
    threshold = u[:, None] * cumulated[:, -1:]
    tokens = torch.searchsorted(cumulated, threshold, right=True)[:, 0].clamp_(max=logits.shape[-1] - 1)
    if rules.greedy is not None:
        tokens = torch.where(rules.greedy, scores.argmax(-1), tokens)
    return tokens, probabilities.gather(-1, tokens[:, None])[:, 0].log()


def truncate(scores: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """``scores`` (rows, vocab) with -inf outside of the ``top_k`` (rows,) best tokens and, among those, outside
    of the smallest set whose probability reaches ``top_p`` (rows,). Tokens that tie with the last one kept stay.
    """
    ordered = scores.sort(-1, descending=True).values
    least = ordered.gather(-1, (top_k.clamp(1, scores.shape[-1]) - 1)[:, None])
    probabilities = torch.softmax(ordered.masked_fill(ordered < least, float("-inf")), -1)
    before = torch.cumsum(probabilities, -1, dtype=torch.float64) - probabilities
    # A token stays while the tokens before it fall short of top_p; top_p = 1 keeps all whatever the rounding.
    kept = ((before < top_p[:, None]) | (top_p[:, None] >= 1)).sum(-1, keepdim=True)
    least = torch.maximum(least, ordered.gather(-1, kept.clamp(min=1) - 1))
    return scores.masked_fill(scores < least, float("-inf"))
