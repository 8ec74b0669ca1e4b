"""Killed in any phase of a step, a run that goes on ends with the same bits; also with roll-outs drawn ahead."""

import json
import os
import resource
from dataclasses import replace

import pytest
import small_runs
from safetensors.torch import load_file, save_file
from small_runs import killed_in, metrics, reinforce

from reasoning.errors import PoolError, UserError
from reasoning.pool import Pool
from reasoning.train import journal, learner, loop, rollouts
from reasoning.train.loop import train
from reasoning.train.trained import save_trained

PHASES = {
    "after sampling": (rollouts, "sample", 2),
    "after the verdicts": (rollouts, "verify", 2),
    "between minibatches": (learner.Learner, "step", 5),
    "after an evaluation": (loop, "evaluate", 3),
    "after the best model": (loop, "save_trained", 2),
    "after the metrics": (journal, "_append", 6),
    "within a checkpoint": (os, "rename", 3),
    "after a checkpoint": (loop, "save_checkpoint", 1),
    "before the end": (loop._Run, "_loop", 1),
}
CURRICULUM = {"curriculum": "0.1-0.9", "task": "word:train:n=12*2+countdown:train:n=6*1", "steps": 4}
AHEAD = {"asynchronous": True, "steps": 4}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return small_runs.made(tmp_path_factory, "resume")


@pytest.fixture(scope="module")
def whole(home):
    """Runs without an interruption, by their settings."""
    known = {}

    def run(**changes):
        name = "whole" + "".join(sorted(changes))
        if name not in known:
            known[name] = train(reinforce(home, name, **changes)).folder
        return known[name]

    return run


def same(home, a, b):
    one, two = (load_file(folder / "model.safetensors") for folder in (a, b))
    assert one.keys() == two.keys()
    assert all((one[n] == two[n]).all() for n in one)
    assert metrics(home, a.parent.name) == metrics(home, b.parent.name)
    best = [load_file(folder.parent / "best" / "model.safetensors") for folder in (a, b)]
    assert all((best[0][n] == best[1][n]).all() for n in best[0])
    assert (a.parent / "samples.jsonl").read_text() == (b.parent / "samples.jsonl").read_text()
    with Pool.open(a.parent, read_only=True) as x, Pool.open(b.parent, read_only=True) as y:
        assert x.keys() == y.keys()


@pytest.mark.parametrize("phase", PHASES)
def test_a_kill_in_any_phase_changes_no_bit(home, whole, monkeypatch, phase):
    owner, name, at = PHASES[phase]
    options = reinforce(home, f"killed {phase}")
    killed_in(monkeypatch, owner, name, at, options)
    same(home, whole(), train(options).folder)


@pytest.mark.parametrize("changes", [CURRICULUM, AHEAD, {**AHEAD, "max_staleness": 2}])
def test_so_do_a_curriculum_and_roll_outs_drawn_ahead(home, whole, monkeypatch, changes):
    options = reinforce(home, "odd" + "".join(sorted(changes)), **changes)
    killed_in(monkeypatch, learner.Learner, "step", 7, options)
    same(home, whole(**changes), train(options).folder)


def test_drawn_ahead_is_the_same_every_time_and_a_step_older(home, whole):
    again = train(reinforce(home, "again", **AHEAD))
    same(home, whole(**AHEAD), again.folder)
    rows = metrics(home, "again")[1:]
    assert [row["staleness"] for row in rows] == [0, 1, 1, 1]
    # One of them at least: a step may have nothing to learn.
    assert any(row.get("sampling_logp_difference/mean", 0) > 0 for row in rows[1:])
    with Pool.open(home / "again", read_only=True) as pool:
        drawn = {c.model for c in pool.chains() if c.sampling.seed == 0}
    assert len(drawn) == 3  # four steps: the first weights drew two


def test_chains_of_weights_that_are_gone_cannot_be_drawn_again(home, monkeypatch):
    options = reinforce(home, "emptied", **AHEAD)
    killed_in(monkeypatch, loop, "save_checkpoint", 1, options)
    for path in [
        *(home / "emptied" / "pool").rglob("*.wal"),
        *(home / "emptied" / "pool").rglob("*.parquet"),
    ]:
        path.unlink()
    with pytest.raises(PoolError, match="the weights that drew them are gone"):
        train(options)


def test_a_changed_setting_or_another_model_is_refused(home, monkeypatch):
    options = reinforce(home, "changed")
    killed_in(monkeypatch, loop, "save_checkpoint", 1, options)
    with pytest.raises(UserError, match=r"was begun without --clip-high, and now it is 0\.3"):
        train(replace(options, clip_high=0.3))
    with pytest.raises(UserError, match="--chains-per-problem 4, not 8"):
        train(replace(options, chains_per_problem=8))
    base = home / "base" / "model" / "model.safetensors"
    kept = base.read_bytes()
    try:
        save_file({name: tensor + 1 for name, tensor in load_file(base).items()}, base, {"format": "pt"})
        with pytest.raises(UserError, match=r"comes from base@\w+, and --model is base@\w+ now"):
            train(options)
    finally:
        base.write_bytes(kept)
    harmless = replace(options, patience=9, keep="best")
    assert train(harmless).resumed_at == 1


