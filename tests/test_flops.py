"""FLOPs by formula against what torch counts while a tiny model runs."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from reasoning.architectures import DELTA, EXPERTS, KNOWN, LATENT
from reasoning.errors import UserError
from reasoning.flops import ModelShape

CONFIGS = {
    "llama": dict(
        hidden_size=48, intermediate_size=112, num_hidden_layers=2, num_attention_heads=4, vocab_size=61
    ),
    "qwen3": dict(
        hidden_size=48,
        intermediate_size=112,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=61,
        tie_word_embeddings=True,
    ),
    "gpt2": dict(n_embd=48, n_layer=2, n_head=4, vocab_size=61, n_positions=64),
    "mistral": dict(
        hidden_size=48,
        intermediate_size=112,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=61,
        sliding_window=5,
    ),
    "gpt_neox": dict(
        hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, vocab_size=61
    ),
}


SMALL = dict(
    hidden_size=48,
    intermediate_size=112,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=12,
    vocab_size=61,
    max_position_embeddings=64,
    sliding_window=5,
    pad_token_id=0,
    # names of older families
    n_embd=48,
    n_layer=2,
    n_head=4,
    n_positions=64,
    d_model=48,
    n_heads=4,
    n_layers=2,
    max_seq_len=64,
    ffn_dim=112,
    rotary_dim=4,
    # experts
    num_experts=6,
    num_local_experts=6,
    n_routed_experts=6,
    num_experts_per_tok=2,
    moe_intermediate_size=24,
    shared_expert_intermediate_size=40,
    shared_intermediate_size=40,
    n_shared_experts=2,
    first_k_dense_replace=1,
    n_group=2,
    topk_group=1,
    # latent attention
    q_lora_rank=20,
    kv_lora_rank=16,
    qk_nope_head_dim=8,
    qk_rope_head_dim=4,
    v_head_dim=12,
    # gated delta rule
    linear_num_key_heads=2,
    linear_num_value_heads=4,
    linear_key_head_dim=8,
    linear_value_head_dim=12,
)
ROUTED = dict(
    n_routed_experts=6,
    num_experts_per_tok=2,
    n_shared_experts=2,
    first_k_dense_replace=1,
    n_group=2,
    topk_group=1,
)
SPECIAL: dict[str, dict] = {
    "bloom": dict(hidden_size=48),
    "falcon": dict(hidden_size=48),
    "glm4_moe_lite": dict(mlp_layer_types=["dense", "sparse"], num_key_value_heads=4),
    "mamba2": dict(num_heads=6, head_dim=16, state_size=8, n_groups=2),
    "minicpm3": dict(num_key_value_heads=4, head_dim=4),
    "deepseek_v2": dict(num_key_value_heads=4, head_dim=4, **ROUTED, topk_method="greedy"),
    "deepseek_v3": dict(num_key_value_heads=4, head_dim=4),
    "dots1": ROUTED,
    "nemotron": dict(head_dim=12, num_key_value_heads=2),
    **{name: dict(num_hidden_layers=4) for name in DELTA},
    "stablelm": dict(hidden_size=64, num_key_value_heads=4),
}
OFTEN = {"llama", "gpt2", "gpt_neox", "mistral", "gemma3_text", "qwen3", "qwen2_moe", "qwen3_moe", "gpt_oss"}
OFTEN |= {"deepseek_v3", "minicpm3", "qwen3_next"}
"""Families that every test run compares; the others only with ``-m slow``."""
NOT_RUN = {"mamba2"}  # its tiny model does not decode through a plain cache; the matrices are compared


def build(name):
    if name in CONFIGS:
        given = CONFIGS[name]
    else:
        known = AutoConfig.for_model(name).to_dict()
        given = {k: v for k, v in SMALL.items() if known.get(k) is not None} | SPECIAL.get(name, {})
    config = AutoConfig.for_model(name, **given)
    torch.manual_seed(0)
    options = {"experts_implementation": "eager"} if name in EXPERTS | LATENT | DELTA else {}
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager", **options).eval()


def multiplied(counter):
    """What torch counted of matrix products; convolutions are counted by it in some kernels only."""
    counts = counter.get_flop_counts()["Global"]
    return sum(n for operation, n in counts.items() if "convolution" not in str(operation))


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in OFTEN else pytest.mark.slow) for n in sorted(KNOWN - NOT_RUN)],
)
def test_every_family_costs_what_torch_counts(name):
    """Decoding token by token, and a prompt in one pass. Of recurrent layers the matrices: torch counts no
    element-wise products, which their state is made of."""
    model = build(name)
    shape = ModelShape.from_config(model.config)
    cache, counted, steps = DynamicCache(config=model.config), [], 6
    for _ in range(steps):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.tensor([[3]]), past_key_values=cache, use_cache=True)
        counted.append(multiplied(counter))
    first = 1 if name in DELTA else 0  # the first step of these runs a kernel for whole chunks
    assert counted[first:] == [shape.decode_flops(t, 1) - shape.state_flops for t in range(first, steps)]
    assert sum(counted[4:]) == shape.decode_flops(4, steps - 4) - (steps - 4) * shape.state_flops
    if name in DELTA:
        return
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.full((1, steps), 3), use_cache=False)
    looked = sum(min(p, w or p) for w in shape.windows for p in range(1, steps + 1))
    masked = len(shape.windows) * steps**2 - looked  # torch counts these pairs too
    per_pair = 2 * shape.heads * (shape.head_dim + shape.value_head_dim)
    assert multiplied(counter) == shape.prefill_flops(steps) + per_pair * masked
    if name not in LATENT:
        assert sum(counted) == shape.prefill_flops(steps) == shape.score_flops(steps)


@pytest.mark.parametrize("name", ["deepseek_v3", "minicpm3"])
def test_absorbed_decoding_by_hand(name):
    """One layer, one step behind three tokens, matrix by matrix (arXiv 2405.04434, section 2.1.2)."""
    config = build(name).config
    plain = ModelShape.from_config(config)
    shape = plain.with_absorbed_decoding()
    assert shape.prefill_flops(9) == plain.prefill_flops(9)
    heads, rank, rope, nope, value = 4, 16, 4, 8, 12
    attend = 2 * heads * 4 * ((rank + rope) + rank)  # four positions: scores and sums in the latent's space
    absorb = 2 * heads * rank * (nope + value)  # the query goes in, the result comes out
    rest = 2 * plain.parameters - plain.layers * 2 * plain.expand_parameters
    assert shape.decode_flops(3, 1) == rest + plain.layers * (attend + absorb)
    assert shape.decode_flops(5000, 1) < plain.decode_flops(5000, 1) / 2
    assert ModelShape.from_json(json.loads(json.dumps(shape.to_json()))) == shape


def test_a_recurrent_layer_costs_the_same_at_every_position():
    shape = ModelShape.from_config(build("mamba2").config)
    inner, size, mixed = 6 * 16, 8, 6 * 16 + 2 * 2 * 8
    assert shape.state_flops == 2 * (5 * inner * size + 2 * mixed * 4)
    assert (
        shape.decode_flops(10**6, 1) == shape.decode_flops(0, 1) == 2 * shape.parameters + shape.state_flops
    )
    delta = ModelShape.from_config(build("qwen3_next").config)
    assert delta.state_flops == 3 * (7 * 4 * 8 * 12 + 2 * (2 * 2 * 8 + 4 * 12) * 4)
    assert delta.layers == 1, "only one layer in four attends"


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_training_is_three_forward_passes(name):
    """torch counts masked pairs too (P x P), so its attention part is halved here by hand."""
    model = build(name)
    shape = ModelShape.from_config(model.config)
    length = 7
    with FlopCounterMode(display=False) as counter:
        model(torch.full((2, length), 3)).logits.sum().backward()
    masked = 2 * shape.layers * shape.heads * 2 * shape.head_dim * (length**2 - length * (length + 1) // 2)
    # The gradient with respect to the embeddings' output is the one product that a first layer may skip; here
    # embeddings are trained, so nothing is skipped.
    assert counter.get_total_flops() == shape.training_flops([length, length]) + 3 * 2 * masked
    assert shape.training_flops([3, 5], recompute=True) == 4 * (
        shape.prefill_flops(3) + shape.prefill_flops(5)
    )


@pytest.mark.parametrize("name", sorted({*CONFIGS, *NOT_RUN, "minicpm3", "bloom", "falcon"}))
def test_matrix_parameters_are_those_of_the_module(name):
    model = build(name)
    matrices = sum(
        module.weight.numel()
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"
    )
    assert ModelShape.from_config(model.config).parameters == matrices


def test_mixture_of_experts_counts_the_router_and_the_chosen_experts():
    moe = dict(
        model_type="qwen3_moe", hidden_size=8, num_hidden_layers=3, num_attention_heads=2, vocab_size=10
    )
    moe |= dict(num_key_value_heads=1, head_dim=4, intermediate_size=20, moe_intermediate_size=6)
    moe |= dict(num_experts=16, num_experts_per_tok=2, mlp_only_layers=[0])
    attention = 8 * 8 + 8 * 4 + 8 * 4 + 8 * 8
    sparse = 16 * 8 + 2 * 3 * 8 * 6
    assert ModelShape.from_config(moe).parameters == 3 * attention + 3 * 8 * 20 + 2 * sparse + 80


@given(
    st.integers(0, 40), st.integers(0, 40), st.lists(st.sampled_from([0, 1, 4, 7]), min_size=1, max_size=4)
)
def test_sliding_windows_equal_a_count_position_by_position(context, new, windows):
    shape = ModelShape(1000, 8, 2, 1, 4, 3, 10, tuple(windows))
    pairs = sum(min(p, w or p) for w in windows for p in range(context + 1, context + new + 1))
    assert shape.decode_flops(context, new) == 2 * 1000 * new + 2 * 2 * (4 + 3) * pairs
    assert shape.prefill_flops(context) + shape.decode_flops(context, new) == shape.prefill_flops(
        context + new
    )


def test_windows_are_read_from_the_config():
    assert ModelShape.from_config(build("mistral").config).windows == (5, 5)
    config = AutoConfig.for_model("qwen3", **CONFIGS["qwen3"])
    assert ModelShape.from_config(config).windows == (0, 0, 0)


def test_arrays_and_json():
    shape = ModelShape.from_config(CONFIGS["qwen3"] | {"model_type": "qwen3"})
    counts = np.array([1, 5, 9])
    assert shape.prefill_flops(counts).tolist() == [shape.prefill_flops(int(n)) for n in counts]
    assert shape.decode_flops(4, counts).tolist() == [shape.decode_flops(4, int(n)) for n in counts]
    assert isinstance(shape.prefill_flops(5), float)
    assert ModelShape.from_json(json.loads(json.dumps(shape.to_json()))) == shape


def test_what_the_formulas_do_not_cover_is_refused():
    with pytest.raises(UserError, match=r"'jetmoe' are not known\. Give a budget in tokens"):
        ModelShape.from_config(CONFIGS["qwen3"] | {"model_type": "jetmoe"})
    with pytest.raises(UserError, match="layers of type 'chunked_attention'"):
        ModelShape.from_config(
            CONFIGS["qwen3"] | {"model_type": "qwen3", "layer_types": ["chunked_attention"] * 3}
        )
    with pytest.raises(UserError, match="num_attention_heads"):
        ModelShape.from_config(
            {"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 3}
        )
