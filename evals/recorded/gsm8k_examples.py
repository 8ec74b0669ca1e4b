"""GPT-3 6B and 175B on the 1,319 test problems of GSM8K, fine-tuned alone and with a trained verifier (the
example solutions of 2110.14168): one solution each, judged by the `numeric` verifier."""

from __future__ import annotations

import sys
from pathlib import Path

from evals.recorded import reproduction as rep
from reasoning.curves import measure_pool
from reasoning.records import Sampling
from reasoning.statistics import holm, mcnemar
from verifiers.numeric import Numeric

FILE = "benchmarks/gsm8k/example_model_solutions.jsonl"
PUBLISHED = {
    "6b_finetuning": 21.7,
    "6b_verification": 39.0,
    "175b_finetuning": 34.7,
    "175b_verification": 56.3,
}
MAPPINGS = [
    f"question=question,answer=ground_truth,response={m}.solution,label={m}.is_correct,model='{m}'"
    for m in PUBLISHED
]
PAIRS = [
    ("6b_verification", "6b_finetuning"),
    ("175b_verification", "175b_finetuning"),
    ("6b_verification", "175b_finetuning"),
]


def reproduce(data: Path, out: Path) -> list[rep.Figure]:
    verifier = Numeric()
    with rep.fresh_pool(out) as pool:
        rep.read(pool, rep.rows(data, FILE), MAPPINGS, Sampling())
        rep.judge(pool, verifier)
        measured = measure_pool(
            pool, oracle=verifier.name, models=list(PUBLISHED), ks=[1], strategies=["pass"]
        )
        found = {model: measured.find(model, "pass") for model in PUBLISHED}
        figures = [rep.figure(m.replace("_", ", "), PUBLISHED[m], found[m], 1) for m in PUBLISHED]
        rep.print_figures(figures)
        columns = {model: m.column(1) for model, m in found.items() if m is not None}
        adjusted = holm([mcnemar(columns[a], columns[b]) for a, b in PAIRS])
        for (a, b), p in zip(PAIRS, adjusted, strict=True):
            rep.print_paired(f"{a} minus {b}", rep.compare(found[a], found[b], 1))
            print(f"  exact McNemar test, Holm-adjusted over {len(PAIRS)} comparisons: p = {p:.2g}")
        rep.write(out, pool, measured, "GPT-3 on GSM8K")
        return figures


if __name__ == "__main__":
    sys.exit(rep.command("gsm8k_examples", __doc__, reproduce))
