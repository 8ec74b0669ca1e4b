"""What every engine owes: a suite to subclass, and a tiny tokenizer and models to run it on.

A subclass gives the fixtures ``engine`` and ``module`` (a Hugging Face module with the engine's weights, in
float32), and may change ``prompts``.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from reasoning.records import Cost, Draw, Problem, Sampling, chain_key

VOCAB = 96
END = VOCAB - 1

CONFIGS = {
    "qwen3": dict(
        hidden_size=64, intermediate_size=96, head_dim=16, num_key_value_heads=2, tie_word_embeddings=True
    ),
    "qwen2": dict(hidden_size=64, intermediate_size=96, num_key_value_heads=2),
    "llama": dict(
        hidden_size=64,
        intermediate_size=96,
        num_key_value_heads=4,
        attention_bias=True,
        mlp_bias=True,
        rope_parameters=dict(
            rope_type="llama3",
            rope_theta=10000.0,
            factor=4.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=64,
        ),
    ),
    "mistral": dict(hidden_size=64, intermediate_size=96, num_key_value_heads=2, sliding_window=7),
    "gemma3_text": dict(
        hidden_size=64,
        intermediate_size=96,
        head_dim=16,
        num_key_value_heads=1,
        sliding_window=6,
        num_hidden_layers=6,
    ),
    "gpt2": dict(n_embd=64, n_layer=2, n_head=4, n_positions=128),
    "bloom": dict(hidden_size=64, n_layer=2, n_head=4),
    "mamba": dict(hidden_size=32, num_hidden_layers=2, state_size=4),
}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Words w0, w1, ...; the last id ends a sequence."""
    words = {f"w{i}": i for i in range(VOCAB - 2)} | {"<pad>": VOCAB - 2, "</s>": END}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="w0"
    )


def tiny_model(kind: str = "qwen3", seed: int = 0, spread: float = 3.0, **changes: Any):
    """A random model whose distributions are neither flat nor settled (its head is scaled by ``spread``)."""
    common = dict(vocab_size=VOCAB, bos_token_id=0, eos_token_id=END, pad_token_id=VOCAB - 2)
    if kind not in ("gpt2", "bloom", "mamba"):
        common |= dict(num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=128)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(common | CONFIGS[kind] | changes)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and "norm" in name:
                parameter.add_(
                    torch.randn_like(parameter) * 0.1
                )  # norms of exactly 1 would hide a lost weight
        model.get_output_embeddings().weight.mul_(spread)
    return model.eval()


def problems(count: int, seed: int = 0) -> list[Problem]:
    """Prompts of 1 to about 40 words."""
    generator = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(count):
        length = int(torch.randint(1, 40, (1,), generator=generator))
        words = torch.randint(1, VOCAB - 3, (length,), generator=generator).tolist()
        out.append(Problem.make(" ".join(f"w{w}" for w in words), None))
    return out


def forward_logprobs(module, chain) -> torch.Tensor:
    """Log-probabilities of the chain's tokens by a plain forward pass over prompt and chain, processed by
    transformers' own warpers."""
    ids: Any = torch.tensor([[*chain.prompt_token_ids, *chain.token_ids]])
    with torch.no_grad():
        logits = module(ids, use_cache=False).logits[0].float()
    logits = logits[len(chain.prompt_token_ids) - 1 : -1]
    sampling, warpers = chain.sampling, LogitsProcessorList()
    if not sampling.greedy:
        warpers.append(TemperatureLogitsWarper(float(sampling.temperature)))
        if sampling.top_k:
            warpers.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            warpers.append(TopPLogitsWarper(sampling.top_p))
    tokens = torch.tensor(chain.token_ids)
    return warpers(ids, logits).log_softmax(-1).gather(-1, tokens[:, None])[:, 0]


SAMPLINGS = {
    "plain": Sampling(max_new_tokens=24),
    "cold": Sampling(temperature=0.6, max_new_tokens=24, seed=1),
    "top_k": Sampling(temperature=1.3, top_k=5, max_new_tokens=24),
    "top_p": Sampling(top_p=0.8, max_new_tokens=24),
    "top_k_top_p": Sampling(temperature=0.9, top_k=20, top_p=0.7, max_new_tokens=24),
    "greedy": Sampling(temperature=0, max_new_tokens=24),
}


