"""The parity check, on the embedded engine (vLLM's is in test_vllm_weights.py)."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from contract import problems, tiny_model, tiny_tokenizer

from reasoning.engines.parity import (
    LIMITS,
    Parity,
    PlainCopy,
    by_module,
    check,
    measure,
    parse_limit,
    plain_logprobs,
    why_not,
)
from reasoning.engines.transformers import TransformersEngine
from reasoning.errors import EngineError, UserError
from reasoning.records import Draw, Sampling


@pytest.fixture(scope="module")
def engine():
    return TransformersEngine(tiny_model(), tiny_tokenizer(), name="tiny", version="0")


def test_an_engine_agrees_with_its_own_model(engine):
    found = check(engine, by_module(tiny_model()), limit=1e-4)
    assert found.holds
    assert found.mean < 1e-5
    assert found.tokens == found.cost.output_tokens > 50


def test_other_weights_are_found_and_the_figures_named(engine):
    with pytest.raises(
        EngineError, match=r"tiny@0 does not draw from its model.*mean \d.*limit 0\.001\). Do this\."
    ):
        check(engine, by_module(tiny_model(seed=1)), limit=1e-3, advice="Do this.")


def test_one_wrong_layer_is_found(engine):
    other = tiny_model()
    with torch.no_grad():
        other.model.layers[1].mlp.down_proj.weight.mul_(1.05)
    with pytest.raises(EngineError):
        check(engine, by_module(other), limit=1e-5)


def test_a_training_module_is_put_back_into_training(engine):
    live = tiny_model().train()
    check(engine, by_module(live), limit=1e-3)
    assert live.training


@pytest.mark.parametrize(
    ("mean", "worst", "holds"),
    [
        (0.01, 0.1, True),
        (0.051, 0.1, False),
        (0.01, 1.01, False),
        (math.nan, 0.1, False),
        (0.01, math.nan, False),
    ],
)
def test_what_holds(mean, worst, holds):
    assert Parity(10, mean, worst, 0.05).holds is holds


def test_measure_counts_every_token(engine):
    (draw,) = (Draw(problem, Sampling(max_new_tokens=6), (0, 1)) for problem in problems(1))
    chains = list(engine.generate([draw]))
    found = measure(chains, lambda chains: [np.asarray(c.logprobs) + 0.25 for c in chains], 0.1)
    assert found.mean == pytest.approx(0.25)
    assert found.worst == pytest.approx(0.25)
    assert found.tokens == sum(len(chain.token_ids) for chain in chains)


def test_temperature_is_applied_and_truncation_refused(engine):
    (draw,) = (Draw(problem, Sampling(temperature=0.6, max_new_tokens=6)) for problem in problems(1))
    (chain,) = engine.generate([draw])
    np.testing.assert_allclose(plain_logprobs(tiny_model(), chain), chain.logprobs, atol=1e-5)
    for sampling in (Sampling(temperature=0), Sampling(top_k=3), Sampling(top_p=0.5)):
        with pytest.raises(UserError, match="without top_k and top_p"):
            plain_logprobs(tiny_model(), replace(chain, sampling=sampling))


def test_the_option():
    assert parse_limit("auto", "bfloat16") == ("auto", LIMITS["bfloat16"])
    assert parse_limit("ON", "float32") == ("on", LIMITS["float32"])
    assert parse_limit("0.3", "float32") == ("on", 0.3)
    assert parse_limit(0, "float32")[0] == parse_limit("off", "float32")[0] == "off"
    for value in ("-1", "nan", "inf", "yes please"):
        with pytest.raises(UserError, match="is not auto, on, off, or a limit in nats"):
            parse_limit(value, "float32")


def test_when_auto_makes_no_check():
    gib = 2**30
    assert why_not("auto", False, "", 4 * gib, 9 * gib) == ""
    assert "takes 9.0 GiB" in why_not("auto", False, "", 9 * gib, 90 * gib)
    assert "takes 4.0 GiB" in why_not("auto", False, "", 4 * gib, 6 * gib)
    assert why_not("on", False, "", 9 * gib, 10 * gib) == ""
    assert "quantized (fp8)" in why_not("auto", False, "fp8", gib, 9 * gib)
    assert why_not("on", True, "fp8", gib, 9 * gib) == ""
    with pytest.raises(UserError, match=r"parity=on: its weights are quantized.*parity=0\.3"):
        why_not("on", False, "fp8", gib, 9 * gib)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's
@pytest.mark.parametrize("kind", ["qwen3", "gpt2"])
def test_a_plain_copy_takes_weights_and_adapters_over(kind, tmp_path):
    peft = pytest.importorskip("peft")
    target = "c_attn" if kind == "gpt2" else "q_proj"
    torch.manual_seed(1)
    lora = peft.LoraConfig(
        r=2, target_modules=[target], init_lora_weights=False, fan_in_fan_out=kind == "gpt2"
    )
    peft.get_peft_model(tiny_model(kind), lora).save_pretrained(tmp_path / "a")
    tiny_model(kind).save_pretrained(tmp_path / "m")
    ids = torch.arange(9)[None]

    def logits(module):
        with torch.no_grad():
            return module(input_ids=ids).logits

    expected = logits(peft.PeftModel.from_pretrained(tiny_model(kind, seed=4), str(tmp_path / "a")).eval())
    copy = PlainCopy.open(tmp_path / "m", adapter=tmp_path / "a")
    weights = dict(tiny_model(kind, seed=4).named_parameters())
    copy.take_over(weights)
    torch.testing.assert_close(logits(copy.module), expected)
    copy.wear(tmp_path / "a")  # the same again: not twice on top of each other
    torch.testing.assert_close(logits(copy.module), expected)
    copy.take_over({name.removeprefix("transformer."): value for name, value in weights.items()})
    torch.testing.assert_close(logits(copy.module), expected)


def test_a_model_that_transformers_cannot_load(tmp_path):
    with pytest.raises(UserError, match=r"for the parity check.*parity=off"):
        PlainCopy.open(tmp_path)
