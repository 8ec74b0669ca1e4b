"""Log-probabilities of sampled tokens under a model, with gradient: the forward of every training objective.

Only what is learned from is computed: the completion's positions alone go through the output head, a large
vocabulary in chunks so that the full logits never exist, and the prompt of a group once where that pays.
Knows nothing of objectives or optimizers.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.cache_utils import DynamicCache, DynamicLayer

from reasoning.engines.products import linear
from reasoning.errors import UserError
from reasoning.train.product import product, times
from reasoning.train.rows import Row
from reasoning.train.straight import Straight

CHUNK_LOGITS = 2**22
"""Logits that exist at once (16 MiB in float32); a forward with fewer keeps them for the backward pass."""
ON_GPU = 32
"""On a GPU so many times as many, where small products leave it idle."""


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
    packed: bool = False,
    value_head: Any | None = None,
    logprobs: bool = True,
    straight: Straight | None = None,
) -> Scored:
    """`Scored` of ``rows`` under ``model``, as the sampler saw them: logits divided by ``temperature``.

    entropy: also that, with gradient. shared: the rows have one prompt, which is computed once; its keys and
    values serve all of them, gradients included. packed: one behind another in a single row without padding, each
    seeing itself alone. logprobs False computes values alone. straight: computes the layers in the model's place;
    then ``shared`` rows may have several prompts, and nothing is padded.
    """
    if straight is not None:
        hidden, targets = straight.hidden(rows, shared)  # (N, H), (N,)
    else:
        states = _hidden_shared if shared else _hidden_packed if packed else _hidden_padded
        hidden, targets = states(model, rows)
    values = None
    if value_head is not None:
        values = value_head(hidden.to(value_head.weight.dtype))[:, 0].float()
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
    positions (no sliding window, no recurrent state)."""
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


