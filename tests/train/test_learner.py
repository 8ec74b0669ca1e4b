import copy

import numpy as np
import pytest
import torch

from reasoning.errors import ReasoningError
from reasoning.train.fresh import new_model
from reasoning.train.learner import Learner, Row, logprobs_of, make_optimizers, micro_batches
from reasoning.train.objective import objective

SMALL = "new:tiny:hidden=32,layers=2,heads=2,kv_heads=1,ffn=48,words=110"


@pytest.fixture(scope="module")
def model():
    made, _ = new_model(SMALL, ["a b c"], seed=3)
    with torch.no_grad():  # away from the near-uniform start, so that gradients are not all alike
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return made


@pytest.fixture(scope="module")
def rows(model):
    rng = np.random.default_rng(0)
    made = []
    for prompt, length, advantage in [(5, 9, 1.2), (5, 3, -0.4), (11, 6, 0.0), (2, 14, -0.9), (7, 1, 0.6)]:
        ids = tuple(int(i) for i in rng.integers(4, 90, prompt + length))
        with torch.no_grad():
            now, _ = logprobs_of(model, [Row(ids[:prompt], ids[prompt:], 0.0)])
        old = now.numpy() + rng.normal(0, 0.25, length)  # off-policy, so that clipping is exercised
        made.append(Row(ids[:prompt], ids[prompt:], advantage, tuple(old.tolist())))
    return made


def gradients(model, goal, rows, **options):
    model = copy.deepcopy(model)
    learner = Learner(model, goal, lr=1e-3, max_new_tokens=16, **options)
    learner.gradients(rows)
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def reference_gradients(model, goal, rows):
    """One unpadded forward a chain, plain loops over tokens, no shared code with the learner's loss."""
    model = copy.deepcopy(model)
    total = 0.0
    tokens = sum(len(r.ids) for r in rows)
    for row in rows:
        ids = torch.tensor([row.prompt_ids + row.ids])
        logits = model(input_ids=ids).logits[0].float()
        logprobs = torch.log_softmax(logits, -1)
        at = range(len(row.prompt_ids) - 1, ids.shape[1] - 1)
        picked = [logprobs[p, int(ids[0, p + 1])] for p in at]
        gaps = [lp - old for lp, old in zip(picked, row.old_logprobs, strict=True)]
        chain = 0.0
        for lp, gap in zip(picked, gaps, strict=True):
            if goal.surrogate == "logp":
                chain = chain - row.advantage * lp
                continue
            rho = torch.exp(gap if goal.ratio == "token" else sum(gaps) / len(gaps))
            held = torch.clamp(rho, 1 - goal.clip_low, 1 + goal.clip_high)
            chain = chain - torch.min(rho * row.advantage, held * row.advantage)
        scale = {
            "sequence_mean": 1 / (len(rows) * len(row.ids)),
            "token_mean": 1 / tokens,
            "max_length": 1 / (len(rows) * 16),
        }[goal.reduce]
        total = total + scale * chain
    total.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def relative(a, b):
    gap = sum(float((a[n] - b[n]).square().sum()) for n in b) ** 0.5
    return gap / sum(float(b[n].square().sum()) for n in b) ** 0.5


GOALS = [
    objective("grpo"),
    objective("grpo", clip_high=0.28),
    objective("grpo", ratio="sequence"),
    objective("dr_grpo"),
    objective("rloo"),
    objective("sft"),
    objective("expert_iteration"),
]


@pytest.mark.parametrize("goal", GOALS, ids=lambda g: f"{g.name}-{g.ratio}-{g.clip_high}")
def test_gradient_equals_an_unpadded_reference(model, rows, goal):
    expected = reference_gradients(model, goal, rows)
    assert relative(gradients(model, goal, rows), expected) < 1e-5


@pytest.mark.parametrize("goal", GOALS[:4], ids=lambda g: f"{g.name}-{g.ratio}-{g.clip_high}")
def test_gradient_does_not_depend_on_micro_batches_or_order(model, rows, goal):
    whole = gradients(model, goal, rows)
    assert relative(gradients(model, goal, rows, micro_tokens=1), whole) < 1e-5
    assert relative(gradients(model, goal, rows[::-1], micro_tokens=40), whole) < 1e-5


def test_chains_without_advantage_cost_no_forward_but_count_in_the_denominator(model, rows):
    learner = Learner(copy.deepcopy(model), objective("grpo"), lr=1e-3)
    result = learner.gradients(rows)
    assert len(result.lengths) == 4
    live = [r for r in rows if r.advantage]
    alone = gradients(model, objective("grpo"), live)
    together = gradients(model, objective("grpo"), rows)
    assert relative({n: g * 4 / 5 for n, g in alone.items()}, together) < 1e-5


def test_kl_penalty_pulls_back_to_the_reference(model, rows):
    goal = objective("grpo", kl="k3", kl_weight=1.0)
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    still = [Row(r.prompt_ids, r.ids, 0.0, r.old_logprobs) for r in rows]
    learner = Learner(moved, goal, lr=1e-3, reference=model)
    before = learner.step(still).metrics["kl"]
    for _ in range(5):
        after = learner.step(still).metrics["kl"]
    assert 0 < after < before


def test_logprobs_equal_a_plain_forward(model, rows):
    got, entropy = logprobs_of(model, rows, temperature=0.7, entropy=True)
    at = 0
    for row in rows:
        ids = torch.tensor([row.prompt_ids + row.ids])
        with torch.no_grad():
            every = torch.log_softmax(model(input_ids=ids).logits[0].float() / 0.7, -1)
        for t, token in enumerate(row.ids):
            here = every[len(row.prompt_ids) - 1 + t]
            assert float(got[at].detach()) == pytest.approx(float(here[token]), abs=1e-4)
            assert float(entropy[at]) == pytest.approx(float(-(here.exp() * here).sum()), abs=1e-4)
            at += 1
    assert at == len(got)


def test_training_on_chains_of_another_distribution_is_refused(model, rows):
    learner = Learner(copy.deepcopy(model), objective("grpo"), lr=1e-3, max_mismatch=0.01)
    with pytest.raises(ReasoningError, match="not sampled by the weights being trained"):
        learner.step(rows, fresh=True)


def test_a_gradient_that_is_not_finite_stops_the_run(model, rows):
    learner = Learner(copy.deepcopy(model), objective("grpo"), lr=1e-3)
    bad = [Row(rows[0].prompt_ids, rows[0].ids, float("inf"), rows[0].old_logprobs)]
    with pytest.raises(ReasoningError, match="not finite"):
        learner.step(bad)


def test_micro_batches_hold_every_row_once_within_the_bound(rows):
    batches = list(micro_batches(rows, 30))
    assert sorted(i for b in batches for i in b) == list(range(len(rows)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(len(rows[i]) for i in batch) <= 30


def test_muon_takes_the_layer_matrices_and_adamw_the_rest(model):
    muon, adamw = make_optimizers(model, "muon", 1e-3, 0.0)
    of = {id(p): n for n, p in model.named_parameters()}
    matrices = {of[id(p)] for g in muon.param_groups for p in g["params"]}
    others = {of[id(p)] for g in adamw.param_groups for p in g["params"]}
    assert matrices
    assert all(".layers." in n and "norm" not in n for n in matrices)
    assert matrices | others == set(of.values())
    assert not matrices & others
    assert any("embed_tokens" in n for n in others)
