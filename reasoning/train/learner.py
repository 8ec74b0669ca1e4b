"""The learner: rows of tokens in, one optimizer step out. Knows nothing of problems, pools or verifiers.

A `Row` is one chain with its advantage. A step is cut into micro-batches of bounded size, but every
denominator is that of the whole step, so the gradient does not depend on the cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reasoning.errors import ReasoningError, UserError, unknown
from reasoning.train.losses import token_loss, token_weights
from reasoning.train.objective import Objective

OPTIMIZERS = ("adamw", "muon")


@dataclass(frozen=True, slots=True)
class Row:
    """One chain to learn from: ids as they were sampled, log-probabilities as the sampler returned them
    (empty for demonstrations), and its advantage."""

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    advantage: float
    old_logprobs: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.ids)


@dataclass(frozen=True, slots=True)
class StepResult:
    """Figures of one optimizer step, by their metric names; ``lengths`` are the rows' token counts that went
    through forward and backward (for FLOPs)."""

    metrics: dict[str, float]
    lengths: tuple[int, ...]


def make_optimizers(model: torch.nn.Module, name: str, lr: float, weight_decay: float) -> list[Any]:
    """ "adamw", or "muon": Muon (arXiv 2502.16982) on the matrices inside the layers with AdamW on the rest
    (embeddings, norms, head). Muon is scaled to match AdamW's update size, so one lr serves both."""
    parameters = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    matrices = [p for n, p in parameters if p.ndim == 2 and ".layers." in f".{n}"]
    chosen = {id(p) for p in matrices}
    rest = [p for _, p in parameters if id(p) not in chosen]
    adamw = {"lr": lr, "betas": (0.9, 0.95), "weight_decay": weight_decay}
    if name == "adamw":
        return [torch.optim.AdamW([p for _, p in parameters], **adamw)]
    if name == "muon":
        if not matrices:
            raise UserError("optimizer muon found no matrices in this model's layers: use --optimizer adamw.")
        muon = torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        return [muon, torch.optim.AdamW(rest, **adamw)]
    raise unknown("optimizer", name, OPTIMIZERS)


