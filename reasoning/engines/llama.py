"""The Llama family (Llama, Mistral, Qwen2, Qwen3) stepped straight over its weights.

The same arithmetic as the Hugging Face modules in fewer, larger operations: one product for queries, keys and
values, one for gate and up, the norms' weights folded into the product that follows; a prompt's keys and values
read once for all of its chains (shared.py).
Small models get fused copies of their weights (`refresh` renews them after an update); large ones are read in
place. Knows nothing of how tokens are chosen.

Shapes: M rows, H key/value heads, G query heads to each, d head_dim, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from reasoning.engines.forward import Prompt, buckets, on_device, padded, rectangle
from reasoning.engines.shared import SharedKeyValues

FUSED_BYTES = 256 << 20
_FAMILY = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}
_FIXED_ROPE = {"default", "linear", "llama3", "yarn"}  # tables that do not change with the sequence's length


@dataclass(slots=True)
class _Layer:
    """Weights of a layer. Lists hold one fused matrix, or the separate ones. A norm of None is folded in."""

    qkv: list[tuple[Tensor, Tensor | None]]
    out: tuple[Tensor, Tensor | None]
    gate_up: list[tuple[Tensor, Tensor | None]]
    down: tuple[Tensor, Tensor | None]
    norm_in: Tensor | None
    norm_post: Tensor | None
    qk_norm: Tensor | None  # (heads + kv_heads, d): weights of the query and key norms


class LlamaForward:
    """`Forward` for the modules that `fits` accepts."""

    fused_bytes = FUSED_BYTES  # models up to this size get fused copies of their weights

    def __init__(self, module: Any):
        config = module.config
        self.module = module
        self.vocab: int = config.vocab_size
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.head_dim: int = module.model.layers[0].self_attn.head_dim
        self.scale: float = module.model.layers[0].self_attn.scaling
        self.eps: float = config.rms_norm_eps
        self.refresh()

    @staticmethod
    def fits(module: Any) -> bool:
        """True for a plain module of the family: full attention, SiLU, fixed rotary tables, nothing wrapped."""
        if type(module).__name__ not in _FAMILY or not type(module).__module__.startswith(
            "transformers.models."
        ):
            return False
        config = module.config
        kinds = set(getattr(config, "layer_types", None) or {"full_attention"})
        window = getattr(config, "sliding_window", None) and type(module).__name__ == "MistralForCausalLM"
        plain = all(
            type(part) is nn.Linear
            for name, part in module.named_modules()
            if name.rpartition(".")[2].endswith(("_proj", "lm_head"))
        )
        rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
        return bool(
            config.hidden_act == "silu"
            and kinds == {"full_attention"}
            and not window
            and plain
            and rope in _FIXED_ROPE
        )

    @torch.no_grad()
    def refresh(self) -> None:
        module = self.module
        base = module.model
        parameter = module.lm_head.weight
        self.device, self.dtype = parameter.device, parameter.dtype
        self.manual_norm = self.device.type == "cpu" and self.dtype == torch.float32
        fuse = sum(p.numel() * p.element_size() for p in module.parameters()) <= self.fused_bytes
        fold = self.dtype == torch.float32  # in fewer bits the rounding would differ from the module's
        self.embedding = base.embed_tokens.weight.detach()
        self.layers = []
        for layer in base.layers:
            attention, mlp = layer.self_attn, layer.mlp
            norm_in, norm_post = (
                layer.input_layernorm.weight.detach(),
                layer.post_attention_layernorm.weight.detach(),
            )
            qkv = [_linear(part) for part in (attention.q_proj, attention.k_proj, attention.v_proj)]
            gate_up = [_linear(part) for part in (mlp.gate_proj, mlp.up_proj)]
            qk_norm = None
            if hasattr(attention, "q_norm"):
                weights = [attention.q_norm.weight.detach()] * self.heads
                weights += [attention.k_norm.weight.detach()] * self.kv_heads
                qk_norm = torch.stack(weights)
            if fuse:
                qkv, gate_up = (
                    [_fused(qkv, norm_in if fold else None)],
                    [_fused(gate_up, norm_post if fold else None)],
                )
                if fold:
                    norm_in = norm_post = None
            self.layers.append(
                _Layer(
                    qkv,
                    _linear(attention.o_proj),
                    gate_up,
                    _linear(mlp.down_proj),
                    norm_in,
                    norm_post,
                    qk_norm,
                )
            )
        self.final_norm: Tensor | None = base.norm.weight.detach()
        self.head = _linear(module.lm_head)
        if fuse and fold:
            self.head = _fused([self.head], self.final_norm)
            self.final_norm = None
        self.cos = self.sin = self.embedding.new_zeros(0, 1, self.head_dim)

    def store(self, rows: int, prompt_tokens: int, new_tokens: int) -> SharedKeyValues:
        like = [self.embedding.new_zeros(0, self.head_dim) for _ in self.layers]
        return SharedKeyValues(rows, new_tokens, self.kv_heads, like)

    def bytes_per_token(self) -> int:
        return len(self.layers) * 2 * self.kv_heads * self.head_dim * self.embedding.element_size()

    def _tables(self, positions: int) -> None:
        """Rotary tables (positions, 1, d) at least that long; the sine's first half carries rotate_half's sign."""
        if len(self.cos) >= positions:
            return
        where = torch.arange(max(positions, 2 * len(self.cos)), device=self.device)
        cos, sin = self.module.model.rotary_emb(self.embedding[:1], where[None])
        self.cos = cos[0][:, None].contiguous()
        self.sin = sin[0][:, None].clone()
        self.sin[..., : self.head_dim // 2].neg_()

    def _norm(self, x: Tensor, weight: Tensor | None) -> Tensor:
        if not self.manual_norm:
            return F.rms_norm(x, x.shape[-1:], weight, self.eps)
        r = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        r.square_().mul_(1 / x.shape[-1]).add_(self.eps).rsqrt_()
        return x * r if weight is None else (x * r).mul_(weight)

    def _rotated(self, x: Tensor, layer: _Layer, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (M, heads, d), keys and values (M, H, d) of hidden states ``x`` (M, hidden)."""
        flat = _apply(layer.qkv, self._norm(x, layer.norm_in)).view(len(x), -1, self.head_dim)
        both, values = flat[:, : self.heads + self.kv_heads], flat[:, self.heads + self.kv_heads :]
        if layer.qk_norm is not None:
            both = self._norm(both, None)
            both = both * layer.qk_norm
        turned = both.roll(self.head_dim // 2, -1)
        both = torch.addcmul(both * cos, turned, sin)
        return both[:, : self.heads], both[:, self.heads :], values

    def _after(self, x: Tensor, attended: Tensor, layer: _Layer) -> Tensor:
        x = _added(x, attended, layer.out)
        gate, up = _halves(layer.gate_up, self._norm(x, layer.norm_post))
        return _added(x, F.silu(gate).mul_(up), layer.down)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> list[Prompt]:
        out: dict[int, Prompt] = {}
        for length, members in buckets(prompts):
            self._tables(length)
            count = len(members)
            ids = rectangle([prompts[i] for i in members], length, self.device)
            cos, sin = self.cos[:length].repeat(count, 1, 1), self.sin[:length].repeat(count, 1, 1)
            x = self.embedding[ids.view(-1)]
            state = []
            for layer in self.layers:
                q, k, v = (
                    part.view(count, length, -1, self.head_dim).transpose(1, 2)
                    for part in self._rotated(x, layer, cos, sin)
                )
                attended = F.scaled_dot_product_attention(
                    q, k, v, is_causal=True, scale=self.scale, enable_gqa=self.heads != self.kv_heads
                )
                x = self._after(x, attended.transpose(1, 2).reshape(len(x), -1), layer)
                state.append((k, v))
            ends = [row * length + len(prompts[i]) - 1 for row, i in enumerate(members)]
            ends += [0] * (padded(count) - count)
            last = self._norm(x[torch.tensor(ends, device=self.device)], self.final_norm)
            logits = F.linear(last, *self.head)
            for row, i in enumerate(members):
                end = len(prompts[i])
                out[i] = Prompt(logits[row], [(k[row, :, :end], v[row, :, :end]) for k, v in state])
        return [out[i] for i in range(len(prompts))]

    def step(self, store: SharedKeyValues, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> Tensor:
        rows = len(tokens)
        # Attention is computed for each row by itself, so only the products over rows need padding.
        extra = padded(rows) - rows
        self._tables(int(lengths.max()) + 1)
        store.begin(lengths)
        known = on_device(lengths, rows + extra, self.device)
        cos, sin = self.cos.index_select(0, known), self.sin.index_select(0, known)
        x = self.embedding.index_select(0, on_device(tokens, rows + extra, self.device))
        for index, layer in enumerate(self.layers):
            q, k, v = self._rotated(x, layer, cos, sin)
            attended = store.attend(index, q[:rows], k[:rows], v[:rows], self.scale)
            x = self._after(x, F.pad(attended, (0, 0, 0, extra)) if extra else attended, layer)
        return F.linear(self._norm(x, self.final_norm), *self.head)[:rows]


def _linear(part: Any) -> tuple[Tensor, Tensor | None]:
    return part.weight.detach(), None if part.bias is None else part.bias.detach()


def _fused(parts: list[tuple[Tensor, Tensor | None]], norm: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """One matrix for ``parts``, its columns scaled by the weight of the norm before it, if given."""
    bias = None
    if any(b is not None for _, b in parts):
        bias = torch.cat([w.new_zeros(len(w)) if b is None else b for w, b in parts])
    weight = torch.cat([w for w, _ in parts])
    return weight if norm is None else weight * norm, bias


def _apply(parts: list[tuple[Tensor, Tensor | None]], x: Tensor) -> Tensor:
    if len(parts) == 1:
        return F.linear(x, *parts[0])
    return torch.cat([F.linear(x, *part) for part in parts], -1)


def _halves(parts: list[tuple[Tensor, Tensor | None]], x: Tensor) -> tuple[Tensor, Tensor]:
    if len(parts) == 1:
        gate, up = F.linear(x, *parts[0]).chunk(2, -1)
        return gate, up
    return F.linear(x, *parts[0]), F.linear(x, *parts[1])


def _added(x: Tensor, y: Tensor, part: tuple[Tensor, Tensor | None]) -> Tensor:
    weight, bias = part
    out = torch.addmm(x, y, weight.t())
    return out if bias is None else out.add_(bias)
