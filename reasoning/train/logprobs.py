"""Log-probabilities of sampled tokens under a model, with gradient: the forward of every training objective.

Only what is learned from is computed: the completion's positions alone go through the output head, a large
vocabulary in chunks so that the full logits never exist, and the prompt of a group once where that pays.
Knows nothing of objectives or optimizers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from reasoning.train.rows import Row

CHUNK_LOGITS = 2**23
"""Logits that exist at once (32 MiB in float32); a forward with fewer keeps them for the backward pass."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Of every completion token of the rows, flat, row after row, each (N,) in float32: log-probability, entropy of
    the next-token distribution (or None), and the value head's figure for the state it was chosen in (or None)."""

    logprobs: Tensor
    entropy: Tensor | None = None
    values: Tensor | None = None


def score_rows(
    model: Any,
    rows: Sequence[Row],
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    shared: bool = False,
    value_head: Any | None = None,
    logprobs: bool = True,
) -> Scored:
    """`Scored` of ``rows`` under ``model``, as the sampler saw them: logits divided by ``temperature``.

    entropy: also that, with gradient. shared: the rows have one prompt, which is computed once; its keys and
    values serve all of them, gradients included. logprobs False computes values alone.
    """
    hidden, targets = (_hidden_shared if shared else _hidden_padded)(model, rows)  # (N, H), (N,)
    values = value_head(hidden)[:, 0].float() if value_head is not None else None
    if not logprobs:
        return Scored(hidden.new_zeros(len(targets)), None, values)
    head = model.get_output_embeddings()
    picked, spread = head_logprobs(hidden, head, targets, 1.0 / temperature, softcap(model), entropy)
    return Scored(picked, spread, values)


def logprobs_of(
    model: Any, rows: Sequence[Row], temperature: float = 1.0, entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities (N,) of every completion token, flat, and the entropies (N,) when asked."""
    scored = score_rows(model, rows, temperature=temperature, entropy=entropy)
    return scored.logprobs, scored.entropy


def can_share(model: Any) -> bool:
    """Whether `score_rows` may compute a prompt once for this model: every layer keeps plain keys and values of all
    positions (no sliding window, no recurrent state) and nothing is recomputed in the backward pass."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        return False
    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers}
    return kinds == {DynamicLayer}


def softcap(model: Any) -> tuple[float, float]:
    """(scale, cap) that the model puts on its logits after the head: Cohere and Granite scale them, Gemma 2 holds
    them in by a tanh. (1, 0) for most."""
    config = model.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0)
    scale /= float(getattr(config, "logits_scaling", None) or 1.0)
    return scale, float(getattr(config, "final_logit_softcapping", None) or 0.0)


