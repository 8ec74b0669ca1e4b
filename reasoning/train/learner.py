"""The learner: rows of tokens in, one optimizer step out. Knows nothing of problems, pools or verifiers.

A step is cut into forwards of bounded size, but every denominator is that of the whole step, so the gradient does
not depend on the cut.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reasoning.engines.memory import GIB, out_of_memory
from reasoning.errors import ReasoningError
from reasoning.train.distributed import local, whole
from reasoning.train.logprobs import Scored
from reasoning.train.losses import token_loss, token_weights, value_loss
from reasoning.train.objective import Objective
from reasoning.train.optimizers import Masters, make_optimizers
from reasoning.train.pairs import PairSums, pair_forwards
from reasoning.train.policy import Policy
from reasoning.train.rows import Forward, Row, bundles, computed_tokens, forwards, shares

MICRO_TOKENS = {True: 8192, False: 2048}
"""Tokens per forward on a GPU, which so many keep busy, and on a CPU, where what fits its caches is fastest."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """Figures of one optimizer step, by their metric names; ``lengths`` are the rows' token counts that went
    through forward and backward (for FLOPs), ``positions`` how many were computed for them: a shared prompt once."""

    metrics: dict[str, float]
    lengths: tuple[int, ...]
    positions: int = 0


NOTHING = {True: Row((0,), (0, 0)), False: Row((0,), (0,))}
"""What a rank computes to keep the others company, by whether the prompt is shared."""


class Learner:
    """A policy, its optimizers and an objective.

    policy: or a plain model, trained whole in its own precision in one process.
    micro_tokens: padded tokens per forward; 0 is what suits the device. share_prompts: the prompt of a group is
        computed once where the model allows it and it pays.
    reference, value_head: of a plain model, as in `Policy`.
    max_mismatch: largest mean |trainer - sampler| log-probability that is believed, per token; training on
        chains that another distribution sampled is refused past it.
    """

    def __init__(
        self,
        policy: Any,
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
        if not isinstance(policy, Policy):
            policy = Policy(policy, reference=reference, value_head=value_head)
        self.policy = policy
        self.model = policy.model
        self.objective = objective
        self.lr = lr
        self.masters = Masters(p for p in policy.model.parameters() if p.requires_grad)
        self.optimizers = make_optimizers(policy.model, optimizer, lr, weight_decay, self.masters)
        if policy.value_head is not None:
            head = list(policy.value_head.parameters())
            self.optimizers.append(torch.optim.AdamW(head, lr=lr, weight_decay=0.0, fused=True))
        self.device = policy.device
        self.max_grad_norm = max_grad_norm
        self.temperature = temperature
        self.max_new_tokens = max_new_tokens
        self.micro_tokens = micro_tokens or MICRO_TOKENS[self.device.type == "cuda"]
        self.max_mismatch = max_mismatch
        self.share = share_prompts and (policy.can_share or policy.straight is not None)

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
        for forward in self.plan(picked):
            part = [picked[i] for i in forward.rows]
            with self._memory(part, "the forward and backward pass of {} chains"):
                if part:
                    share = weights[[live[i] for i in forward.rows]]
                    self._loss(part, share, forward.shared, sums).backward()
                    sums.add_shape(*computed_tokens(picked, forward, self.policy.packed))
                else:
                    self._keep_company(forward.shared)
        sums.settle()
        total = _Sums()
        for part in self.policy.ranks.gathered(sums):
            total.absorb(part)
        if not self.policy.sharded:
            with self._room_to_step():
                self.policy.ranks.sum_gradients(self.trained().values())
        metrics = total.metrics(objective, any(row.old_logprobs for row in rows))
        return StepResult(metrics, tuple(map(len, picked)), total.positions - total.padding)

    def plan(self, rows: Sequence[Row]) -> list[Forward]:
        """This rank's forwards of ``rows``. A sharded layer is put together by all ranks at once, so all must go
        through the model equally often: forwards without rows make up what a rank has less of a kind."""
        ranks = self.policy.ranks
        plans: list[list[Forward]] = []
        for part in shares(rows, ranks.size, self.objective.together):
            cut = self._cut([rows[i] for i in part])
            plans.append([Forward(tuple(part[i] for i in f.rows), f.shared) for f in cut])
        if not self.policy.sharded:
            return plans[ranks.rank]
        plan: list[Forward] = []
        for shared in (True, False):
            most = max(sum(f.shared is shared for f in p) for p in plans)
            mine = [f for f in plans[ranks.rank] if f.shared is shared]
            plan += mine + [Forward((), shared)] * (most - len(mine))
        return plan

    def _keep_company(self, shared: bool) -> None:
        """A forward and backward of nothing, for the other ranks' sake."""
        rows = [NOTHING[shared]]
        if self._compares:
            self.policy.score_reference(rows, 1.0, shared)
        scored = self.policy.score(rows, 1.0, True, shared)
        every = (
            scored.logprobs.sum() if scored.values is None else scored.logprobs.sum() + scored.values.sum()
        )
        (0 * every).backward()

    @property
    def _compares(self) -> bool:
        """Whether the loss reads the reference."""
        return self.objective.kl_in_loss or self.objective.together > 1

    def _room_to_step(self) -> contextlib.AbstractContextManager[None]:
        """As `_memory`, where gradients are summed up and clipped and the optimizer makes what it remembers."""

        def message() -> str:
            count = sum(local(p).numel() for p in self.trained().values())
            lower = [] if self.policy.adapter is not None else ["train an adapter (--lora-rank 16)"]
            if self.device.type == "cuda":
                lower.append("take --optimizer adamw_8bit")
            lower.append("cut the model among more processes (torchrun, --shard fsdp)")
            if self.policy.sampler is None:
                lower.append("lower gpu_memory_utilization of --engine vllm, or give it sleep_mode=true")
            return (
                f"Out of memory on {self.device} in the optimizer's step: gradients and what AdamW remembers of "
                f"{count:,} weights take {12 * count / GIB:.1f} GiB. To need less, {', or '.join(lower)}. The same "
                "command goes on from the last checkpoint."
            )

        return _explained(message)

    def _memory(self, rows: Sequence[Row], doing: str) -> contextlib.AbstractContextManager[None]:
        """Out of memory in one line that says what to lower. doing: what, with {} for the number of rows."""

        def message() -> str:
            longest = max((len(row) for row in rows), default=0)
            lower = [f"--micro-tokens (now {self.micro_tokens}; the longest chain here has {longest} tokens)"]
            if not self.policy.recompute:
                lower.append("add --gradient-checkpointing")
            if next(self.model.parameters()).dtype == torch.float32:
                lower.append("--dtype bfloat16")
            if self.policy.adapter is None:
                lower.append("train an adapter, --lora-rank 16")
            return (
                f"Out of memory on {self.device} in {doing.format(len(rows))}. Lower "
                f"{', or '.join(lower)}. The same command goes on from the last checkpoint."
            )

        return _explained(message)

    def _cut(self, rows: Sequence[Row]) -> list[Forward]:
        if self.policy.straight is not None:
            return bundles(rows, self.micro_tokens, self.share, self.objective.together)
        if self.objective.together > 1:
            return pair_forwards(rows, self.micro_tokens)
        return forwards(rows, self.micro_tokens, self.share, self.policy.packed)

    def _loss(self, rows: list[Row], weights: np.ndarray, shared: bool, sums: _Sums) -> Tensor:
        """The share of ``rows`` in the loss of the step. weights: (B,) of each row's tokens."""
        objective = self.objective
        reference = None
        if self._compares:  # before the policy's own forward, which it may share its modules with
            reference = self.policy.score_reference(rows, self.temperature, shared)
        scored = self.policy.score(rows, self.temperature, True, shared)
        logprobs = scored.logprobs
        device = logprobs.device
        counts = torch.tensor([len(row.ids) for row in rows])
        chain = torch.repeat_interleave(torch.arange(len(rows)), counts).to(device, non_blocking=True)  # (N,)
        weight = torch.tensor(weights, dtype=torch.float32).to(device, non_blocking=True)[chain]
        old = _flat(rows, "old_logprobs", device)
        old = torch.where(old.isnan(), logprobs.detach(), old)  # demonstrations have none
        sampler = _flat(rows, "sampler_logprobs", device) if rows[0].sampler_logprobs else None
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
            self._loss([rows[i] for i in forward.rows], weights[list(forward.rows)], forward.shared, sums)
        sums.settle()
        return sums.metrics(self.objective, False)

    @torch.no_grad()
    def rescore(self, rows: Sequence[Row], reference: bool = False) -> list[tuple[Tensor, Tensor | None]]:
        """(log-probabilities (T,), values (T,) or None) of each row under the present weights, or those of the
        reference: what the step begins with."""
        found: dict[int, Any] = {}
        for forward in self.plan(rows):
            part = [rows[i] for i in forward.rows] or [NOTHING[forward.shared]]
            with self._memory(part, "a forward pass of {} chains"):
                if reference:
                    logprobs = self.policy.score_reference(part, self.temperature, forward.shared)
                    scored = Scored(logprobs)
                else:
                    scored = self.policy.score(part, self.temperature, False, forward.shared)
            counts = [len(row.ids) for row in part]
            values = scored.values.cpu().split(counts) if scored.values is not None else [None] * len(part)
            if forward.rows:
                own = zip(scored.logprobs.cpu().split(counts), values, strict=True)
                found |= dict(zip(forward.rows, own, strict=True))
        every = {i: pair for part in self.policy.ranks.gathered(found) for i, pair in part.items()}
        return [every[i] for i in range(len(rows))]

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
        parameters = [p for p in self.trained().values() if p.grad is not None]
        with self._room_to_step():
            norm = float(whole(torch.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)))
        if not math.isfinite(norm):
            raise ReasoningError(
                "The gradient is not finite: lower --lr, or look at the last chains of the run."
            )
        with self._room_to_step():
            for optimizer in self.optimizers:
                optimizer.step()
            self.masters.deliver()
        size = float(torch.nn.utils.get_total_norm([local(p.detach()) for p in parameters]))
        if not all(self.policy.ranks.gathered(math.isfinite(size))):
            raise ReasoningError("The weights are no longer finite after this step: lower --lr.")
        for optimizer in self.optimizers:  # the next roll-outs can have the gradients' memory
            optimizer.zero_grad(set_to_none=True)
        metrics = result.metrics | {"grad_norm": norm, "lr": self.lr if lr is None else lr}
        return StepResult(metrics, result.lengths, result.positions)

    @torch.no_grad()
    def restart(self, weights: dict[str, Tensor]) -> None:
        """Go back to ``weights`` (by parameter name) and forget what the optimizers remember."""
        for name, parameter in self.trained().items():
            if name in weights:
                parameter.copy_(weights[name])
        self.masters.deliver()
        for optimizer in self.optimizers:
            optimizer.state.clear()

    def trained(self) -> dict[str, Tensor]:
        """What the optimizers move, by name: parameters, or their float32 copies."""
        return {name: self.masters.get(p) for name, p in self.policy.named_trained().items()}


