"""The loop as a whole: it trains, it resumes to the bit, it refuses what would fool its user."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from reasoning.durable import AppendFile
from reasoning.engines.transformers import TransformersEngine
from reasoning.errors import PoolError, ReasoningError, UserError
from reasoning.pool import Pool
from reasoning.tasks.conversation import as_text
from reasoning.train import opening
from reasoning.train.fresh import new_model
from reasoning.train.journal import TIMES, keep_rows
from reasoning.train.learner import Learner
from reasoning.train.loop import train
from reasoning.train.objective import PRESETS
from reasoning.train.opening import demonstrations_of
from reasoning.train.options import TrainOptions
from reasoning.train.sources import DemonstrationSource, choose, read_demonstrations

SMALL = "new:tiny:hidden=32,layers=1,heads=2,kv_heads=1,ffn=48,words=160"


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the loop may catch it."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    reward = "def even(response, **_):\n    return float(len(response) % 2 == 0)\n"
    (folder / "reward.py").write_text(reward)
    train(sft(folder))
    return folder


def sft(folder, **changes):
    options = TrainOptions(
        run=str(folder / "base"),
        objective="sft",
        model=SMALL,
        task="word:train",
        eval_task="word:dev:n=4",
        steps=6,
        problems_per_step=8,
        optimizer="muon",
        lr=5e-3,
        schedule="cosine",
        max_new_tokens=24,
        eval_every=3,
        checkpoint_every=2,
    )
    return replace(options, **changes)


def reinforce(folder, run, objective, **changes):
    options = TrainOptions(
        run=str(folder / run),
        objective=objective,
        model=str(folder / "base" / "model"),
        task="word:train:n=32",
        eval_task="word:dev:n=4",
        verifier=f"{folder}/reward.py:even",
        steps=4,
        problems_per_step=4,
        chains_per_problem=4,
        minibatch=6,
        keep_correct=3 if PRESETS[objective].selects else 0,
        optimizer="muon",
        lr=2e-3,
        max_new_tokens=48,
        eval_every=2,
        eval_chains=2,
        checkpoint_every=2,
    )
    return replace(options, **changes)


def metrics(folder, run):
    rows = [json.loads(line) for line in (folder / run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def killed_at(options, step):
    """Run until the line of ``step`` was logged, then die as by SIGKILL."""

    def log(text):
        if text.split()[1].startswith(f"{step}/"):
            raise Killed

    with pytest.raises(Killed):
        train(replace(options, log_every=1), log=log)


ODD = {  # what a preset needs to show itself on chains of a model that hardly learned anything
    "dapo": {"overlong_buffer": 40, "max_refill": 4},
    "ppo": {"kl": "k1", "kl_in": "reward", "kl_weight": 0.05},
    "grpo": {"mismatch": "token_truncate", "kl": "k3", "kl_weight": 0.05, "entropy_weight": 0.01},
    "star": {"verifier": "rare"},
}


@pytest.mark.parametrize("objective", sorted(set(PRESETS) - {"sft", "dpo"}))
def test_a_killed_run_ends_with_the_same_bits(home, objective):
    """Every preset, with what is special of it: it learns something, and a killed run ends with the same bits."""
    odd = dict(ODD.get(objective, {}))
    if odd.pop("verifier", ""):
        (home / "rare.py").write_text("def rare(response, **_):\n    return float(len(response) % 3 == 0)\n")
        odd["verifier"] = f"{home}/rare.py:rare"
    whole = train(reinforce(home, f"{objective}/run", objective, **odd))
    other = home / f"{objective}_killed"
    killed_at(reinforce(home, f"{objective}_killed/run", objective, log_every=1, **odd), 3)
    resumed = train(reinforce(home, f"{objective}_killed/run", objective, log_every=1, **odd))
    assert resumed.resumed_at == 2
    a, b = load_file(whole.folder / "model.safetensors"), load_file(resumed.folder / "model.safetensors")
    base = load_file(home / "base" / "model" / "model.safetensors")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert not all(torch.equal(a[n], base[n]) for n in a)
    assert metrics(home, f"{objective}/run") == metrics(other, "run")
    assert whole.summary == resumed.summary
    with Pool.open(home / objective / "run") as one, Pool.open(other / "run") as two:
        assert one.keys() == two.keys()
        assert [c.token_ids for c in one.chains()] == [c.token_ids for c in two.chains()]
    rows = metrics(home, f"{objective}/run")[1:]
    if objective == "dapo":
        assert any(row["groups_drawn"] > 4 for row in rows)
        assert min(row["reward"] for row in rows) < 0
    if objective == "star":
        assert sum(row["rationalised"] for row in rows) > 0
    if objective == "ppo":
        assert all(row["value_loss"] > 0 for row in rows)


def test_a_restarting_objective_learns_from_the_starting_weights(home, monkeypatch):
    """At each restart the weights are those of the start again, and the optimizers remember nothing."""
    base = load_file(home / "base" / "model" / "model.safetensors")
    restart, before = Learner.restart, []

    def spy(self, weights):
        named = dict(self.model.named_parameters())
        before.append(all(torch.equal(named[n], base[n]) for n in base))
        restart(self, weights)
        assert all(torch.equal(named[n], base[n]) for n in base)
        assert not any(optimizer.state for optimizer in self.optimizers)

    monkeypatch.setattr(Learner, "restart", spy)
    train(reinforce(home, "again", "rest_em", steps=2))
    assert before == [True, False]
    train(reinforce(home, "onward", "expert_iteration", steps=2))
    assert len(before) == 2


def test_the_cold_start_resumes_to_the_bit(home):
    killed_at(sft(home, run=str(home / "again" / "base")), 5)
    resumed = train(sft(home, run=str(home / "again" / "base"), log_every=1))
    assert resumed.resumed_at == 4
    a = load_file(home / "base" / "model" / "model.safetensors")
    b = load_file(resumed.folder / "model.safetensors")
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert metrics(home, "base") == metrics(home / "again", "base")


def test_who_may_read_a_models_folder_may_read_its_weights(home):
    modes = {path.name: path.stat().st_mode for path in (home / "base" / "model").iterdir()}
    assert "model.safetensors" in modes
    assert len(set(modes.values())) == 1, modes


def test_a_finished_run_is_left_alone(home):
    before = (home / "base" / "model" / "model.safetensors").stat().st_mtime_ns
    again = train(sft(home))
    assert again.finished_before
    assert (home / "base" / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_a_folder_of_another_configuration_is_refused(home):
    with pytest.raises(UserError, match=r"was begun with --lr 0\.005, not 0\.1"):
        train(sft(home, lr=0.1))


def test_metrics_carry_the_names_of_the_field(home):
    train(reinforce(home, "named", "grpo", steps=2))
    rows = metrics(home, "named")
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert {"eval/pass@1", "eval/pass@2", "eval/maj@2"} <= rows[0].keys()
    wanted = {
        "reward",
        "reward_std",
        "frac_reward_zero_std",
        "completions/mean_length",
        "completions/clipped_ratio",
    }
    wanted |= {"entropy", "grad_norm", "lr", "loss", "clip_ratio/low", "clip_ratio/high", "flops/sample"}
    wanted |= {"sampling_logp_difference/mean", "sampling_logp_difference/max", "wasted_token_fraction"}
    assert wanted <= rows[1].keys()
    assert rows[1]["sampling_logp_difference/max"] < 0.2  # off-policy only by the minibatches before
    assert any(0 < row["reward"] < 1 for row in rows[1:])


def test_one_run_can_carry_every_name(home):
    """With a penalty towards the starting model and the sampler's mismatch corrected."""
    options = reinforce(home, "every", "grpo", steps=2, kl="k3", kl_weight=0.01, mismatch="token_truncate")
    train(options)
    rows = [json.loads(line) for line in (home / "every" / "metrics.jsonl").read_text().splitlines()]
    wanted = set(
        [
            "reward",
            "reward_std",
            "frac_reward_zero_std",
            "frac_reward_zero_std/all_right",
            "frac_reward_zero_std/all_wrong",
            "completions/mean_length",
            "completions/mean_terminated_length",
            "completions/clipped_ratio",
            "entropy",
            "kl",
            "clip_ratio/low",
            "clip_ratio/high",
            "grad_norm",
            "lr",
            "sampling_logp_difference/mean",
            "sampling_logp_difference/max",
            "importance_sampling_ratio",
            "effective_sample_size",
            "step_time",
            "tokens_per_second",
            "mfu",
            "flops/sample",
            "flops/update",
            "wasted_token_fraction",
            "verifier_seconds",
            "eval/avg@2",
            "eval/pass@1",
            "eval/pass@2",
            "eval/maj@2",
        ]
    )
    assert not wanted - set().union(*rows)


