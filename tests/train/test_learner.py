import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
import transformers

from reasoning.errors import ReasoningError
from reasoning.train.fresh import new_model
from reasoning.train.learner import Learner
from reasoning.train.logprobs import head_logprobs, logprobs_of, score_rows
from reasoning.train.objective import PRESETS, objective
from reasoning.train.optimizers import make_optimizers
from reasoning.train.policy import Policy
from reasoning.train.rows import Row, forwards, micro_batches

SMALL = "new:tiny:hidden=32,layers=2,heads=2,kv_heads=1,ffn=48,words=110"


@pytest.fixture(scope="module")
def model():
    made, _ = new_model(SMALL, ["a b c"], seed=3)
    with torch.no_grad():  # away from the near-uniform start, so that gradients are not all alike
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return made


@pytest.fixture(scope="module")
def reference(model):
    """The starting model of a KL term: near the model, not equal to it."""
    made = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return made


@pytest.fixture(scope="module")
def rows(model):
    """Off-policy by enough that every clip binds somewhere; the last four share a prompt of 24 tokens."""
    rng = np.random.default_rng(0)
    made = []
    prompts = {n: tuple(int(i) for i in rng.integers(4, 90, n)) for n in (5, 11, 2, 24)}
    shapes = [(5, 9, 1.2), (5, 3, -0.4), (11, 6, 0.0), (2, 14, -0.9)]
    shapes += [(24, 5, 0.7), (24, 1, -0.7), (24, 8, 0.0), (24, 3, -1.1)]
    for prompt, length, advantage in shapes:
        ids = tuple(int(i) for i in rng.integers(4, 90, length))
        with torch.no_grad():
            now = logprobs_of(model, [Row(prompts[prompt], ids)])[0].numpy()
        values = rng.normal(0, 0.3, (3, length))
        made.append(
            Row(
                prompts[prompt],
                ids,
                advantage,
                old_logprobs=tuple((now + rng.normal(0, 0.25, length)).tolist()),
                sampler_logprobs=tuple((now + rng.normal(0, 0.3, length)).tolist()),
                token_advantages=tuple((advantage + values[0]).tolist()) if advantage else (),
                old_values=tuple(values[1].tolist()),
                returns=tuple(values[2].tolist()),
            )
        )
    return made


def of_objective(goal, rows):
    """``rows`` with only what the objective uses."""
    drop = {} if goal.corrects else {"sampler_logprobs": ()}
    if not goal.critic:
        drop |= {"token_advantages": (), "old_values": (), "returns": ()}
    return [dataclasses.replace(row, **drop) for row in rows]


def gradients(model, goal, rows, head=None, reference=None, packed=None, **options):
    model, head = copy.deepcopy(model), copy.deepcopy(head)
    policy = Policy(model, reference=reference, value_head=head, packed=packed)
    assert (policy.straight is None) is (packed is False)
    learner = Learner(policy, goal, lr=1e-3, max_new_tokens=16, **options)
    learner.gradients(rows)
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    if head is not None:
        found |= {f"head.{n}": p.grad.clone() for n, p in head.named_parameters()}
    return found


def reference_gradients(model, goal, rows, head=None, reference=None, temperature=1.0):
    """One unpadded forward a chain, plain loops over tokens, no shared code with the learner's loss."""
    model, head = copy.deepcopy(model), copy.deepcopy(head)
    total = 0.0
    tokens = sum(len(r.ids) for r in rows)

    def forward(net, row):
        ids = torch.tensor([row.prompt_ids + row.ids])
        out = net(input_ids=ids, output_hidden_states=True)
        every = torch.log_softmax(out.logits[0].float() / temperature, -1)
        at = range(len(row.prompt_ids) - 1, ids.shape[1] - 1)
        return [every[p] for p in at], [out.hidden_states[-1][0, p] for p in at]

    for row in rows:
        distributions, states = forward(model, row)
        picked = [d[token] for d, token in zip(distributions, row.ids, strict=True)]
        length = len(row.ids)
        gaps = [lp - old for lp, old in zip(picked, row.old_logprobs, strict=True)]
        credit = row.token_advantages or (row.advantage,) * length
        chain = 0.0
        for t in range(length):
            a = credit[t]
            if goal.surrogate == "logp":
                term = -a * picked[t]
            else:
                rho = torch.exp(gaps[t] if goal.ratio == "token" else sum(gaps) / length)
                if goal.surrogate == "cispo":
                    term = -min(rho.item(), goal.ratio_cap) * a * picked[t]
                else:
                    gain = torch.min(rho * a, torch.clamp(rho, 1 - goal.clip_low, 1 + goal.clip_high) * a)
                    if goal.ratio_cap and a < 0:
                        gain = torch.clamp(gain, min=goal.ratio_cap * a)
                    term = -gain
            if goal.corrects:
                far = [o - s for o, s in zip(row.old_logprobs, row.sampler_logprobs, strict=True)]
                w = math.exp(far[t] if goal.mismatch.startswith("token") else sum(far))
                if goal.mismatch.endswith("truncate"):
                    w = min(w, goal.mismatch_cap)
                elif not 1 / goal.mismatch_cap <= w <= goal.mismatch_cap:
                    w = 0.0
                term = term * w
            if goal.kl_in_loss:
                with torch.no_grad():
                    other = forward(reference, row)[0][t][row.ids[t]]
                d = other - picked[t]
                term = term + goal.kl_weight * {"k1": -d, "k2": d * d / 2, "k3": d.exp() - d - 1}[goal.kl]
            if goal.entropy_weight:
                term = term + goal.entropy_weight * (distributions[t].exp() * distributions[t]).sum()
            if head is not None:
                value = head(states[t])[0]
                error = (value - row.returns[t]) ** 2
                if goal.value_clip:
                    near = torch.clamp(value - row.old_values[t], -goal.value_clip, goal.value_clip)
                    error = torch.max(error, (row.old_values[t] + near - row.returns[t]) ** 2)
                term = term + goal.value_weight * error / 2
            chain = chain + term
        scale = {
            "sequence_mean": 1 / (len(rows) * length),
            "token_mean": 1 / tokens,
            "max_length": 1 / (len(rows) * 16),
            "sequence_sum": 1 / len(rows),
        }[goal.reduce]
        total = total + scale * chain
    total.backward()
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    if head is not None:
        found |= {f"head.{n}": p.grad for n, p in head.named_parameters()}
    return found


