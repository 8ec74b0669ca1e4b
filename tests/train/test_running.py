"""What a run does beside learning: it stops when told to, keeps the best and keeps to its purse, tells trackers, and
says in one line what is wrong."""

import json
import shutil
import sys
import time
import types
from dataclasses import replace

import pytest
import small_runs
import torch
from safetensors.torch import load_file
from small_runs import metrics, reinforce

from reasoning.budget import Budget, Charge, Ledger
from reasoning.cli import main
from reasoning.engines.transformers import TransformersEngine
from reasoning.errors import BudgetError, EngineError, MissingExtra, ReasoningError, UserError
from reasoning.pool import Pool
from reasoning.records import Cost, Sampling
from reasoning.tasks import load_problems, verifier_of
from reasoning.train import checks, evaluate, loop, peaks
from reasoning.train.distributed import Ranks
from reasoning.train.generators import devices_of
from reasoning.train.journal import Journal
from reasoning.train.loop import train
from reasoning.train.objective import objective
from reasoning.train.peaks import multiplying, of_device
from reasoning.train.rollouts import largest_step
from reasoning.train.trackers import open_trackers
from reasoning.train.update import update
from verifiers import open_verifier


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return small_runs.made(tmp_path_factory, "running")


def reward(home, name, body):
    (home / f"{name}.py").write_text(f"def {name}(response, **_):\n    {body}\n")
    return f"{home}/{name}.py:{name}"


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_several_tasks_each_with_its_verifier_and_rewards_that_add_up(home):
    mixed = reinforce(
        home,
        "mixed",
        task="word:train:n=9*2+countdown:train:n=9*1",
        eval_task="word:dev:n=3*1+countdown:dev:n=3*3",
        verifier="",
        steps=2,
        problems_per_step=6,
    )
    rare = reward(home, "rare", "return float(len(response) % 3 == 0)")
    train(replace(mixed, verifier=f"{home}/reward.py:even*1.0+{rare}*0.5"))
    rows = metrics(home, "mixed")
    assert [(row["problems/word"], row["problems/countdown"]) for row in rows[1:]] == [(4, 2), (4, 2)]
    both = (2 * rows[1]["reward/word"] + rows[1]["reward/countdown"]) / 3
    assert rows[1]["reward"] == pytest.approx(both)
    last = rows[-1]
    mean = (last["eval/pass@1/word"] + 3 * last["eval/pass@1/countdown"]) / 4
    assert last["eval/pass@1"] == pytest.approx(mean)
    with Pool.open(home / "mixed", read_only=True) as pool:
        [name] = [n for n in pool.verifiers() if "*" in n]
        assert {round(v.score, 3) for v in pool.verdicts(name).values()} <= {0, 0.333, 0.667, 1}


def test_without_a_verifier_given_each_task_brings_its_own(home):
    train(reinforce(home, "own", task="word:train:n=4*1+countdown:train:n=4*1", verifier="", steps=1))
    with Pool.open(home / "own", read_only=True) as pool:
        assert sorted(pool.verifiers()) == sorted({verifier_of("word"), verifier_of("countdown")})


def test_patience_ends_a_run_and_the_best_weights_are_kept(home, monkeypatch):
    """The second evaluation is the best; two later ones are not better."""
    figures = iter([0.1, 0.4, 0.3, 0.4, 0.2, 0.9])
    monkeypatch.setattr("reasoning.train.loop.evaluate", lambda *_: ({"eval/pass@1": next(figures)}, []))
    said = []
    options = reinforce(home, "patient", steps=5, patience=2, keep="best")
    result = train(options, log=said.append)
    assert result.summary["steps"] == 3
    assert result.summary["stopped"] == "patience"
    assert result.summary["best"] == {"step": 1, "figure": 0.4}
    assert "Stopped after step 3" in said[-1]
    one = train(reinforce(home, "one", steps=5, patience=0, eval_every=0, eval_task=""))
    kept, last = weights(home / "patient" / "model"), weights(one.folder)
    assert not all(torch.equal(kept[n], last[n]) for n in kept)
    best = weights(home / "patient" / "best")
    assert all(torch.equal(kept[n], best[n]) for n in kept)


