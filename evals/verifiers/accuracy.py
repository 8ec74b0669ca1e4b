"""Verdicts of `math` beside those of math-verify 0.9 on every corpus, with every disagreement written out.

    python -m evals.verifiers.accuracy [--data FOLDER] [--only NAME] [--most N] [--out runs/disagreements.jsonl]

Where math-verify is not installed (extra: bench) only our own verdicts are counted. `--peer mathruler` takes that grader
in its place (the one of PRM800K as many trainers carry it); it hands text to sympy's parser, which executes it, so run it
under bubblewrap: bwrap --ro-bind / / --dev /dev --tmpfs /tmp --unshare-all python -m evals.verifiers.accuracy --peer ...
"""

# ruff: noqa: E501

from __future__ import annotations

import argparse
import json
import logging
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from evals.verifiers.corpora import CORPORA, Pair, data_folder
from verifiers import Attempt, Verdict, open_verifier


def mathruler() -> Callable[[Pair], bool] | None:
    """mathruler on what stands in the last box, or on the whole text where there is none; 5 seconds a pair."""
    try:
        from mathruler.grader import (  # pyright: ignore[reportMissingImports]
            extract_boxed_content,
            grade_answer,
        )
    except ImportError:
        return None

    def bare(text: str) -> str:
        boxed = extract_boxed_content(text)
        return text if boxed in (None, "None") else boxed

    def late(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)

    def judged(pair: Pair) -> bool:
        if not isinstance(pair.response, str) or not isinstance(pair.reference, str):
            return False
        signal.alarm(5)
        try:
            return bool(grade_answer(bare(pair.response), bare(pair.reference)))
        except Exception:  # a crash of the peer is a rejection by it
            return False
        finally:
            signal.alarm(0)

    return judged


def math_verify() -> Callable[[Pair], bool] | None:
    """math-verify with its default settings; a reference without marks is wrapped in $, as its guide asks."""
    try:
        from math_verify import parse, verify  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    logging.disable(logging.ERROR)
    golds: dict[str, Any] = {}

    def judged(pair: Pair) -> bool:
        if not isinstance(pair.response, str) or not isinstance(pair.reference, str):
            return False
        try:
            if pair.reference not in golds:
                text = (
                    pair.reference
                    if "$" in pair.reference or "\\boxed" in pair.reference
                    else f"${pair.reference}$"
                )
                golds[pair.reference] = parse(text)
            return bool(verify(golds[pair.reference], parse(pair.response)))
        except Exception:  # a crash of the peer is a rejection by it
            return False

    return judged


def ours() -> Callable[[Pair], Verdict]:
    plain = open_verifier("math")

    def judged(pair: Pair) -> Verdict:
        named = pair.note.startswith(("tolerance=", "rename="))
        verifier = open_verifier("math:" + pair.note) if named else plain
        return verifier.verify([Attempt(response=pair.response, reference=pair.reference)])[0]

    return judged


def counts(pairs: Sequence[Pair], verdicts: Sequence[bool]) -> str:
    labelled = [(p.label, v) for p, v in zip(pairs, verdicts, strict=True) if p.label is not None]
    accepts = sum(v and not label for label, v in labelled)
    rejects = sum(label and not v for label, v in labelled)
    return f"{sum(verdicts):7d}" + (f" {accepts:6d} {rejects:6d}" if labelled else "      -      -")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="")
    parser.add_argument("--only", default="", help="corpora whose name contains this")
    parser.add_argument("--most", type=int, default=0, help="at most this many pairs a corpus, evenly spread")
    parser.add_argument("--out", type=Path, default=Path("runs/disagreements.jsonl"))
    parser.add_argument("--peer", default="math-verify", choices=("math-verify", "mathruler"))
    options = parser.parse_args()
    data = data_folder(options.data)
    judge, other = ours(), mathruler() if options.peer == "mathruler" else math_verify()
    if other is None:
        print(f"{options.peer} is not installed (extra: bench); its columns are empty.")
    print(
        f"{'corpus':42s} {'pairs':>7s}  {'ours: equal':>11s} {'FA':>4s} {'FR':>6s}   {'peer: equal':>11s} {'FA':>4s} {'FR':>6s}  differ"
    )
    with options.out.open("w") as out:
        for name, load in CORPORA.items():
            if options.only not in name:
                continue
            pairs = load(data)
            if options.most and len(pairs) > options.most:
                pairs = pairs[:: len(pairs) // options.most + 1]
            full = [judge(pair) for pair in pairs]
            mine = [v.correct for v in full]
            theirs = [other(pair) for pair in pairs] if other else []
            differ = 0
            for i, (pair, verdict) in enumerate(zip(pairs, full, strict=True)):
                wrong = pair.label is not None and verdict.correct != pair.label
                if (theirs and theirs[i] != verdict.correct) or wrong:
                    differ += 1
                    row = {
                        "corpus": name,
                        "reference": str(pair.reference)[-300:],
                        "response": str(pair.response)[-300:],
                        "label": pair.label,
                        "ours": verdict.correct,
                        "peer": theirs[i] if theirs else None,
                        "answer": verdict.answer,
                        "status": verdict.status,
                        "reason": verdict.reason,
                        "note": pair.note,
                    }
                    out.write(json.dumps(row, ensure_ascii=False) + "\n")
            theirs_text = counts(pairs, theirs) if theirs else ""
            print(f"{name:42s} {len(pairs):7d}  {counts(pairs, mine)}   {theirs_text}  {differ}", flush=True)


if __name__ == "__main__":
    main()
