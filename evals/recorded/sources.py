"""Recorded outputs as they were published, read into problems and responses. Knows no pool and no verifier.

The files keep their publishers' own layouts; each reader here undoes one of them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasoning.errors import UserError
from reasoning.records import Problem
from reasoning.tasks.files import read_jsonl


@dataclass(frozen=True, slots=True)
class Recorded:
    """One problem and the responses recorded for it, in the order they were recorded.

    responses: None where there was none to record; later ones keep their number.
    labels: the publisher's verdict of each. scores: its reward model's, where there is one. answers: the
    answer that the publisher read out of each, where it was kept.
    """

    problem: Problem
    responses: tuple[str | None, ...]
    labels: tuple[bool, ...]
    scores: tuple[float, ...] = ()
    answers: tuple[str, ...] = ()


def rows(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    file = folder / name
    if not file.is_file():
        raise UserError(f"The data folder {str(folder)!r} has no {name!r}; name another by --data FOLDER.")
    return (row for _, row in read_jsonl(file))


# --- Game of 24 ---------------------------------------------------------------------------------------------

GAME24 = "recorded/game24_tot"


def game24(folder: Path, prompting: str) -> list[Recorded]:
    """GPT-4's 100 samples of each of 100 puzzles. prompting: "standard" (input-output) or "cot"."""
    puzzles = game24_puzzles(folder)
    file = f"{GAME24}/gpt-4_0.7_naive_{prompting}_sample_100_start900_end1000.jsonl"
    return [
        Recorded(
            puzzles[row["idx"]],
            tuple(row["ys"]),
            tuple(bool(x) for x in (row["accs"] if "accs" in row else [info["r"] for info in row["infos"]])),
        )
        for row in rows(folder, file)
    ]


def mean_output_tokens(folder: Path, prompting: str) -> list[int]:
    """Tokens of a response to each puzzle, averaged over its 100, from the recorded running total."""
    file = f"{GAME24}/gpt-4_0.7_naive_{prompting}_sample_100_start900_end1000.jsonl"
    totals = [(row["usage_so_far"]["completion_tokens"], len(row["ys"])) for row in rows(folder, file)]
    before = [0, *(total for total, _ in totals)]
    return [round((total - was) / count) for (total, count), was in zip(totals, before, strict=False)]


def game24_tree(folder: Path) -> list[Recorded]:
    """The five states that GPT-4's recorded tree search (breadth 5) ended with, best-valued first."""
    puzzles = game24_puzzles(folder)
    return [
        Recorded(
            puzzles[row["idx"]],
            tuple(row["steps"][-1]["select_new_ys"]),
            tuple(bool(info["r"]) for info in row["infos"]),
        )
        for row in rows(folder, f"{GAME24}/gpt-4_0.7_propose1_value3_greedy5_start900_end1000.jsonl")
    ]


def game24_puzzles(folder: Path) -> list[Problem]:
    """All 1,362 puzzles, easiest first; difficulty = the share of people who did not solve it."""
    file = folder / GAME24 / "24.csv"
    if not file.is_file():
        raise UserError(
            f"The data folder {str(folder)!r} has no {GAME24}/24.csv; name another by --data FOLDER."
        )
    with file.open(encoding="utf-8", newline="") as lines:
        return [game24_problem(row) for row in csv.DictReader(lines)]


def game24_problem(row: Mapping[str, str]) -> Problem:
    numbers = [int(number) for number in row["Puzzles"].split()]
    question = f"Use the numbers {row['Puzzles']} and basic operations (+ - * /) to obtain 24."
    unsolved = round(100 - float(row["Solved rate"].rstrip("%")), 1)
    metadata = {"numbers": numbers, "target": 24, "use_all": True, "difficulty": unsolved}
    return Problem.make(question, "24", "game24", metadata)


# --- Llama-3.2-3B on AIME 2024 ------------------------------------------------------------------------------


def llama_aime24(folder: Path, step: int) -> list[Recorded]:
    """50 samples of each of the 30 problems by the checkpoint of RL step 400 or 800."""
    return [
        Recorded(
            Problem.make(row["question"], str(row["expected_answer"]), "aime24"),
            tuple(completion["full_model_response"] for completion in row["completions"]),
            tuple(completion["score"] == 1 for completion in row["completions"]),
            answers=tuple(str(completion["model_answer"]) for completion in row["completions"]),
        )
        for row in rows(folder, f"recorded/llama32_3b_aime24_x50/aime24_step{step}.jsonl")
    ]


# --- Qwen2.5-Math with its reward model ---------------------------------------------------------------------


def qwen_math100(folder: Path) -> list[Recorded]:
    """8 samples of each of 100 MATH problems, with the scores of Qwen2.5-Math-RM."""
    return [
        Recorded(
            Problem.make(
                row["question"], row["gt"], "math100", {"difficulty": int(row["level"].split()[-1])}
            ),
            tuple(row["response"]),
            tuple(bool(score) for score in row["score"]),
            tuple(float(score) for (score,) in row["pred_score"]),
            tuple(row["pred"]),
        )
        for row in rows(folder, "recorded/qwen25math_math100_x8_rm/math_cot_100.jsonl")
    ]


# --- GPT-3 on GSM8K -----------------------------------------------------------------------------------------

GSM8K_MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


def gsm8k_examples(folder: Path, model: str) -> list[Recorded]:
    """One solution of each of the 1,319 test problems, by one of `GSM8K_MODELS`."""
    return [
        Recorded(
            Problem.make(row["question"], row["ground_truth"].rpartition("A:")[2].strip(), "gsm8k"),
            (row[model]["solution"],),
            (bool(row[model]["is_correct"]),),
        )
        for row in rows(folder, "benchmarks/gsm8k/example_model_solutions.jsonl")
    ]


# --- ZeroEval: many models on GSM8K -------------------------------------------------------------------------


def zeroeval(folder: Path) -> tuple[list[str], list[Recorded]]:
    """(names of the 44 models, their greedy answers to the 1,319 GSM8K test problems in the order of the names).

    Only the answers were kept, without labels: "" where a model gave none, None where it was not run.
    """
    table = list(rows(folder, "recorded/zeroeval_gsm8k_x44models/gsm.jsonl"))
    models = sorted({sample["model"] for row in table for sample in row["samples"]})
    out: list[Recorded] = []
    for row in table:
        answers = {sample["model"]: str(sample["answer"] or "") for sample in row["samples"]}
        problem = Problem.make(row["question"], str(row["gold"]), "gsm8k")
        out.append(Recorded(problem, tuple(answers.get(model) for model in models), ()))
    return models, out
