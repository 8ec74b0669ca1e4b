"""The learner: rows of tokens in, one optimizer step out. Knows nothing of problems, pools or verifiers.

A step is cut into forwards of bounded size, but every denominator is that of the whole step, so the gradient does
not depend on the cut.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reasoning.errors import ReasoningError
from reasoning.train.logprobs import can_share, score_rows
from reasoning.train.losses import token_loss, token_weights, value_loss
from reasoning.train.objective import Objective
from reasoning.train.optimizers import make_optimizers
from reasoning.train.pairs import PairSums, pair_forwards
from reasoning.train.rows import Forward, Row, forwards

MICRO_TOKENS = {True: 16384, False: 2048}
"""Padded tokens per forward on a GPU, and on a CPU, where what fits its caches is fastest."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """Figures of one optimizer step, by their metric names; ``lengths`` are the rows' token counts that went
    through forward and backward (for FLOPs)."""

    metrics: dict[str, float]
    lengths: tuple[int, ...]


class Learner:
    """A model, its optimizers and an objective. The model is kept in evaluation mode: dropout would make the
    trained distribution another than the one that was sampled from, and a step depend on a random state.

    micro_tokens: padded tokens per forward; 0 is what suits the device. share_prompts: the prompt of a group is
        computed once where the model allows it and it pays.
    reference: the frozen starting model, where the objective reads one (``needs_reference``).
    value_head: hidden state -> value, where the objective has a critic; trained beside the model.
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
        micro_tokens: int = 0,
        max_mismatch: float = 0.1,
        share_prompts: bool = True,
        reference: Any | None = None,
        value_head: Any | None = None,
    ):
        self.model = model.eval()
        self.objective = objective
        self.lr = lr
        self.optimizers = make_optimizers(model, optimizer, lr, weight_decay)
        self.value_head = value_head
        if value_head is not None:
            self.optimizers.append(torch.optim.AdamW(value_head.parameters(), lr=lr, weight_decay=0.0))
        self.max_grad_norm = max_grad_norm
        self.temperature = temperature
        self.max_new_tokens = max_new_tokens
        self.micro_tokens = micro_tokens or MICRO_TOKENS[next(model.parameters()).is_cuda]
        self.max_mismatch = max_mismatch
        self.share = share_prompts and can_share(model)
        self.reference = reference

    def gradients(self, rows: Sequence[Row]) -> StepResult:
        """Accumulate the gradient of the whole step into the parameters.

        Rows that teach nothing (advantage 0) count in the denominators and, without a KL or an entropy bonus, cost
        nothing.
        """
        objective = self.objective
        lengths = np.array([len(row.ids) for row in rows], dtype=np.int64)
        weights = token_weights(lengths, objective.reduce, self.max_new_tokens)
        every = objective.kl_in_loss or objective.entropy_weight > 0
        live = [i for i, row in enumerate(rows) if len(row.ids) and (row.teaches or every)]
        picked = [rows[i] for i in live]
        sums = _Sums()
        for forward in self._cut(picked):
            part = [picked[i] for i in forward.rows]
            loss = self._loss(part, weights[[live[i] for i in forward.rows]], forward.shared, sums)
            loss.backward()
        return StepResult(
            sums.metrics(objective, any(row.old_logprobs for row in rows)), tuple(map(len, picked))
        )

    def _cut(self, rows: Sequence[Row]) -> list[Forward]:
        if self.objective.together > 1:
            return pair_forwards(rows, self.micro_tokens)
        return forwards(rows, self.micro_tokens, self.share)

    def _loss(self, rows: list[Row], weights: np.ndarray, shared: bool, sums: _Sums) -> Tensor:
        """The share of ``rows`` in the loss of the step. weights: (B,) of each row's tokens."""
        objective = self.objective
        scored = score_rows(
            self.model,
            rows,
            temperature=self.temperature,
            entropy=True,
            shared=shared,
            value_head=self.value_head,
        )
        logprobs = scored.logprobs
        device = logprobs.device
        counts = torch.tensor([len(row.ids) for row in rows])
        chain = torch.repeat_interleave(torch.arange(len(rows)), counts).to(device)  # (N,)
        weight = torch.tensor(weights, dtype=torch.float32, device=device)[chain]
        old = _flat(rows, "old_logprobs", device)
        old = torch.where(old.isnan(), logprobs.detach(), old)  # demonstrations have none
        sampler = _flat(rows, "sampler_logprobs", device) if rows[0].sampler_logprobs else None
        reference = None
        if self.reference is not None and (objective.kl_in_loss or objective.together > 1):
            with torch.no_grad():
                reference = score_rows(
                    self.reference, rows, temperature=self.temperature, shared=shared
                ).logprobs
        if objective.together > 1:
            assert reference is not None, "an objective over pairs needs the reference"
            loss = sums.pairs.loss(objective, rows, weight, logprobs, reference, chain)
            sums.add_pairs(loss, scored.entropy, len(logprobs))
            return loss
        result = token_loss(
            objective,
            logprobs,
            old,
            _token_advantages(rows, device),
            chain,
            reference,
            sampler_logprobs=sampler,
            entropy=scored.entropy,
        )
        loss = (weight * result.loss).sum()
        values = None
        if scored.values is not None and rows[0].returns:
            before, target = _flat(rows, "old_values", device), _flat(rows, "returns", device)
            values = value_loss(scored.values, before, target, objective.value_clip)
            loss = loss + objective.value_weight * (weight * values).sum()
        sums.add(
            loss, scored.entropy, result, logprobs.detach() - (old if sampler is None else sampler), values
        )
        return loss

    @torch.no_grad()
    def preference_figures(self, rows: Sequence[Row]) -> dict[str, float]:
        """Loss, accuracy, margin and rewards of pairs (rows 2p and 2p + 1) under the present weights."""
        sums = _Sums()
        lengths = np.array([len(row.ids) for row in rows], dtype=np.int64)
        weights = token_weights(lengths, self.objective.reduce, self.max_new_tokens)
        for forward in self._cut(rows):
            self._loss([rows[i] for i in forward.rows], weights[list(forward.rows)], False, sums)
        return sums.metrics(self.objective, False)

    @torch.no_grad()
    def rescore(self, rows: Sequence[Row], reference: bool = False) -> list[tuple[Tensor, Tensor | None]]:
        """(log-probabilities (T,), values (T,) or None) of each row under the present weights, or those of the
        reference: what the step begins with."""
        out: list[Any] = [None] * len(rows)
        model = self.reference if reference else self.model
        for forward in forwards(rows, self.micro_tokens, self.share):
            part = [rows[i] for i in forward.rows]
            scored = score_rows(
                model,
                part,
                temperature=self.temperature,
                shared=forward.shared,
                value_head=None if reference else self.value_head,
            )
            counts = [len(row.ids) for row in part]
            values = scored.values.cpu().split(counts) if scored.values is not None else [None] * len(part)
            for i, logprobs, value in zip(
                forward.rows, scored.logprobs.cpu().split(counts), values, strict=True
            ):
                out[i] = (logprobs, value)
        return out

    def with_own_logprobs(self, rows: Sequence[Row]) -> list[Row]:
        """``rows`` with the trainer's own log-probabilities as the old ones and the sampler's beside them."""
        scored = self.rescore(rows)
        return [
            dataclasses.replace(row, old_logprobs=tuple(own.tolist()), sampler_logprobs=row.old_logprobs)
            for row, (own, _) in zip(rows, scored, strict=True)
        ]

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
        parameters = [p for p in self.parameters() if p.grad is not None]
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

    @torch.no_grad()
    def restart(self, weights: dict[str, Tensor]) -> None:
        """Go back to ``weights`` (by parameter name) and forget what the optimizers remember."""
        for name, parameter in self.model.named_parameters():
            parameter.copy_(weights[name])
        for optimizer in self.optimizers:
            optimizer.state.clear()

    def parameters(self) -> list[Tensor]:
        """What is trained: the model's parameters and the value head's."""
        heads = list(self.value_head.parameters()) if self.value_head is not None else []
        return [p for p in self.model.parameters() if p.requires_grad] + heads


