"""What a learner needs for objectives over pairs (rows 2p and 2p + 1, chosen and rejected): forwards that keep a pair
together, its loss as a share of the step's, and its figures. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reasoning.train.losses import pair_loss
from reasoning.train.objective import Objective
from reasoning.train.rows import Forward, Row, micro_batches


def pair_forwards(rows: Sequence[Row], tokens: int) -> list[Forward]:
    """``rows`` cut into forwards of at most ``tokens`` padded tokens (or one pair), the two rows of a pair together
    and in their order."""
    if len(rows) % 2:
        raise ValueError(f"{len(rows)} rows are not pairs")
    sizes = [range(2 * max(len(rows[i]), len(rows[i + 1]))) for i in range(0, len(rows), 2)]  # padded
    return [
        Forward(tuple(2 * p + k for p in batch for k in (0, 1))) for batch in micro_batches(sizes, tokens)
    ]


class PairSums:
    """Figures of pairs, added up over the forwards of a step; their names are those of the field."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.pairs = 0

    def loss(
        self,
        objective: Objective,
        rows: Sequence[Row],
        weight: Tensor,
        logprobs: Tensor,
        reference: Tensor,
        chain: Tensor,
    ) -> Tensor:
        """The share of these pairs in the loss of the step. weight, logprobs, reference, chain: (N,) of tokens."""
        signs = torch.tensor([row.advantage for row in rows], dtype=torch.float32, device=logprobs.device)
        found = pair_loss(objective, logprobs, reference, signs, chain)
        zeros = logprobs.new_zeros(len(rows))
        lengths = zeros.index_add(0, chain, torch.ones_like(weight))
        # A pair weighs what its chains weigh: what their tokens weigh, summed or (sequence_sum) each of them.
        share = zeros.index_add(0, chain, weight)
        if objective.reduce == "sequence_sum":
            share = share / lengths
        self._add(found.rewards, signs, zeros.index_add(0, chain, logprobs.detach()))
        return (share.view(-1, 2).sum(1) * found.loss).sum()

    def _add(self, rewards: Tensor, signs: Tensor, logprobs: Tensor) -> None:
        margins = (signs * rewards).view(-1, 2).sum(1)
        right = (margins > 0).float() + (margins == 0).float() / 2  # a tie is half right
        figures = {
            "rewards/chosen": rewards[signs > 0],
            "rewards/rejected": rewards[signs < 0],
            "rewards/margins": margins,
            "rewards/accuracies": right,
            "logps/chosen": logprobs[signs > 0],
            "logps/rejected": logprobs[signs < 0],
        }
        for name, values in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(values.sum())
        self.pairs += len(margins)

    def metrics(self) -> dict[str, float]:
        """Means over the pairs."""
        return {name: value / self.pairs for name, value in self.sums.items()}
