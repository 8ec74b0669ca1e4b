"""Held-out evaluation while training: a few chains per problem, pass@k and majority with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from reasoning.budget import Ledger
from reasoning.pool import Pool
from reasoning.records import Problem, Sampling
from reasoning.sampling import sample, verify
from reasoning.select import groups, open_selector
from reasoning.statistics import t_interval
from verifiers import Verifier


def evaluate(
    problems: Sequence[Problem],
    engine: Any,
    verifier: Verifier,
    pool: Pool,
    ledger: Ledger,
    n: int,
    sampling: Sampling,
) -> dict[str, float]:
    """Draw ``n`` chains of every problem and return eval/pass@1 (with its 95% half-width), eval/pass@n,
    eval/maj@n and eval/mean_length. The chains stay in ``pool``."""
    sample(problems, engine, pool, ledger, n, sampling, phase="evaluate")
    verify(pool, verifier, ledger=ledger, model=engine.model, phase="evaluate")
    wanted = {p.id for p in problems}
    found = [g for g in groups(pool, engine.model, sampling, oracle=verifier.name) if g.problem_id in wanted]
    passes = open_selector("pass")(found, [1, n]).mean
    majority = open_selector("majority")(found, [n]).mean
    return {
        "eval/pass@1": float(passes[:, 0].mean()),
        "eval/pass@1_halfwidth": t_interval(passes[:, 0]).half_width,
        f"eval/pass@{n}": float(passes[:, 1].mean()),
        f"eval/maj@{n}": float(majority.mean()),
        "eval/mean_length": float(np.mean([g.output_tokens.mean() for g in found])),
    }
