"""Choosing tokens: the random streams, truncation against transformers' warpers, and the frequencies."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from transformers import TopKLogitsWarper, TopPLogitsWarper

from reasoning.engines.choose import Rules, choose, truncate, uniforms


def test_streams_are_uniform_independent_and_made_of_their_counter_alone():
    seeds = np.repeat(np.arange(200, dtype=np.uint64), 500)
    positions = np.tile(np.arange(500), 200)
    u = uniforms(seeds, positions)
    assert (u > 0).all()
    assert (u < 1).all()
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    grid = u.reshape(200, 500)
    for a, b in [
        (grid[:-1], grid[1:]),
        (grid[:, :-1], grid[:, 1:]),
    ]:  # neighbouring seeds, neighbouring positions
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.02
    order = np.random.default_rng(0).permutation(len(u))
    assert (uniforms(seeds[order], positions[order]) == u[order]).all()


def test_tokens_come_with_their_probabilities():
    torch.manual_seed(0)
    logits = torch.randn(7) * 2
    count = 40_000
    u = torch.from_numpy(uniforms(np.arange(count, dtype=np.uint64), np.zeros(count, np.int64)))
    rules = Rules(temperature=torch.full((count,), 0.7))
    tokens, logprobs = choose(logits.expand(count, -1), rules, u)
    expected = torch.softmax(logits.double() / 0.7, -1)
    seen = torch.bincount(tokens, minlength=7).numpy()
    assert stats.chisquare(seen, count * expected.numpy()).pvalue > 1e-3
    torch.testing.assert_close(logprobs, expected.log()[tokens].float())


@given(st.integers(0, 10_000), st.integers(1, 30), st.floats(0.05, 0.99))
def test_truncation_equals_the_warpers_of_transformers(seed, top_k, top_p):
    logits = torch.randn(3, 24, generator=torch.Generator().manual_seed(seed)) * 3
    ids: torch.LongTensor = None  # type: ignore[assignment]  # neither warper reads it
    expected = TopPLogitsWarper(top_p)(ids, TopKLogitsWarper(top_k)(ids, logits))
    ours = truncate(logits, torch.full((3,), top_k), torch.full((3,), top_p, dtype=torch.float64))
    assert torch.equal(ours, expected)


def test_a_row_is_not_touched_by_the_rules_of_another():
    logits = torch.randn(3, 50)
    rules = Rules(
        temperature=torch.tensor([1.0, 1.0, 0.5]),
        top_k=torch.tensor([50, 1, 50]),
        top_p=torch.tensor([1.0, 1.0, 0.1], dtype=torch.float64),
        greedy=torch.tensor([False, False, False]),
    )
    u = torch.tensor([0.3, 0.9, 0.9], dtype=torch.float64)
    tokens, logprobs = choose(logits, rules, u)
    alone, alone_logprobs = choose(logits[:1], Rules(), u[:1])
    assert tokens[0] == alone[0]
    assert logprobs[0] == alone_logprobs[0]
    assert tokens[1] == logits[1].argmax()
    assert logprobs[1] == 0


@pytest.mark.parametrize("u", [1e-12, 0.5, 1 - 2.0**-33])
def test_impossible_tokens_are_never_chosen(u):
    logits = torch.full((1, 9), float("-inf"))
    logits[0, 4] = 3.0
    tokens, logprobs = choose(logits, Rules(), torch.tensor([u], dtype=torch.float64))
    assert tokens.tolist() == [4]
    assert logprobs.tolist() == [0.0]


def test_not_a_distribution_is_not_a_number():
    logits = torch.full((1, 9), float("nan"))
    _, logprobs = choose(logits, Rules(), torch.tensor([0.5], dtype=torch.float64))
    assert logprobs.isnan().all()
