"""How many FLOPs a transformer spends per phase, from its shape alone.

Formulas (2001.08361, section 2.1; 2204.02311, appendix B): the matrix part is 2 x the parameters that a token
is multiplied with (the output head included even when tied, the embedding look-up excluded); attention adds
2 x heads x (d_qk + d_v) for each pair of a position and a position that it looks at, itself included. Norms,
rotary embeddings, softmax and biases are left out, as is usual. Grouped-query attention changes what is
stored, not what is multiplied. A FLOP is one multiplication or one addition.

Knows nothing of devices, efficiency or seconds, and imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from reasoning.errors import UserError

# Families whose feed-forward block is up, activation, down; all others here have a gate beside "up".
_UNGATED = {"bloom", "codegen", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "mpt"}
_UNGATED |= {"nemotron", "opt", "phi", "starcoder2"}
# Attention or mixing whose cost does not follow the formulas here.
_UNKNOWN_MIXERS = ("kv_lora_rank", "state_size", "mamba_d_state", "linear_num_key_heads", "conv_L_cache")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What the FLOPs of a decoder-only transformer depend on.

    parameters: weights that one token is multiplied with (active experts only, output head included).
    heads, kv_heads: query heads, key/value heads. head_dim: d_qk; value_head_dim: d_v.
    windows: attention window of each layer in tokens, 0 for unlimited; its length is the number of layers.

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

    @property
    def layers(self) -> int:
        return len(self.windows)

    @classmethod
    def from_config(cls, config: Any) -> ModelShape:
        """Shape of a Hugging Face ``config`` (an object, or the content of a config.json).

        Dense and mixture-of-experts decoders with full, grouped-query or sliding-window attention. Raises
        UserError for attention of another kind (latent attention, state-space layers) and for encoders.
        """
        if not isinstance(config, Mapping):
            config = config.to_dict() | {"model_type": config.model_type}
        if isinstance(config.get("text_config"), Mapping):
            config = config["text_config"]
        kind = config.get("model_type", "")
        for key in _UNKNOWN_MIXERS:
            if config.get(key):
                raise UserError(f"FLOPs of model type {kind!r} are not known: it has {key}={config[key]}.")

        def read(*names: str, default: int | None = None) -> int:
            value = next((config[n] for n in names if isinstance(config.get(n), int)), default)
            if value is None:
                raise UserError(
                    f"FLOPs of model type {kind!r} are not known: its config has no {names[0]!r}."
                )
            return int(value)

        hidden = read("hidden_size", "n_embd", "d_model")
        layers = read("num_hidden_layers", "n_layer", "num_layers", "n_layers")
        heads = read("num_attention_heads", "n_head", "num_heads", "n_heads")
        head_dim = read("head_dim", default=hidden // heads)
        vocab = read("vocab_size")
        if kind == "gpt_bigcode" or (kind == "falcon" and not config.get("new_decoder_architecture")):
            kv_heads = 1 if config.get("multi_query", True) else heads
        else:
            kv_heads = read("num_key_value_heads", "num_kv_heads", default=heads)

        attention = hidden * head_dim * (2 * heads + 2 * kv_heads)  # query and output, key and value
        matrices = 2 if kind in _UNGATED else 3
        dense = (
            matrices
            * hidden
            * read("intermediate_size", "ffn_hidden_size", "ffn_dim", "n_inner", default=4 * hidden)
        )
        experts = read("num_experts", "num_local_experts", "n_routed_experts", default=0)
        sparse_layers = 0
        active = 0
        if experts:
            width = read("moe_intermediate_size", "intermediate_size")
            shared = read("shared_expert_intermediate_size", default=0)
            shared += width * read("n_shared_experts", default=0)
            chosen = read("num_experts_per_tok", "num_experts_per_token", "moe_topk")
            active = experts * hidden + matrices * hidden * (width * chosen + shared)
            active += (
                hidden if config.get("shared_expert_intermediate_size") else 0
            )  # the shared expert's gate
            step = read("decoder_sparse_step", default=1)
            only_dense = set(config.get("mlp_only_layers") or ())
            first = read("first_k_dense_replace", default=0)
            sparse_layers = sum(
                1 for i in range(layers) if i not in only_dense and (i + 1) % step == 0 and i >= first
            )
        parameters = (
            layers * attention + (layers - sparse_layers) * dense + sparse_layers * active + vocab * hidden
        )
        return cls(
            parameters=parameters,
            hidden=hidden,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            value_head_dim=read("v_head_dim", default=head_dim),
            vocab=vocab,
            windows=_windows(config, layers),
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"windows": list(self.windows)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelShape:
        return cls(**{**data, "windows": tuple(data["windows"])})

    @overload
    def prefill_flops(self, prompt_tokens: int) -> float: ...
    @overload
    def prefill_flops(self, prompt_tokens: NDArray[Any]) -> NDArray[np.float64]: ...
    def prefill_flops(self, prompt_tokens):
        """Forward pass over a whole prompt: 2 N P + 2 L h (d_qk + d_v) P (P + 1) / 2."""
        return self.decode_flops(0, prompt_tokens)

    @overload
    def decode_flops(self, context_tokens: int, new_tokens: int) -> float: ...
    @overload
    def decode_flops(
        self, context_tokens: NDArray[Any] | int, new_tokens: NDArray[Any] | int
    ) -> NDArray[np.float64]: ...
    def decode_flops(self, context_tokens, new_tokens):
        """``new_tokens`` more tokens behind ``context_tokens`` cached ones, summed over their positions.

        Each new token is charged one pass, the last one too: prefill(P) + decode(P, n) = prefill(P + n).
        """
        context = np.asarray(context_tokens, dtype=np.float64)
        new = np.asarray(new_tokens, dtype=np.float64)
        pairs = np.zeros(np.broadcast(context, new).shape)
        for window in set(self.windows):
            here = _looks(context + new, window) - _looks(context, window)
            pairs = pairs + self.windows.count(window) * here
        flops = 2.0 * self.parameters * new + 2.0 * self.heads * (self.head_dim + self.value_head_dim) * pairs
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


def _windows(config: Mapping[str, Any], layers: int) -> tuple[int, ...]:
    """The attention window of each layer, read from ``layer_types`` where the config has it."""
    window = config.get("sliding_window") or 0
    kinds = config.get("layer_types")
    if kinds:
        known = {"full_attention": 0, "sliding_attention": window}
        strange = sorted(set(kinds) - set(known))
        if strange:
            raise UserError(f"FLOPs of layers of type {strange[0]!r} are not known.")
        return tuple(known[kind] for kind in kinds)
    if config.get("use_sliding_window") is False:
        window = 0
    return (int(window),) * layers
