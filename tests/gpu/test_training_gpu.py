"""Training on a GPU: its gradients are the CPU's, its memory is what it should be, whole runs go on after a kill.

Every test that can runs on the CPU too, against the same reference: each chain alone, unpadded, in float32 on the
CPU. float32 on a GPU is without TF32 and agrees with it to 1e-4 of the gradient's norm (the order of sums is all
that differs), bfloat16 to 5e-2.
"""

import copy
import dataclasses
import gc
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen3Config, Qwen3ForCausalLM

from reasoning.engines.transformers import TransformersEngine
from reasoning.errors import ReasoningError
from reasoning.pool import Pool
from reasoning.records import Chain, Draw, Problem, Sampling, chain_key
from reasoning.tasks import load_problems
from reasoning.train.fresh import build_tokenizer, new_model, save_folder
from reasoning.train.learner import Learner
from reasoning.train.loop import train
from reasoning.train.objective import objective
from reasoning.train.options import TrainOptions
from reasoning.train.peaks import peak_flops
from reasoning.train.policy import Policy, new_value_head, open_policy
from reasoning.train.reward import FitOptions, fit
from reasoning.train.rows import Row
from verifiers import Attempt, Verdict, open_verifier

CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
TOKENIZER = build_tokenizer(["one two three"], 140)
TOLERANCE = {"cpu": 1e-5, "cuda": 1e-4}
LOW_TOLERANCE = 5e-2


def on_a_gpu(test):
    for mark in CUDA:
        test = mark(test)
    return test


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=CUDA)])
def device(request):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # no TF32
    yield request.param
    torch.set_float32_matmul_precision(before)


def make(layers=2, hidden=64, vocab=0, positions=256):
    config = Qwen3Config(
        vocab_size=vocab or len(TOKENIZER),
        hidden_size=hidden,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        eos_token_id=TOKENIZER.eos_token_id,
    )
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config).eval()
    with torch.no_grad():  # away from the near-uniform start
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


@pytest.fixture(scope="module")
def start():
    return make()


@pytest.fixture(scope="module")
def reference(start):
    """The starting model of a penalty: near, not equal."""
    made = copy.deepcopy(start)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape))
    return made


@pytest.fixture(scope="module")
def rows(start):
    """Ragged, far enough from the policy that clips and caps bind; the last six share a prompt of 30 tokens."""
    generator = torch.Generator().manual_seed(2)
    shapes = [(4, 17), (9, 3), (2, 30), (13, 1)] + [(30, n) for n in (5, 1, 12, 8, 3, 20)]
    prompt = tuple(torch.randint(4, 95, (30,), generator=generator).tolist())
    made = []
    for i, (before, length) in enumerate(shapes):
        ids = tuple(torch.randint(4, 95, (before + length,), generator=generator).tolist())
        row = Row(prompt if before == 30 else ids[:before], ids[before:], (1.3, -0.9, 0.6)[i % 3])
        with torch.no_grad():
            own = Policy(start).score([row], 1.0, False, False).logprobs
        noise = [0.3 * torch.randn(length, generator=generator) for _ in range(5)]
        made.append(
            dataclasses.replace(
                row,
                old_logprobs=tuple((own + noise[0]).tolist()),
                sampler_logprobs=tuple((own + noise[0] + noise[1]).tolist()),
                token_advantages=tuple((row.advantage + noise[2]).tolist()),
                old_values=tuple(noise[3].tolist()),
                returns=tuple(noise[4].tolist()),
            )
        )
    return made


GOALS = {
    "grpo": objective("grpo", kl="k3", kl_weight=0.1, entropy_weight=0.05),
    "dapo": objective("dapo", mismatch="token_truncate", mismatch_cap=1.2),
    "gspo": objective("gspo", clip_low=0.01, clip_high=0.01),
    "cispo": objective("cispo", ratio_cap=1.2, mismatch="sequence_mask"),
    "rloo": objective("rloo"),
    "ppo": objective("ppo"),
    "dpo": objective("dpo"),
}


def used_by(goal, rows):
    drop = {} if goal.corrects else {"sampler_logprobs": ()}
    if not goal.critic:
        drop |= {"token_advantages": (), "old_values": (), "returns": ()}
    found = [dataclasses.replace(row, **drop) for row in rows]
    if goal.surrogate == "dpo":
        found = [dataclasses.replace(row, advantage=(1.0, -1.0)[i % 2]) for i, row in enumerate(found)]
    return found


