"""The embedded engine: the contract on many architectures, batch invariance, and opening folders."""

import random

import pytest
import torch
from contract import SAMPLINGS, EngineContract, problems, tiny_model, tiny_tokenizer

from reasoning.engines.transformers import TransformersEngine
from reasoning.records import Draw, Sampling

FORWARDS = {
    "qwen3": "LlamaForward",
    "qwen2": "LlamaForward",
    "llama": "LlamaForward",
    "mistral": "CachedForward",
    "gemma3_text": "CachedForward",
    "gpt2": "CachedForward",
    "bloom": "CachedForward",
}


def engine_for(kind, **options):
    return TransformersEngine(tiny_model(kind), tiny_tokenizer(), name=kind, version="1", **options)


@pytest.fixture(autouse=True, scope="module")
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=FORWARDS)
def engine(request):
    engine = engine_for(request.param)
    assert type(engine._forward).__name__ == FORWARDS[request.param]
    return engine


class TestContract(EngineContract):
    @pytest.fixture
    def module(self, engine):
        return engine.module


@pytest.mark.parametrize("kind", ["qwen3", "llama", "gpt2", "mistral"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_chain_does_not_depend_on_its_company_in_any_bit(kind, threads):
    torch.set_num_threads(threads)
    engine = engine_for(kind, max_rows=33)
    samplings = [SAMPLINGS["plain"], SAMPLINGS["top_k_top_p"], Sampling(temperature=0.7, max_new_tokens=60)]
    pool = [Draw(p, samplings[i % 3], tuple(range(1 + i % 9))) for i, p in enumerate(problems(12, seed=3))]
    expected = {c.key: c for c in engine.generate(pool)}
    rng = random.Random(0)
    for _ in range(4):
        some = [
            Draw(d.problem, d.sampling, tuple(rng.sample(d.indices, rng.randint(1, len(d.indices)))))
            for d in rng.sample(pool, rng.randint(1, len(pool)))
        ]
        engine.max_rows = rng.choice([1, 5, 16, 33, 512])
        for chain in engine.generate(some):
            assert chain.token_ids == expected[chain.key].token_ids
            assert chain.logprobs == expected[chain.key].logprobs
