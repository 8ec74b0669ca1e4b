"""(reference, response, label) triples from the data folder: labelled cases and recorded model outputs."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Pair:
    """label: what the corpus says of the response, or None. note: the case in words, or the options it needs."""

    reference: str
    response: str
    label: bool | None = None
    note: str = ""


def data_folder(given: str = "") -> Path:
    folder = Path(given or os.environ.get("REASONING_DATA", ""))
    if not (folder / "grader_labels").is_dir():
        sys.exit("Name the data folder: --data FOLDER or the environment variable REASONING_DATA.")
    return folder


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open() as file:
        for line in file:
            yield json.loads(line)


def labelled_cases(data: Path) -> list[Pair]:
    pairs = []
    for row in _rows(data / "grader_labels/math_cases_dev.jsonl"):
        gold, answer = (
            "".join(unit * count for unit, count in row[f"{name}_parts"])
            if row.get(f"{name}_parts")
            else row[name]
            for name in ("gold", "answer")
        )
        pairs.append(
            Pair(gold, answer, row["expected"], row["note"] + (" (policy)" if row["policy"] else ""))
        )
    return pairs


def math_verify_tests(data: Path) -> list[Pair]:
    """math-verify's own tests. The note holds the options that a test turned on, as options of `math`; one row is a
    Python f-string that the test would have formatted, and is formatted here."""
    pairs = []
    for row in _rows(data / "grader_labels/math_verify_tests.jsonl"):
        options = ""
        if "precision" in row["call"]:
            options = "tolerance=0.02"
        if "strict=strict" in row["call"] and row["expected"]:
            options = "rename=true"
        gold, answer = row["gold"], row["answer"]
        if gold == "f'{math.sqrt(17):.15f}'":
            gold, answer = f"{17**0.5:.15f}", r"$\sqrt{17}$"
        pairs.append(Pair(gold, answer, row["expected"], options))
    return pairs


def math500_itself(data: Path) -> list[Pair]:
    rows = list(_rows(data / "benchmarks/math500.jsonl"))
    return [Pair(row["answer"], row["solution"], True) for row in rows]


def math500_crossed(data: Path) -> list[Pair]:
    """Every reference of MATH-500 as an answer to every other: nearly all unequal."""
    golds = sorted({row["answer"] for row in _rows(data / "benchmarks/math500.jsonl")})
    return [Pair(g, rf"\boxed{{{h}}}") for g in golds for h in golds if g != h]


def math500_answers(data: Path) -> list[Pair]:
    return [
        Pair(row["answer"], row["prediction"])
        for name in ("gpt", "qwen3")
        for row in _rows(data / f"grader_labels/math500_{name}_answers_unlabelled.jsonl")
    ]


def qwen_math100(data: Path) -> list[Pair]:
    return [
        Pair(row["gt"], response, bool(score))
        for row in _rows(data / "recorded/qwen25math_math100_x8_rm/math_cot_100.jsonl")
        for response, score in zip(row["response"], row["score"], strict=True)
    ]


def llama_aime24(data: Path) -> list[Pair]:
    return [
        Pair(str(row["expected_answer"]), c["full_model_response"], c["score"] >= 0.99)
        for step in (400, 800)
        for row in _rows(data / f"recorded/llama32_3b_aime24_x50/aime24_step{step}.jsonl")
        for c in row["completions"]
    ]


def gsm8k_examples(data: Path) -> list[Pair]:
    return [
        Pair(
            re.split(r"\nA:\s*", row["ground_truth"])[-1],
            row[name]["solution"],
            bool(row[name]["is_correct"]),
        )
        for row in _rows(data / "benchmarks/gsm8k/example_model_solutions.jsonl")
        for name in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
    ]


def gsm8k_answers(data: Path) -> list[Pair]:
    """One short answer of each of 44 models to each problem of GSM8K."""
    return [
        Pair(str(row["gold"]), str(sample["answer"]))
        for row in _rows(data / "recorded/zeroeval_gsm8k_x44models/gsm.jsonl")
        for sample in row["samples"]
    ]


CORPORA = {
    "labelled cases": labelled_cases,
    "math-verify's tests": math_verify_tests,
    "MATH-500, solution against answer": math500_itself,
    "MATH-500, GPT and Qwen3 answers": math500_answers,
    "MATH-500, each answer against each other": math500_crossed,
    "MATH x 100 x 8, Qwen2.5-Math": qwen_math100,
    "AIME24 x 50 x 2, Llama-3.2-3B": llama_aime24,
    "GSM8K x 4, GPT-3": gsm8k_examples,
    "GSM8K x 44 models, bare answers": gsm8k_answers,
}