def gradients(model, goal, rows, device, reference=None, head=None, policy=None, **options):
    """Of the whole step, on the CPU, by name; with the step's figures."""
    if policy is None:
        model = copy.deepcopy(model).to(device)
        head = copy.deepcopy(head).to(device) if head is not None else None
        other = copy.deepcopy(reference).to(device) if goal.needs_reference else None
        policy = Policy(model, reference=other, value_head=head)
    learner = Learner(policy, goal, lr=1e-3, max_new_tokens=32, **options)
    figures = learner.gradients(used_by(goal, rows)).metrics
    found = {n: p.grad.cpu().float() for n, p in learner.trained().items() if p.grad is not None}
    return found, figures


def relative(a, b):
    assert a.keys() == b.keys()
    gap = sum(float((a[n] - b[n]).square().sum()) for n in b) ** 0.5
    return gap / sum(float(b[n].square().sum()) for n in b) ** 0.5


def alone(model, goal, rows, **options):
    """The reference: one unpadded chain at a time (a pair, for pairs), float32, CPU."""
    return gradients(model, goal, rows, "cpu", micro_tokens=1, share_prompts=False, **options)


@pytest.mark.parametrize("name", GOALS)
def test_float32_gradients_are_those_of_single_chains_on_the_cpu(start, reference, rows, device, name):
    goal = GOALS[name]
    head = None
    if goal.critic:
        head = new_value_head(start)
        with torch.no_grad():
            head.weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(5))
    expected, there = alone(start, goal, rows, reference=reference, head=head)
    found, here = gradients(start, goal, rows, device, reference=reference, head=head)
    assert relative(found, expected) < TOLERANCE[device]
    for figure in ("loss", "entropy"):
        assert here[figure] == pytest.approx(there[figure], rel=1e-3, abs=1e-5)
    if goal.surrogate in ("clip", "cispo"):
        assert here["clip_ratio/high"] + here.get("clip_ratio/low", 0) > 0.05


@pytest.mark.parametrize("dtype", ["bfloat16", "mixed"])
def test_gradients_in_bfloat16_are_close(start, rows, device, dtype):
    goal = GOALS["rloo"]
    expected, _ = alone(start, goal, rows)
    model = copy.deepcopy(start).to(device)
    if dtype == "bfloat16":
        model.to(torch.bfloat16)
    found, _ = gradients(None, goal, rows, device, policy=open_policy(model, dtype=dtype))
    assert 1e-4 < relative(found, expected) < LOW_TOLERANCE


def test_packed_rows_are_padded_rows(start, rows, device):
    goal = GOALS["rloo"]
    expected, _ = alone(start, goal, rows)
    policy = Policy(copy.deepcopy(start).to(device), packed=True)
    found, figures = gradients(None, goal, rows, device, policy=policy, share_prompts=False)
    assert figures["padding_fraction"] == 0
    assert relative(found, expected) < TOLERANCE[device]


def test_a_head_in_chunks_is_the_whole_head(start, rows, device, monkeypatch):
    goal = objective("rloo", entropy_weight=0.1)
    expected, _ = alone(start, goal, rows)
    monkeypatch.setattr("reasoning.train.logprobs.CHUNK_LOGITS", len(TOKENIZER) * 7)
    found, _ = gradients(start, goal, rows, device)
    assert relative(found, expected) < TOLERANCE[device]


@pytest.mark.parametrize("share", [True, False])
def test_activations_computed_again_give_the_same_gradient(start, rows, device, share):
    goal = GOALS["rloo"]
    expected, _ = alone(start, goal, rows)
    policy = Policy(copy.deepcopy(start).to(device), recompute=True)
    found, _ = gradients(None, goal, rows, device, policy=policy, share_prompts=share)
    assert relative(found, expected) < TOLERANCE[device]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_learns_and_the_engine_samples_from_it(start, rows, device, dtype):
    pytest.importorskip("peft")
    goal = GOALS["rloo"]

    def opened(where, kind):
        model = copy.deepcopy(start).to(where, kind)
        policy = open_policy(model, lora_rank=4, source="base")
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():  # B = 0 at the start, which would leave A without a gradient
            for name, parameter in sorted(policy.named_trained().items()):
                if "lora_B" in name:
                    parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        return policy

    expected, _ = gradients(None, goal, rows, "cpu", policy=opened("cpu", torch.float32), micro_tokens=1)
    policy = opened(device, getattr(torch, dtype))
    learner = Learner(policy, goal, lr=0.02)
    learner.gradients(used_by(goal, rows))
    found = {n: p.grad.cpu().float() for n, p in learner.trained().items()}
    assert relative(found, expected) < (TOLERANCE[device] if dtype == "float32" else 2 * LOW_TOLERANCE)
    learner.step(used_by(goal, rows))
    policy.deliver()
    engine = TransformersEngine(policy.sampler, TOKENIZER, name="m", version="0")
    draw = Draw(Problem.make("one two", None, "t"), Sampling(max_new_tokens=12, seed=1), tuple(range(4)))
    for chain in engine.generate([draw]):
        with torch.no_grad():
            own = policy.score([Row(chain.prompt_token_ids, chain.token_ids)], 1.0, False, False).logprobs
        gap = (own.cpu() - torch.tensor(chain.logprobs)).abs().max()
        assert float(gap) < (1e-3 if dtype == "float32" else 0.3)


