"""The learned verifier: what it reads equals a plain forward pass, whatever it is read with."""

import math
import shutil
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from reasoning.flops import ModelShape
from reasoning.train.calibration import auc, calibration_error
from reasoning.train.fresh import new_model
from reasoning.train.heads import logistic
from reasoning.train.reward import reading_cost
from verifiers import Attempt, VerifierError, open_verifier
from verifiers.learned import FEATURES, Card, Reader, features, probability, save_learned

PROMPT = "Q: Gus has 6 toys. How many?\nA:"
RESPONSES = [" The answer is 6.", " 6", " Gus has 6. Leo has 6+3=9. The answer is 9.", " The answer is 6."]


@pytest.fixture(scope="module")
def model():
    made, tokenizer = new_model(
        "new:tiny:hidden=32,layers=2,heads=2,kv_heads=1,ffn=48", [PROMPT, *RESPONSES], 5
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return made.eval(), tokenizer


@pytest.fixture(scope="module", params=["features", "finetuned"])
def folder(request, model, tmp_path_factory):
    module, tokenizer = model
    path = tmp_path_factory.mktemp(request.param)
    width = len(FEATURES) if request.param == "features" else 32
    rng = np.random.default_rng(0)
    head = {
        "mean": np.zeros(width),
        "scale": np.ones(width),
        "weight": rng.normal(0, 0.2, width),
        "bias": np.ones(1),
    }
    per_token, per_pair = reading_cost(ModelShape.from_config(module.config))
    save_learned(path, Card(request.param, "m@1", per_token, per_pair, {}), head, module, tokenizer)
    return path


def plain(model, prompt_ids, ids):
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt_ids + ids])).logits[0].float()
    every = torch.log_softmax(logits, -1)[len(prompt_ids) - 1 : -1]
    picked = every[torch.arange(len(ids)), torch.tensor(ids)]
    entropy = -(every.exp() * every).sum(-1)
    return [x.double().numpy() for x in (picked, entropy, picked - every.max(-1).values)]


def test_reading_equals_a_plain_forward(model):
    reader = Reader(*model)
    encoded = [reader.encode(PROMPT, r) for r in RESPONSES]
    prompt_ids = encoded[0][0]
    read = reader.read(prompt_ids, [ids for _, ids in encoded])
    for (_, ids), figures in zip(encoded, read, strict=True):
        for got, expected in zip(figures, plain(model[0], prompt_ids, ids), strict=True):
            assert got == pytest.approx(expected, abs=1e-4)


def test_the_last_hidden_state_is_that_of_the_last_token(model):
    reader = Reader(*model)
    prompt_ids, ids = reader.encode(PROMPT, RESPONSES[2])
    [[state]] = reader.read(prompt_ids, [ids], [[len(ids) - 1]])
    with torch.no_grad():
        expected = model[0].get_decoder()(input_ids=torch.tensor([prompt_ids + ids])).last_hidden_state[0, -1]
    assert state == pytest.approx(expected.double().numpy(), abs=1e-4)


def test_a_score_does_not_depend_on_the_neighbours(folder):
    verifier = open_verifier(f"learned:{folder}")
    attempts = [Attempt(PROMPT, r) for r in RESPONSES * 12]
    together = verifier.verify(attempts)
    alone = [verifier.verify([a])[0] for a in attempts[:4]]
    assert [v.score for v in together[:4]] == [v.score for v in alone]
    assert together[0] == together[3] == together[40]
    assert len({v.score for v in together}) == 3


def test_it_sees_no_reference_and_charges_what_it_reads(folder):
    verifier: Any = open_verifier(f"learned:{folder}")
    assert verifier.oracle is False
    with_reference, without = verifier.verify(
        [Attempt(PROMPT, RESPONSES[0], reference="6"), Attempt(PROMPT, RESPONSES[0], reference="9")]
    )
    assert with_reference == without
    shape = ModelShape.from_config(verifier.reader.model.config)
    assert without.flops == pytest.approx(shape.prefill_flops(without.scored_tokens))
    assert verifier.worst_case([Attempt(PROMPT, RESPONSES[0])]) == (without.scored_tokens, without.flops)


