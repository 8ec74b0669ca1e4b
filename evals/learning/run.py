"""One cold start and one run of the comparison, by the toolkit's own `train`, `sample` and `verify`.

A run is stopped by its budget at each leg's end, evaluated on held-out problems outside that budget, and goes on with
a larger one. Whatever was finished when it was killed is not done again.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from evals.learning.demonstrations import write_demonstrations
from evals.learning.settings import (
    CHAINS,
    COLD,
    COMMON,
    LEGS,
    ON_THE_WAY,
    PROBLEMS,
    Preset,
    TaskSetting,
)
from reasoning.budget import Ledger
from reasoning.engines import open_engine
from reasoning.errors import BudgetError, UserError
from reasoning.pool import Pool
from reasoning.records import Sampling
from reasoning.runfile import versions
from reasoning.sampling import sample, verify
from reasoning.select import groups
from reasoning.tasks import load_problems, verifier_of
from reasoning.train.loop import train
from reasoning.train.options import TrainOptions
from verifiers import open_verifier


def cold_start(out: Path, task: TaskSetting, seed: int) -> Path:
    """Folder of the model that every preset of this task and seed begins from."""
    run = out / "base" / f"{task.label}-{seed}"
    count = task.sft_steps * COLD["problems_per_step"]
    options: dict[str, Any] = {"task": f"{task.name}:train", "demonstrations": task.demonstrations}
    if task.name.startswith("gym:"):
        rows = run.parent / f"{task.label}-{seed}.jsonl"
        if not rows.is_file():
            rows.parent.mkdir(parents=True, exist_ok=True)
            write_demonstrations(task.spec("train", min(count, task.shown)), rows, seed)
        options = {"demonstrations": str(rows)}
    options |= {**COLD, "model": task.model, "steps": task.sft_steps, "seed": seed, "run": str(run)}
    options["device"] = "cpu"
    train(TrainOptions(**options, max_new_tokens=task.max_new_tokens))
    return run / "model"


def judge_of(spec: str) -> str:
    """Verifier of a task; of a gym task without its worker process, whose start takes longer than a short leg."""
    return verifier_of(spec).replace("gym:", "gym_scorer:")


judge = cache(open_verifier)


def measured(model: Path, pool: Path, task: TaskSetting, split: str, n: int) -> list[float]:
    """Share of right chains of each of the ``n`` held-out problems, in their order."""
    spec = task.spec(split, n)
    problems = load_problems(spec)
    sampling = Sampling(max_new_tokens=task.max_new_tokens, seed=1)
    engine, verifier = open_engine(f"transformers:{model}:device=cpu"), judge(judge_of(spec))
    with Pool.open(pool) as records:
        sample(problems, engine, records, n=CHAINS, sampling=sampling, phase="evaluate")
        verify(records, verifier, model=engine.model, sampling=sampling, phase="evaluate")
        found = groups(records, engine.model, sampling, oracle=verifier.name)
    rates = {g.problem_id: float(np.mean(g.correct)) for g in found}
    return [rates[p.id] for p in problems]


def beginning(out: Path, task: TaskSetting, seed: int, split: str) -> tuple[Path, list[float]]:
    """The cold start's folder and what it gets right; measured once for all presets."""
    base = cold_start(out, task, seed)
    kept = base.parent / f"right-{split}-{PROBLEMS}x{CHAINS}.json"
    if not kept.is_file():
        rates = measured(base, base.parent / "eval", task, split, PROBLEMS)
        partial = kept.with_suffix(".partial")
        partial.write_text(json.dumps(rates))
        partial.replace(kept)
    return base, json.loads(kept.read_text())


def run_preset(out: Path, task: TaskSetting, preset: Preset, seed: int, split: str) -> dict[str, Any]:
    """The finished run's record (also in ``out/results``)."""
    name = f"{task.label}.{preset.name}.{seed}"
    result = out / "results" / f"{name}.json"
    settings = {
        "task": asdict(task),
        "preset": asdict(preset),
        "common": COMMON,
        "cold": COLD,
        "evaluation": [split, PROBLEMS, CHAINS, ON_THE_WAY, list(LEGS)],
    }
    if result.is_file():
        found = json.loads(result.read_text())
        if found["settings"] != settings:
            raise UserError(f"{result} was made with other settings: remove it, or give another --out.")
        return found
    started, run = time.process_time(), out / "runs" / name
    base, before = beginning(out, task, seed, split)
    options: dict[str, Any] = {
        **COMMON,
        **preset.options,
        "objective": preset.name,
        "model": str(base),
        "run": str(run),
        "device": "cpu",
        "task": task.spec("train", task.train),
        "verifier": judge_of(task.spec("train", 1)),
        "max_new_tokens": task.max_new_tokens,
        "seed": seed,
    }
    drawn = 0.0
    if preset.pairs:
        drawn = draw_pairs(run / "pairs", base, task, preset, seed)
        del options["chains_per_problem"]
        options |= {"preferences": f"pool:{run / 'pairs'}", "task": ""}
    points, after = [], before
    for share in LEGS:
        left = share * task.flops - drawn
        if left <= 0:
            continue
        try:
            trained = train(TrainOptions(**options, budget=f"flops={left:.6g}"))
        except BudgetError:
            if share == LEGS[-1]:
                raise
            continue  # a step may take more than this leg has; the next one has more
        n = PROBLEMS if share == LEGS[-1] else ON_THE_WAY
        after = measured(trained.folder, run / "eval", task, split, n)
        points.append(
            {
                "flops": drawn + Ledger(path=run, read_only=True).spent.cost.flops,
                "steps": trained.summary["steps"],
                "stopped": trained.summary["stopped"],
                "accuracy": float(np.mean(after)),
                "same_problems_before": float(np.mean(before[:n])),
                "problems": n,
            }
        )
    record = {
        "task": task.label,
        "preset": preset.name,
        "seed": seed,
        "settings": settings,
        "budget": task.flops,
        "before": before,
        "after": after,
        "points": points,
        "cpu_seconds": time.process_time() - started,
        "versions": versions(),
    }
    result.parent.mkdir(parents=True, exist_ok=True)
    partial = result.with_suffix(".partial")
    partial.write_text(json.dumps(record))
    partial.replace(result)
    return record


def draw_pairs(run: Path, base: Path, task: TaskSetting, preset: Preset, seed: int) -> float:
    """Chains of the base, judged, to make pairs of; FLOPs that they took, about ``preset.pairs`` of the budget."""
    n = preset.options["chains_per_problem"]
    spec = task.spec("train", task.train)
    problems, verifier = load_problems(spec), judge(judge_of(spec))
    engine = open_engine(f"transformers:{base}:device=cpu")
    sampling = Sampling(max_new_tokens=task.max_new_tokens, seed=seed)
    with Pool.open(run) as records:
        ledger = Ledger(path=run)
        for at in range(0, len(problems), 16):
            if ledger.spent.cost.flops >= preset.pairs * task.flops:
                break
            sample(problems[at : at + 16], engine, records, ledger, n=n, sampling=sampling, phase="train")
        verify(records, verifier, ledger=ledger, phase="train")
        return ledger.spent.cost.flops