# ---- memory


def peak_bytes(work):
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def many(count, length, vocab):
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(4, vocab, (count, length + 2), generator=generator).tolist()
    return [Row(tuple(r[:2]), tuple(r[2:]), (-1.0) ** i) for i, r in enumerate(ids)]


@on_a_gpu
def test_the_full_logits_never_exist():
    """4 k positions of 32 k entries would be 512 MiB in float32; what is there is a chunk of 32 MiB, a few times."""
    model = make(vocab=2**15).cuda()
    learner = Learner(model, objective("rloo"), lr=1e-3, micro_tokens=2**13)
    assert peak_bytes(lambda: learner.gradients(many(16, 250, 2**15))) < 256 * 2**20


@on_a_gpu
def test_recomputing_keeps_less_memory():
    model = make(layers=8).cuda()
    chains = many(32, 250, 95)
    plain = Learner(Policy(copy.deepcopy(model)), objective("rloo"), lr=1e-3)
    lean = Learner(Policy(model, recompute=True), objective("rloo"), lr=1e-3)
    assert peak_bytes(lambda: lean.gradients(chains)) < 0.5 * peak_bytes(lambda: plain.gradients(chains))


@on_a_gpu
def test_out_of_memory_says_what_to_lower_and_lowering_it_helps():
    model = make(layers=8, hidden=256).cuda()
    chains = many(64, 250, 95)
    learner = Learner(model, objective("rloo"), lr=1e-3, micro_tokens=2**16)
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        room = torch.cuda.memory_reserved() + 2**28
        torch.cuda.set_per_process_memory_fraction(room / total)
        with pytest.raises(
            ReasoningError, match=r"^Out of memory on cuda.*--micro-tokens \(now 65536"
        ) as caught:
            learner.gradients(chains)
        for name in ("--gradient-checkpointing", "--dtype bfloat16", "--lora-rank"):
            assert name in str(caught.value)
        assert "\n" not in str(caught.value)
        caught = None  # it holds the forward that failed
        gc.collect()
        torch.cuda.empty_cache()
        learner.micro_tokens = 256
        assert learner.step(chains).metrics["grad_norm"] > 0
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


# ---- whole runs


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the loop may catch it."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A base model that was cold-started where the runs will be, and a reward that it meets half of the time."""
    folder = tmp_path_factory.mktemp("gpu")
    even = "def even(response, **_):\n    return float(len(response) % 2 == 0)\n"
    (folder / "reward.py").write_text(even)
    train(
        TrainOptions(
            run=str(folder / "base"),
            objective="sft",
            model="new:tiny:hidden=32,layers=2,heads=2,kv_heads=1,ffn=48,words=160",
            task="word:train",
            steps=4,
            problems_per_step=8,
            optimizer="muon",
            lr=5e-3,
            max_new_tokens=24,
        )
    )
    return folder


def options(home, run, objective, device, **changes):
    given = TrainOptions(
        run=str(home / run),
        objective=objective,
        model=str(home / "base" / "model"),
        task="word:train:n=24",
        eval_task="word:dev:n=4",
        verifier=f"{home}/reward.py:even",
        device=device,
        steps=4,
        problems_per_step=4,
        chains_per_problem=4,
        minibatch=8,
        lr=1e-3,
        max_new_tokens=32,
        eval_every=2,
        eval_chains=2,
        checkpoint_every=1,
        log_every=1,
    )
    return dataclasses.replace(given, **changes)