class _Sums:
    """Diagnostics added up over the forwards of a step. They stay on the device until `settle`: a GPU that is asked
    for a figure after each forward waits for the next one."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.widest = 0.0
        self._waiting: list[tuple[tuple[str, ...], Tensor]] = []  # names, figures
        self._gaps: list[Tensor] = []
        self.tokens = 0
        self.positions = self.padding = 0
        self.pairs = PairSums()

    def add_pairs(self, loss: Tensor, entropy: Tensor | None, tokens: int) -> None:
        self._add({"loss": loss.detach(), "entropy": _sum(entropy, loss)})
        self.tokens += tokens

    def add(
        self, loss: Tensor, entropy: Tensor | None, result: Any, gap: Tensor, values: Tensor | None
    ) -> None:
        figures = {
            "loss": loss.detach(),
            "entropy": _sum(entropy, loss),
            "low": result.clipped_low.sum(),
            "high": result.clipped_high.sum(),
            "kl": result.kl.sum(),
            "ratio": result.ratio.sum(),
            "ratio2": result.ratio.square().sum(),
            "weight": result.mismatch.sum(),
            "weight2": result.mismatch.square().sum(),
            "gap": gap.abs().sum(),
            "value": _sum(values, loss),
        }
        self._add(figures)
        self._gaps.append(gap.abs().max())
        self.tokens += len(gap)

    def _add(self, figures: dict[str, Tensor]) -> None:
        self._waiting.append((tuple(figures), torch.stack([t.double() for t in figures.values()])))

    def settle(self) -> None:
        """Bring what was added from the device."""
        if self._gaps:
            self.widest = max(self.widest, float(torch.stack(self._gaps).max()))
        if self._waiting:
            table = torch.stack([figures for _, figures in self._waiting]).tolist()
            for (names, _), row in zip(self._waiting, table, strict=True):
                for name, value in zip(names, row, strict=True):
                    self.sums[name] = self.sums.get(name, 0.0) + value
        self._waiting, self._gaps = [], []

    def add_shape(self, positions: int, padding: int) -> None:
        """A forward computed so many positions, so many of them for nothing."""
        self.positions += positions
        self.padding += padding

    def absorb(self, other: _Sums) -> None:
        """Add another rank's."""
        for mine, theirs in ((self.sums, other.sums), (self.pairs.sums, other.pairs.sums)):
            for name, value in theirs.items():
                mine[name] = mine.get(name, 0.0) + value
        self.widest = max(self.widest, other.widest)
        self.tokens += other.tokens
        self.pairs.pairs += other.pairs.pairs
        self.add_shape(other.positions, other.padding)

    def metrics(self, objective: Objective, sampled: bool) -> dict[str, float]:
        if not self.tokens:  # nothing went through the model, so nothing was seen of it
            return {"loss": 0.0, "active_tokens": 0.0}
        n = self.tokens
        of = {name: self.sums.get(name, 0.0) for name in _FIGURES}
        found = {"loss": of["loss"], "entropy": of["entropy"] / n, "active_tokens": float(self.tokens)}
        found["padding_fraction"] = self.padding / max(self.positions, 1)
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


def _sum(figures: Tensor | None, like: Tensor) -> Tensor:
    return like.new_zeros(()) if figures is None else figures.detach().sum()


_FIGURES = ("loss", "entropy", "low", "high", "kl", "ratio", "ratio2", "weight", "weight2", "gap", "value")


def _flat(rows: Sequence[Row], name: str, device: Any) -> Tensor:
    """One figure a token of all ``rows``, (N,); NaN for a row that has none."""
    figures = [x for row in rows for x in getattr(row, name) or (math.nan,) * len(row.ids)]
    return torch.tensor(figures, dtype=torch.float32).to(device, non_blocking=True)


def _token_advantages(rows: Sequence[Row], device: Any) -> Tensor:
    return torch.tensor(
        [a for row in rows for a in row.token_advantages or (row.advantage,) * len(row.ids)],
        dtype=torch.float32,
    ).to(device, non_blocking=True)


@contextlib.contextmanager
def _explained(message: Callable[[], str]) -> Iterator[None]:
    """Raises ReasoningError with ``message()`` where the work inside runs out of memory; other errors go through."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not out_of_memory(error):
            raise
        raise ReasoningError(message()) from error