def test_the_first_minibatch_is_on_policy_to_rounding(home):
    train(reinforce(home, "onpolicy", "grpo", steps=4, minibatch=0, chains_per_problem=8))
    name = "sampling_logp_difference/max"
    learned = [
        row[name] for row in metrics(home, "onpolicy") if name in row
    ]  # a step may have nothing to learn
    assert learned
    assert max(learned) < 1e-4


def test_a_verifier_that_judges_nothing_stops_the_run(home):
    (home / "none.py").write_text("def none(response, **_):\n    return None\n")
    with pytest.raises(ReasoningError, match="none"):
        train(reinforce(home, "none", "grpo", verifier=f"{home}/none.py:none"))
    assert not (home / "none" / "model").exists()


def test_weights_that_are_not_finite_are_never_saved(home):
    with pytest.raises(ReasoningError, match="finite"):
        train(reinforce(home, "hot", "grpo", lr=1e37, steps=3))
    assert not (home / "hot" / "model").exists()


def test_two_runs_in_one_folder_are_refused(home):
    (home / "locked").mkdir()
    held = AppendFile(home / "locked" / ".lock")
    assert held.lock()
    with pytest.raises(PoolError, match="another process"):
        train(reinforce(home, "locked", "grpo"))
    held.close()


def test_a_damaged_checkpoint_is_one_line(home):
    killed_at(reinforce(home, "cut", "grpo", log_every=1), 3)
    [state] = (home / "cut" / "checkpoints").glob("step-*/state.json")
    state.write_text(state.read_text()[:40])
    with pytest.raises(PoolError, match="Delete it and run the same command again"):
        train(reinforce(home, "cut", "grpo", log_every=1))


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_flipped_bit_in_a_checkpoint_is_not_trained_on(home, name):
    run = f"flipped {name}"
    killed_at(reinforce(home, run, "grpo", log_every=1), 3)
    [path] = (home / run / "checkpoints").glob(f"step-*/{name}")
    content = bytearray(path.read_bytes())
    at = content.index(b'"step": 2') + 8 if name == "state.json" else len(content) - 2
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        PoolError, match=f"{name} is not as it was written.*Delete it and run the same command"
    ):
        train(reinforce(home, run, "grpo", log_every=1))