class EngineContract:
    tolerance = 1e-4
    shares_prompts_exactly = True  # else by whole blocks of a cache, so that the worst case shares nothing

    @pytest.fixture
    def prompts(self) -> list[Problem]:
        return problems(5)

    def draws(self, prompts, sampling=SAMPLINGS["plain"], count=4) -> list[Draw]:
        return [Draw(problem, sampling, tuple(range(count))) for problem in prompts]

    def test_every_index_comes_back_once(self, engine, prompts):
        draws = [
            Draw(problem, SAMPLINGS["plain"], indices)
            for problem, indices in zip(prompts, [(0,), (3, 7), (), (2, 1, 0), (5,)], strict=True)
        ]
        got = sorted((c.problem_id, c.index) for c in engine.generate(draws))
        assert got == sorted((d.problem.id, i) for d in draws for i in d.indices)
        assert list(engine.generate([])) == []

    def test_chains_say_where_they_come_from(self, engine, prompts):
        draw = Draw(prompts[0], SAMPLINGS["cold"], (4, 2))
        for chain in engine.generate([draw]):
            assert chain.model == engine.model
            assert chain.sampling == draw.sampling
            assert chain.key == chain_key(
                engine.model, draw.sampling, draw.problem.id, draw.problem.prompt, chain.index
            )
            assert chain.prompt_token_ids == engine.encode(draw.problem.prompt)
            assert len(chain.token_ids) == len(chain.logprobs) > 0

    def test_same_key_same_chain(self, engine, prompts):
        draws = self.draws(prompts)
        first = {c.key: c.token_ids for c in engine.generate(draws)}
        again = {c.key: c.token_ids for c in engine.generate(list(reversed(draws)))}
        assert first == again
        (alone,) = engine.generate([replace(draws[2], indices=(3,))])
        assert alone.token_ids == first[alone.key]
        assert len(set(first.values())) > len(first) / 2  # other keys, other chains

    def test_other_seeds_give_other_chains(self, engine, prompts):
        def texts(seed):
            draws = self.draws(prompts, replace(SAMPLINGS["plain"], seed=seed))
            return {(c.problem_id, c.index): c.token_ids for c in engine.generate(draws)}

        one, two = texts(1), texts(2)
        assert sum(one[k] == two[k] for k in one) < len(one) / 2

    @pytest.mark.parametrize("name", SAMPLINGS)
    def test_logprobs_are_those_of_a_plain_forward_pass(self, engine, module, prompts, name):
        chains = list(engine.generate(self.draws(prompts, SAMPLINGS[name], 2)))
        assert len(chains) == 2 * len(prompts)
        for chain in chains:
            expected = forward_logprobs(module, chain)
            assert torch.isfinite(expected).all(), "a token from outside of the truncated distribution"
            torch.testing.assert_close(torch.tensor(chain.logprobs), expected, atol=self.tolerance, rtol=0)

    def test_greedy_takes_the_likeliest_token(self, engine, module, prompts):
        for chain in engine.generate(self.draws(prompts, SAMPLINGS["greedy"], 1)):
            ids = torch.tensor([[*chain.prompt_token_ids, *chain.token_ids]])
            with torch.no_grad():
                logits = module(ids, use_cache=False).logits[0, len(chain.prompt_token_ids) - 1 : -1]
            assert chain.token_ids == tuple(logits.argmax(-1).tolist())

    def test_text_is_a_view_of_the_tokens(self, engine, prompts):
        for chain in engine.generate(self.draws(prompts)):
            assert chain.text == engine.decode(chain.token_ids)

    def test_the_limit_cuts_and_says_so(self, engine, prompts):
        chains = list(engine.generate(self.draws(prompts, Sampling(max_new_tokens=3), 8)))
        for chain in chains:
            ended = engine.tokenizer.eos_token_id in chain.token_ids
            assert chain.finish_reason == ("stop" if ended else "length")
            assert chain.truncated == (not ended)
            assert len(chain.token_ids) == 3 or (ended and len(chain.token_ids) < 3)
            assert engine.tokenizer.eos_token_id not in chain.token_ids[:-1]
        assert any(chain.truncated for chain in chains)

    def test_stop_strings_end_a_chain_and_stay_in_it(self, engine, prompts):
        long = replace(SAMPLINGS["plain"], max_new_tokens=24)
        free = list(engine.generate(self.draws(prompts, long)))
        words = [word for chain in free for word in chain.text.split()]
        stop = (max(set(words), key=words.count), "w9 w9 w9 w9")
        cut = list(engine.generate(self.draws(prompts, replace(long, stop=stop))))
        hit = [chain for chain in cut if any(s in chain.text for s in stop)]
        assert hit
        for chain in hit:
            assert chain.finish_reason == "stop"
            assert not any(s in engine.decode(chain.token_ids[:-1]) for s in stop)

    def test_a_prefix_is_continued(self, engine, module, prompts):
        (whole,) = engine.generate(self.draws(prompts[:1], SAMPLINGS["greedy"], 1))
        assert len(whole.token_ids) > 4
        draw = Draw(prompts[0], SAMPLINGS["greedy"], (0,), prefix=whole.token_ids[:3], parent=whole.key)
        (rest,) = engine.generate([draw])
        assert rest.token_ids[: len(whole.token_ids) - 3] == whole.token_ids[3:]
        assert rest.prompt_token_ids == whole.prompt_token_ids + whole.token_ids[:3]
        assert rest.parent == whole.key
        assert rest.key != whole.key

    def test_cost_adds_up_and_stays_within_the_worst_case(self, engine, prompts):
        for draw in self.draws(prompts, SAMPLINGS["plain"], 3):
            chains = list(engine.generate([draw]))
            total = sum((chain.cost for chain in chains), Cost())
            prompt = len(engine.encode(draw.problem.prompt))
            worst = engine.worst_case(draw)
            assert total.prompt_tokens + total.cached_tokens == 3 * prompt
            assert total.output_tokens == sum(len(chain.token_ids) for chain in chains)
            flops = sum(
                engine.shape.decode_flops(c.cost.cached_tokens, c.cost.prompt_tokens + len(c.token_ids))
                for c in chains
            )
            assert math.isclose(total.flops, flops)
            if self.shares_prompts_exactly:
                assert total.prompt_tokens == prompt == worst.prompt_tokens
                assert total.cached_tokens == 2 * prompt == worst.cached_tokens
            assert worst.prompt_tokens >= total.prompt_tokens
            assert worst.output_tokens == 3 * draw.sampling.max_new_tokens >= total.output_tokens
            assert worst.flops >= total.flops
        assert engine.worst_case(replace(draw, indices=())) == Cost()
