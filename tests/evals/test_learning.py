"""The learning table: demonstrations that are right where nothing slips, costs read off between evaluations, and one
small comparison from the cold start to the table."""

from __future__ import annotations

import dataclasses
import json
import operator
import random
import time

import pytest

from evals.learning import demonstrations, settings
from evals.learning.settings import PRESETS, TASKS, TaskSetting
from evals.learning.table import every_seed, flops_to, gain, markdown, overview, read, target
from evals.learning.workers import Job, Workers
from reasoning.errors import UserError
from reasoning.train.objective import PRESETS as OBJECTIVES
from reasoning.train.options import TrainOptions


def test_every_published_preset_is_compared_and_its_options_exist():
    assert set(PRESETS) == set(OBJECTIVES) - {"sft"}
    for preset in PRESETS.values():
        options = {**settings.COMMON, **preset.options}
        TrainOptions(run="r", model="m", task="word:train", objective=preset.name, **options)


@pytest.mark.parametrize("name", sorted(demonstrations.SHOWN))
def test_work_without_a_slip_ends_in_the_right_answer(name, monkeypatch):
    pytest.importorskip("reasoning_gym")
    from reasoning.tasks import load_problems
    from verifiers import Attempt, open_verifier

    for chance in ("SLIP", "SLIP_LETTER", "BARE"):
        monkeypatch.setattr(demonstrations, chance, 0.0)
    problems = load_problems(TASKS[name].spec("train", 40))
    rng = random.Random(0)
    texts = [demonstrations.SHOWN[name](p, rng) for p in problems]
    scored = open_verifier(f"gym:{name}").verify(
        [Attempt(p.prompt, t, p.reference, p.metadata) for p, t in zip(problems, texts, strict=True)]
    )
    assert [v.score for v in scored] == [1.0] * 40


def record(preset: str, seed: int, after: float, points: list[tuple[float, float, float]]) -> dict:
    """points: (FLOPs, accuracy, accuracy of the same problems before)."""
    before = [0.0, 0.25, 0.5, 0.25]
    return {
        "task": "word",
        "preset": preset,
        "seed": seed,
        "budget": 100.0,
        "before": before,
        "after": [b + after for b in before],
        "points": [{"flops": f, "accuracy": a, "same_problems_before": s, "steps": 3} for f, a, s in points],
    }


def test_cost_of_an_accuracy_is_read_between_evaluations():
    # On the way the problems are 10 points easier than the whole: 0.25 before.
    run = record("grpo", 0, 0.5, [(50.0, 0.55, 0.35), (100.0, 0.75, 0.25)])
    assert flops_to(run, 0.35) == pytest.approx(25.0)  # 0.25 -> 0.45 over the first 50
    assert flops_to(run, 0.60) == pytest.approx(75.0)  # 0.45 -> 0.75 over the next 50
    assert flops_to(run, 0.80) == float("inf")
    assert flops_to(run, 0.20) == 0.0


def test_a_run_that_raised_nothing_is_shown_as_such():
    runs = [
        record("grpo", 0, 0.5, [(90.0, 0.75, 0.25)]),
        record("ppo", 0, 0.0, [(80.0, 0.25, 0.25)]),
        record("ppo", 1, 0.5, [(80.0, 0.75, 0.25)]),
    ]
    runs[1]["after"] = [0.25, 0.0, 0.5, 0.25]
    assert gain(runs[1]).interval.low < 0
    assert target(runs) == 0.5
    lines = every_seed(runs).splitlines()
    assert "1 of 1" in lines[2]
    assert "**1 of 2**" in lines[3]
    assert "(1 of 2)" in lines[3]
    assert overview(runs).splitlines() == [
        "| preset | word: 25%, to reach 50% |",
        "|---|---|",
        "| grpo | +50.0, 45 |",
        "| ppo | +25.0 (**1 of 2**), 40 (1 of 2) |",
    ]


def test_from_cold_start_to_table(tmp_path, monkeypatch):
    from evals.learning import run

    monkeypatch.setattr(run, "PROBLEMS", 6)
    monkeypatch.setattr(run, "ON_THE_WAY", 4)
    monkeypatch.setattr(run, "LEGS", (0.5, 1.0))
    task = TaskSetting(
        name="word",
        options="steps=1",
        demonstrations="steps=1,work=1",
        flops=1.2e10,
        max_new_tokens=24,
        sft_steps=6,
        train=64,
    )
    small = {"problems_per_step": 2, "chains_per_problem": 4, "minibatch": 4}
    preset = dataclasses.replace(PRESETS["grpo"], options=small)
    first = run.run_preset(tmp_path, task, preset, 0, "dev")
    assert [p["stopped"] for p in first["points"]] == ["budget", "budget"]
    half, whole = (p["flops"] for p in first["points"])
    assert 0 < half <= 0.6e10 < whole <= 1.2e10
    assert len(first["before"]) == len(first["after"]) == 6
    stored = json.loads((tmp_path / "results" / "word.grpo.0.json").read_text())
    assert stored == run.run_preset(tmp_path, task, preset, 0, "dev")
    other = dataclasses.replace(task, flops=2e10)
    with pytest.raises(UserError, match="other settings"):
        run.run_preset(tmp_path, other, preset, 0, "dev")
    assert "grpo" in markdown(read(tmp_path / "results", ["word"], ["grpo"], [0, 1]))


def test_jobs_wait_for_their_cold_start_and_a_failure_leaves_the_others_alone(capsys):
    jobs = [
        Job("broken", operator.truediv, (1, 0)),
        Job("after broken", str, ("never",), after="broken"),
        Job("cold", time.sleep, (0.5,)),
        Job("first", str, ("1",), after="cold"),
        Job("alone", str, ("2",)),
    ]
    with Workers(2) as workers:
        assert workers.do(jobs, time.monotonic() + 60) == 2
        assert workers.do([Job("late", str, ("3",))], time.monotonic() - 1) == 0
    said = capsys.readouterr().out
    assert "broken  FAILED: ZeroDivisionError" in said
    assert "never" not in said
    assert said.index("cold  ") < said.index("first  1")
    assert "alone  2" in said
    assert "1 not begun in time" in said