def logprobs_of(
    model: Any, rows: Sequence[Row], temperature: float = 1.0, entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities of every completion token, flat: (N,), and the entropy of each distribution (N,).

    Rows are right-padded; with causal attention real tokens never see the padding, so no mask is needed. Only
    the completion's positions go through the output head.
    """
    device = next(model.parameters()).device
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)  # (B, T)
    take: list[Tensor] = []
    targets: list[int] = []
    for b, row in enumerate(rows):
        ids[b, : len(row)] = torch.tensor(row.prompt_ids + row.ids)
        start = len(row.prompt_ids) - 1  # the token at position p is predicted at p - 1
        take.append(torch.arange(b * width + start, b * width + start + len(row.ids)))
        targets.extend(row.ids)
    hidden = model.get_decoder()(input_ids=ids.to(device), use_cache=False).last_hidden_state  # (B, T, H)
    hidden = hidden.flatten(0, 1)[torch.cat(take).to(device)]  # (N, H)
    logits = model.get_output_embeddings()(hidden).float()  # (N, V)
    if temperature != 1.0:
        logits = logits / temperature
    logprobs = torch.log_softmax(logits, -1)
    picked = logprobs.gather(-1, torch.tensor(targets, device=device)[:, None])[:, 0]
    spread = -(logprobs.detach().exp() * logprobs.detach()).sum(-1) if entropy else None
    return picked, spread


def micro_batches(rows: Sequence[Row], tokens: int) -> Iterator[list[int]]:
    """Indices of ``rows`` in batches of similar length, of at most ``tokens`` padded tokens (or one row)."""
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i]), i))
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * len(rows[i]) > tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


class Learner:
    """A model, its optimizers and an objective. The model is kept in evaluation mode: dropout would make the
    trained distribution another than the one that was sampled from, and a step depend on a random state.

    micro_tokens: padded tokens per forward. reference: the frozen starting model, where the objective has a
        KL term.
    max_mismatch: largest mean |trainer - sampler| log-probability that is believed, per token; training on
        chains that another distribution sampled is refused past it.
    """

    def __init__(
        self,
        model: Any,
        objective: Objective,
        *,
        lr: float,
        optimizer: str = "adamw",
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
        temperature: float = 1.0,
        max_new_tokens: int = 256,
        micro_tokens: int = 8192,
        max_mismatch: float = 0.1,
        reference: Any | None = None,
    ):
        self.model = model.eval()
        self.objective = objective
        self.lr = lr
        self.optimizers = make_optimizers(model, optimizer, lr, weight_decay)
        self.max_grad_norm = max_grad_norm
        self.temperature = temperature
        self.max_new_tokens = max_new_tokens
        self.micro_tokens = micro_tokens
        self.max_mismatch = max_mismatch
        self.reference = reference

    def gradients(self, rows: Sequence[Row]) -> StepResult:
        """Accumulate the gradient of the whole step into the parameters.

        Rows with advantage 0 count in the denominators and, without a KL, cost nothing.
        """
        objective = self.objective
        lengths = np.array([len(row.ids) for row in rows], dtype=np.int64)
        weights = token_weights(lengths, objective.reduce, self.max_new_tokens)
        live = [
            i for i, row in enumerate(rows) if len(row.ids) and (row.advantage != 0 or objective.kl != "none")
        ]
        sums: dict[str, float] = dict.fromkeys(("loss", "entropy", "low", "high", "kl", "gap"), 0.0)
        widest = 0.0
        tokens = 0
        picked = [rows[i] for i in live]
        for batch in micro_batches(picked, self.micro_tokens):
            part = [picked[i] for i in batch]
            logprobs, entropy = logprobs_of(self.model, part, self.temperature, entropy=True)
            device = logprobs.device
            counts = torch.tensor([len(row.ids) for row in part])
            chain = torch.repeat_interleave(torch.arange(len(part)), counts).to(device)
            spread = torch.tensor([weights[live[i]] for i in batch], dtype=torch.float32, device=device)[
                chain
            ]
            advantages = torch.tensor([row.advantage for row in part], dtype=torch.float32, device=device)[
                chain
            ]
            if part[0].old_logprobs:
                old = torch.tensor([p for row in part for p in row.old_logprobs], device=device)
            else:
                old = logprobs.detach()
            reference = None
            if self.reference is not None and objective.kl != "none":
                with torch.no_grad():
                    reference, _ = logprobs_of(self.reference, part, self.temperature)
            result = token_loss(objective, logprobs, old, advantages, chain, reference)
            loss = (spread * result.loss).sum()
            loss.backward()
            gap = (logprobs.detach() - old).abs()
            sums["loss"] += float(loss.detach())
            sums["entropy"] += float(entropy.sum()) if entropy is not None else 0.0
            sums["low"] += float(result.clipped_low.sum())
            sums["high"] += float(result.clipped_high.sum())
            sums["kl"] += float(result.kl.sum())
            sums["gap"] += float(gap.sum())
            widest = max(widest, float(gap.max()))
            tokens += len(logprobs)
        each = {k: v / max(tokens, 1) for k, v in sums.items()}
        metrics = {"loss": sums["loss"], "entropy": each["entropy"], "active_tokens": float(tokens)}
        if objective.surrogate == "clip":
            metrics |= {"clip_ratio/low": each["low"], "clip_ratio/high": each["high"]}
        if objective.kl != "none":
            metrics["kl"] = each["kl"]
        if rows and rows[0].old_logprobs:
            metrics |= {
                "sampling_logp_difference/mean": each["gap"],
                "sampling_logp_difference/max": widest,
            }
        return StepResult(metrics, tuple(len(row) for row in picked))

    def step(self, rows: Sequence[Row], lr: float | None = None, fresh: bool = False) -> StepResult:
        """One optimizer step over ``rows``. lr overrides the base rate (schedules).

        fresh: the rows were sampled by the present weights, so a difference between the sampler's and the
        learner's log-probabilities is an error of the machinery and is checked against ``max_mismatch``.
        Raises ReasoningError when it is exceeded or when the gradient is not finite.
        """
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = self.lr if lr is None else lr
        result = self.gradients(rows)
        gap = result.metrics.get("sampling_logp_difference/mean", 0.0)
        if fresh and gap > self.max_mismatch:
            raise ReasoningError(
                f"The sampler's and the trainer's log-probabilities differ by {gap:.3g} per token on average "
                f"(limit {self.max_mismatch}): the chains were not sampled by the weights being trained."
            )
        if not result.lengths:
            return StepResult(result.metrics | {"grad_norm": 0.0, "lr": 0.0}, ())
        if not math.isfinite(result.metrics["loss"]):
            raise ReasoningError(
                "The loss is not finite: look at the clip and KL settings and at the last chains."
            )
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm))
        if not math.isfinite(norm):
            raise ReasoningError(
                "The gradient is not finite: lower --lr, or look at the last chains of the run."
            )
        for optimizer in self.optimizers:
            optimizer.step()
        if not all(bool(torch.isfinite(p).all()) for p in parameters):
            raise ReasoningError("The weights are no longer finite after this step: lower --lr.")
        metrics = result.metrics | {"grad_norm": norm, "lr": self.lr if lr is None else lr}
        return StepResult(metrics, result.lengths)