def test_empty_and_broken_responses_get_a_status(folder):
    verifier, nothing = open_verifier(f"learned:{folder}"), cast(Any, None)
    verdicts = verifier.verify([Attempt(PROMPT, ""), Attempt(PROMPT, nothing), Attempt(PROMPT, " 6")])
    assert [v.status for v in verdicts] == ["no_answer", "no_answer", "ok"]


def test_a_folder_that_is_none_says_how_to_make_one(tmp_path):
    with pytest.raises(VerifierError, match="reasoning fit"):
        open_verifier(f"learned:{tmp_path}")


def test_another_fit_in_the_same_folder_is_another_verifier(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "v")
    first = open_verifier(f"learned:{tmp_path}/v")
    assert open_verifier(first.name).name == first.name
    head = load_file(tmp_path / "v" / "head.safetensors")
    save_file(head | {"bias": head["bias"] + 1}, tmp_path / "v" / "head.safetensors")
    assert open_verifier(f"learned:{tmp_path}/v").name != first.name
    with pytest.raises(VerifierError, match="fitted anew"):
        open_verifier(first.name)
    (tmp_path / "v" / "verifier.json").write_text('{"kind": "fea')
    with pytest.raises(VerifierError, match="damaged"):
        open_verifier(f"learned:{tmp_path}/v")


def test_features_of_a_short_and_a_long_response():
    assert features(np.array([-1.0]), np.array([0.5]), np.zeros(1))[:4].tolist() == [-1, -1, -1, -1]
    logprobs, margins = np.array([-0.1, -3.0, -0.2, -0.1, -0.1]), np.array([0, -2.9, -0.05, 0, 0])
    got = dict(zip(FEATURES, features(logprobs, np.full(5, 0.4), margins), strict=True))
    assert got["lowest_logprob"] == -3
    assert got["second_lowest_logprob"] == -0.2
    assert got["share_below_half"] == pytest.approx(0.2)
    assert got["lowest_margin"] == -2.9
    assert got["second_lowest_margin"] == -0.05
    assert got["tokens_not_top"] == 2
    assert got["log_length"] == pytest.approx(math.log(5))


def test_logistic_regression_reaches_the_minimum():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 3)) * [1, 5, 0.1] + [0, 2, -1]
    y = (rng.random(400) < 1 / (1 + np.exp(-(x[:, 0] - 0.3 * x[:, 1])))).astype(float)
    head = logistic(x, y, penalty=1.0)
    p = probability(x, head)
    z = (x - head["mean"]) / head["scale"]
    assert z.T @ (y - p) - head["weight"] == pytest.approx(np.zeros(3), abs=1e-6)
    assert (y - p).sum() == pytest.approx(0, abs=1e-6)


def test_auc_equals_all_pairs():
    rng = np.random.default_rng(2)
    scores, labels = rng.integers(0, 6, 60) / 5, (rng.random(60) < 0.4).astype(float)
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[labels == 1] for b in scores[labels == 0]]
    assert auc(scores, labels) == pytest.approx(np.mean(pairs))


def test_calibration_error_of_a_calibrated_and_of_an_overconfident_scorer():
    labels = np.array([1.0, 0, 1, 0])
    assert calibration_error(np.full(4, 0.5), labels) == 0
    assert calibration_error(np.full(4, 1.0), labels) == 0.5


def test_reading_cost_is_the_shapes_prefill(model):
    shape = ModelShape.from_config(model[0].config)
    per_token, per_pair = reading_cost(shape)
    for tokens in (1, 7, 200):
        assert per_token * tokens + per_pair * tokens * (tokens + 1) / 2 == pytest.approx(
            shape.prefill_flops(tokens)
        )