def test_a_training_set_is_solved_when_a_whole_pass_was_right(tmp_path):
    journal = Journal(tmp_path, 0, 9, 0, print)
    journal.rows = [{"step": i, "frac_reward_zero_std/all_right": 1.0} for i in range(3)]
    assert journal.solved(1)
    assert not journal.solved(4)
    journal.rows[1]["frac_reward_zero_std/all_right"] = 0.9
    assert not journal.solved(1)


def test_a_solved_run_ends(home, monkeypatch):
    monkeypatch.setattr("reasoning.train.journal.Journal.solved", lambda self, steps: len(self.rows) > 2)
    said = []
    result = train(reinforce(home, "solved", steps=9), log=said.append)
    assert result.summary["steps"] == 2
    assert "every chain of the last steps was right" in said[-1]


def test_a_learned_verifier_is_not_trained_as_a_model(home):
    folder = home / "verifier"
    shutil.copytree(home / "base" / "model", folder)
    (folder / "verifier.json").write_text("{}")
    with pytest.raises(UserError, match="is a learned verifier, whose weights no longer speak"):
        train(reinforce(home, "on_a_verifier", model=str(folder)))


def test_a_budget_is_kept_and_a_larger_one_goes_on(home):
    whole = train(reinforce(home, "unlimited", eval_every=0, eval_task=""))
    with Ledger(path=home / "unlimited", read_only=True) as ledger:
        spent = ledger.spent.cost.tokens
    said = []
    small = reinforce(home, "small", eval_every=0, eval_task="", budget=f"tokens={spent * 2 // 3 + 1500}")
    first = train(small, log=said.append)
    assert 0 < first.summary["steps"] < 3
    assert first.summary["stopped"] == "budget"
    assert "the budget has no room for another step" in said[-1]
    assert said[-2].startswith("The largest of the last steps took ")
    assert "less than that is left" in said[-2]
    with Ledger(Budget.parse(small.budget), path=home / "small") as ledger:
        assert ledger.spent.cost.tokens <= ledger.budget.tokens
    assert train(small).finished_before
    second = train(replace(small, budget="tokens=1e7"), log=said.append)
    assert f"Resumed after step {first.summary['steps']}." in said
    assert second.resumed_at == first.summary["steps"]
    a, b = weights(whole.folder), weights(second.folder)
    assert all(torch.equal(a[n], b[n]) for n in a)


LONGEST = 400


def long(home, run, **changes):
    """Chains of this base end long before `LONGEST`, so at its longest a step takes several times what it takes;
    and hardly two have the same reward, so all are learned from."""
    unlike = reward(home, "unlike", "return len(response) % 97 / 97")
    rest = {"eval_every": 0, "eval_task": "", "max_new_tokens": LONGEST, "verifier": unlike}
    return reinforce(home, run, **rest | changes)


@pytest.fixture(scope="module")
def unlimited(home):
    """A run without a budget: (its folder, tokens of it, tokens of its last step)."""
    run = train(long(home, "roomy"))
    with Ledger(path=home / "roomy", read_only=True) as ledger:
        last = largest_step(ledger.charges, "grpo", lately=1)
        return run.folder, ledger.spent.cost.tokens, last.cost.tokens


def test_what_chains_do_not_need_pays_for_others(home, unlimited):
    folder, spent, last = unlimited
    of_problem = 2 * 4 * LONGEST  # drawn and learned from, without prompts
    budget = spent + of_problem * 5 // 4
    assert budget - (spent - last) < 4 * of_problem, "room for the last step at its longest shows nothing"
    tight = train(long(home, "tight", budget=f"tokens={budget}"))
    assert (tight.summary["steps"], tight.summary["stopped"]) == (3, "steps")
    a, b = weights(folder), weights(tight.folder)
    assert all(torch.equal(a[n], b[n]) for n in a)


