"""Training runs as `read_runs` gives them, of figures made up here."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from reasoning.report.runs import Evaluation, TrainingRun

METRIC = "eval/pass@1"


def curve(name, flops, values, **changes):
    """A run of these (P, E) values at these FLOPs."""
    values = np.array(values, dtype=float)
    found = [
        Evaluation(i, f, f / 10, float(m), float(m) - 0.1, float(m) + 0.1)
        for i, (f, m) in enumerate(zip(flops, values.mean(axis=0), strict=True))
    ]
    run = TrainingRun(
        name=name,
        folder=Path(name),
        settings={"objective": name, "steps": len(flops) - 1, "eval_task": "word:dev", "lr": 0.1},
        parent="base@1",
        parent_flops=0.0,
        evaluations=found,
        step=len(flops) - 1,
        flops=flops[-1],
        seconds=flops[-1] / 10,
        ended=True,
        chains=8,
        problems=tuple(map(str, range(len(values)))),
        values=values,
    )
    return replace(run, **changes)


def drawn(seed, *means):
    """(40, E) shares of right chains out of four around these means."""
    rng = np.random.default_rng(seed)
    return rng.binomial(4, np.tile(means, (40, 1))) / 4