def _hidden_padded(model: Any, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Hidden states (N, H) that predict the completion tokens, and those tokens (N,).

    Rows are right-padded; with causal attention real tokens never see the padding, so no mask is needed.
    """
    device = next(model.parameters()).device
    width = max(len(row) for row in rows) - 1  # nothing is predicted from the last token
    ids = torch.zeros(len(rows), width, dtype=torch.long)  # (B, T)
    take: list[Tensor] = []
    targets: list[int] = []
    for b, row in enumerate(rows):
        ids[b, : len(row) - 1] = torch.tensor((row.prompt_ids + row.ids)[:-1], dtype=torch.long)
        start = b * width + len(row.prompt_ids) - 1  # the token at position p is predicted at p - 1
        take.append(torch.arange(start, start + len(row.ids)))
        targets.extend(row.ids)
    hidden = model.get_decoder()(input_ids=ids.to(device), use_cache=False).last_hidden_state  # (B, T, H)
    return hidden.flatten(0, 1)[torch.cat(take).to(device)], torch.tensor(targets, device=device)


def _hidden_shared(model: Any, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """As `_hidden_padded` for rows that all have the prompt of the first."""
    from transformers.cache_utils import DynamicCache

    device = next(model.parameters()).device
    decoder = model.get_decoder()
    prompt = torch.tensor([rows[0].prompt_ids], device=device)  # (1, P)
    cache = DynamicCache(config=model.config)
    first = decoder(input_ids=prompt, past_key_values=cache, use_cache=True).last_hidden_state[
        :, -1
    ]  # (1, H)
    width = max(len(row.ids) for row in rows) - 1
    states = first[:, None].expand(len(rows), 1, -1)  # (B, 1, H) predicts each first token
    if width:
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        for b, row in enumerate(rows):
            ids[b, : len(row.ids) - 1] = torch.tensor(row.ids[:-1], dtype=torch.long)
        # Not batch_repeat_interleave, which copies: every row reads the one prompt's keys and values.
        layers: list[Any] = cache.layers
        for layer in layers:
            layer.keys = layer.keys.expand(len(rows), -1, -1, -1)
            layer.values = layer.values.expand(len(rows), -1, -1, -1)
        positions = torch.arange(prompt.shape[1], prompt.shape[1] + width, device=device)[None]
        later = decoder(
            input_ids=ids.to(device), position_ids=positions, past_key_values=cache, use_cache=True
        ).last_hidden_state  # (B, W, H)
        states = torch.cat([states, later], 1)
    lengths = torch.tensor([len(row.ids) for row in rows])
    kept = torch.arange(width + 1)[None] < lengths[:, None]  # (B, W + 1)
    targets = torch.tensor([token for row in rows for token in row.ids], device=device)
    return states[kept.to(device)], targets


def head_logprobs(
    hidden: Tensor,
    head: Any,
    targets: Tensor,
    scale: float,
    cap: tuple[float, float] = (1.0, 0.0),
    entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities (N,) of ``targets`` (N,) from ``hidden`` (N, H) and the output head, and entropies (N,).

    scale: 1 / temperature. cap: (scale, tanh bound) of the model's own. Where the logits would be more than
    `CHUNK_LOGITS`, they are made a chunk of positions at a time and made again in the backward pass.
    """
    before, bound = cap
    plain = type(head) is torch.nn.Linear and not bound
    rows = max(1, CHUNK_LOGITS // head.weight.shape[0])
    if len(hidden) <= rows:
        return _from_logits(head(hidden), targets, before, bound, scale, entropy)
    if plain:
        picked, spread = _ChunkedHead.apply(  # type: ignore[misc]
            hidden, head.weight, head.bias, targets, before * scale, rows, entropy
        )
        return picked, spread if entropy else None

    def part(states: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        return _from_logits(head(states), tokens, before, bound, scale, entropy)

    parts = [
        checkpoint(part, h, t, use_reentrant=False)
        for h, t in zip(hidden.split(rows), targets.split(rows), strict=True)
    ]
    picked = torch.cat([p for p, _ in parts])
    return picked, torch.cat([s for _, s in parts]) if entropy else None


def _from_logits(
    logits: Tensor, targets: Tensor, before: float, bound: float, scale: float, entropy: bool
) -> tuple[Tensor, Tensor | None]:
    logits = logits.float()
    if before != 1.0:
        logits = logits * before
    if bound:
        logits = bound * torch.tanh(logits / bound)
    if scale != 1.0:
        logits = logits * scale
    logprobs = torch.log_softmax(logits, -1)
    picked = logprobs.gather(-1, targets[:, None])[:, 0]
    return picked, -(logprobs.exp() * logprobs).sum(-1) if entropy else None


class _ChunkedHead(torch.autograd.Function):
    """`head_logprobs` of a linear head, a chunk of positions at a time in both directions."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        scale: float,
        rows: int,
        entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        n = len(hidden)
        picked = torch.empty(n, dtype=torch.float32, device=hidden.device)
        spread, total = torch.empty_like(picked), torch.empty_like(picked)
        for start in range(0, n, rows):
            part = slice(start, min(start + rows, n))
            logits = _logits(hidden[part], weight, bias, scale)
            total[part] = torch.logsumexp(logits, -1)
            picked[part] = logits.gather(-1, targets[part, None])[:, 0] - total[part]
            if entropy:
                share = torch.exp(logits - total[part, None])
                spread[part] = total[part] - (share * logits).sum(-1)
        if not entropy:
            spread.zero_()
        ctx.save_for_backward(hidden, weight, bias, targets, total, spread)
        ctx.scale, ctx.rows, ctx.entropy = scale, rows, entropy
        return picked, spread

    @staticmethod
    def backward(ctx: Any, to_picked: Tensor, to_spread: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        hidden, weight, bias, targets, total, spread = ctx.saved_tensors
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        d_bias = (
            torch.zeros_like(bias, dtype=torch.float32)
            if bias is not None and ctx.needs_input_grad[2]
            else None
        )
        bonus = ctx.entropy and bool((to_spread != 0).any())
        for start in range(0, len(hidden), ctx.rows):
            part = slice(start, min(start + ctx.rows, len(hidden)))
            logits = _logits(hidden[part], weight, bias, ctx.scale)
            logprobs = logits.sub_(total[part, None])
            share = logprobs.exp()
            # d picked / d logits = onehot - p;  d entropy / d logits = -p (log p + entropy)
            if bonus:
                factor = to_picked[part, None] + to_spread[part, None] * (logprobs + spread[part, None])
                d_logits = share.mul_(factor).neg_()
            else:
                d_logits = share.mul_(-to_picked[part, None])
            d_logits.scatter_add_(-1, targets[part, None], to_picked[part, None])
            d_logits.mul_(ctx.scale)
            exact = d_logits.to(weight.dtype)
            d_hidden[part] = exact @ weight
            if d_weight is not None:
                d_weight += exact.T @ hidden[part]
            if d_bias is not None:
                d_bias += d_logits.sum(0)
        return (
            d_hidden,
            d_weight.to(weight.dtype) if d_weight is not None else None,
            d_bias.to(weight.dtype) if d_bias is not None else None,
            None,
            None,
            None,
            None,
        )


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    logits = torch.nn.functional.linear(hidden, weight, bias).float()
    return logits.mul_(scale) if scale != 1.0 else logits
