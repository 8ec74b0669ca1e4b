"""The layers of the Llama family (Llama, Mistral, Qwen2, Qwen3) with gradient, straight over their weights.

The same arithmetic as the Hugging Face modules in fewer, larger operations that keep less for the backward pass: one
product for queries, keys and values, one for gate and up, norm and rotation in one. Rows are laid out flat, one
behind another: nothing is padded but inside attention, and a prompt that several rows have is computed once, for any
number of prompts at a time. Knows nothing of objectives or log-probabilities.

Shapes: N tokens, H hidden, h query heads, g key/value heads, d head_dim; b rows of a part, W its width, P prompts'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from reasoning.engines.llama import LlamaForward
from reasoning.train.layout import Layout, Part, lay_out
from reasoning.train.product import product
from reasoning.train.rows import Row


class Straight:
    """Hidden states of a model that `open_straight` accepted. recompute: keep only what goes into each layer."""

    def __init__(self, model: Any, recompute: bool = False):
        self.model = model
        self.recompute = recompute
        config = model.config
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.eps: float = config.rms_norm_eps

    def hidden(self, rows: Sequence[Row], share: bool) -> tuple[Tensor, Tensor]:
        """Hidden states (M, H) that predict the completion tokens of ``rows``, row after row, and those (M,). share:
        a prompt that several rows have is computed once."""
        base = self.model.model
        layout = lay_out(rows, share, base.embed_tokens.weight.device)
        x = base.embed_tokens(layout.ids)  # (N, H); the module gives the padding token no gradient
        cos, sin = base.rotary_emb(x[None, :1], layout.positions[None])
        cos, sin = cos[0, :, None], sin[0, :, None]  # (N, 1, d)
        half = sin.shape[-1] // 2
        sin = torch.cat([-sin[..., :half], sin[..., half:]], -1)  # rotate_half's sign
        for layer in base.layers:
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(
                    self._layer, layer, x, cos, sin, layout, use_reentrant=False, preserve_rng_state=False
                )
            else:
                x = self._layer(layer, x, cos, sin, layout)
        return _norm(x.index_select(0, layout.take), base.norm.weight, self.eps), layout.targets

    def _layer(self, layer: Any, x: Tensor, cos: Tensor, sin: Tensor, layout: Layout) -> Tensor:
        attention, mlp = layer.self_attn, layer.mlp
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        qkv = _after_norm(x, layer.input_layernorm.weight, self.eps, parts).view(
            len(x), -1, attention.head_dim
        )
        both, v = qkv.split([self.heads + self.kv_heads, self.kv_heads], 1)
        weights = None
        if hasattr(attention, "q_norm"):
            weights = torch.cat(
                [
                    attention.q_norm.weight.expand(self.heads, -1),
                    attention.k_norm.weight.expand(self.kv_heads, -1),
                ]
            )
        both = _NormRotated.apply(both, weights, cos, sin, self.eps)
        q, k = both.split([self.heads, self.kv_heads], 1)
        out, down = attention.o_proj, mlp.down_proj
        x = x + product(_attend(q, k, v, layout, attention.scaling), out.weight, out.bias)
        gate_up = _after_norm(
            x, layer.post_attention_layernorm.weight, self.eps, (mlp.gate_proj, mlp.up_proj)
        )
        return x + product(_SwiGLU.apply(gate_up), down.weight, down.bias)


def open_straight(model: Any, recompute: bool = False) -> Straight | None:
    """A `Straight` for ``model`` where it is a plain module of the family and finds its hidden states; else None."""
    if not LlamaForward.fits(model):
        return None
    straight = Straight(model, recompute)
    return straight if _agrees(straight) else None


@torch.no_grad()
def _agrees(straight: Straight) -> bool:
    """Whether rows with one prompt and one with another come out as by the module itself."""
    model = straight.model
    vocabulary = model.config.vocab_size
    ids = torch.randint(vocabulary, (3, 9), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [
        Row(tuple(ids[0][:5]), tuple(ids[0][5:])),
        Row(tuple(ids[1][:3]), tuple(ids[1][3:])),
        Row(tuple(ids[0][:5]), tuple(ids[2][5:8])),
    ]
    states, _ = straight.hidden(rows, True)
    at = 0
    for row in rows:
        tokens = torch.tensor([row.prompt_ids + row.ids], device=states.device)
        plain = model.model(input_ids=tokens, use_cache=False).last_hidden_state[0]
        plain = plain[len(row.prompt_ids) - 1 : -1].float()
        gap = (states[at : at + len(plain)].float() - plain).abs().max()
        if gap > (2e-4 if model.dtype == torch.float32 else 5e-2) * (1 + plain.abs().max()):
            return False
        at += len(plain)
    return True


def _attend(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float) -> Tensor:
    """Each token to those before it in its row, prompt and all: (N, h, d), (N, g, d) twice -> (N, h * d)."""
    same = q.shape[1] == k.shape[1]
    out, prompts = [], None
    for part in layout.parts:
        here = slice(part.start, part.end)
        queries, keys, values = (_padded(t[here], part) for t in (q, k, v))  # (b, heads, W, d)
        if part.behind is None:
            mask = None
        else:
            assert prompts is not None, "prompts come before what stands behind them"
            keys, values = (
                torch.cat([prompt.index_select(0, part.behind), own], 2)
                for prompt, own in zip(prompts, (keys, values), strict=True)
            )
            mask = part.mask
            if (
                mask is not None and mask.is_cuda and not same
            ):  # torch's fused kernels take a mask or grouped heads, not both
                times = q.shape[1] // k.shape[1]
                spread = (keys.repeat_interleave(times, 1), values.repeat_interleave(times, 1))
                out.append(_flat(F.scaled_dot_product_attention(queries, *spread, mask, scale=scale), part))
                continue
        if part.prompts:
            prompts = keys, values
        found = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=not same
        )
        out.append(_flat(found, part))
    return out[0] if len(out) == 1 else torch.cat(out)


def _padded(flat: Tensor, part: Part) -> Tensor:
    """(n, heads, d) of the part's tokens -> (b, heads, W, d). A place behind a row's end repeats the first token: no
    real one sees it."""
    if part.places is not None:
        flat = flat.index_select(0, part.places)
    return flat.view(part.rows, part.width, *flat.shape[1:]).transpose(1, 2)


def _flat(found: Tensor, part: Part) -> Tensor:
    """(b, h, W, d) -> (n, h * d) of the part's tokens."""
    flat = found.transpose(1, 2).reshape(part.rows * part.width, -1)
    return flat if part.kept is None else flat.index_select(0, part.kept)


