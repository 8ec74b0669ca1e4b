"""GPT-4 on Game of 24: 100 samples of 100 puzzles, input-output and chain-of-thought prompting (2305.10601,
table 2), and the recorded tree search. Verdicts recomputed by the `game24` verifier."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from evals.recorded import reproduction as rep
from reasoning.curves import measure_pool
from reasoning.errors import UserError
from reasoning.pool import Pool
from reasoning.records import Sampling
from verifiers.base import Verdict
from verifiers.countdown import game24 as game24_verifier

FOLDER = "recorded/game24_tot"
IO, COT, TREE = "gpt-4 input-output", "gpt-4 chain of thought", "gpt-4 tree of thoughts"
FILES = {
    IO: "gpt-4_0.7_naive_standard_sample_100_start900_end1000.jsonl",
    COT: "gpt-4_0.7_naive_cot_sample_100_start900_end1000.jsonl",
    TREE: "gpt-4_0.7_propose1_value3_greedy5_start900_end1000.jsonl",
}
MAPPING = (
    "question=question,answer=target,response=responses[],label=labels[],"
    "meta.numbers=numbers,meta.target=target,meta.use_all=use_all,meta.difficulty=unsolved"
)
KS = (1, 2, 4, 8, 16, 32, 64, 100)


def reproduce(data: Path, out: Path) -> list[rep.Figure]:
    verifier = game24_verifier()
    samples = {model: samples_of(data, model) for model in FILES}
    with rep.fresh_pool(out) as pool:
        for model, source in samples.items():
            rep.read(pool, source, MAPPING, Sampling(temperature=0.7, max_new_tokens=1000), model)
        rep.judge(pool, verifier)

        measured = measure_pool(pool, oracle=verifier.name, models=[IO, COT], ks=KS)
        tree = measure_pool(pool, oracle=verifier.name, models=[TREE], ks=[1, 5]).find(TREE, "pass")
        io, io_vote = measured.find(IO, "pass"), measured.find(IO, "majority")
        chain, vote = measured.find(COT, "pass"), measured.find(COT, "majority")
        texts = text_vote(samples[COT])
        right = 100 * sum(text.right for text in texts) / len(texts)
        figures = [
            rep.figure("input-output, mean", 7.3, io, 1),
            rep.figure("input-output, best of 100", 33, io, 100, 0),
            rep.figure("chain of thought, mean", 4.0, chain, 1),
            rep.figure("chain of thought, best of 100", 49, chain, 100, 0),
            rep.Figure("majority of 100, classes = answer lines as text, ties to the first", 9.0, right),
            rep.figure(
                "majority of 100, classes = equal expressions, ties split evenly",
                9.0,
                vote,
                100,
                why="classes and ties: the puzzles below",
            ),
            rep.figure("input-output, majority of 100", None, io_vote, 100),
            rep.figure(
                "tree search, any of its last 5 states",
                74,
                tree,
                5,
                0,
                "another run: the publisher got 69 in the recorded one",
            ),
        ]
        rep.print_figures(figures)
        print_votes(pool, verifier.name, samples[COT], texts)
        rep.print_paired("chain of thought minus input-output, one sample", rep.compare(chain, io, 1))
        rep.print_paired("the same, best of 100", rep.compare(chain, io, 100))
        rep.print_paired("chain of thought, majority of 100 minus one", rep.compare(vote, chain, 100, 1))
        rep.write(out, pool, measured, "GPT-4 on Game of 24")
        return figures


def samples_of(data: Path, model: str) -> list[dict[str, Any]]:
    """The publisher's rows joined with its list of puzzles. unsolved: percent of people who failed."""
    file = data / FOLDER / "24.csv"
    if not file.is_file():
        raise UserError(
            f"The data folder {str(data)!r} has no {FOLDER}/24.csv; name another by --data FOLDER."
        )
    with file.open(encoding="utf-8", newline="") as lines:
        puzzles = list(csv.DictReader(lines))
    out: list[dict[str, Any]] = []
    for row in rep.rows(data, f"{FOLDER}/{FILES[model]}"):
        puzzle = puzzles[row["idx"]]
        out.append(
            {
                "question": f"Use numbers and basic operations (+ - * /) to obtain 24: {puzzle['Puzzles']}",
                "numbers": [int(number) for number in puzzle["Puzzles"].split()],
                "target": 24,
                "use_all": True,
                "unsolved": round(100 - float(puzzle["Solved rate"].rstrip("%")), 1),
                "responses": row["steps"][-1]["select_new_ys"] if "steps" in row else row["ys"],
                "labels": row["accs"] if "accs" in row else [info["r"] for info in row["infos"]],
            }
        )
    return out


class TextVote(NamedTuple):
    """The line that won, how often it stood there, and its recorded label."""

    answer: str
    votes: int
    right: bool


def text_vote(samples: Sequence[rep.Row]) -> list[TextVote]:
    """A vote over the last lines as text, the first of equals winning: the published figure taken literally."""
    found: list[TextVote] = []
    for row in samples:
        lines = [response.strip().rpartition("\n")[2] for response in row["responses"]]
        winner, votes = Counter(lines).most_common(1)[0]  # of equals, the one that came first
        found.append(TextVote(winner, votes, bool(row["labels"][lines.index(winner)])))
    return found


def print_votes(pool: Pool, verifier: str, samples: Sequence[rep.Row], texts: Sequence[TextVote]) -> None:
    """The puzzles on which the two votes differ, with the winners' votes ("*": right)."""
    verdicts, problems = pool.verdicts(verifier), pool.problems()
    by_question: dict[str, list[Verdict]] = {}
    for chain in pool.chains(model=COT):
        by_question.setdefault(problems[chain.problem_id].question, []).append(verdicts[chain.key])
    print("Puzzles on which the two votes differ (votes of the winner; * is right):")
    for row, text in zip(samples, texts, strict=True):
        votes = Counter((v.answer, v.correct) for v in by_question[row["question"]] if v.answer is not None)
        most = max(votes.values())
        top = {answer: correct for (answer, correct), count in votes.items() if count == most}
        if sum(top.values()) / len(top) != text.right:
            expressions = " and ".join(f"{answer}{'*' * correct}" for answer, correct in top.items())
            print(
                f"  {' '.join(map(str, row['numbers']))}: as text {text.answer!r}{'*' * text.right} with "
                f"{text.votes}; by expression {expressions} with {most}{' each' * (len(top) > 1)}"
            )


if __name__ == "__main__":
    sys.exit(rep.command("game24", __doc__, reproduce))
