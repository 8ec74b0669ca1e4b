"""What `ModelShape` needs of a Hugging Face configuration: which matrices a token is multiplied with, layer by layer.

The families listed here were compared with what torch counts while a tiny model of theirs runs
(tests/test_flops.py). Others are refused: a guess would be charged like a measurement. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reasoning.errors import UserError

# Feed-forward block of up, activation, down; all others have a gate beside "up".
UNGATED = {
    "apertus",
    "arcee",
    "bloom",
    "codegen",
    "falcon",
    "gpt2",
    "gpt_bigcode",
    "gpt_neo",
    "gpt_neox",
    "gptj",
}
UNGATED |= {"mpt", "nanochat", "nemotron", "opt", "phi", "starcoder2"}
GATED = {
    "bitnet",
    "cohere",
    "cohere2",
    "cwm",
    "exaone4",
    "gemma",
    "gemma2",
    "gemma3_text",
    "glm",
    "glm4",
    "granite",
}
GATED |= {"helium", "llama", "mistral", "olmo", "olmo2", "olmo3", "phi3", "qwen2", "qwen3"}
GATED |= {"seed_oss", "smollm3", "stablelm", "vaultgemma"}
EXPERTS = {"cohere2_moe", "dots1", "flex_olmo", "glm4_moe", "gpt_oss", "granitemoe", "granitemoeshared"}
EXPERTS |= {"minimax_m2", "mixtral", "olmoe", "phimoe", "qwen2_moe", "qwen3_moe"}
LATENT = {"deepseek_v2", "deepseek_v3", "glm4_moe_lite", "minicpm3"}  # multi-head latent attention
DELTA = {"qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"}  # gated delta rule in most layers
STATE_SPACE = {"mamba2"}
KNOWN = UNGATED | GATED | EXPERTS | LATENT | DELTA | STATE_SPACE


class _Config:
    """A configuration's numbers by any of the names that families give them."""

    def __init__(self, content: Mapping[str, Any], kind: str):
        self.content, self.kind = content, kind

    def __call__(self, *names: str, default: int | None = None) -> int:
        value = next((self.content[n] for n in names if isinstance(self.content.get(n), int)), default)
        if value is None:
            raise UserError(
                f"FLOPs of model type {self.kind!r} are not known: its config has no {names[0]!r}."
            )
        return int(value)


def read_config(config: Any) -> dict[str, Any]:
    """The fields of `ModelShape` for a configuration (an object, or the content of a config.json).

    Raises UserError for a family that is not known and for a configuration that lacks a number.
    """
    if not isinstance(config, Mapping):
        config = config.to_dict() | {"model_type": config.model_type}
    if isinstance(config.get("text_config"), Mapping):
        config = config["text_config"]
    kind = str(config.get("model_type", ""))
    if kind not in KNOWN:
        raise UserError(
            f"FLOPs of model type {kind!r} are not known. Give a budget in tokens, seconds or price, not in FLOPs."
        )
    read = _Config(config, kind)
    return _state_space(read) if kind in STATE_SPACE else _transformer(read)


