"""Qwen2.5-Math on 100 MATH problems, 8 samples each, with the scores of its reward model Qwen2.5-Math-RM (the
example of its evaluation code): majority vote against best of 8 by a verifier that can be deployed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from evals.recorded import reproduction as rep
from evals.recorded.sources import Recorded, qwen_math100
from reasoning.curves import measure_pool
from reasoning.records import Sampling
from verifiers.base import Attempt, Verdict
from verifiers.exact import Exact
from verifiers.numeric import Numeric

MODEL, SCORER = "qwen2.5-math@recorded", "qwen2.5-math-rm"


class NumberOrText:
    """The `numeric` verdict where the reference is a number, the `exact` one where it is not ("4a-2")."""

    name, oracle = "numeric, else exact", True

    def __init__(self) -> None:
        self.numeric, self.exact = Numeric(), Exact()

    def verify(self, attempts: Sequence[Attempt]) -> list[Verdict]:
        numbers, texts = self.numeric.verify(attempts), self.exact.verify(attempts)
        return [t if n.status == "bad_reference" else n for n, t in zip(numbers, texts, strict=True)]


def reproduce(data: Path, out: Path) -> list[rep.Figure]:
    recorded = qwen_math100(data)
    verifier = NumberOrText()
    with rep.fresh_pool(out) as pool:
        rep.store(pool, MODEL, "Qwen2.5-Math", recorded, Sampling(max_new_tokens=2048), scorer=SCORER)
        rep.judge(pool, verifier)
        rep.print_disagreements(rep.disagreements(pool, verifier.name, MODEL))

        measured = measure_pool(pool, oracle=verifier.name, scorers=[SCORER], ks=(1, 2, 4, 8))
        one, vote = measured.find(MODEL, "pass"), measured.find(MODEL, "majority")
        best, weighted = measured.find(MODEL, "best_of_n"), measured.find(MODEL, "weighted_majority")
        labels = measure_pool(pool, oracle=rep.LABELS, scorers=[SCORER], ks=(1, 8))
        text_right, ties = text_vote(recorded)
        figures = [
            rep.Figure("majority of 8, recorded answers, ties to the first", 93, text_right, digits=0),
            rep.figure(
                "majority of 8, recorded answers, ties split evenly",
                93,
                labels.find(MODEL, "majority"),
                8,
                0,
                "three of the four ties below: 2 right by coming first, 1 wrong; 1.5 when split",
            ),
            rep.figure("majority of 8, our verdicts", 93, vote, 8, 0, "ties, and the verdicts above"),
            rep.figure(
                "best of 8 by the reward model, recorded labels",
                94,
                labels.find(MODEL, "best_of_n"),
                8,
                0,
            ),
            rep.figure("best of 8 by the reward model, our verdicts", 94, best, 8, 0),
            rep.figure("one sample", None, one, 1),
            rep.figure("any of 8 (oracle)", None, one, 8),
            rep.figure("majority of 8 weighted by the reward model", None, weighted, 8),
        ]
        rep.print_figures(figures)
        print("Problems whose vote is tied:")
        for line in ties:
            print(f"  {line}")
        rep.print_paired("best of 8 minus majority of 8", rep.compare(best, vote, 8))
        rep.print_paired("best of 8 minus one sample", rep.compare(best, one, 8, 1))
        rep.print_paired("majority of 8 minus one sample", rep.compare(vote, one, 8, 1))
        rep.write(out, measured)
        return figures


def text_vote(recorded: Sequence[Recorded]) -> tuple[float, list[str]]:
    """(accuracy in percent, tied problems) of a vote over the recorded answers, the first of equals winning."""
    right, tied = 0, []
    for item in recorded:
        counts = {answer: item.answers.count(answer) for answer in item.answers}
        most = max(counts.values())
        top = [answer for answer, count in counts.items() if count == most]
        right += item.labels[item.answers.index(top[0])]
        if len(top) > 1:
            tied.append(f"{' and '.join(top)} with {most} votes each; reference {item.problem.reference}")
    return 100 * right / len(recorded), tied


if __name__ == "__main__":
    sys.exit(rep.command("qwen_math100", __doc__, reproduce))
