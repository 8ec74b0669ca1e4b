"""An adapter is all that is trained, the sampler sees it, and a run with one resumes to the bit."""

import copy
import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from reasoning.engines.tokens import shape_of
from reasoning.engines.transformers import TransformersEngine
from reasoning.errors import PoolError, UserError
from reasoning.records import Draw, Problem, Sampling
from reasoning.train.fresh import build_tokenizer
from reasoning.train.learner import Learner
from reasoning.train.logprobs import logprobs_of
from reasoning.train.loop import train
from reasoning.train.lora import adapter_off
from reasoning.train.objective import objective
from reasoning.train.options import TrainOptions
from reasoning.train.policy import open_policy
from reasoning.train.rows import Row

TOKENIZER = build_tokenizer(["one two three"], 140)


def make(hidden=32, layers=2):
    config = Qwen3Config(
        vocab_size=len(TOKENIZER),
        hidden_size=hidden,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return Qwen3ForCausalLM(config).eval()


def rows_of(count=4, length=12):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, 90, (count, length), generator=generator).tolist()
    return [Row(tuple(r[:4]), tuple(r[4:]), (-1.0) ** i) for i, r in enumerate(ids)]


def adapted(model=None, **options):
    return open_policy(model or make(), **{"lora_rank": 4, "source": "base"} | options)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "mixed"])
def test_only_the_adapter_moves_and_the_sampler_follows(dtype):
    model = make()
    if dtype == "bfloat16":
        model.to(torch.bfloat16)
    before = copy.deepcopy(model)
    policy = adapted(model, dtype=dtype)
    engine = TransformersEngine(policy.sampler, TOKENIZER, name="m", version="0")
    learner = Learner(policy, objective("rloo"), lr=0.05)
    assert all("lora_" in name for name in learner.trained())
    draw = Draw(Problem.make("one two", None, "t"), Sampling(max_new_tokens=12, seed=1), tuple(range(4)))
    first = list(engine.generate([draw]))
    for _ in range(3):
        learner.step(rows_of())
    policy.deliver()
    engine.refresh()
    frozen = {n.replace(".base_layer", ""): p for n, p in policy.model.named_parameters() if "lora_" not in n}
    assert all(torch.equal(p, frozen[n]) for n, p in before.named_parameters())
    then = list(engine.generate([draw]))
    assert [c.token_ids for c in first] != [c.token_ids for c in then]
    gaps = []
    for chain in then:
        with torch.no_grad():
            own = policy.score([Row(chain.prompt_token_ids, chain.token_ids)], 1.0, False, False).logprobs
        gaps += (own - torch.tensor(chain.logprobs)).abs().tolist()
    assert max(gaps) < {"float32": 1e-4, "bfloat16": 0.2, "mixed": 0.2}[dtype]
    if dtype == "float32":  # what has no adapter beside it is one tensor, not two
        shared = {id(p) for p in policy.model.parameters()} & {id(p) for p in policy.sampler.parameters()}
        assert id(policy.sampler.get_input_embeddings().weight) in shared


def test_muon_moves_an_adapter_which_has_nothing_but_matrices():
    policy = adapted(make())
    learner = Learner(policy, objective("rloo"), lr=0.05, optimizer="muon")
    before = {n: p.detach().clone() for n, p in learner.trained().items()}
    learner.step(rows_of())
    learner.step(rows_of())
    assert all(not torch.equal(before[n], p) for n, p in learner.trained().items())


def test_the_reference_is_the_model_without_its_adapter():
    model, rows = make(), rows_of()
    before = copy.deepcopy(model)
    policy = adapted(model, needs_reference=True)
    assert policy.reference is None
    learner = Learner(policy, objective("grpo", kl="k3", kl_weight=0.1), lr=0.05)
    assert learner.step(rows).metrics["kl"] == pytest.approx(0, abs=1e-9)
    assert learner.step(rows).metrics["kl"] > 1e-5
    expected = logprobs_of(before, rows)[0]
    assert torch.allclose(policy.score_reference(rows, 1.0, False), expected, atol=1e-6)


def test_learning_is_reckoned_the_same_while_the_reference_is_read():
    """As roll-outs do that are drawn ahead of a step: a purse that set too little aside would be overshot."""
    policy = adapted(make(), needs_reference=True)
    shape = shape_of(policy.model.config)
    before = policy.training_flops(shape, [20, 30])
    assert before > shape.prefill_flops(20) + shape.prefill_flops(30)
    with adapter_off(policy.adapter):
        assert policy.training_flops(shape, [20, 30]) == before


def test_gradient_of_the_adapter_is_that_of_the_merged_weight():
    """By the chain rule from the gradient of the whole weight: dB = s dW A^T and dA = s B^T dW."""
    rows = rows_of()
    policy = adapted()
    with torch.no_grad():
        for name, p in policy.named_trained().items():
            p.copy_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))))
    policy.deliver()
    Learner(policy, objective("rloo"), lr=1e-3).gradients(rows)
    merged = copy.deepcopy(policy.sampler).requires_grad_()
    Learner(merged, objective("rloo"), lr=1e-3).gradients(rows)
    trained = policy.named_trained()
    for name, whole in merged.named_parameters():
        if "_proj" not in name:
            continue
        stem = name.removesuffix(".weight")
        a, b = (trained[f"{stem}.lora_{x}.default.weight"] for x in "AB")
        assert torch.allclose(b.grad, 2 * whole.grad @ a.T, atol=1e-5)
        assert torch.allclose(a.grad, 2 * b.T @ whole.grad, atol=1e-5)


