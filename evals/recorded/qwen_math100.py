"""Qwen2.5-Math on 100 MATH problems, 8 samples each, with the scores of its reward model Qwen2.5-Math-RM (the
example of its evaluation code): majority vote against best of 8 by a verifier that can be deployed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evals.recorded import reproduction as rep
from reasoning.curves import Floats, measure_pool
from reasoning.estimators import best_of_k, maj_at_k
from reasoning.recorded import RECORDED
from reasoning.records import Sampling
from verifiers.registry import open_verifier

FILE = "recorded/qwen25math_math100_x8_rm/math_cot_100.jsonl"
MAPPING = (
    "question=question,answer=gt,response=response[],label=score[],"
    "score.rm=pred_score[][0],meta.difficulty=level"
)
MODEL, SCORER = "qwen2.5-math", RECORDED + "rm"


def reproduce(data: Path, out: Path) -> list[rep.Figure]:
    source = rep.rows(data, FILE)
    verifier = open_verifier("math")
    with rep.fresh_pool(out) as pool:
        rep.read(pool, source, MAPPING, Sampling(max_new_tokens=2048), MODEL)
        rep.judge(pool, verifier)

        measured = measure_pool(pool, oracle=verifier.name, scorers=[SCORER], ks=(1, 2, 4, 8))
        one, vote = measured.find(MODEL, "pass"), measured.find(MODEL, "majority")
        best, weighted = measured.find(MODEL, "best_of_n"), measured.find(MODEL, "weighted_majority")
        first, split, chosen, ties = by_labels(source)
        tied = "the ties below: a tie to the first is right in 2 of 3, an even split in 1.5"
        figures = [
            rep.figure_of("majority of 8, recorded answers, ties to the first", 93, first, 0),
            rep.figure_of("majority of 8, recorded answers, ties split evenly", 93, split, 0, tied),
            rep.figure("majority of 8, our verdicts", 93, vote, 8, 0, "ties, and the verdicts above"),
            rep.figure_of("best of 8 by the reward model, recorded labels", 94, chosen, 0),
            rep.figure(
                "best of 8 by the reward model, our verdicts",
                94,
                best,
                8,
                0,
                "the chain above, whose label is wrong",
            ),
            rep.figure("one sample", None, one, 1),
            rep.figure("any of 8 (oracle)", None, one, 8),
            rep.figure("majority of 8 weighted by the reward model", None, weighted, 8),
        ]
        rep.print_figures(figures)
        print("Problems whose vote is tied:", *ties, sep="\n  ")
        rep.print_paired("best of 8 minus majority of 8", rep.compare(best, vote, 8))
        rep.print_paired("best of 8 minus one sample", rep.compare(best, one, 8, 1))
        rep.print_paired("majority of 8 minus one sample", rep.compare(vote, one, 8, 1))
        rep.write(out, pool, measured, "Qwen2.5-Math on 100 MATH problems")
        return figures


def by_labels(source: Sequence[rep.Row]) -> tuple[Floats, Floats, Floats, list[str]]:
    """By the recorded answers, labels and scores alone: majority with ties to the first answer, majority with
    ties split, best by the reward model, each (P,); and the ties."""
    first, split, best, ties = [], [], [], []
    for row in source:
        answers, labels = row["pred"], np.array(row["score"], dtype=float)
        classes = np.array([answers.index(answer) for answer in answers])
        counts = {answer: answers.count(answer) for answer in answers}
        most = max(counts.values())
        top = [answer for answer, count in counts.items() if count == most]
        first.append(labels[answers.index(top[0])])
        split.append(maj_at_k(labels, classes, [len(labels)])[0])
        best.append(best_of_k(labels, [score[0] for score in row["pred_score"]], [len(labels)])[0])
        if len(top) > 1:
            ties.append(f"{' and '.join(top)} with {most} votes each; reference {row['gt']}")
    return np.array(first), np.array(split), np.array(best), ties


if __name__ == "__main__":
    sys.exit(rep.command("qwen_math100", __doc__, reproduce))
