"""A backbone with a linear head: one figure at any position of a text. The one module that outcome, preference and
process models are, with the loop that fits it; a critic's head is the same head. Knows nothing of chains or pools.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reasoning.flops import ModelShape
from reasoning.progress import Progress
from reasoning.records import digest
from reasoning.train.losses import preference_loss
from reasoning.train.optimizers import make_optimizers
from reasoning.train.rows import micro_batches
from verifiers.learned import Floats

MICRO_TOKENS = 4096
CENTRING = 0.01


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to learn from, all of it in one forward.

    rows: token ids of one text, or of a pair of them. places: the positions of each row that are scored.
    labels: in [0, 1], of every scored position in order; none for a pair, of which the first row is preferred.
    """

    rows: tuple[tuple[int, ...], ...]
    places: tuple[tuple[int, ...], ...]
    labels: tuple[float, ...] = ()

    @property
    def terms(self) -> int:
        """Terms of the loss: scored positions, or the one comparison."""
        return len(self.labels) or 1


@dataclass(frozen=True, slots=True)
class FineTuning:
    """Settings of `tune`. batch: items of an optimizer step."""

    epochs: int
    lr: float
    optimizer: str
    batch: int
    seed: int


class Scorer(torch.nn.Module):
    """A causal language model without its output head, and a linear head on its last hidden states."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model
        self.head = new_head(model)

    def forward(self, rows: Sequence[Sequence[int]], places: Sequence[Sequence[int]]) -> Tensor:
        """Scores (N,) at the ``places`` of ``rows``, flat, row after row. Rows are right-padded: with causal
        attention no position sees what is behind it."""
        device = next(self.model.parameters()).device
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for r, row in enumerate(rows):
            ids[r, : len(row)] = torch.tensor(row)
        hidden = self.model.get_decoder()(input_ids=ids.to(device), use_cache=False).last_hidden_state
        row = torch.tensor([r for r, at in enumerate(places) for _ in at], device=device)
        column = torch.tensor([p for at in places for p in at], device=device)
        return self.head(hidden[row, column].float())[:, 0]

    def exported(self) -> dict[str, Floats]:
        """The head as `verifiers.learned` keeps it."""
        weight = self.head.weight.detach().double().cpu().numpy()[0]
        bias = self.head.bias.detach().double().cpu().numpy()
        return {"mean": np.zeros_like(weight), "scale": np.ones_like(weight), "weight": weight, "bias": bias}


def new_head(model: Any) -> torch.nn.Linear:
    """A linear map from the last hidden state to one figure, 0 at the start, on the model's device."""
    head = torch.nn.Linear(model.config.get_text_config().hidden_size, 1)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    return head.to(next(model.parameters()).device)


def item_losses(scores: Tensor, items: Sequence[Item]) -> Tensor:
    """The loss of every term of ``items``, (terms,), from the scores of all their places, flat: binary cross-entropy
    with the labels, or -log sigmoid(chosen - rejected) of a pair (Bradley-Terry). The latter leaves the level of a
    prompt's scores open, so `CENTRING` x (chosen + rejected)^2 holds it at 0 (arXiv 2312.09244, section 2): scores of
    different prompts can be compared."""
    if not items[0].labels:
        chosen, rejected = scores[0::2], scores[1::2]
        return preference_loss(chosen, rejected) + CENTRING * (chosen + rejected).square()
    labels = torch.tensor(
        [y for item in items for y in item.labels], dtype=scores.dtype, device=scores.device
    )
    return torch.nn.functional.binary_cross_entropy_with_logits(scores, labels, reduction="none")


def tune(
    scorer: Scorer, items: Sequence[Item], tuning: FineTuning, shape: ModelShape, progress: Progress
) -> tuple[int, float]:
    """Train backbone and head together. Each optimizer step's loss is the mean over its terms, however it is cut into
    forwards. Returns (tokens, FLOPs) spent."""
    model = scorer.model
    optimizers = make_optimizers(model, tuning.optimizer, tuning.lr, 0.0)
    rates = [tuning.lr] * len(optimizers) + [tuning.lr * 10]
    optimizers.append(torch.optim.AdamW(scorer.head.parameters(), lr=rates[-1], weight_decay=0.0))
    steps = max(1, len(items) // tuning.batch) * tuning.epochs
    order = [i for epoch in range(tuning.epochs) for i in shuffled(len(items), tuning.seed, epoch)]
    tokens, flops = 0, 0.0
    model.train()
    for step in range(steps):
        batch = [items[i] for i in order[step * tuning.batch : (step + 1) * tuning.batch]]
        now = min(1.0, (step + 1) / 10) * (1 - step / steps)
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = rate * now
        terms = sum(item.terms for item in batch)
        for part in item_batches(batch):
            rows = [row for item in part for row in item.rows]
            scores = scorer(rows, [at for item in part for at in item.places])
            (item_losses(scores, part).sum() / terms).backward()
            tokens += sum(map(len, rows))
            flops += shape.training_flops([len(row) for row in rows])
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        progress.update(done=step + 1, total=steps, note="fine-tune")
    model.eval()
    return tokens, flops


def item_batches(items: Sequence[Item]) -> list[list[Item]]:
    """``items`` cut into forwards of at most `MICRO_TOKENS` padded tokens (or one item)."""
    sizes = [range(len(item.rows) * max(map(len, item.rows))) for item in items]
    return [[items[i] for i in part] for part in micro_batches(sizes, MICRO_TOKENS)]


def shuffled(n: int, seed: int, epoch: int) -> list[int]:
    order = list(range(n))
    random.Random(digest("fit order", seed, epoch, length=32)).shuffle(order)
    return order
