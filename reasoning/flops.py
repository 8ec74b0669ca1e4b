"""How many FLOPs a transformer spends per phase, from its shape alone.

Formulas (2001.08361, section 2.1; 2204.02311, appendix B): the matrix part is 2 x the parameters that a token
is multiplied with (the output head included even when tied, the embedding look-up excluded); attention adds
2 x heads x (d_qk + d_v) for each pair of a position and a position that it looks at, itself included. Norms,
rotary embeddings, softmax and biases are left out, as is usual. Grouped-query attention changes what is
stored, not what is multiplied. A FLOP is one multiplication or one addition.

Layers with a recurrent state (Mamba-2, the gated delta rule) cost the same at every position, counted token by
token; kernels that work in chunks do more. Latent attention is multiplied out in one pass over a prompt. Decoding
behind a cache has two forms: "expanded" (transformers: all cached latents are multiplied out again in every step)
and "absorbed" (arXiv 2405.04434, section 2.1.2; vLLM, SGLang: queries go into the latent's space).

Knows nothing of devices, efficiency or seconds, and imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from reasoning.architectures import read_config


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What the FLOPs of a decoder-only transformer depend on.

    parameters: weights that one token is multiplied with (active experts only, output head included).
    heads, kv_heads: query heads, key/value heads. head_dim: d_qk; value_head_dim: d_v.
    windows: attention window in tokens of each layer that attends, 0 for unlimited.
    state_flops: per token, of layers with a recurrent state.
    latent_rank, rope_dim, expand_parameters (per layer), absorbed: of latent attention; 0 where there is none.

    Token counts may be integers or NumPy arrays (broadcast together), the results floats or float64 arrays.
    """

    parameters: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    value_head_dim: int
    vocab: int
    windows: tuple[int, ...]
    state_flops: int = 0
    latent_rank: int = 0
    rope_dim: int = 0
    expand_parameters: int = 0
    absorbed: bool = False

    @property
    def layers(self) -> int:
        return len(self.windows)

    @classmethod
    def from_config(cls, config: Any) -> ModelShape:
        """Shape of a Hugging Face ``config`` (an object, or the content of a config.json).

        Dense, mixture-of-experts, latent-attention and some recurrent decoders (see `architectures`). Raises
        UserError for others.
        """
        return cls(**read_config(config))

    def with_absorbed_decoding(self) -> ModelShape:
        """The same model where decoding works on latents as they are cached; itself without latent attention."""
        return replace(self, absorbed=True) if self.latent_rank else self

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"windows": list(self.windows)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelShape:
        return cls(**{**data, "windows": tuple(data["windows"])})

    @overload
    def prefill_flops(self, prompt_tokens: int, cached_tokens: int = ...) -> float: ...
    @overload
    def prefill_flops(
        self, prompt_tokens: NDArray[Any], cached_tokens: NDArray[Any] | int = ...
    ) -> NDArray[np.float64]: ...
    def prefill_flops(self, prompt_tokens, cached_tokens: Any = 0):
        """One forward pass over ``prompt_tokens`` behind ``cached_tokens``: 2 N P + 2 L h (d_qk + d_v) P (P + 1) / 2
        where nothing is cached."""
        return self._passes(
            cached_tokens, prompt_tokens, 2.0 * self.heads * (self.head_dim + self.value_head_dim)
        )

    @overload
    def decode_flops(self, context_tokens: int, new_tokens: int) -> float: ...
    @overload
    def decode_flops(
        self, context_tokens: NDArray[Any] | int, new_tokens: NDArray[Any] | int
    ) -> NDArray[np.float64]: ...
    def decode_flops(self, context_tokens, new_tokens):
        """``new_tokens`` more tokens behind ``context_tokens`` cached ones, one by one, summed over their positions.

        Each new token is charged one pass, the last one too. Without latent attention
        prefill(P) + decode(P, n) = prefill(P + n).
        """
        per_pair = 2.0 * self.heads * (self.head_dim + self.value_head_dim)
        if not self.latent_rank:
            return self._passes(context_tokens, new_tokens, per_pair)
        if self.absorbed:
            return self._passes(
                context_tokens, new_tokens, 2.0 * self.heads * (2 * self.latent_rank + self.rope_dim)
            )
        # Each step multiplies out the latents of all positions; one of them is in `parameters` already.
        again = 2.0 * self.expand_parameters
        own = again * self.layers * np.asarray(new_tokens, dtype=np.float64)
        flops = self._passes(context_tokens, new_tokens, per_pair + again) - own
        return flops if np.ndim(flops) else float(flops)

    def _passes(self, context_tokens: Any, new_tokens: Any, per_pair: float) -> Any:
        """Passes of new tokens, where each pair of positions costs ``per_pair`` in each layer that attends."""
        context = np.asarray(context_tokens, dtype=np.float64)
        new = np.asarray(new_tokens, dtype=np.float64)
        pairs = np.zeros(np.broadcast(context, new).shape)
        for window in set(self.windows):
            here = _looks(context + new, window) - _looks(context, window)
            pairs = pairs + self.windows.count(window) * here
        flops = (2.0 * self.parameters + self.state_flops) * new + per_pair * pairs
        return flops if flops.ndim else float(flops)

    @overload
    def score_flops(self, tokens: int) -> float: ...
    @overload
    def score_flops(self, tokens: NDArray[Any]) -> NDArray[np.float64]: ...
    def score_flops(self, tokens):
        """One scoring pass over a sequence of ``tokens``: the same work as a prefill."""
        return self.prefill_flops(tokens)

    def training_flops(
        self, sequence_lengths: Sequence[int] | NDArray[Any], recompute: bool = False
    ) -> float:
        """Forward and backward over whole sequences: 3 x forward, 4 x with full activation recomputation."""
        return (4 if recompute else 3) * float(np.sum(self.prefill_flops(np.asarray(sequence_lengths))))


def _looks(tokens: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Sum over positions 1..tokens of the positions each looks at: min(position, window)."""
    if not window:
        return tokens * (tokens + 1) / 2
    inside = np.minimum(tokens, window)
    return inside * (inside + 1) / 2 + (tokens - inside) * window
