"""Decoding on a GPU over keys and values in pages, held against a plain forward pass.

Without a GPU the kernels run in Triton's interpreter where Triton is installed and TRITON_INTERPRET=1 is set.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed (it comes with CUDA builds of torch)")

from engines.contract import CONFIGS, tiny_model, tiny_tokenizer

from reasoning.engines.cuda_forward import CudaForward, rows_of_graph
from reasoning.engines.forward import CachedForward, Prompt, agrees
from reasoning.engines.llama import LlamaForward
from reasoning.engines.paged import PAGE, PagedKeyValues, page_like, pages_for
from reasoning.engines.transformers import TransformersEngine
from reasoning.records import Draw, Problem, Sampling

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
HALF = torch.bfloat16 if CUDA else torch.float16  # the interpreter multiplies bfloat16 wrongly

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not CUDA and os.environ.get("TRITON_INTERPRET") != "1",
        reason="no CUDA device (TRITON_INTERPRET=1 runs the kernels in Triton's interpreter)",
    ),
]


def module_of(kind="qwen3", dtype=torch.float32, **changes):
    return tiny_model(kind, max_position_embeddings=512, **changes).to(dtype).to(DEVICE).eval()


def forward_of(module):
    return CudaForward(module, graphs=CUDA)


def engine_of(module, **options):
    engine = TransformersEngine(module, tiny_tokenizer(), name="tiny", version="0", chat="no", **options)
    if not CUDA:
        engine._forward = forward_of(module)
    return engine


def draws(prompts, n, **sampling):
    return [
        Draw(Problem.make(p, None), Sampling(**({"max_new_tokens": 24} | sampling)), tuple(range(n)))
        for p in prompts
    ]


PROMPTS = [" ".join(f"w{(7 * i + j * j) % 90}" for j in range(n)) for i, n in enumerate((3, 64, 65, 130, 9))]


@pytest.mark.parametrize("kind", ["qwen3", "qwen2", "llama"])
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_agrees_with_the_modules_own_forward(kind, dtype):
    changes = {"num_attention_heads": 8, "head_dim": 16} if kind == "qwen3" else {}
    module = module_of(kind, dtype, **changes)
    assert agrees(forward_of(module), module)


@pytest.mark.parametrize("kind", ["qwen3", "qwen2", "llama"])
def test_chains_have_the_log_probabilities_of_a_plain_forward_pass(kind):
    module = module_of(kind)
    engine = engine_of(module, max_rows=7 if CUDA else 3)  # rows come, go and move
    count, tokens = (5, 90) if CUDA else (2, 6)  # the interpreter is slow
    chains = list(engine.generate(draws(PROMPTS, count, max_new_tokens=tokens)))
    assert len(chains) == 5 * count
    assert max(len(c.prompt_token_ids) + len(c.token_ids) for c in chains) > 2 * PAGE
    for chain in chains:
        ids = torch.tensor([[*chain.prompt_token_ids, *chain.token_ids]], device=DEVICE)
        with torch.inference_mode():
            logits = module(ids, use_cache=False).logits[0, len(chain.prompt_token_ids) - 1 : -1].float()
        plain = logits.log_softmax(-1).gather(-1, ids[0, len(chain.prompt_token_ids) :, None])[:, 0]
        assert torch.allclose(plain.cpu(), torch.tensor(chain.logprobs), atol=1e-4)


def test_weights_changed_in_place_are_seen_after_refresh():
    module = module_of()
    engine = engine_of(module)
    before = {c.index: c.token_ids for c in engine.generate(draws(PROMPTS[:1], 4))}
    other = module_of(seed=1)
    module.load_state_dict(other.state_dict())
    engine.refresh()
    after = {c.index: c.token_ids for c in engine.generate(draws(PROMPTS[:1], 4))}
    fresh = {c.index: c.token_ids for c in engine_of(other).generate(draws(PROMPTS[:1], 4))}
    assert after == fresh != before


def test_pages_are_shared_and_come_back():
    page = page_like(2, 1, 16, torch.float32, torch.device(DEVICE))
    store = PagedKeyValues(6, 100, 70, page)
    keys = torch.randn(2, 1, 100, 16, device=DEVICE)
    prompt = Prompt(torch.zeros(1, device=DEVICE), [(keys, -keys)])
    store.admit(np.arange(4), prompt)
    assert len({tuple(line[:2]) for line in store.table[:4]}) == 1  # the prompt's two pages, for all four
    lengths = np.full(4, 100)
    store.begin(lengths)
    assert len(set(store.table[:4, 2])) == 4  # each its own
    taken = len(store.segments) * store.per_segment - len(store.free)
    assert taken == 1 + 2 + 4  # the spare one, the prompt's, one each
    store.move(np.array([3]), np.array([5]))
    assert store.table[3, 0] == store.table[4, 0] != store.table[5, 0]
    store.release(np.array([0, 1, 2, 5]))
    assert len(store.segments) * store.per_segment - len(store.free) == 1
    assert (store.table == store.table[4, 0]).all()
    place = store.segments[0].flatten(0, 0)
    assert any(torch.equal(p[:, 0, :, :PAGE], keys[:, :, :PAGE]) for p in place)


def test_sizes():
    assert [pages_for(n) for n in (1, PAGE, PAGE + 1)] == [1, 1, 2]
    assert [rows_of_graph(n) for n in (1, 16, 17, 512, 513)] == [16, 16, 32, 512, 768]


@pytest.mark.skipif(not CUDA, reason="no CUDA device")
def test_a_graph_gives_what_its_kernels_give_one_by_one():
    module = module_of(dtype=torch.bfloat16)
    assert isinstance(
        TransformersEngine(module, tiny_tokenizer(), name="t", version="0")._forward, CudaForward
    )
    one, other = engine_of(module), engine_of(module)
    other._forward = CudaForward(module, graphs=False)
    chains = [{c.key: c.token_ids for c in e.generate(draws(PROMPTS, 8))} for e in (one, other)]
    assert chains[0] == chains[1]


def test_families_it_is_for():
    assert {"qwen3", "qwen2", "llama"} <= set(CONFIGS)
    assert not CudaForward.fits(tiny_model("gpt2"))


@pytest.mark.skipif(not CUDA, reason="no CUDA device")
@pytest.mark.parametrize("kind", ["qwen3", "llama", "mistral", "gpt2", "gemma3_text"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_other_paths_agree_on_a_gpu_too(kind, dtype):
    module = tiny_model(kind).to(dtype).to(DEVICE).eval()
    if LlamaForward.fits(module):
        assert agrees(LlamaForward(module), module)
    assert agrees(CachedForward(module), module)