def relative(a, b):
    gap = sum(float((a[n] - b[n]).square().sum()) for n in b) ** 0.5
    return gap / sum(float(b[n].square().sum()) for n in b) ** 0.5


PRESET_GOALS = [
    dataclasses.replace(goal, name=name) for name, goal in sorted(PRESETS.items()) if name != "dpo"
]
AXIS_GOALS = {
    "clip-higher": objective("grpo", clip_high=0.28),
    "sequence ratio, wide": objective("gspo", clip_low=0.1, clip_high=0.1),
    "dual clip": objective("grpo", clip_low=0.05, clip_high=0.05, ratio_cap=1.1),
    "cispo, low cap": objective("cispo", ratio_cap=1.1),
    "token truncate": objective("grpo", mismatch="token_truncate", mismatch_cap=1.1),
    "token mask": objective("dapo", mismatch="token_mask", mismatch_cap=1.2),
    "sequence truncate": objective("rloo", mismatch="sequence_truncate", mismatch_cap=1.1),
    "sequence mask": objective("grpo", mismatch="sequence_mask", mismatch_cap=1.5),
    "entropy": objective("grpo", entropy_weight=0.1),
    "k1": objective("grpo", kl="k1", kl_weight=0.1),
    "k2": objective("dr_grpo", kl="k2", kl_weight=0.1),
    "k3": objective("dapo", kl="k3", kl_weight=0.1, entropy_weight=0.01),
    "ppo without value clip": objective("ppo", value_clip=0.0),
    "ppo, all of it": objective("ppo", kl="k3", kl_weight=0.1, entropy_weight=0.1, ratio_cap=1.5),
}
EVERY_GOAL = [pytest.param(g, id=g.name) for g in PRESET_GOALS]
EVERY_GOAL += [pytest.param(g, id=name) for name, g in AXIS_GOALS.items()]


def value_head(goal):
    if not goal.critic:
        return None
    head = torch.nn.Linear(32, 1)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
    return head


@pytest.mark.parametrize("goal", EVERY_GOAL)
def test_gradient_equals_an_unpadded_reference(model, reference, rows, goal):
    """Of every preset and every axis; with the group's prompt computed once, and without; straight over the weights,
    and through the model's own modules."""
    used, head = of_objective(goal, rows), value_head(goal)
    expected = reference_gradients(model, goal, used, head, reference)
    for share in (True, False):
        for packed in (None, False):
            got = gradients(model, goal, used, head, reference, packed, share_prompts=share)
            assert relative(got, expected) < 1e-5


@pytest.mark.parametrize("goal", EVERY_GOAL)
def test_gradient_does_not_depend_on_micro_batches_or_order(model, reference, rows, goal):
    used, head = of_objective(goal, rows), value_head(goal)
    whole = gradients(model, goal, used, head, reference=reference)
    for tokens, some in ((1, used), (40, used[::-1]), (60, used[3:] + used[:3])):
        got = gradients(model, goal, some, head, reference=reference, micro_tokens=tokens)
        assert relative(got, whole) < 1e-5


def clipped_values(model, goal, rows):
    """Of the tokens of ``rows``, the shares whose value has left the clip, by which of the two errors is larger."""
    head = value_head(goal)
    with torch.no_grad():
        values = score_rows(model, rows, value_head=head).values
    old = torch.tensor([v for row in rows for v in row.old_values])
    target = torch.tensor([v for row in rows for v in row.returns])
    out = (values - old).abs() > goal.value_clip
    near = old + (values - old).clamp(-goal.value_clip, goal.value_clip)
    worse = (near - target).square() > (values - target).square()
    return float((out & worse).float().mean()), float((out & ~worse).float().mean())