RUNS = {
    "grpo": {"objective": "grpo", "kl": "k3", "kl_weight": 0.01},
    "expert iteration": {"objective": "expert_iteration", "optimizer": "muon"},
    "ahead, in bfloat16": {"objective": "dapo", "dtype": "bfloat16", "asynchronous": True},
    "an adapter, recomputed": {"objective": "grpo", "lora_rank": 4, "gradient_checkpointing": True},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_learns_and_goes_on_after_a_kill_between_steps(home, device, name):
    """On a CPU to the bit. On a GPU sums come in any order: the rows before the kill are the same, the same chains
    are learned from, and the weights have moved the same way to 1e-2. In bfloat16 a sum's last bit can be the last
    bit of a weight and turn a token of a later step, so there the run only has to end."""
    changes = dict(RUNS[name])
    if "lora_rank" in changes:
        pytest.importorskip("peft")
    goal = changes.pop("objective")
    label = f"{device} {name}"
    whole = train(options(home, f"{label} whole", goal, device, **changes))
    killed = options(home, f"{label} killed", goal, device, **changes)

    def log(text):
        if text.startswith("step 3/"):
            raise Killed

    with pytest.raises(Killed):
        train(killed, log=log)
    told = lines(killed)
    resumed = train(killed)
    assert resumed.resumed_at == 2
    rows = lines(killed)
    assert rows[:3] == told[:3]
    found = [json.loads(row) for row in rows]
    assert [row["step"] for row in found] == [0, 1, 2, 3, 4]
    if goal == "grpo":  # what the engine sampled from is what is trained
        assert all(row.get("sampling_logp_difference/mean", 0) < 0.05 for row in found[1:])
    base, one, two = (
        load_file(folder / "model.safetensors")
        for folder in (home / "base" / "model", whole.folder, resumed.folder)
    )
    moved, again = ({n: w[n].float() - base[n] for n in w} for w in (one, two))
    assert sum(float(m.square().sum()) for m in moved.values()) > 0
    if device == "cpu":
        assert all(torch.equal(one[n], two[n]) for n in one)
        return
    known = peak_flops(torch.device(device), getattr(torch, killed.dtype))
    assert ("mfu" in found[-1]) == (known is not None)
    if killed.dtype == "float32":
        assert drawn(whole) == drawn(resumed)
        assert relative(again, moved) < 1e-2


def lines(options):
    return Path(options.run, "metrics.jsonl").read_text().splitlines()


def drawn(result):
    with Pool.open(result.folder.parent, read_only=True) as pool:
        return {chain.key: chain.token_ids for chain in pool.chains()}


# ---- reward models


FITS = {
    "features": {"kind": "features"},
    "outcome": {"kind": "finetuned", "epochs": 4, "lr": 3e-3},
    "preference": {"kind": "preference", "epochs": 10, "lr": 3e-3},
    "process": {
        "kind": "process",
        "steps": "sentence",
        "rollouts": 2,
        "max_new_tokens": 6,
        "epochs": 4,
        "lr": 3e-3,
    },
}


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A model and a pool of its tokens in which chains with "bad" are wrong."""
    folder = tmp_path_factory.mktemp("judged")
    problems, sampling = load_problems("word:train:n=40"), Sampling(max_new_tokens=32)
    texts = [p.prompt for p in problems] + [" It is good. It is bad. The answer is 5."]
    model, tokenizer = new_model("new:tiny:hidden=32,layers=1,heads=2,kv_heads=1,ffn=48", texts)
    save_folder(folder / "model", model, tokenizer)
    with Pool.open(folder / "pool") as pool:
        pool.add_problems(problems)
        chains, verdicts = [], {}
        for number, problem in enumerate(problems):
            for i, words in enumerate((("good", "good"), ("good", "bad"), ("bad", "good"), ("good",))):
                right = "bad" not in words
                text = "".join(f" It is {w}." for w in words)
                text += f" The answer is {problem.reference if right else number + 100}."
                ids = (*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id)
                key = chain_key("m@1", sampling, problem.id, problem.prompt, i)
                made = {"model": "m@1", "key": key, "sampling": sampling}
                chains.append(Chain(problem.id, i, text, ids, (0.0,) * len(ids), **made))
                verdicts[key] = Verdict(float(right))
        pool.append(chains)
        pool.add_verdicts("numeric", verdicts, oracle=True)
    return folder


@pytest.mark.parametrize("name", [pytest.param(name, marks=CUDA) for name in FITS])
def test_a_reward_model_is_fitted_and_judges_where_the_gpu_is(judged, name):
    """On the device that is taken by itself."""
    measured = fit(
        FitOptions(
            run=str(judged / name),
            model=str(judged / "model"),
            pool=[str(judged / "pool")],
            task="word:train:n=40",
            batch=8,
            **FITS[name],
        )
    )
    assert 0 <= measured["compared"][measured["kept"]]["ece"] < 1
    if name != "process":  # its labels come from the roll-outs of a model that knows nothing
        assert measured["compared"][measured["kept"]]["auc"] > 0.9
    prompt = load_problems("word:train:n=1")[0].prompt
    good, bad = open_verifier(f"learned:{judged / name}").verify(
        [
            Attempt(prompt, " It is good. It is good. The answer is 5."),
            Attempt(prompt, " It is bad. It is good. The answer is 5."),
        ]
    )
    assert 0 <= bad.score <= 1
    assert name == "process" or good.score > bad.score