class _Sums:
    """Diagnostics added up over the forwards of a step."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.widest = 0.0
        self.tokens = 0
        self.pairs = PairSums()

    def add_pairs(self, loss: Tensor, entropy: Tensor | None, tokens: int) -> None:
        spread = entropy.detach().sum() if entropy is not None else 0.0
        for name, value in (("loss", loss.detach()), ("entropy", spread)):
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
        self.tokens += tokens

    def add(
        self, loss: Tensor, entropy: Tensor | None, result: Any, gap: Tensor, values: Tensor | None
    ) -> None:
        figures = {
            "loss": loss.detach(),
            "entropy": entropy.detach().sum() if entropy is not None else 0.0,
            "low": result.clipped_low.sum(),
            "high": result.clipped_high.sum(),
            "kl": result.kl.sum(),
            "ratio": result.ratio.sum(),
            "ratio2": result.ratio.square().sum(),
            "weight": result.mismatch.sum(),
            "weight2": result.mismatch.square().sum(),
            "gap": gap.abs().sum(),
            "value": values.detach().sum() if values is not None else 0.0,
        }
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
        self.widest = max(self.widest, float(gap.abs().max()))
        self.tokens += len(gap)

    def metrics(self, objective: Objective, sampled: bool) -> dict[str, float]:
        n = max(self.tokens, 1)
        of = {name: self.sums.get(name, 0.0) for name in _FIGURES}
        found = {"loss": of["loss"], "entropy": of["entropy"] / n, "active_tokens": float(self.tokens)}
        if objective.together > 1:
            return found | self.pairs.metrics()
        if objective.surrogate == "clip":
            found["clip_ratio/low"] = of["low"] / n
        if objective.surrogate != "logp":
            found["clip_ratio/high"] = of["high"] / n
            found["importance_sampling_ratio"] = of["ratio"] / n
        if objective.kl_in_loss:
            found["kl"] = of["kl"] / n
        if objective.critic:
            found["value_loss"] = of["value"] / n
        if sampled:
            found["sampling_logp_difference/mean"] = of["gap"] / n
            found["sampling_logp_difference/max"] = self.widest
            first, second = ("weight", "weight2") if objective.corrects else ("ratio", "ratio2")
            # Kish: (sum w)^2 / sum w^2, as a share of the tokens.
            found["effective_sample_size"] = of[first] ** 2 / (n * of[second]) if of[second] else 0.0
        return found


_FIGURES = ("loss", "entropy", "low", "high", "kl", "ratio", "ratio2", "weight", "weight2", "gap", "value")


def _flat(rows: Sequence[Row], name: str, device: Any) -> Tensor:
    """One figure a token of all ``rows``, (N,); NaN for a row that has none."""
    figures = [x for row in rows for x in getattr(row, name) or (math.nan,) * len(row.ids)]
    return torch.tensor(figures, dtype=torch.float32, device=device)


def _token_advantages(rows: Sequence[Row], device: Any) -> Tensor:
    return torch.tensor(
        [a for row in rows for a in row.token_advantages or (row.advantage,) * len(row.ids)],
        dtype=torch.float32,
        device=device,
    )
