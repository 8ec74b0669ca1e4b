"""Llama-3.2-3B-Instruct after 400 and 800 steps of reinforcement learning on reasoning-gym tasks, 50 samples of
each of the 30 problems of AIME 2024, compared problem by problem."""

from __future__ import annotations

import sys
from pathlib import Path

from evals.recorded import reproduction as rep
from evals.recorded.sources import llama_aime24
from reasoning.curves import measure_pool
from reasoning.records import Sampling
from verifiers.numeric import Numeric

KS = (1, 2, 4, 8, 16, 32, 50)


def reproduce(data: Path, out: Path) -> list[rep.Figure]:
    early, late = (f"llama-3.2-3b-instruct@step{step}" for step in (400, 800))
    sampling = Sampling(temperature=0.6, top_p=0.9, max_new_tokens=2048)
    verifier = Numeric()
    with rep.fresh_pool(out) as pool:
        for model, step in ((early, 400), (late, 800)):
            rep.store(pool, model, f"step {step}", llama_aime24(data, step), sampling)
        rep.judge(pool, verifier)
        for model in (early, late):
            rep.print_disagreements(rep.disagreements(pool, verifier.name, model))

        measured = measure_pool(pool, oracle=verifier.name, models=[early, late], ks=KS)
        first, second = measured.find(early, "pass"), measured.find(late, "pass")
        votes = measured.find(early, "majority"), measured.find(late, "majority")
        labels = rep.label_values(pool, late)
        figures = [
            rep.figure("step 400, mean", 2.4, first, 1),
            rep.label_mean("step 800, mean, by the recorded labels", 2.7, labels),
            rep.figure("step 800, mean", 2.7, second, 1, why="two right answers with a wrong label (above)"),
            rep.figure("step 400, pass@32", 25.0, first, 32),
            rep.figure("step 800, pass@32", 21.9, second, 32),
            rep.figure("step 400, majority of 50", None, votes[0], 50),
            rep.figure("step 800, majority of 50", None, votes[1], 50),
        ]
        rep.print_figures(figures)
        rep.print_paired("step 800 minus step 400, one sample", rep.compare(second, first, 1))
        rep.print_paired("the same, pass@32", rep.compare(second, first, 32))
        rep.print_paired("the same, majority of 50", rep.compare(votes[1], votes[0], 50))
        rep.write(out, measured)
        return figures


if __name__ == "__main__":
    sys.exit(rep.command("llama_aime24", __doc__, reproduce))