def _after_norm(x: Tensor, norm: Tensor, eps: float, parts: Sequence[Any]) -> Tensor:
    """One product of the normed ``x`` with the matrices of ``parts``. In float32 the norm's weight goes into the
    matrix; in fewer bits that would round otherwise than the module does."""
    weight = torch.cat([part.weight for part in parts])
    bias = None if parts[0].bias is None else torch.cat([part.bias for part in parts])
    if x.device.type == "cpu" and not torch.is_autocast_enabled("cpu") and x.dtype == torch.float32:
        return product(_Unit.apply(x, eps), weight * norm, bias)
    return product(_norm(x, norm, eps), weight, bias)


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    if x.dtype == weight.dtype:
        return F.rms_norm(x, x.shape[-1:], weight, eps)
    return F.rms_norm(x.float(), x.shape[-1:], weight.float(), eps)


def _unit(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(x / rms(x), 1 / rms(x)) over the last dimension, in float32."""
    x = x.float()
    r = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    r.square_().mul_(1 / x.shape[-1]).add_(eps).rsqrt_()
    return x * r, r


def _unit_backward(grad: Tensor, unit: Tensor, r: Tensor) -> Tensor:
    """d unit = r (d x - unit mean(unit d x)). Writes over ``grad``."""
    inner = (grad * unit).mean(-1, keepdim=True)
    return grad.addcmul_(unit, inner, value=-1).mul_(r)


class _Unit(torch.autograd.Function):
    """RMS norm without a weight (arXiv 1910.07467); keeps its result alone, which the product behind it keeps too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        unit, r = _unit(x, eps)
        ctx.save_for_backward(unit, r)
        return unit

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        unit, r = ctx.saved_tensors
        return _unit_backward(grad.clone(), unit, r), None


class _NormRotated(torch.autograd.Function):
    """Rotary embedding (arXiv 2104.09864) of heads (N, heads, d), normed before by weights (heads, d) where they are
    given. sin has rotate_half's sign: the rotation is x cos + roll(x, d/2) sin."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
        half = x.shape[-1] // 2
        turned = x.float()
        r = None
        if weight is not None:
            unit, r = _unit(x, eps)
            turned = unit * weight
        ctx.save_for_backward(x if weight is not None else None, weight, r, cos, sin)
        ctx.dtype = x.dtype
        return torch.addcmul(turned * cos, turned.roll(half, -1), sin).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        x, weight, r, cos, sin = ctx.saved_tensors
        half = grad.shape[-1] // 2
        grad = grad.float()
        # The transpose of the rotation; roll by half is its own inverse.
        back = torch.add(grad * cos, (grad * sin).roll(half, -1))
        if weight is None:
            return back.to(ctx.dtype), None, None, None, None
        unit = x.float() * r
        to_weight = (back * unit).sum(0) if ctx.needs_input_grad[1] else None
        to_x = _unit_backward(back.mul_(weight), unit, r)
        return to_x.to(ctx.dtype), to_weight, None, None, None


class _SwiGLU(torch.autograd.Function):
    """silu(gate) x up of (N, 2 F) (arXiv 2002.05202); keeps its input alone."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, -1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, -1)
        out = torch.empty_like(gate_up)
        to_gate, to_up = out.chunk(2, -1)
        torch.mul(grad, F.silu(gate), out=to_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=to_gate)
        return out