def test_a_step_that_the_budget_ended_within_goes_on_from_its_chains(home, unlimited, monkeypatch):
    folder, spent, _ = unlimited
    options = long(home, "within")
    said = []
    with monkeypatch.context() as patch:
        patch.setattr("reasoning.train.rollouts.largest_step", lambda *a: Charge())  # expects too little
        first = train(replace(options, budget=f"tokens={spent - 200}"), log=said.append)
    assert (first.summary["steps"], first.summary["stopped"]) == (2, "budget")
    assert said[-2].startswith("One more problem of the next step may take up to ")
    with Pool.open(home / "within", read_only=True) as pool:
        assert 32 < len(pool) < 48
    second = train(replace(options, budget=f"tokens={2 * spent}"))
    with Ledger(path=home / "within", read_only=True) as ledger:
        assert ledger.spent.samples == 48, "no chain was drawn twice"
    a, b = weights(folder), weights(second.folder)
    assert all(torch.equal(a[n], b[n]) for n in a)


COSTLY = """from verifiers import Verdict

class Costly:
    name, oracle = "costly", False

    def verify(self, attempts):
        return [Verdict(len(a.response) % 97 / 97, scored_tokens=200) for a in attempts]

    def worst_case(self, attempts):
        return 200 * len(attempts), 0.0
"""


def test_a_step_that_cannot_be_judged_to_its_end_is_not_learned_from(home, monkeypatch):
    """Judging takes most of this budget: it runs out within the second step, whose chains are drawn by then."""
    (home / "costly.py").write_text(COSTLY)
    options = reinforce(
        home, "whole", eval_every=0, eval_task="", verifier=f"{home}/costly.py:Costly", steps=2
    )
    whole = train(options)
    with Ledger(path=home / "whole", read_only=True) as ledger:
        spent = ledger.spent.cost.tokens
    said = []
    judged = replace(options, run=str(home / "judged"))
    with monkeypatch.context() as patch:
        patch.setattr("reasoning.train.rollouts.largest_step", lambda *a: Charge())  # expects too little
        first = train(replace(judged, budget=f"tokens={spent - 2000}"), log=said.append)
    assert (first.summary["steps"], first.summary["stopped"]) == (1, "budget")
    assert said[-2].startswith("It ran out while the next step was drawn and judged.")
    assert [row["rewards_missing"] for row in metrics(home, "judged")] == [0]
    second = train(replace(judged, budget=f"tokens={2 * spent}"))
    a, b = weights(whole.folder), weights(second.folder)
    assert all(torch.equal(a[n], b[n]) for n in a)
    with pytest.raises(BudgetError, match="ran out while the first step was drawn and judged"):
        train(replace(options, run=str(home / "unjudged"), budget="tokens=3000"))


def test_an_evaluation_that_cannot_be_judged_to_its_end_is_none(home):
    (home / "costly.py").write_text(COSTLY)
    said = []
    options = reinforce(
        home, "unevaluated", verifier=f"{home}/reward.py:even", eval_verifier=f"{home}/costly.py:Costly"
    )
    with pytest.raises(BudgetError, match="cannot pay for one step"):
        train(replace(options, budget="tokens=4500", eval_chains=8), log=said.append)
    assert said == ["step 0: not evaluated, the budget has no room for it."]
    assert not (home / "unevaluated" / "metrics.jsonl").exists()


def test_star_learns_from_no_part_of_its_hinted_chains(home, monkeypatch):
    """The purse pays for a step's chains, not for those that are asked again with a hint."""
    options = reinforce(home, "star", "star", eval_every=0, eval_task="", steps=2)
    whole = train(options)
    rows = metrics(home, "star")
    assert rows[1]["rationalised"] > 0
    with Ledger(path=home / "star", read_only=True) as ledger:
        samples = ledger.spent.samples
    first = train(replace(options, run=str(home / "star part"), budget=f"samples={samples - 3}"))
    assert (first.summary["steps"], first.summary["stopped"]) == (1, "budget")
    assert metrics(home, "star part") == rows[:1]
    second = train(replace(options, run=str(home / "star part"), budget="samples=1000"))
    a, b = weights(whole.folder), weights(second.folder)
    assert all(torch.equal(a[n], b[n]) for n in a)
    with Ledger(path=home / "star part", read_only=True) as ledger:
        assert ledger.spent.samples == samples, "no chain was drawn twice"


