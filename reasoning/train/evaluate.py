"""Held-out evaluation while training: a few chains per problem, pass@k and majority with intervals, and some chains
to read. Knows nothing of the learner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reasoning.budget import Ledger
from reasoning.drawing import draw_keys
from reasoning.pool import Pool
from reasoning.records import Cost, Draw, Problem, Sampling
from reasoning.sampling import sample, verify
from reasoning.select import groups, open_selector
from reasoning.statistics import accuracy_interval
from reasoning.train.distributed import ALONE, Ranks
from reasoning.train.together import meet
from verifiers import Verifier

SHOWN = 4
"""Problems of which a chain is kept for reading, per task and evaluation."""

REPLICATES = 1000


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Problems of one task that are evaluated, who judges them, and their share in the mean of several tasks."""

    label: str
    weight: float
    problems: Sequence[Problem]
    verifier: Verifier


def affordable(
    tasks: Sequence[HeldOut], engine: Any, pool: Pool, ledger: Ledger, n: int, sampling: Sampling
) -> bool:
    """Whether what is left of the budget pays for the chains that are missing, each as long as it may be."""
    if ledger.budget is None:
        return True
    worst, count = Cost(), 0
    for problem in (p for task in tasks for p in task.problems):
        draw = Draw(problem, sampling, tuple(range(n)))
        missing = pool.missing(draw_keys(draw, engine.model))
        if missing:
            worst += engine.worst_case(replace(draw, indices=draw.indices[: len(missing)]))
            count += len(missing)
    return ledger.fits(worst, count, price=ledger.most(worst, engine.model))


def evaluate(
    tasks: Sequence[HeldOut],
    engine: Any,
    pool: Pool,
    ledger: Ledger,
    n: int,
    sampling: Sampling,
    ranks: Ranks = ALONE,
) -> tuple[dict[str, float], list[dict[str, Any]]] | None:
    """Draw ``n`` chains of every problem; (figures, chains to read), or None where the purse ran out before all were
    drawn and judged. The chains stay in ``pool``.

    eval/pass@1 (also eval/avg@n, the mean over all n), eval/pass@n and eval/maj@n with the ends of their 95% interval
    (_low, _high; the unit is the problem), eval/mean_length, eval/clipped_ratio. Of several tasks the same by task
    (eval/pass@1/LABEL), and the means by weight, whose ends add up each side's distances by their squares (MOVER,
    Zou and Donner 2008). A chain without a judgement is left out.
    """
    mine = ranks.share([p for task in tasks for p in task.problems])
    short = sample(mine, engine, pool, ledger, n, sampling, phase="evaluate").unaffordable
    own = {p.id for p in mine}
    found: list[dict[str, float]] = []
    read: list[dict[str, Any]] = []
    for task in tasks:
        ids = [p.id for p in task.problems if p.id in own]
        short += verify(
            pool,
            task.verifier,
            ledger=ledger,
            model=engine.model,
            sampling=sampling,
            problem_ids=ids,
            phase="evaluate",
            again=False,  # a run that goes on takes what it stored as it stands
        ).unaffordable
    if short:
        return None
    meet(ranks, pool)
    for task in tasks:
        found.append(_figures(task, engine, pool, n, sampling))
        read += _to_read(task, engine, pool, sampling)
    if len(tasks) == 1:
        return {f"eval/{name}": value for name, value in found[0].items()}, read
    out = {
        f"eval/{name}/{task.label}": value
        for task, figures in zip(tasks, found, strict=True)
        for name, value in figures.items()
    }
    shares = np.array([task.weight for task in tasks]) / sum(task.weight for task in tasks)
    for name in ("pass@1", f"maj@{n}", f"pass@{n}"):
        each, low, high = (np.array([f[name + end] for f in found]) for end in ("", "_low", "_high"))
        mean = float(shares @ each)
        out[f"eval/{name}"] = mean
        out[f"eval/{name}_low"] = mean - float(np.sqrt(np.square(shares * (each - low)).sum()))
        out[f"eval/{name}_high"] = mean + float(np.sqrt(np.square(shares * (high - each)).sum()))
    return out, read


def _figures(task: HeldOut, engine: Any, pool: Pool, n: int, sampling: Sampling) -> dict[str, float]:
    # In the task's order, not the pool's, which is whose rank was first: sums of floats depend on it.
    every = {g.problem_id: g for g in groups(pool, engine.model, sampling, oracle=task.verifier.name)}
    found = [every[p.id] for p in task.problems if p.id in every]
    passes = open_selector("pass")(found, [1, n]).mean  # (P, 2)
    majority = open_selector("majority")(found, [n]).mean[:, 0]  # (P,)
    figures = {
        f"avg@{n}": float(np.nanmean(passes[:, 0])),
        "mean_length": float(np.mean([g.output_tokens.mean() for g in found])),
        "clipped_ratio": float(np.mean([g.truncated.mean() for g in found])),
        "missing": float(sum(np.isnan(g.correct).sum() for g in found)),
    }
    for name, values in (("pass@1", passes[:, 0]), (f"pass@{n}", passes[:, 1]), (f"maj@{n}", majority)):
        interval = accuracy_interval(values, replicates=REPLICATES)
        figures |= {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return figures


def _to_read(task: HeldOut, engine: Any, pool: Pool, sampling: Sampling) -> list[dict[str, Any]]:
    """The first chain of the first problems, as rows of samples.jsonl."""
    problems = {p.id: p for p in task.problems[:SHOWN]}
    verdicts = pool.verdicts(task.verifier.name)
    rows = []
    first = {c.problem_id: c for c in pool.chains(engine.model, sampling, list(problems)) if c.index == 0}
    for id, problem in problems.items():
        if (chain := first.get(id)) is not None:
            verdict = verdicts.get(chain.key)
            rows.append(
                {
                    "task": task.label,
                    "prompt": problem.prompt,
                    "chain": chain.text,
                    "finish_reason": chain.finish_reason,
                    "reference": problem.reference,
                    "answer": verdict.answer if verdict else None,
                    "score": verdict.score if verdict else None,
                    "status": verdict.status if verdict else "not judged",
                }
            )
    return rows
