"""Killed in any phase of a step, a run that goes on ends with the same bits; also with roll-outs drawn ahead."""

import os
from dataclasses import replace

import pytest
import small_runs
from safetensors.torch import load_file, save_file
from small_runs import killed_in, metrics, reinforce

from reasoning.errors import PoolError, UserError
from reasoning.pool import Pool
from reasoning.train import journal, learner, loop, rollouts
from reasoning.train.loop import train

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