def test_the_largest_of_the_last_steps():
    rows = [
        Charge("train", "", Cost(output_tokens=70, flops=1.0), 8),
        Charge("evaluate", "", Cost(output_tokens=999), 99),
        Charge("train", "grpo", Cost(scored_tokens=30, flops=3.0)),
        Charge("train", "", Cost(output_tokens=40, flops=2.0), 4),
        Charge("train", "", Cost(output_tokens=40, flops=2.0), 5),
        Charge("train", "grpo", Cost(scored_tokens=10, flops=1.0), price=0.5),
        Charge("train", "grpo", Cost(scored_tokens=900, flops=1.0)),  # learned again, nothing drawn
        Charge("train", "", Cost(output_tokens=500), 50),  # under way
    ]
    assert largest_step(rows[:2], "grpo") is None
    most = largest_step(rows, "grpo")
    assert (most.cost.tokens, most.cost.flops, most.samples, most.price) == (100, 5.0, 9, 0.5)
    last = largest_step(rows, "grpo", lately=1)
    assert (last.cost.tokens, last.cost.flops, last.samples) == (90, 5.0, 9)


def test_a_budget_for_no_step_is_refused(home):
    with pytest.raises(BudgetError, match="cannot pay for one step"):
        train(reinforce(home, "poor", eval_task="", budget="tokens=500"))
    assert not (home / "poor" / "model").exists()


def test_dynamic_sampling_refills_within_the_budget(home):
    options = reinforce(home, "refill", "dapo", eval_task="", eval_every=0, budget="tokens=9000")
    rare = reward(home, "rare", "return float(len(response) % 3 == 0)")
    result = train(replace(options, verifier=rare, steps=6, overlong_buffer=8))
    with Ledger(path=home / "refill", read_only=True) as ledger:
        assert ledger.spent.cost.tokens <= 9000
    assert result.summary["stopped"] in ("budget", "steps")