def test_another_folder_draws_the_same_chains(home):
    a, b = (train(reinforce(home, name, "grpo", steps=1)) for name in ("here", "there"))
    assert metrics(home, "here") == metrics(home, "there")
    assert (a.folder / "model.safetensors").read_bytes() == (b.folder / "model.safetensors").read_bytes()


def test_training_on_evaluation_problems_is_refused(home):
    with pytest.raises(UserError, match="evaluation"):
        train(reinforce(home, "leak", "grpo", task="word:dev:n=8", eval_task="word:dev:n=4"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "--steps must be 1 or above"),
        ({"lr": 0.0}, "--lr must be above 0"),
        ({"temperature": 0.0}, "greedy roll-outs"),
        ({"chains_per_problem": 1}, "compares the chains of a group"),
        ({"model": "new:tiny"}, "empty model"),
        ({"model": "new:tiyn"}, "empty model"),
        ({"objective": "grppo"}, "Did you mean 'grpo'"),
        ({"task": "wrod:train"}, "Did you mean 'word'"),
        ({"optimizer": "moun"}, "muon"),
        ({"device": "cuda:77"}, "device"),
        ({"model": "no/such/folder"}, "No model"),
    ],
)
def test_mistakes_are_named(home, tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        train(replace(reinforce(home, "wrong", "grpo"), run=str(tmp_path / "run"), **change))
    assert not (tmp_path / "run").exists()


def test_every_problem_comes_once_before_any_comes_again():
    picked = [i for step in range(5) for i in choose(10, 4 * step, 4, seed=1)]
    assert sorted(picked[:10]) == list(range(10))
    assert sorted(picked[10:]) == list(range(10))
    assert picked[:10] != picked[10:]


def test_demonstrations_from_a_file(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text('{"prompt": "1+1=", "completion": " 2"}\n\n{"prompt": "2+2="}\n')
    with pytest.raises(UserError, match="line 3"):
        read_demonstrations(path)
    path.write_text('{"prompt": "1+1=", "completion": " 2"}\n')
    [(problem, completion)] = read_demonstrations(path)
    assert (problem.prompt, completion) == ("1+1=", " 2")


def test_what_takes_long_before_the_first_step_is_said_first(tmp_path, monkeypatch):
    """Making demonstrations, and reading a large file of them, takes seconds."""
    said: list[str] = []

    def watch(name):
        real = getattr(opening, name)
        monkeypatch.setattr(opening, name, lambda *args: said.append(name) or real(*args))

    watch("read_demonstrations")
    watch("new_model")
    train(sft(tmp_path, task="word:train", steps=2, problems_per_step=3, eval_task=""), log=said.append)
    assert said[:2] == [
        "Making 6 demonstrations of word:train, each of which is learned from once.",
        "new_model",
    ]
    del said[:]
    path = tmp_path / "d.jsonl"
    path.write_text('{"prompt": "1+1=", "completion": " 2"}\n' * 3)
    options = sft(
        tmp_path, run=str(tmp_path / "file"), task="", demonstrations=str(path), steps=1, eval_task=""
    )
    train(options, log=said.append)
    assert said[:4] == [
        f"Reading demonstrations from {path}.",
        "read_demonstrations",
        "new_model",
        "Learning from 3 demonstrations.",
    ]
    del said[:]
    with pytest.raises(UserError, match="no demonstrations of its own"):
        demonstrations_of(replace(options, task="gsm8k:train", demonstrations=""), said.append)
    assert said == []


@pytest.mark.parametrize("length", [600, 1200])
def test_demonstrations_that_the_model_cannot_read_are_refused(home, tmp_path, length):
    """Its context has 1024 tokens, and "Gus" is one."""
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"prompt": "Say:", "completion": "Gus " * length}) + "\n")
    given = {"model": str(home / "base" / "model"), "task": "", "eval_task": "", "steps": 1}
    run = sft(home, run=str(tmp_path / "run"), demonstrations=str(path), **given)
    if length < 1000:
        assert train(run).summary["steps"] == 1
    else:
        with pytest.raises(UserError, match=r"A demonstration has \d+ tokens .*reads at most 1024. Cut it"):
            train(run)


def test_a_torn_metrics_line_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"step": 1}\n{"step": 2}\n{"ste')
    assert keep_rows(path, 1) == [{"step": 0}, {"step": 1}]
    assert path.read_text() == '{"step": 0}\n{"step": 1}\n'


def test_demonstrations_are_shown_as_conversations(tmp_path):
    """A list of messages, or a task with a system prompt: the ids that a draw of the same problem is shown."""
    engine = TransformersEngine(*new_model(SMALL, ["Q: 1+1? 2"], 0), name="chat", version="0", chat="no")
    turns = [{"role": "system", "content": "Add."}, {"role": "user", "content": "1+1?"}]
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps({"prompt": turns, "completion": " 2"}) + "\n")
    [(problem, completion)] = read_demonstrations(path)
    data = DemonstrationSource([(problem, completion)], engine, 1, 0).draw(0)
    assert engine.decode(data.groups[0][0].prompt_ids) == as_text(turns)
    options = sft(tmp_path, task="word:train:system=Think.", steps=1)
    assert demonstrations_of(options, print)[0][0].prompt.startswith("Think.\n\nQ:")
    with pytest.raises(UserError, match="few_shot says nothing of demonstrations"):
        demonstrations_of(replace(options, task="word:train:few_shot=2"), print)