@pytest.mark.parametrize("recompute", [False, True])
def test_flops_of_an_adapter_against_torch(recompute):
    model = make(hidden=64)
    shape = shape_of(model.config)
    policy = adapted(model, recompute=recompute)
    learner = Learner(policy, objective("rloo"), lr=1e-3, share_prompts=False)
    [row] = rows_of(1, 64)

    def product(x, weight, *_, **__):  # oneDNN's, which torch's counter does not know
        return 2 * math.prod(x) * weight[0]

    known = {torch.ops.mkldnn._linear_pointwise: product}
    with FlopCounterMode(display=False, custom_mapping=known) as counted:
        learner.gradients([row])
    told = policy.training_flops(shape, [len(row)])
    # The first layer needs no gradient of what went in, nor the head the prompt's positions.
    assert 0.75 * told < counted.get_total_flops() < 1.05 * told
    # Each frozen matrix is spared the gradient of its weight; the adapter is multiplied with beside it.
    adapter = sum(parameter.numel() for parameter in policy.named_trained().values())
    spared = 2 * (shape.parameters - (4 if recompute else 3) * adapter) * len(row)
    assert told == pytest.approx(shape.training_flops([len(row)], recompute) - spared)


@pytest.mark.parametrize(
    ("targets", "words"), [("q_prj", "--lora-targets q_prj"), ("lm_head_", "q_proj"), ("", "names no module")]
)
def test_targets_that_are_not_there(targets, words):
    with pytest.raises(UserError, match=words):
        adapted(lora_targets=targets)


SMALL = "new:tiny:hidden=32,layers=1,heads=2,kv_heads=1,ffn=48,words=160"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora")
    (folder / "even.py").write_text("def even(response, **_):\n    return float(len(response) % 2 == 0)\n")
    options = TrainOptions(
        run=str(folder / "base"),
        objective="sft",
        model=SMALL,
        task="word:train",
        steps=4,
        problems_per_step=8,
        lr=5e-3,
        max_new_tokens=24,
    )
    train(options)
    return folder


def tuned(folder, run, **changes):
    options = TrainOptions(
        run=str(folder / run),
        objective="grpo",
        model=str(folder / "base" / "model"),
        task="word:train:n=16",
        verifier=f"{folder}/even.py:even",
        steps=4,
        problems_per_step=4,
        chains_per_problem=4,
        lora_rank=4,
        lr=5e-2,
        max_new_tokens=16,
        checkpoint_every=2,
        log_every=1,
    )
    return replace(options, **changes)


class Killed(BaseException):
    pass


def killed_after(options, step):
    def log(text):
        if text.split()[1].startswith(f"{step}/"):
            raise Killed

    with pytest.raises(Killed):
        train(options, log=log)


def test_the_adapter_is_described_in_the_same_bytes_by_every_process(tmp_path):
    make().save_pretrained(tmp_path / "base")
    policy = adapted(source=str(tmp_path / "base"))
    policy._save_adapter(tmp_path / "adapter", True)
    targets = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert len(targets) == 7
    assert targets == sorted(targets)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks by the old name
def test_a_run_saves_a_merged_folder_and_the_adapter_and_resumes_to_the_bit(base):
    done = train(tuned(base, "whole"))
    killed_after(tuned(base, "killed"), 3)
    [checkpoint] = (base / "killed" / "checkpoints").glob("step-*")
    assert all("lora_" in name for name in load_file(checkpoint / "model.safetensors"))
    again = train(tuned(base, "killed"))
    assert again.resumed_at == 2
    one, two = (load_file(r.folder / "model.safetensors") for r in (done, again))
    before = load_file(base / "base" / "model" / "model.safetensors")
    assert all(torch.equal(one[n], two[n]) for n in one)
    assert one.keys() == before.keys()
    assert {n for n in one if not torch.equal(one[n], before[n])} == {n for n in one if "_proj" in n}
    merged = AutoModelForCausalLM.from_pretrained(done.folder)
    outside = AutoPeftModelForCausalLM.from_pretrained(str(done.folder / "adapter"))
    ids = torch.arange(4, 24)[None]
    with torch.no_grad():
        assert torch.allclose(merged(ids).logits, outside(ids).logits, atol=1e-4)
    lines = [json.loads(t) for t in (base / "whole" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "sampling_logp_difference/max" in line]
    assert len(steps) >= 2  # a step whose groups are all dead says nothing of it
    assert max(line["sampling_logp_difference/max"] for line in steps) < 1e-4


def test_a_checkpoint_of_another_model_is_one_line(base):
    killed_after(tuned(base, "other"), 3)
    with pytest.raises((PoolError, UserError), match=r"another model|--lora-rank"):
        train(tuned(base, "other", lora_rank=8))
    killed_after(tuned(base, "wider", lora_rank=8), 3)
    shutil.rmtree(base / "other" / "checkpoints")
    shutil.copytree(base / "wider" / "checkpoints", base / "other" / "checkpoints")
    with pytest.raises(PoolError, match=r"checkpoint of another model: .*lora_A.* has the shape"):
        train(tuned(base, "other"))