def _hidden_packed(model: Any, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """As `_hidden_padded`, all rows in one of the batch: positions that begin again tell them apart."""
    device = next(model.parameters()).device
    ids: list[int] = []
    positions: list[int] = []
    take: list[int] = []
    for row in rows:
        start = len(ids) + len(row.prompt_ids) - 1
        ids.extend((row.prompt_ids + row.ids)[:-1])
        positions.extend(range(len(row) - 1))
        take.extend(range(start, start + len(row.ids)))
    tokens, places = torch.tensor([ids], device=device), torch.tensor([positions], device=device)
    hidden = model.get_decoder()(
        input_ids=tokens, position_ids=places, use_cache=False
    ).last_hidden_state  # (1, T, H)
    targets = torch.tensor([token for row in rows for token in row.ids], device=device)
    return hidden[0, torch.tensor(take, device=device)], targets


def _hidden_shared(model: Any, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """As `_hidden_padded` for rows that all have the prompt of the first."""
    device = next(model.parameters()).device
    decoder = model.get_decoder()
    prompt = torch.tensor([rows[0].prompt_ids], device=device)  # (1, P)
    read = _prompt_cache(model)
    first = decoder(input_ids=prompt, past_key_values=read, use_cache=True).last_hidden_state[:, -1]  # (1, H)
    # Never 0, so that every forward of this kind calls each layer as often, on all ranks.
    width = max(1, max(len(row.ids) for row in rows) - 1)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    for b, row in enumerate(rows):
        ids[b, : len(row.ids) - 1] = torch.tensor(row.ids[:-1], dtype=torch.long)
    positions = torch.arange(prompt.shape[1], prompt.shape[1] + width, device=device)[None]
    later = decoder(
        input_ids=ids.to(device),
        position_ids=positions,
        past_key_values=_behind(model, read, len(rows)),
        use_cache=True,
    ).last_hidden_state  # (B, W, H)
    states = torch.cat(
        [first[:, None].expand(len(rows), 1, -1), later], 1
    )  # the first predicts each first token
    lengths = torch.tensor([len(row.ids) for row in rows])
    kept = torch.arange(width + 1)[None] < lengths[:, None]  # (B, W + 1)
    targets = torch.tensor([token for row in rows for token in row.ids], device=device)
    return states[kept.to(device)], targets


class _Prompt(DynamicLayer):
    """Keeps the keys and values that it is given first. A forward that is computed again in the backward pass must
    find them as they were, so neither this nor `_Behind` ever grows."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
        return key_states, value_states


class _Behind(DynamicLayer):
    """Of ``rows`` rows that all stand behind one prompt, whose keys and values they read in place."""

    def __init__(self, prompt: Any, rows: int):
        super().__init__()
        self.lazy_initialization(prompt.keys, prompt.values)
        self.keys, self.values = (t.expand(rows, -1, -1, -1) for t in (prompt.keys, prompt.values))

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        keys: Any = self.keys
        values: Any = self.values
        return torch.cat([keys, key_states], -2), torch.cat([values, value_states], -2)


def _prompt_cache(model: Any) -> Any:
    cache: Any = DynamicCache(config=model.config)
    cache.layers = [_Prompt() for _ in cache.layers]
    return cache


def _behind(model: Any, prompt: Any, rows: int) -> Any:
    cache: Any = DynamicCache(config=model.config)
    cache.layers = [_Behind(layer, rows) for layer in prompt.layers]
    return cache


def recompute_activations(model: Any) -> None:
    """From now on keep only what goes into each layer; the rest is computed again in the backward pass.

    Not by the model's own switch: that one works in training mode alone, where dropout is on. Copy the model
    before, not after.
    """
    for layer in layers_of(model):
        layer.forward = _recomputed(layer.forward)


def _recomputed(forward: Any) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return run


def layers_of(model: Any) -> list[torch.nn.Module]:
    """The layers of a Hugging Face model that repeat, in order. Raises UserError where they are not known."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    found = [m for m in model.get_decoder().modules() if type(m).__name__ in names]
    if not found:
        raise UserError(
            f"{type(model).__name__} does not say which layers it repeats: leave out --gradient-checkpointing and "
            "--shard fsdp."
        )
    return found


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
    if torch.is_autocast_enabled(hidden.device.type):  # the chunked head multiplies in its backward pass too
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    plain = type(head) is torch.nn.Linear and not bound
    rows = max(1, CHUNK_LOGITS * (ON_GPU if hidden.is_cuda else 1) // head.weight.shape[0])
    if len(hidden) * head.weight.shape[0] <= CHUNK_LOGITS:
        logits = product(hidden, head.weight, head.bias) if plain else head(hidden)
        return _from_logits(logits, targets, before, bound, scale, entropy)
    if plain:
        bias = None if head.bias is None else head.bias.to(hidden.dtype)
        picked, spread = _ChunkedHead.apply(
            hidden, head.weight.to(hidden.dtype), bias, targets, before * scale, rows
        )  # type: ignore[misc]
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
    """`head_logprobs` of a linear head, a chunk of positions at a time in both directions.

    With p the probabilities, g and b the gradients of a log-probability and of an entropy, the gradient of a logit is
    g (onehot - p) - b p (log p + entropy). The onehot is kept out of the products: it is exact in any precision.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        scale: float,
        rows: int,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)  # no gradient of the entropies is None, not zeros
        parts = []
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            logits = linear(hidden[part], (weight, bias))
            parts.append(_statistics(logits, targets[part], scale))
        picked, total, spread = (torch.cat(t) for t in zip(*parts, strict=True))
        ctx.save_for_backward(hidden, weight, bias, targets, total, spread)
        ctx.scale, ctx.rows = scale, rows
        return picked, spread

    @staticmethod
    def backward(ctx: Any, to_picked: Tensor | None, to_spread: Tensor | None) -> tuple[Any, ...]:  # type: ignore[override]
        hidden, weight, bias, targets, total, spread = ctx.saved_tensors
        scale: float = ctx.scale
        if to_picked is None:
            to_picked = torch.zeros_like(total)
        to_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        with_bias = bias is not None and ctx.needs_input_grad[2]
        to_bias = torch.zeros(len(weight), device=weight.device) if with_bias else None
        to_hidden = torch.empty_like(hidden)
        for start in range(0, len(hidden), ctx.rows):
            part = slice(start, start + ctx.rows)
            states, tokens, gain = hidden[part], targets[part], scale * to_picked[part, None]
            logits = linear(states, (weight, bias))
            shares = _probabilities(logits, total[part], scale)
            weighed, by = states.float() * gain, gain
            if to_spread is not None:  # p becomes the whole factor of the logit's gradient but for the onehot
                bonus = scale * to_spread[part, None]
                shares = shares.float()
                shares = shares * (gain + bonus * (torch.log(shares.clamp(min=1e-38)) + spread[part, None]))
                shares, by = shares.to(weight.dtype), torch.ones_like(gain)
            to_hidden[part] = weight[tokens].float() * gain - by * _product(shares, weight)
            if to_weight is not None:
                _add_product(to_weight, shares.t(), (states.float() * -by).to(weight.dtype))
                to_weight.index_add_(0, tokens, weighed)
            if to_bias is not None:
                to_bias -= (shares.float() * by).sum(0)
                to_bias.index_add_(0, tokens, gain[:, 0])
        return (
            to_hidden,
            to_weight.to(weight.dtype) if to_weight is not None else None,
            to_bias.to(weight.dtype) if to_bias is not None else None,
            None,
            None,
            None,
        )


@functools.cache
def _kernels(dtype: torch.dtype) -> Any:
    """`head_kernels` once they gave what plain torch gives, else None, with a warning: Triton wants a C compiler and
    a GPU that it knows."""
    if importlib.util.find_spec("triton") is None:  # torch's CUDA builds for Linux bring it along
        return None
    try:
        from reasoning.train import head_kernels

        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(3, 5000, generator=generator).mul_(4).to("cuda", dtype)
        targets = torch.tensor([0, 4999, 4096], device="cuda")
        plain = _plain_statistics(logits.clone(), targets, 0.7)
        found = head_kernels.statistics(logits, targets, 0.7)
        pairs = list(zip(found, plain, strict=True))
        shares = _plain_probabilities(logits.clone(), plain[1], 0.7)
        pairs.append((head_kernels.probabilities_(logits, plain[1], 0.7), shares))
        if all(torch.allclose(a.float(), b.float(), rtol=1e-2, atol=1e-4) for a, b in pairs):
            return head_kernels
        why = "they disagree with PyTorch"
    except Exception as error:  # whatever a compiler raises: there is another way to the same numbers
        why = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    warnings.warn(f"The output head's Triton kernels are left out ({why}); training is slower.", stacklevel=2)
    return None


def _statistics(logits: Tensor, targets: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """(log-probabilities of ``targets``, logs of partition sums, entropies), (n,) each. Writes over ``logits``."""
    if logits.is_cuda and (kernels := _kernels(logits.dtype)):
        return kernels.statistics(logits, targets, scale)
    return _plain_statistics(logits, targets, scale)


def _plain_statistics(logits: Tensor, targets: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    z = logits.float()
    if scale != 1.0:
        z.mul_(scale)
    top = z.amax(-1, keepdim=True)
    z.sub_(top)
    picked = z.gather(-1, targets[:, None])[:, 0]
    shares = z.exp()
    mass = shares.sum(-1)
    inner = torch.bmm(shares[:, None], z[:, :, None])[:, 0, 0]
    log_mass = mass.log()
    return picked - log_mass, top[:, 0] + log_mass, log_mass - inner / mass


def _probabilities(logits: Tensor, total: Tensor, scale: float) -> Tensor:
    """exp(scale x logits - total), (n, V), in the type of ``logits``, over which it writes."""
    if logits.is_cuda and (kernels := _kernels(logits.dtype)):
        return kernels.probabilities_(logits, total, scale)
    return _plain_probabilities(logits, total, scale)


def _plain_probabilities(logits: Tensor, total: Tensor, scale: float) -> Tensor:
    z = logits.float()
    if scale != 1.0:
        z.mul_(scale)
    return z.sub_(total[:, None]).exp_().to(logits.dtype)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in float32, however few bits they have."""
    if a.is_cuda and a.dtype != torch.float32:
        return torch.mm(a, b, out_dtype=torch.float32)
    return times(a.float(), b.float())


def _add_product(sum: Tensor, a: Tensor, b: Tensor) -> None:
    """sum += a @ b for a ``sum`` in float32: rounded to fewer bits, many chunks would add up to less."""
    if a.is_cuda and a.dtype != torch.float32:
        torch.addmm(sum, a, b, out_dtype=torch.float32, out=sum)
    else:
        sum.addmm_(a.float(), b.float())
