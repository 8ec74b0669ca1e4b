"""What a learned verifier says that it computes, against what torch counts while it reads."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from reasoning.flops import ModelShape
from reasoning.train.fresh import new_model
from reasoning.train.reward import reading_cost
from verifiers.base import Attempt
from verifiers.learned import FEATURES, Card, Learned, Reader

PROMPT = "Q: Gus has 6 toys and gets 3. How many?\nA:"
ANSWERS = ["6 + 3 = 9. The answer is 9.", "6", "The answer is 12."]


@pytest.fixture(scope="module")
def reader():
    model, tokenizer = new_model("new:tiny:hidden=64,layers=2,heads=4,kv_heads=2,ffn=96", [PROMPT, *ANSWERS])
    model.set_attn_implementation("eager")
    return Reader(model.eval(), tokenizer)


def counted(work):
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        work()
    return counter.get_total_flops()


@pytest.mark.parametrize("kind", ["features", "finetuned"])
def test_reading_costs_what_torch_counts(reader, kind):
    shape = ModelShape.from_config(reader.model.config)
    per_token, per_pair = reading_cost(shape, kind)
    for tokens in (1, 7, 40):
        ids = torch.arange(tokens)[None]
        # Only the features need the vocabulary's probabilities; a head on hidden states does not.
        model = reader.model if kind == "features" else reader.model.get_decoder()
        # Eager attention multiplies out the masked half as well: T x T pairs in place of T (T + 1) / 2.
        assert counted(lambda m=model, i=ids: m(input_ids=i)) == pytest.approx(
            per_token * tokens + per_pair * tokens**2, rel=1e-12
        )
    if kind == "features":
        assert Card(kind, "m", per_token, per_pair, {}).flops(40) == pytest.approx(shape.score_flops(40))


@pytest.mark.parametrize("kind", ["features", "finetuned"])
def test_a_verdict_is_charged_for_its_own_prompt_and_response(reader, kind):
    shape = ModelShape.from_config(reader.model.config)
    width = len(FEATURES) if kind == "features" else 64
    head = {"mean": np.zeros(width), "scale": np.ones(width), "weight": np.ones(width), "bias": np.zeros(1)}
    verifier = Learned("v", Card(kind, "m", *reading_cost(shape, kind), {}), reader, head)
    attempts = [Attempt(PROMPT, answer, None, {}) for answer in ANSWERS]
    verdicts = verifier.verify(attempts)
    for attempt, verdict in zip(attempts, verdicts, strict=True):
        prompt, response = reader.encode(attempt.prompt, attempt.response)
        assert verdict.scored_tokens == len(prompt) + len(response)
        output = 2 * shape.vocab * shape.hidden * verdict.scored_tokens * (kind != "features")
        assert verdict.flops == pytest.approx(shape.score_flops(verdict.scored_tokens) - output)
    tokens, flops = verifier.worst_case(attempts)
    assert tokens == sum(v.scored_tokens for v in verdicts)
    assert flops == pytest.approx(sum(v.flops for v in verdicts))