def test_the_rows_of_these_tests_reach_every_branch(model, rows):
    """Clips bind on both sides, caps bind, and the shared prompt is shared, or the tests above would show less."""
    learner = Learner(
        copy.deepcopy(model), objective("grpo", clip_low=0.05, clip_high=0.05, ratio_cap=1.1), lr=1e-3
    )
    metrics = learner.gradients(of_objective(learner.objective, rows)).metrics
    assert metrics["clip_ratio/low"] > 0.05
    assert metrics["clip_ratio/high"] > 0.05
    assert any(forward.shared for forward in forwards(rows, 8192, True))
    held, moved = clipped_values(model, PRESETS["ppo"], rows)
    assert held > 0.1  # tokens whose held value is the worse one: no gradient goes into the value
    assert moved > 0.1  # tokens outside of the clip whose own value is the worse one
    masked = Learner(copy.deepcopy(model), AXIS_GOALS["token mask"], lr=1e-3)
    assert masked.gradients(of_objective(masked.objective, rows)).metrics["effective_sample_size"] < 0.9


def test_temperature_divides_the_logits_of_the_trained_distribution(model, rows):
    goal = objective("rloo")
    used = of_objective(goal, rows)
    expected = reference_gradients(model, goal, used, temperature=0.7)
    assert relative(gradients(model, goal, used, temperature=0.7), expected) < 1e-5


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("softcap", [0.0, 3.0])
def test_a_large_vocabulary_in_chunks_gives_the_same_gradient(monkeypatch, bias, softcap):
    """Log-probability and entropy, both differentiated, for a linear head and for one with a tanh behind it."""
    torch.manual_seed(0)
    head = torch.nn.Linear(12, 50, bias=bias).double()
    hidden = torch.randn(23, 12, dtype=torch.float64)
    targets = torch.randint(0, 50, (23,))
    mix = torch.randn(2, 23)

    def run():
        states = hidden.clone().requires_grad_()
        head.zero_grad()
        logprobs, entropy = head_logprobs(states, head, targets, 1.3, (0.5, softcap), entropy=True)
        (mix[0] * logprobs + mix[1] * entropy).sum().backward()
        return [logprobs, entropy, states.grad, *(p.grad.clone() for p in head.parameters())]

    whole = run()
    monkeypatch.setattr("reasoning.train.logprobs.CHUNK_LOGITS", 50 * 7)
    for a, b in zip(whole, run(), strict=True):
        assert torch.allclose(a.double(), b.double(), atol=1e-5)


@pytest.mark.parametrize("kind", ["Cohere", "Granite", "Gemma2"])
def test_models_that_scale_or_bound_their_logits(kind):
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=64,
    )
    for name, value in (("logit_scale", 0.3), ("logits_scaling", 4.0), ("final_logit_softcapping", 0.5)):
        if hasattr(config, name):
            setattr(config, name, value)
    torch.manual_seed(0)
    made = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    row = Row((5, 6, 7, 8), (9, 10, 11))
    with torch.no_grad():
        every = torch.log_softmax(
            made(input_ids=torch.tensor([row.prompt_ids + row.ids])).logits[0].float(), -1
        )
        got, _ = logprobs_of(made, [row])
    assert got.tolist() == pytest.approx([float(every[3 + t, i]) for t, i in enumerate(row.ids)], abs=1e-5)


def test_chains_without_advantage_cost_no_forward_but_count_in_the_denominator(model, rows):
    rows = of_objective(objective("grpo"), rows)
    learner = Learner(copy.deepcopy(model), objective("grpo"), lr=1e-3)
    result = learner.gradients(rows)
    assert len(result.lengths) == 6
    live = [r for r in rows if r.advantage]
    alone = gradients(model, objective("grpo"), live)
    together = gradients(model, objective("grpo"), rows)
    assert relative({n: g * 6 / 8 for n, g in alone.items()}, together) < 1e-5


def test_kl_penalty_pulls_back_to_the_reference(model, rows):
    goal = objective("grpo", kl="k3", kl_weight=1.0)
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    still = [Row(r.prompt_ids, r.ids, old_logprobs=r.old_logprobs) for r in rows]
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
            assert got[at].item() == pytest.approx(float(here[token]), abs=1e-4)
            assert entropy[at].item() == pytest.approx(float(-(here.exp() * here).sum()), abs=1e-4)
            at += 1
    assert at == len(got)


def test_training_on_chains_of_another_distribution_is_refused(model, rows):
    learner = Learner(copy.deepcopy(model), objective("grpo"), lr=1e-3, max_mismatch=0.01)
    with pytest.raises(ReasoningError, match="not sampled by the weights being trained"):
        learner.step(rows, fresh=True)


def test_a_gradient_that_is_not_finite_stops_the_run(model, rows):
    learner = Learner(copy.deepcopy(model), objective("grpo"), lr=1e-3)
    bad = [Row(rows[0].prompt_ids, rows[0].ids, float("inf"), old_logprobs=rows[0].old_logprobs)]
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
