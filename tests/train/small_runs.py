"""Training runs of a second on a model of some thousand weights, and how to kill one."""

import json
from dataclasses import replace

import pytest

from reasoning.train.journal import TIMES
from reasoning.train.loop import train
from reasoning.train.options import TrainOptions

SMALL = "new:tiny:hidden=32,layers=1,heads=2,kv_heads=1,ffn=48,words=160"
EVEN = "def even(response, **_):\n    return float(len(response) % 2 == 0)\n"


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the loop may catch it."""


def cold_start(folder, **changes):
    options = TrainOptions(
        run=str(folder / "base"),
        objective="sft",
        model=SMALL,
        task="word:train",
        steps=4,
        problems_per_step=8,
        optimizer="muon",
        lr=5e-3,
        max_new_tokens=24,
    )
    return replace(options, **changes)


def reinforce(folder, run, objective="grpo", **changes):
    options = TrainOptions(
        run=str(folder / run),
        objective=objective,
        model=str(folder / "base" / "model"),
        task="word:train:n=24",
        eval_task="word:dev:n=4",
        verifier=f"{folder}/reward.py:even",
        steps=3,
        problems_per_step=4,
        chains_per_problem=4,
        minibatch=6,
        optimizer="muon",
        lr=2e-3,
        max_new_tokens=32,
        eval_every=1,
        eval_chains=2,
        checkpoint_every=1,
        log_every=1,
    )
    return replace(options, **changes)


def made(tmp_path_factory, name):
    """A folder with a base model and a reward that does not need one to be good."""
    folder = tmp_path_factory.mktemp(name)
    (folder / "reward.py").write_text(EVEN)
    train(cold_start(folder))
    return folder


def metrics(folder, run):
    rows = [json.loads(line) for line in (folder / run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def killed_in(monkeypatch, owner, name, at, options):
    """Run until the call number ``at`` of ``owner.name`` has done its work, and die there."""
    real, calls = getattr(owner, name), []

    def dying(*args, **kwargs):
        result = real(*args, **kwargs)
        calls.append(name)
        if len(calls) == at:
            raise Killed
        return result

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dying)
        with pytest.raises(Killed):
            train(options)
