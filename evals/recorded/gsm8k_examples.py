"""GPT-3 6B and 175B on the 1,319 test problems of GSM8K, fine-tuned alone and with a trained verifier (the
example solutions of 2110.14168): one solution each, judged by the `numeric` verifier."""

from __future__ import annotations

import sys
from pathlib import Path

from evals.recorded import reproduction as rep
from evals.recorded.sources import GSM8K_MODELS, gsm8k_examples
from reasoning.curves import measure_pool
from reasoning.records import Sampling
from reasoning.statistics import holm, mcnemar
from verifiers.numeric import Numeric

PUBLISHED = {
    "6b_finetuning": 21.7,
    "6b_verification": 39.0,
    "175b_finetuning": 34.7,
    "175b_verification": 56.3,
}


def reproduce(data: Path, out: Path) -> list[rep.Figure]:
    verifier = Numeric()
    with rep.fresh_pool(out) as pool:
        for model in GSM8K_MODELS:
            rep.store(
                pool, f"gpt-3-{model}", model.replace("_", ", "), gsm8k_examples(data, model), Sampling()
            )
        rep.judge(pool, verifier)
        for model in pool.models():
            rep.print_disagreements(rep.disagreements(pool, verifier.name, model))
        models = [f"gpt-3-{model}" for model in GSM8K_MODELS]
        measured = measure_pool(pool, oracle=verifier.name, models=models, ks=[1], strategies=["pass"])
        found = {model: measured.find(f"gpt-3-{model}", "pass") for model in GSM8K_MODELS}
        figures = [rep.figure(m.replace("_", ", "), PUBLISHED[m], found[m], 1) for m in GSM8K_MODELS]
        rep.print_figures(figures)
        pairs = [
            ("6b_verification", "6b_finetuning"),
            ("175b_verification", "175b_finetuning"),
            ("6b_verification", "175b_finetuning"),
        ]
        columns = {model: m.column(1) for model, m in found.items() if m is not None}
        adjusted = holm([mcnemar(columns[a], columns[b]) for a, b in pairs])
        for (a, b), p in zip(pairs, adjusted, strict=True):
            rep.print_paired(f"{a} minus {b}", rep.compare(found[a], found[b], 1))
            print(f"  exact McNemar test, Holm-adjusted over {len(pairs)} comparisons: p = {p:.2g}")
        rep.write(out, measured)
        return figures


if __name__ == "__main__":
    sys.exit(rep.command("gsm8k_examples", __doc__, reproduce))