def test_a_run_killed_between_its_model_and_its_clean_up_is_finished_and_cleaned(home, monkeypatch):
    options = reinforce(home, "late", steps=2, eval_task="", eval_every=0)
    killed_in(monkeypatch, loop, "save_trained", 1, options)
    run = home / "late"
    assert (run / "model" / "training.json").is_file()
    assert list((run / "checkpoints").iterdir())
    assert train(options).finished_before
    assert not (run / "checkpoints").exists()


def test_a_kill_before_the_starting_weights_are_kept_as_the_best(home, monkeypatch):
    """No later evaluation is better than the first: all wrong."""
    options = reinforce(home, "first", keep="best", verifier=f"{home}/never.py:never")
    (home / "never.py").write_text("def never(response, **_):\n    return 0.0\n")
    killed_in(monkeypatch, journal, "_append", 2, options)
    assert metrics(home, "first")[0]["step"] == 0
    assert not (home / "first" / "best").exists()
    kept = train(options)
    assert kept.summary["best"]["step"] == 0
    same(home, train(replace(options, run=str(home / "first whole"))).folder, kept.folder)


def test_the_best_weights_are_there_until_better_ones_are_whole(tmp_path):
    def save(text, fails=False):
        def write(folder):
            folder.mkdir()
            (folder / "weights").write_text(text)
            if fails:
                raise OSError(28, "No space left on device")

        save_trained(tmp_path / "best", write, {"steps": 1})

    save("old")
    with pytest.raises(PoolError, match="the disk is full"):
        save("new", fails=True)
    assert (tmp_path / "best" / "weights").read_text() == "old"
    save("new")
    assert (tmp_path / "best" / "weights").read_text() == "new"


@pytest.mark.parametrize("changes", [AHEAD, {**AHEAD, "max_staleness": 2}])
def test_a_step_drawn_ahead_that_the_budget_ended_goes_on_with_its_older_weights(home, whole, changes):
    said = []
    for samples in (24 + 16, 60, 1000):
        options = reinforce(home, f"paid{len(changes)}", **changes, budget=f"samples={samples}")
        ended = train(options, log=said.append)
    assert sum(text.startswith("Stopped") for text in said) == 2
    assert ended.summary["stopped"] == "steps"
    a, b = (load_file(folder / "model.safetensors") for folder in (whole(**changes), ended.folder))
    assert all((a[n] == b[n]).all() for n in a)


def test_so_does_one_whose_verifier_failed(home, whole, monkeypatch):
    """Step 2 is drawn ahead and cannot be judged; the checkpoint after step 1 comes before anybody asks for it."""
    options, real, calls = reinforce(home, "unjudged", **AHEAD), rollouts.verify, []

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise UserError("no verdict today")
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(rollouts, "verify", failing)
        with pytest.raises(UserError, match="no verdict today"):
            train(options)
    again = train(options)
    assert again.resumed_at == 2
    same(home, whole(**AHEAD), again.folder)


def test_a_file_that_changed_since_is_refused(home, monkeypatch):
    """Problems, rewards: the rest of such a run would be of another one."""
    problems = [{"question": f"{i} + 1", "answer": str(i + 1)} for i in range(9)]
    (home / "even.py").write_text(small_runs.EVEN)
    (home / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems))
    task = f"{home}/sums.jsonl:prompt=question,reference=answer"
    options = reinforce(home, "inputs", task=task, verifier=f"{home}/even.py:even")
    killed_in(monkeypatch, loop, "save_checkpoint", 1, options)
    for path, text, words in (
        (home / "even.py", small_runs.EVEN.replace("== 0", "== 1"), "What --verifier stands for has changed"),
        (home / "sums.jsonl", json.dumps(problems[0]) + "\n", "What --task stands for has changed"),
    ):
        kept = path.read_text()
        path.write_text(text)
        with pytest.raises(UserError, match=words):
            train(options)
        path.write_text(kept)
    assert train(options).resumed_at == 1


def test_rows_of_metrics_that_are_lost_are_said(home, monkeypatch):
    options, said = reinforce(home, "rows"), []
    killed_in(monkeypatch, loop, "save_checkpoint", 2, options)
    path = home / "rows" / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:-20], lines[2], '{"torn']))
    train(options, log=said.append)
    assert [row["step"] for row in metrics(home, "rows")] == [0, 2, 3]
    assert "lacks the rows of 1 of the 2 steps done, from step 1 on" in said[1]


@pytest.mark.parametrize("limit", [12_000, 120_000])
def test_a_disk_that_refuses_is_one_line_and_the_run_goes_on(home, whole, limit):
    """A file may have so many bytes: too few for the weights, or for the optimizer's state with them."""
    options = reinforce(home, f"limited{limit}")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        with pytest.raises(PoolError, match=r"cannot be written \(.*File too large"):
            train(options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    same(home, whole(), train(options).folder)
