"""Learning rates that are most likely a slip are said, those in use are not."""

import pytest

from reasoning.train.rates import odd_rate, usual_rate

# (weights that are trained, rate), each of a published or own recipe
IN_USE = [
    (600_000, 5e-3),  # this project's demo and tests, Muon
    (125_000_000, 6e-4),  # GPT-3 small (2005.14165)
    (494_000_000, 1e-6),  # GRPO of Qwen2.5-0.5B
    (175_000_000_000, 6e-5),  # GPT-3 (2005.14165)
    (40_000_000, 2e-4),  # LoRA of a 7 B model (2305.14314)
    (300_000, 2e-3),  # LoRA of a small one
]


@pytest.mark.parametrize(("weights", "lr"), IN_USE)
def test_rates_in_use_are_not_warned_of(weights, lr):
    assert odd_rate(lr, weights) == ""


@pytest.mark.parametrize(
    ("weights", "lr"), [(600_000, 50.0), (600_000, 0.02), (7_000_000_000, 2e-3), (1, 1e-12)]
)
def test_rates_far_beyond_are(weights, lr):
    assert f"--lr {lr:g} is" in odd_rate(lr, weights)


def test_larger_models_take_smaller_rates():
    rates = [usual_rate(10**n) for n in range(5, 13)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == 1e-4