def _transformer(read: _Config) -> dict[str, Any]:
    config, kind = read.content, read.kind
    hidden, vocab = read("hidden_size", "n_embd", "d_model"), read("vocab_size")
    layers = read("num_hidden_layers", "n_layer", "num_layers", "n_layers")
    heads = read("num_attention_heads", "n_head", "num_heads", "n_heads")
    shape: dict[str, Any] = {"hidden": hidden, "heads": heads, "vocab": vocab}
    mixers: int  # parameters of all layers but their feed-forward blocks
    if kind in LATENT:
        mixers = layers * _latent(read, shape)
    else:
        head_dim = read("head_dim", default=hidden // heads)
        if kind == "gpt_bigcode" or (kind == "falcon" and not config.get("new_decoder_architecture")):
            kv_heads = 1 if config.get("multi_query", True) else heads
        else:
            kv_heads = read("num_key_value_heads", "num_kv_heads", default=heads)
        shape |= {"kv_heads": kv_heads, "head_dim": head_dim, "value_head_dim": head_dim}
        query = 2 if kind in DELTA else 1  # with an output gate as wide as itself
        attention = hidden * head_dim * ((query + 1) * heads + 2 * kv_heads)
        linear = sum(k == "linear_attention" for k in config.get("layer_types") or ()) if kind in DELTA else 0
        mixers = (layers - linear) * attention
        if linear:
            parameters, state_flops = _gated_delta(read)
            mixers += linear * parameters
            shape["state_flops"] = linear * state_flops
    shape["windows"] = windows(config, layers)
    shape["parameters"] = mixers + _feed_forward(read, layers, hidden) + vocab * hidden
    return shape


def _feed_forward(read: _Config, layers: int, hidden: int) -> int:
    """Parameters that a token meets in the feed-forward blocks of all layers: router and active experts."""
    config, kind = read.content, read.kind
    matrices = 2 if kind in UNGATED else 3
    width = read("intermediate_size", "ffn_hidden_size", "ffn_dim", "n_inner", default=4 * hidden)
    dense = matrices * hidden * width
    experts = read("num_experts", "num_local_experts", "n_routed_experts", default=0)
    if not experts:
        return layers * dense
    width = read("moe_intermediate_size", "intermediate_size")
    shared = read("shared_expert_intermediate_size", "shared_intermediate_size", default=0)
    shared += width * read("n_shared_experts", default=0)
    chosen = read("num_experts_per_tok", "num_experts_per_token", "moe_topk")
    active = experts * hidden + matrices * hidden * (width * chosen + shared)
    active += hidden if config.get("shared_expert_intermediate_size") else 0  # the shared expert's gate
    step = read("decoder_sparse_step", default=1)
    only_dense = set(config.get("mlp_only_layers") or ())
    first = read("first_k_dense_replace", default=0)
    kinds = config.get("mlp_layer_types")
    if kinds:
        sparse = sum(layer == "sparse" for layer in kinds)
    else:
        sparse = sum(1 for i in range(layers) if i not in only_dense and (i + 1) % step == 0 and i >= first)
    return (layers - sparse) * dense + sparse * active


def _latent(read: _Config, shape: dict[str, Any]) -> int:
    """Multi-head latent attention (arXiv 2405.04434, section 2.1): parameters of a layer. Keys and values of all
    heads come out of a latent of kv_lora_rank numbers; the latent is what is cached."""
    hidden, heads = shape["hidden"], shape["heads"]
    rank, rope, nope = read("kv_lora_rank"), read("qk_rope_head_dim"), read("qk_nope_head_dim")
    value, query_rank = read("v_head_dim"), read("q_lora_rank", default=0)
    query = query_rank * (hidden + heads * (nope + rope)) if query_rank else hidden * heads * (nope + rope)
    expand = rank * heads * (nope + value)
    shape |= {"kv_heads": heads, "head_dim": nope + rope, "value_head_dim": value}
    shape |= {"latent_rank": rank, "expand_parameters": expand, "rope_dim": rope}
    return query + hidden * (rank + rope) + expand + heads * value * hidden


def _gated_delta(read: _Config) -> tuple[int, int]:
    """(parameters, FLOPs of the recurrence per token) of a layer with the gated delta rule (arXiv 2412.06464,
    equation 10, token by token): the state of d_k x d_v per value head decays (1 operation each), is read by the
    key (2), corrected by an outer product (2) and read by the query (2); before that, a convolution."""
    hidden = read("hidden_size")
    key_heads, value_heads = read("linear_num_key_heads"), read("linear_num_value_heads")
    key, value = read("linear_key_head_dim"), read("linear_value_head_dim")
    mixed = 2 * key_heads * key + value_heads * value
    parameters = hidden * (mixed + value_heads * value + 2 * value_heads) + value_heads * value * hidden
    return parameters, 7 * value_heads * key * value + 2 * mixed * read("linear_conv_kernel_dim")


def _state_space(read: _Config) -> dict[str, Any]:
    """Mamba-2 (arXiv 2405.21060, section 6): per token and layer the state of head_dim x state_size per head decays
    (1), takes in an outer product (2) and is read (2); before that, a convolution."""
    hidden, layers, vocab = read("hidden_size"), read("num_hidden_layers"), read("vocab_size")
    heads, head_dim, size = read("num_heads"), read("head_dim"), read("state_size")
    inner, groups = heads * head_dim, read("n_groups")
    mixed = inner + 2 * groups * size
    parameters = hidden * (inner + mixed + heads) + inner * hidden
    state_flops = layers * (5 * inner * size + 2 * mixed * read("conv_kernel"))
    shape = {
        "hidden": hidden,
        "heads": heads,
        "kv_heads": heads,
        "head_dim": head_dim,
        "value_head_dim": head_dim,
    }
    return shape | {
        "parameters": layers * parameters + vocab * hidden,
        "vocab": vocab,
        "windows": (),
        "state_flops": state_flops,
    }


def windows(config: Mapping[str, Any], layers: int) -> tuple[int, ...]:
    """The attention window of each layer that attends, 0 for none; from ``layer_types`` where the config has it."""
    window = config.get("sliding_window") or 0
    kinds = config.get("layer_types")
    if kinds:
        known = {"full_attention": 0, "sliding_attention": window}
        strange = sorted(set(kinds) - set(known) - {"linear_attention"})
        if strange:
            raise UserError(f"FLOPs of layers of type {strange[0]!r} are not known.")
        return tuple(known[kind] for kind in kinds if kind in known)
    if config.get("use_sliding_window") is False:
        window = 0
    return (int(window),) * layers
