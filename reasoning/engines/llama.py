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
from reasoning.engines.products import Weights, added, linear, onednn, packed, silu
from reasoning.engines.shared import SharedKeyValues

FUSED_BYTES = 512 << 20
_FAMILY = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}
_FIXED_ROPE = {"default", "linear", "llama3", "yarn"}  # tables that do not change with the sequence's length


@dataclass(slots=True)
class _Layer:
    """Weights of a layer. Lists hold one fused matrix, or the separate ones. A norm of None is folded in."""

    qkv: list[Weights]
    out: Weights
    gate_up: list[Weights]
    down: Weights
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
        self.cos: Any = None
        self.sin: Any = None
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
        self.any_threads = onednn(self.device, self.dtype)
        self.manual_norm = self.device.type == "cpu" and self.dtype == torch.float32
        self.embedding = base.embed_tokens.weight.detach()
        fuse = sum(p.numel() * p.element_size() for p in module.parameters()) <= self.fused_bytes
        fold = self.dtype == torch.float32  # in fewer bits the rounding would differ from the module's
        kept = packed if fuse and onednn(self.device, self.dtype) else _as_it_is
        self.tiny = self.embedding.new_full((1,), self.eps)
        self.layers = []
        for layer in base.layers:
            attention, mlp = layer.self_attn, layer.mlp
            norm_in, norm_post = (
                layer.input_layernorm.weight.detach(),
                layer.post_attention_layernorm.weight.detach(),
            )
            qkv = [_weights(part) for part in (attention.q_proj, attention.k_proj, attention.v_proj)]
            gate_up = [_weights(part) for part in (mlp.gate_proj, mlp.up_proj)]
            qk_norm = None
            if hasattr(attention, "q_norm"):
                weights = [attention.q_norm.weight.detach()] * self.heads
                weights += [attention.k_norm.weight.detach()] * self.kv_heads
                qk_norm = torch.stack(weights)
            if fuse:
                qkv = [kept(_fused(qkv, norm_in if fold else None))]
                gate_up = [kept(_fused(gate_up, norm_post if fold else None))]
                if fold:
                    norm_in = norm_post = None
            self.layers.append(
                _Layer(
                    qkv,
                    kept(_weights(attention.o_proj)),
                    gate_up,
                    kept(_weights(mlp.down_proj)),
                    norm_in,
                    norm_post,
                    qk_norm,
                )
            )
        self.final_norm: Tensor | None = base.norm.weight.detach()
        self.head = _weights(module.lm_head)
        if fuse and fold:
            self.head = _fused([self.head], self.final_norm)
            self.final_norm = None
        self.head = kept(self.head)
        if self.cos is None or (self.cos.device, self.cos.dtype) != (self.device, self.dtype):
            self.cos = self.sin = self.embedding.new_zeros(0, 1, self.head_dim)

    def store(self, rows: int, prompt_tokens: int, new_tokens: int) -> SharedKeyValues:
        like = [self.embedding.new_zeros(0, self.head_dim) for _ in self.layers]
        return SharedKeyValues(rows, prompt_tokens + new_tokens, self.kv_heads, self.heads, like)

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
        r = torch.addcmul(self.tiny, r, r, value=1 / x.shape[-1]).rsqrt_()
        return x * r if weight is None else (x * r).mul_(weight)

    def _rotated(self, x: Tensor, layer: _Layer, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and then keys (M, heads + H, d), and values (M, H, d), of hidden states ``x`` (M, hidden)."""
        flat = _apply(layer.qkv, self._norm(x, layer.norm_in)).view(len(x), -1, self.head_dim)
        both, values = flat[:, : self.heads + self.kv_heads], flat[:, self.heads + self.kv_heads :]
        if layer.qk_norm is not None:
            both = self._norm(both, None).mul_(layer.qk_norm)
        turned = both.roll(self.head_dim // 2, -1)
        return torch.addcmul(both * cos, turned, sin), values

    def _after(self, x: Tensor, attended: Tensor, layer: _Layer) -> Tensor:
        x = added(x, attended, layer.out)
        gate, up = _halves(layer.gate_up, self._norm(x, layer.norm_post))
        return added(x, silu(gate).mul_(up), layer.down)

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
                both, v = (
                    part.view(count, length, -1, self.head_dim).transpose(1, 2)
                    for part in self._rotated(x, layer, cos, sin)
                )
                q, k = both[:, : self.heads], both[:, self.heads :]
                attended = F.scaled_dot_product_attention(
                    q, k, v, is_causal=True, scale=self.scale, enable_gqa=self.heads != self.kv_heads
                )
                x = self._after(x, attended.transpose(1, 2).reshape(len(x), -1), layer)
                # Of their own: a view would keep the queries and the padding alive with them.
                state.append(
                    (
                        k.clone(memory_format=torch.contiguous_format),
                        v.clone(memory_format=torch.contiguous_format),
                    )
                )
            ends = [row * length + len(prompts[i]) - 1 for row, i in enumerate(members)]
            ends += [0] * (padded(count) - count)
            last = self._norm(x[torch.tensor(ends, device=self.device)], self.final_norm)
            logits = linear(last, self.head)
            for row, i in enumerate(members):
                end = len(prompts[i])
                out[i] = Prompt(logits[row], [(k[row, :, :end], v[row, :, :end]) for k, v in state])
        return [out[i] for i in range(len(prompts))]

    def step(self, store: SharedKeyValues, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> Tensor:
        rows, total = len(tokens), padded(len(tokens))
        self._tables(int(lengths.max()) + 1)
        store.begin(lengths, total)
        known = on_device(lengths, total, self.device)
        cos, sin = self.cos.index_select(0, known), self.sin.index_select(0, known)
        x = self.embedding.index_select(0, on_device(tokens, total, self.device))
        for index, layer in enumerate(self.layers):
            both, values = self._rotated(x, layer, cos, sin)
            x = self._after(x, store.attend(index, both, values, self.scale), layer)
        return linear(self._norm(x, self.final_norm), self.head)[:rows]


def _weights(part: Any) -> Weights:
    return part.weight.detach(), None if part.bias is None else part.bias.detach()


def _as_it_is(weights: Weights) -> Weights:
    return weights


def _fused(parts: list[Weights], norm: Tensor | None) -> Weights:
    """One matrix for ``parts``, its columns scaled by the weight of the norm before it, if given."""
    bias = None
    if any(b is not None for _, b in parts):
        bias = torch.cat([w.new_zeros(len(w)) if b is None else b for w, b in parts])
    weight = torch.cat([w for w, _ in parts])
    return weight if norm is None else weight * norm, bias


def _apply(parts: list[Weights], x: Tensor) -> Tensor:
    if len(parts) == 1:
        return linear(x, parts[0])
    return torch.cat([linear(x, part) for part in parts], -1)


def _halves(parts: list[Weights], x: Tensor) -> tuple[Tensor, Tensor]:
    if len(parts) == 1:
        gate, up = linear(x, parts[0]).chunk(2, -1)
        return gate, up
    return linear(x, parts[0]), linear(x, parts[1])
