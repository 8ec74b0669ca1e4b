"""Weights in fewer bits, activations computed again, rows packed, optimizers: what each must not change."""

import copy

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from reasoning.engines.memory import out_of_memory
from reasoning.errors import MissingExtra, ReasoningError, UserError
from reasoning.train.assemble import loaded_dtype, precision
from reasoning.train.distributed import Ranks
from reasoning.train.layout import lay_out
from reasoning.train.learner import Learner
from reasoning.train.logprobs import logprobs_of, score_rows
from reasoning.train.objective import objective
from reasoning.train.optimizers import Masters, make_optimizers
from reasoning.train.options import TrainOptions
from reasoning.train.policy import Policy, open_policy
from reasoning.train.rows import Forward, Row, bundles, computed_tokens, forwards, packs, shares


@pytest.fixture
def model():
    config = Qwen3Config(
        vocab_size=90,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return Qwen3ForCausalLM(config).eval()


@pytest.fixture(scope="module")
def rows():
    """The last five share a prompt of 20 tokens."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(4, 80, (400,), generator=generator).tolist()
    shapes = [(5, 9), (3, 30), (7, 1), (11, 4), (20, 6), (20, 1), (20, 12), (20, 3), (20, 7)]
    made = []
    for i, (prompt, length) in enumerate(shapes):
        start = 0 if prompt == 20 else 11 * i
        made.append(
            Row(tuple(ids[start : start + prompt]), tuple(ids[40 * i : 40 * i + length]), 1 - 0.45 * i)
        )
    return made


def gradients(policy, rows, **options):
    learner = Learner(policy, objective("rloo"), lr=1e-3, **options)
    result = learner.gradients(rows)
    return {n: p.grad for n, p in learner.trained().items()}, result.metrics


def relative(a, b):
    gap = sum(float((a[n].float() - b[n].float()).square().sum()) for n in b) ** 0.5
    return gap / sum(float(b[n].float().square().sum()) for n in b) ** 0.5


# ---- activations computed again, packing


@pytest.mark.parametrize("share", [True, False])
def test_recomputed_activations_give_the_same_gradient(model, rows, share):
    plain, _ = gradients(copy.deepcopy(model), rows, share_prompts=share)
    for packed in (None, False):
        policy = Policy(copy.deepcopy(model), recompute=True, packed=packed)
        again, _ = gradients(policy, rows, share_prompts=share)
        assert relative(again, plain) < 1e-6


def test_recomputing_keeps_less(model, rows):
    def kept(policy):
        sizes = {}

        def pack(tensor):
            if not isinstance(tensor, torch.nn.Parameter):
                sizes[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            policy.score(rows[:4], 1.0, False, False)
        return sum(sizes.values())

    plain = kept(Policy(copy.deepcopy(model)))
    assert kept(Policy(model, recompute=True)) < 0.5 * plain


def test_packed_rows_see_themselves_alone(model, rows):
    plain, padded = gradients(Policy(copy.deepcopy(model), packed=False), rows, share_prompts=False)
    packed, tight = gradients(Policy(model, packed=True), rows, share_prompts=False)
    assert relative(packed, plain) < 1e-5
    assert padded["padding_fraction"] > 0.1
    assert tight["padding_fraction"] == 0
    with torch.no_grad():
        alone = torch.cat([logprobs_of(model, [row])[0] for row in rows])
        together = score_rows(model, rows, packed=True).logprobs
    assert torch.allclose(alone, together, atol=1e-5)


def test_padding_is_counted_as_it_is_computed(model, rows):
    seen = []
    decoder = model.get_decoder()
    handle = decoder.embed_tokens.register_forward_hook(lambda m, args, out: seen.append(args[0].numel()))
    _, metrics = gradients(Policy(model, packed=False), rows, micro_tokens=80)
    handle.remove()
    plan = forwards(rows, 80, True)
    counts = [computed_tokens(rows, f, False) for f in plan]
    assert any(f.shared for f in plan)
    assert sum(seen) == sum(positions for positions, _ in counts)
    assert metrics["padding_fraction"] == pytest.approx(sum(p for _, p in counts) / sum(seen))


def test_packs_hold_every_row_once_within_the_bound(rows):
    batches = list(packs(rows, 40))
    assert [i for batch in batches for i in batch] == list(range(len(rows)))
    assert all(len(b) == 1 or sum(len(rows[i]) for i in b) <= 40 for b in batches)


@pytest.mark.parametrize("ranks", [1, 2, 3, 20])
def test_rows_are_dealt_out_evenly_and_once(rows, ranks):
    dealt = shares(rows * 4, ranks)
    assert sorted(i for part in dealt for i in part) == list(range(4 * len(rows)))
    load = [sum(len((rows * 4)[i]) for i in part) for part in dealt]
    assert max(load) - min(load) <= max(sum(load) // (2 * ranks), max(map(len, rows)))
    pairs = shares(rows[:8], ranks, together=2)
    assert all(i ^ 1 in part for part in pairs for i in part)


# ---- precision


def test_bfloat16_without_a_float32_copy_loses_small_steps():
    """A step of 1e-5 is under half a unit in the last place of a bfloat16 weight near 1: AdamW never gets away."""
    target = torch.full((64,), 1.02, dtype=torch.float32)

    def trained(with_masters):
        layer = torch.nn.Linear(64, 1, bias=False, dtype=torch.bfloat16)
        with torch.no_grad():
            layer.weight.fill_(1.0)
        masters = Masters(layer.parameters() if with_masters else [])
        [optimizer] = make_optimizers(layer, "adamw", 1e-5, 0.0, masters)
        for _ in range(2000):
            optimizer.zero_grad()
            (layer.weight.float()[0] - target).square().sum().backward()
            optimizer.step()
            masters.deliver()
        return float(layer.weight.detach().float().mean())

    assert trained(False) == 1.0
    assert trained(True) == pytest.approx(1.02, abs=0.008)  # to bfloat16's grid


def test_gradients_of_several_forwards_add_up_in_float32(model, rows):
    low = model.to(torch.bfloat16)
    one, _ = gradients(copy.deepcopy(low), rows, micro_tokens=1)
    assert all(g.dtype == torch.float32 for g in one.values())
    exact, _ = gradients(copy.deepcopy(low).float(), rows, micro_tokens=1)
    assert relative(one, exact) < 0.03


def test_mixed_keeps_float32_weights_and_samples_from_their_bfloat16(model, rows):
    plain, _ = gradients(copy.deepcopy(model), rows)
    policy = open_policy(model, dtype="mixed")
    learner = Learner(policy, objective("rloo"), lr=1e-3)
    learner.step(rows)
    assert {p.dtype for p in policy.model.parameters()} == {torch.float32}
    assert {p.dtype for p in policy.sampler.parameters()} == {torch.bfloat16}
    policy.deliver()
    for name, parameter in policy.model.named_parameters():
        assert torch.equal(policy.sampler.get_parameter(name), parameter.to(torch.bfloat16))
    rough, _ = gradients(open_policy(copy.deepcopy(model), dtype="mixed"), rows)
    assert relative(rough, plain) > 1e-4  # products in bfloat16, of weights one step further


@pytest.mark.parametrize("chunked", [False, True])
def test_the_head_under_mixed_precision(model, rows, monkeypatch, chunked):
    if chunked:
        monkeypatch.setattr("reasoning.train.logprobs.CHUNK_LOGITS", 90 * 7)
    plain, _ = gradients(copy.deepcopy(model), rows)
    mixed, _ = gradients(open_policy(model, dtype="mixed"), rows)
    assert relative(mixed, plain) < 0.05


def test_bfloat16_cut_among_ranks_keeps_its_float32_parts():
    options = TrainOptions(run="r", model="m", dtype="bfloat16", shard="fsdp")
    assert (precision(options), loaded_dtype(options)) == ("bfloat16", "bfloat16")
    assert (precision(options, Ranks(0, 2)), loaded_dtype(options, Ranks(0, 2))) == ("mixed", "float32")


def test_a_restart_takes_the_float32_copies_back_too(model, rows):
    learner = Learner(model.to(torch.bfloat16), objective("rloo"), lr=1e-2)
    first = {n: p.detach().clone() for n, p in learner.trained().items()}
    learner.step(rows)
    assert not all(torch.equal(first[n], p) for n, p in learner.trained().items())
    learner.restart(first)
    assert all(torch.equal(first[n], p) for n, p in learner.trained().items())
    assert all(torch.equal(first[n].bfloat16(), p) for n, p in model.named_parameters())


# ---- optimizers, memory


def test_adamw_in_8_bits_says_what_it_needs(model):
    with pytest.raises((MissingExtra, UserError), match=r"8bit|needs a GPU"):
        make_optimizers(model, "adamw_8bit", 1e-3, 0.0)


class Full(torch.nn.Module):
    def forward(self, *args, **kwargs):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: ...")


def test_out_of_memory_is_one_line_that_says_what_to_lower(model, rows):
    learner = Learner(Policy(model, packed=False), objective("rloo"), lr=1e-3)
    model.model.layers[1].mlp = Full()
    with pytest.raises(ReasoningError, match="--micro-tokens") as caught:
        learner.gradients(rows)
    said = str(caught.value)
    assert "\n" not in said
    for name in ("--gradient-checkpointing", "--dtype bfloat16", "--lora-rank"):
        assert name in said
    with pytest.raises(ReasoningError, match="Out of memory"):
        learner.rescore(rows)


def test_out_of_memory_in_the_optimizers_step_says_what_needs_less(model, rows, monkeypatch):
    learner = Learner(Policy(model), objective("rloo"), lr=1e-3)

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(learner.optimizers[0], "step", full)
    with pytest.raises(
        ReasoningError, match=r"in the optimizer's step: .* take 0\.0 GiB.*--lora-rank"
    ) as caught:
        learner.step(rows)
    assert "\n" not in str(caught.value)
    assert "--shard fsdp" in str(caught.value)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", full)
    with pytest.raises(ReasoningError, match="in the optimizer's step"):
        learner.step(rows)


def test_out_of_memory_in_the_backward_pass(model, rows, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    learner = Learner(Policy(model), objective("rloo"), lr=1e-3)
    monkeypatch.setattr(torch.Tensor, "backward", full)
    with pytest.raises(ReasoningError, match=r"in the forward and backward pass of .* Lower --micro-tokens"):
        learner.step(rows)


def test_other_errors_are_not_taken_for_it():
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert out_of_memory(MemoryError())
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


# ---- straight over the weights


FAMILY = {
    "llama": (LlamaConfig, LlamaForCausalLM, {"attention_bias": True, "mlp_bias": True}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "one head": (LlamaConfig, LlamaForCausalLM, {"num_key_value_heads": 4}),
}


@pytest.mark.parametrize("name", FAMILY)
def test_the_whole_family_is_computed_straight(rows, name):
    """Biases, no norm of queries and keys, as many key heads as query heads; the gradient of every weight."""
    config, kind, more = FAMILY[name]
    shape = dict(
        vocab_size=90,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        pad_token_id=rows[0].ids[0],  # sampled all the same; the embedding gives it no gradient
    )
    torch.manual_seed(0)
    model = kind(config(**{**shape, "num_key_value_heads": 2, **more})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    plain, _ = gradients(Policy(copy.deepcopy(model), packed=False), rows)
    policy = Policy(model)
    assert policy.straight is not None
    found, figures = gradients(policy, rows)
    assert found.keys() == plain.keys()
    assert all(relative({0: found[n]}, {0: plain[n]}) < 1e-4 for n in plain if plain[n].norm() > 1e-6)
    assert relative(found, plain) < 1e-5
    assert figures["padding_fraction"] == 0


def test_what_is_not_as_it_seems_is_not_computed_straight(model):
    """A module that does more than its kind says, an adapter, and another family go through their own modules."""
    assert Policy(copy.deepcopy(model)).straight is not None
    other = copy.deepcopy(model)
    other.model.layers[0].register_forward_hook(lambda module, args, out: out * 1.1)
    assert Policy(other).straight is None
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=90, n_positions=64, n_embd=32, n_layer=1, n_head=2))
    assert Policy(gpt2).straight is None


def test_bundles_hold_every_row_once_within_the_bound(rows):
    for tokens, share in ((60, True), (60, False), (400, True)):
        cut = bundles(rows, tokens, share)
        assert sorted(i for f in cut for i in f.rows) == list(range(len(rows)))
        for forward in cut:
            part = [rows[i] for i in forward.rows]
            prompts = {row.prompt_ids for row in part} if share else [row.prompt_ids for row in part]
            size = sum(len(row.ids) for row in part) + sum(map(len, prompts))
            assert size <= tokens or len(part) == 1
    pairs = bundles(rows[:8], 30, True, 2)
    assert all(f.rows[::2] == tuple(i - 1 for i in f.rows[1::2]) for f in pairs)


def test_a_layout_says_where_every_token_is(rows):
    """Its ids and positions read back are the rows; a prompt that several rows have is there once."""
    for share in (True, False):
        layout = lay_out(rows, share, torch.device("cpu"))
        forward = Forward(tuple(range(len(rows))), share)
        assert (len(layout.ids), 0) == computed_tokens(rows, forward, True)
        assert layout.targets.tolist() == [token for row in rows for token in row.ids]
        before = [token for row in rows for token in (row.prompt_ids + row.ids)[len(row.prompt_ids) - 1 : -1]]
        assert layout.ids[layout.take].tolist() == before
        places = [p for row in rows for p in range(len(row.prompt_ids) - 1, len(row) - 1)]
        assert layout.positions[layout.take].tolist() == places
        assert [part.start for part in layout.parts] == [0, *(part.end for part in layout.parts[:-1])]
