"""FLOPs by formula against what torch counts while a tiny model runs."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

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


def build(name):
    config = AutoConfig.for_model(name, **CONFIGS[name])
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "gpt_neox"])
def test_decoding_token_by_token_costs_what_torch_counts(name):
    model = build(name)
    shape = ModelShape.from_config(model.config)
    cache, counted = DynamicCache(config=model.config), []
    for _ in range(9):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.tensor([[3]]), past_key_values=cache, use_cache=True)
        counted.append(counter.get_total_flops())
    assert counted == [shape.decode_flops(t, 1) for t in range(9)]
    assert sum(counted) == shape.prefill_flops(9) == shape.score_flops(9)
    assert sum(counted[4:]) == shape.decode_flops(4, 5)


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


@pytest.mark.parametrize("name", CONFIGS)
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
    with pytest.raises(UserError, match="kv_lora_rank"):
        ModelShape.from_config(CONFIGS["qwen3"] | {"model_type": "deepseek_v3", "kv_lora_rank": 8})
    with pytest.raises(UserError, match="num_attention_heads"):
        ModelShape.from_config({"model_type": "x", "hidden_size": 8, "num_hidden_layers": 1})
