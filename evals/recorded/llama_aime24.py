"""Llama-3.2-3B-Instruct after 400 and 800 steps of reinforcement learning on reasoning-gym tasks, 50 samples of
each of the 30 problems of AIME 2024, compared problem by problem."""

from __future__ import annotations

import sys
from pathlib import Path

from evals.recorded import reproduction as rep
from reasoning.curves import measure_pool
from reasoning.records import Sampling
from verifiers.numeric import Numeric

MAPPING = (
    "question=question,answer=expected_answer,"
    "response=completions[].full_model_response,label=completions[].score"
)
EARLY, LATE = "llama-3.2-3b step 400", "llama-3.2-3b step 800"
KS = (1, 2, 4, 8, 16, 32, 50)


def reproduce(data: Path, out: Path) -> list[rep.Figure]:
    verifier = Numeric()
    source = {
        model: rep.rows(data, f"recorded/llama32_3b_aime24_x50/aime24_step{model.split()[-1]}.jsonl")
        for model in (EARLY, LATE)
    }
    with rep.fresh_pool(out) as pool:
        for model, rows in source.items():
            rep.read(pool, rows, MAPPING, Sampling(temperature=0.6, top_p=0.9, max_new_tokens=2048), model)
        rep.judge(pool, verifier)

        measured = measure_pool(pool, oracle=verifier.name, models=[EARLY, LATE], ks=KS)
        first, second = measured.find(EARLY, "pass"), measured.find(LATE, "pass")
        first_vote, second_vote = measured.find(EARLY, "majority"), measured.find(LATE, "majority")
        labels = rep.label_rates(source[LATE], lambda row: [c["score"] for c in row["completions"]])
        figures = [
            rep.figure("step 400, mean", 2.4, first, 1),
            rep.figure_of("step 800, mean, by the recorded labels", 2.7, labels),
            rep.figure("step 800, mean", 2.7, second, 1, why="two right answers with a wrong label (above)"),
            rep.figure("step 400, pass@32", 25.0, first, 32),
            rep.figure("step 800, pass@32", 21.9, second, 32),
            rep.figure("step 400, majority of 50", None, first_vote, 50),
            rep.figure("step 800, majority of 50", None, second_vote, 50),
        ]
        rep.print_figures(figures)
        rep.print_paired("step 800 minus step 400, one sample", rep.compare(second, first, 1))
        rep.print_paired("the same, pass@32", rep.compare(second, first, 32))
        rep.print_paired("the same, majority of 50", rep.compare(second_vote, first_vote, 50))
        rep.write(out, pool, measured, "Llama-3.2-3B on AIME 2024")
        return figures


if __name__ == "__main__":
    sys.exit(rep.command("llama_aime24", __doc__, reproduce))
