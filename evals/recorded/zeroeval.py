"""44 models on the 1,319 test problems of GSM8K, one greedy answer each (ZeroEval): every model's accuracy by the
`numeric` verifier beside the published one, and the 44 together as one ensemble.

Only the answers were recorded, as a regular expression found them in each model's JSON. The publisher compares
the *first number* of the answer with the reference; `first_number` does the same here, so that a difference of
verdict is told apart from a difference of what was read.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evals.recorded import reproduction as rep
from evals.recorded.sources import zeroeval
from reasoning.curves import Floats, measure_pool
from reasoning.pool import Pool
from reasoning.records import Sampling
from reasoning.statistics import paired
from verifiers.numeric import Numeric

ENSEMBLE = "44-models@zeroeval"

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
    models, recorded = zeroeval(data)
    verifier = Numeric()
    with rep.fresh_pool(out) as pool:
        rep.store(pool, ENSEMBLE, "44 models", recorded, Sampling(temperature=0.7))
        rep.judge(pool, verifier)
        ours, theirs = by_model(pool, verifier.name, len(models))
        measured = measure_pool(
            pool, oracle=verifier.name, ks=(1, 2, 4, 8, 16, 32, 43), strategies=["pass", "majority"]
        )
        one, vote = measured.find(ENSEMBLE, "pass"), measured.find(ENSEMBLE, "majority")
        print_models(models, ours, theirs)
        figures = [
            rep.figure("a model drawn at random", None, one, 1),
            rep.figure("majority of 43 models", None, vote, 43),
            rep.figure("any of 43 models (oracle)", None, one, 43),
        ]
        rep.print_figures(figures)
        whole = [i for i in range(len(models)) if not np.isnan(ours[:, i]).any()]
        best = max(whole, key=lambda i: ours[:, i].mean())
        assert vote is not None
        place = {problem_id: row for row, problem_id in enumerate(pool.problems())}
        same = ours[[place[problem_id] for problem_id in vote.problem_ids], best]
        rep.print_paired(f"majority of 43 models minus {models[best]}", paired(vote.column(43), same))
        rep.write(out, measured)
        return figures


def by_model(pool: Pool, verifier: str, models: int) -> tuple[Floats, Floats]:
    """(our verdicts, the publisher's rule), each (problems, models) in pool order; NaN where it was not run."""
    verdicts, problems = pool.verdicts(verifier), pool.problems()
    place = {problem_id: row for row, problem_id in enumerate(problems)}
    ours = np.full((len(place), models), np.nan)
    theirs = ours.copy()
    for chain in pool.chains():
        at = place[chain.problem_id], chain.index
        ours[at] = verdicts[chain.key].correct
        number = first_number(chain.text)
        theirs[at] = number is not None and number == first_number(str(problems[chain.problem_id].reference))
    return ours, theirs


def first_number(answer: str) -> float | None:
    """The first number of an answer without "$" and ","; of a bare fraction its value."""
    answer = answer.replace("$", "").replace(",", "").strip()
    fraction = re.fullmatch(r"(-?\d+(?:\.\d+)?) */ *(\d+(?:\.\d+)?)", answer)
    if fraction and float(fraction[2]):
        return float(fraction[1]) / float(fraction[2])
    found = re.search(r"-?\d+(\.\d+)?", answer)
    return float(found[0]) if found else None


def print_models(models: Sequence[str], ours: Floats, theirs: Floats) -> None:
    """A row per model, best first. problems: how many were recorded. answers read differently: how many
    problems lie between the published figure and the publisher's own rule on what was recorded."""
    print("\n| model | problems | published | by the first number | ours | answers read differently |")
    print("|---|---:|---:|---:|---:|---:|")
    for i in sorted(range(len(models)), key=lambda i: -float(np.nanmean(ours[:, i]))):
        count = int((~np.isnan(ours[:, i])).sum())
        rule, mine = (100 * float(np.nanmean(values[:, i])) for values in (theirs, ours))
        apart = round((PUBLISHED[models[i]] - rule) * count / 100)
        print(
            f"| {models[i]} | {count} | {PUBLISHED[models[i]]:.2f} | {rule:.2f} | {mine:.2f} | {apart or ''} |"
        )


if __name__ == "__main__":
    sys.exit(rep.command("zeroeval", __doc__, reproduce))
