"""44 models on the 1,319 test problems of GSM8K, one greedy answer each (ZeroEval): every model's accuracy by the
`numeric` verifier beside the published one, and the 44 together as one ensemble.

Only the answers were recorded, as a regular expression found them in each model's JSON. The publisher compares
the *first number* of the answer with the reference; `first_number` does the same here, so that a difference of
verdict is told apart from a difference of what was read.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from evals.recorded import reproduction as rep
from reasoning.curves import measure_pool
from reasoning.pool import Pool
from reasoning.records import Chain, Sampling
from verifiers.numeric import Numeric

FILE = "recorded/zeroeval_gsm8k_x44models/gsm.jsonl"
MAPPING = "question=question,answer=gold,response=samples[].answer"
ENSEMBLE = "44 models"
BEST = "claude-3-5-sonnet-20241022"

# result_dirs/gsm.summary.md of WildEval/ZeroEval at commit 8c1485edf12c, under the names of the recorded files.
PUBLISHED = {
    "Athene-70B": 86.66,
    "DeepSeek-Coder-V2-0724": 91.51,
    "Llama-3.1-405B-Inst@sambanova": 95.91,
    "Llama-3.1-405B-Instruct-Turbo": 95.91,
    "Meta-Llama-3-70B-Instruct": 93.03,
    "Meta-Llama-3-8B-Instruct": 78.47,
    "Meta-Llama-3.1-405B-Instruct@hyperbolic": 95.98,
    "Meta-Llama-3.1-70B-Instruct": 94.16,
    "Meta-Llama-3.1-8B-Instruct": 84.0,
    "Mistral-Large-2": 95.53,
    "Mistral-Nemo-Instruct-2407": 82.79,
    "Mixtral-8x7B-Instruct-v0.1": 70.13,
    "Phi-3.5-mini-instruct": 82.03,
    "Qwen2-72B-Instruct": 92.65,
    "Qwen2-7B-Instruct": 80.06,
    "Yi-1.5-34B-Chat": 84.08,
    "Yi-1.5-9B-Chat": 76.42,
    "claude-3-5-haiku-20241022": 94.47,
    "claude-3-5-sonnet-20240620": 95.6,
    "claude-3-5-sonnet-20241022": 96.66,
    "claude-3-haiku-20240307": 88.78,
    "claude-3-opus-20240229": 95.6,
    "claude-3-sonnet-20240229": 91.51,
    "command-r": 52.99,
    "command-r-plus": 80.14,
    "deepseek-chat": 93.93,
    "deepseek-coder": 93.78,
    "deepseek-v2.5-0908": 92.49,
    "gemini-1.5-flash": 91.36,
    "gemini-1.5-flash-exp-0827": 95.01,
    "gemini-1.5-pro": 93.4,
    "gemini-1.5-pro-exp-0801": 95.0,
    "gemma-2-27b-it@together": 90.22,
    "gemma-2-2b-it": 51.63,
    "gemma-2-9b-it": 87.41,
    "gpt-3.5-turbo-0125": 80.36,
    "gpt-4o-2024-05-13": 95.38,
    "gpt-4o-2024-08-06": 96.21,
    "gpt-4o-mini-2024-07-18": 94.24,
    "o1-mini-2024-09-12": 96.06,
    "reka-core-20240501": 87.41,
    "reka-flash-20240226": 74.68,
    "yi-large": 80.06,
    "yi-large-preview": 82.64,
}


def reproduce(data: Path, out: Path) -> list[rep.Figure]:
    verifier = Numeric()
    source = rep.rows(data, FILE)
    for row in source:
        for sample in row["samples"]:
            sample["answer"] = str(sample["answer"] or "")  # no answer is a wrong one, not a missing one
    with rep.fresh_pool(out) as pool:
        rep.read(pool, source, MAPPING + ",model=samples[].model", Sampling())
        rep.read(pool, source, MAPPING, Sampling(), ENSEMBLE)
        rep.judge(pool, verifier)
        print_models(pool, verifier.name)
        measured = measure_pool(
            pool,
            oracle=verifier.name,
            models=[ENSEMBLE],
            ks=(1, 2, 4, 8, 16, 32, 43),
            strategies=["pass", "majority"],
        )
        one, vote = measured.find(ENSEMBLE, "pass"), measured.find(ENSEMBLE, "majority")
        figures = [
            rep.figure("a model drawn at random", None, one, 1),
            rep.figure("majority of 43 models", None, vote, 43),
            rep.figure("any of 43 models (oracle)", None, one, 43),
        ]
        rep.print_figures(figures)
        single = measure_pool(pool, oracle=verifier.name, models=[BEST], ks=[1]).find(BEST, "pass")
        rep.print_paired(f"majority of 43 models minus {BEST}", rep.compare(vote, single, 43, 1))
        rep.write(out, pool, measured, "44 models on GSM8K")
        return figures


def print_models(pool: Pool, verifier: str) -> None:
    """A row per model, best first. answers read differently: how many problems lie between the published figure
    and the publisher's own rule on what was recorded."""
    verdicts, problems = pool.verdicts(verifier), pool.problems()
    by_model: dict[str, list[Chain]] = {}
    for chain in pool.chains():
        by_model.setdefault(chain.model, []).append(chain)
    table: list[tuple[float, str]] = []
    for model, published in PUBLISHED.items():
        chains = by_model[model]
        ours = 100 * sum(verdicts[chain.key].correct for chain in chains) / len(chains)
        met = 0
        for chain in chains:
            number = first_number(chain.text)
            met += number is not None and number == first_number(str(problems[chain.problem_id].reference))
        rule = 100 * met / len(chains)
        apart = round((published - rule) * len(chains) / 100)
        row = f"| {model} | {len(chains)} | {published:.2f} | {rule:.2f} | {ours:.2f} | {apart or ''} |"
        table.append((ours, row))
    print("\n| model | problems | published | by the first number | ours | answers read differently |")
    print("|---|---:|---:|---:|---:|---:|")
    print(*(row for _, row in sorted(table, key=lambda pair: -pair[0])), sep="\n")


def first_number(answer: str) -> float | None:
    """The first number of an answer without "$" and ","; of a bare fraction its value."""
    answer = answer.replace("$", "").replace(",", "").strip()
    fraction = re.fullmatch(r"(-?\d+(?:\.\d+)?) */ *(\d+(?:\.\d+)?)", answer)
    if fraction and float(fraction[2]):
        return float(fraction[1]) / float(fraction[2])
    found = re.search(r"-?\d+(\.\d+)?", answer)
    return float(found[0]) if found else None


if __name__ == "__main__":
    sys.exit(rep.command("zeroeval", __doc__, reproduce))