def test_samples_and_intervals_come_with_every_evaluation(home):
    train(reinforce(home, "read", steps=1))
    rows = [json.loads(line) for line in (home / "read" / "samples.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0] * evaluate.SHOWN + [1] * evaluate.SHOWN
    assert {"prompt", "chain", "score", "reference", "finish_reason"} <= rows[0].keys()
    last = metrics(home, "read")[-1]
    assert last["eval/pass@2_low"] <= last["eval/pass@2"] <= last["eval/pass@2_high"]
    assert last["eval/avg@2"] == last["eval/pass@1"]
    text = (home / "read" / "metrics.jsonl").read_text()
    assert "tokens_per_second" in text
    assert "NaN" not in text
    assert of_device("NVIDIA H100 80GB HBM3", torch.bfloat16) == 989e12
    assert of_device("Some other card", torch.bfloat16) is None


def test_an_evaluation_is_the_same_whatever_order_its_problems_came_in(home, tmp_path):
    """As of several ranks, the first of which has its part in the pool first: to the last bit."""
    engine = TransformersEngine.open(str(home / "base" / "model"), device="cpu")
    problems = load_problems("word:dev:n=7")
    task = evaluate.HeldOut("word", 1.0, problems, open_verifier(f"{home}/reward.py:even"))
    found = []
    for name, order in (("a", problems), ("b", [*problems[1::2], *problems[::2]]), ("c", problems[::-1])):
        with Pool.open(tmp_path / name) as pool:
            pool.add_problems(order)
            sampling = Sampling(max_new_tokens=24, seed=1)
            found.append(evaluate.evaluate([task], engine, pool, Ledger(), 3, sampling))
    assert [row["prompt"] for row in found[0][1]] == [p.prompt for p in problems[: evaluate.SHOWN]]
    assert found[0] == found[1] == found[2]


def test_mfu_is_of_all_devices_and_of_a_cpu_as_fast_as_it_multiplies(home, monkeypatch):
    made = []
    monkeypatch.setattr(loop, "update", lambda *a, **k: made.append(update(*a, **k)) or made[-1])
    train(reinforce(home, "used", steps=1, overlong="judge"))
    last = json.loads((home / "used" / "metrics.jsonl").read_text().splitlines()[-1])
    peak = multiplying(torch.float32, torch.get_num_threads())
    assert 1e8 < peak < 1e14
    assert 0 < made[0].computed < 0.9  # a group's prompt is computed once
    flops = last["flops/sample"] + last["flops/update"] * made[0].computed
    assert last["mfu"] == pytest.approx(flops / last["step_time"] / peak)
    assert devices_of("transformers", Ranks(0, 4)) == 4
    assert devices_of("vllm:tensor_parallel_size=8,parity=off", Ranks()) == 8


def test_the_peak_of_a_cpu_is_not_lowered_by_what_else_the_machine_does(monkeypatch):
    """A product that is kept waiting, and a library that is slow, as MKL is on some processors."""
    monkeypatch.setattr(peaks, "cpus", lambda: 2)
    peak = multiplying.__wrapped__(torch.float32, 2)
    plain, quick = torch.nn.functional.linear, peaks.linear

    def waiting(*given):
        time.sleep(0.02)
        return quick(*given)

    def slow(*given):
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            pass
        return plain(*given)

    monkeypatch.setattr(torch.nn.functional, "linear", slow)
    monkeypatch.setattr(peaks, "linear", waiting)
    assert multiplying.__wrapped__(torch.float32, 2) > peak / 3
    assert multiplying.__wrapped__(torch.float32, 64) < 3 * peak  # more threads than processors


@pytest.mark.filterwarnings("default")  # of tensorboard's own dependencies
def test_tensorboard_gets_every_row(home):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(reinforce(home, "board", steps=2, track=["tensorboard"]))
    found = accumulator.EventAccumulator(str(home / "board" / "tensorboard"))
    found.Reload()
    rows = metrics(home, "board")
    assert [e.step for e in found.Scalars("reward")] == [1, 2]
    assert [e.value for e in found.Scalars("reward")] == pytest.approx([row["reward"] for row in rows[1:]])
    assert [e.step for e in found.Scalars("eval/pass@1")] == [0, 1, 2]


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_the_other_trackers_get_the_same_calls(tmp_path, monkeypatch, name):
    """By a stand-in of the package's interface, not the package itself."""
    calls = []
    module = types.ModuleType(name)
    module.init = lambda **given: calls.append(("init", given["project"], given["resume"])) or module
    module.log = lambda figures, step: calls.append(("log", step, figures))
    module.finish = lambda: calls.append(("finish",))
    monkeypatch.setitem(sys.modules, name, module)
    [tracker] = open_trackers([name, name], tmp_path, {"lr": 0.1}, 0)
    tracker.log(3, {"reward": 0.5})
    tracker.close()
    assert calls == [("init", "reasoning", "allow"), ("log", 3, {"reward": 0.5}), ("finish",)]


def test_a_finished_run_says_how_to_train_on_from_it_and_an_odd_rate_is_said(home, capsys):
    said = []
    train(small_runs.cold_start(home, run=str(home / "odd"), steps=1, lr=0.5), log=said.append)
    assert sum("--lr 0.5 is far more than what" in text for text in said) == 1
    assert not any(
        "--lr" in text for text in _said_by(small_runs.cold_start(home, run=str(home / "done"), steps=1))
    )
    longer = small_runs.cold_start(home, run=str(home / "done"), steps=4)
    with pytest.raises(UserError, match=r"another folder.* --model \S+/done/model --steps 3"):
        train(longer)
    flags = ["--objective", "sft", "--model", small_runs.SMALL, "--task", "word:train", "--steps", "1"]
    flags += ["--problems-per-step", "8", "--optimizer", "muon", "--lr", "5e-3", "--max-new-tokens", "24"]
    assert main(["train", str(home / "done"), *flags]) == 0
    assert f"To train on from it: another folder, with --model {home}/done/model" in capsys.readouterr().err


def _said_by(options):
    said = []
    train(options, log=said.append)
    return said


def test_a_tracker_that_is_not_installed_names_its_extra(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(MissingExtra, match=r"reasoning-toolkit\[trackio\]"):
        train(reinforce(home, "untracked", track=["trackio"]))
    assert not (home / "untracked").exists()


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        ("return None", ReasoningError, "judged none of the"),
        ("return float('nan')", UserError, "failed on .* returned nan"),
        ("return [0.5, 0.5]", UserError, r"failed on .* \(error: .*--on-verifier-error skip"),
        ("raise RuntimeError('out of order')", UserError, "failed on .* RuntimeError.*out of order"),
    ],
)
def test_rewards_that_are_none_stop_the_run(home, body, error, words):
    name = f"odd{len(body)}"
    with pytest.raises(error, match=words):
        train(reinforce(home, name, verifier=reward(home, name, body), eval_task=""))
    assert not (home / name / "model").exists()


def test_a_list_of_the_wrong_length_is_refused(home, tmp_path):
    (home / "short.py").write_text(
        "class Short:\n    name, oracle = 'short', False\n    def verify(self, attempts):\n        return []\n"
        "short = Short()\n"
    )
    with pytest.raises((EngineError, UserError), match="short"):
        train(reinforce(home, "short", verifier=f"{home}/short.py:short", eval_task=""))


def test_failing_verdicts_are_left_out_when_that_is_asked_for(home):
    said = []
    body = "assert len(response) % 3, 'no judgement'\n    return float(len(response) % 2)"
    options = reinforce(home, "skipping", verifier=reward(home, "shaky", body), eval_task="", steps=1)
    options = replace(options, max_new_tokens=160, chains_per_problem=8)  # so that many chains come to an end
    with pytest.raises(UserError, match=r"failed on .*AssertionError.*no judgement"):
        train(options)
    result = train(replace(options, on_verifier_error="skip"), log=said.append)
    assert metrics(home, "skipping")[-1]["rewards_missing"] > 0
    assert sum("Such chains are left out" in text for text in said) == 1
    assert result.summary["stopped"] == "steps"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_staleness": 2}, "goes with --asynchronous"),
        ({"asynchronous": True, "objective": "rloo"}, "--mismatch token_truncate"),
        ({"patience": 2, "eval_task": ""}, "--patience counts evaluations"),
        ({"keep": "best", "eval_task": ""}, "--keep best needs evaluations"),
        ({"curriculum": "0.9"}, "LOW-HIGH"),
        ({"engine": "openai:model"}, "a server cannot take over new weights"),
        ({"engine": "vllm:other/model"}, "leave 'other/model' out"),
        ({"engine": "replay"}, "recorded chains cannot follow"),
        ({"source": ["pool:x"]}, "--objective expert_iteration"),
        ({"source": ["pool:x"], "objective": "expert_iteration"}, "leave --task out"),
        ({"budget": "price=3"}, "no price table"),
        ({"objective": "sft", "asynchronous": True}, "this run draws none"),
        ({"task": "word:train*1+countdown:train"}, "each needs a weight"),
        ({"objective": "reinforce_pp", "problems_per_step": 1, "chains_per_problem": 1}, "a single chain"),
        ({"lora_alpha": 8.0}, "--lora-alpha goes with --lora-rank"),
        ({"keep_correct": 2}, "--keep-correct goes with --objective expert_iteration"),
        ({"max_refill": 5}, "--max-refill goes with --dynamic-sampling"),
        (
            {"objective": "sft", "eval_task": "", "chains_per_problem": 4},
            "--chains-per-problem goes with an objective that samples chains",
        ),
        ({"hint": "{prompt}"}, "--hint goes with --objective star"),
        ({"objective": "rloo", "clip_high": 0.3}, "--clip-high has no effect with --surrogate logp"),
        ({"objective": "cispo", "clip_low": 0.3}, "--clip-low has no effect with --surrogate cispo"),
        ({"mismatch_cap": 3.0}, "--mismatch-cap has no effect without a correction"),
        ({"lam": 0.9}, "--lam has no effect without a value head"),
        ({"overlong_buffer": 8}, "--overlong-buffer has no effect with --overlong zero"),
        ({"objective": "dapo", "overlong_buffer": 99}, "is more than --max-new-tokens 32"),
    ],
)
def test_settings_that_contradict_each_other(home, changes, words):
    options = replace(reinforce(home, "never"), **changes)
    with pytest.raises(UserError, match=words):
        checks.check(options, objective(options.objective, **options.axes()))
