"""Verdicts of `math` beside those of math-verify 0.9 on every corpus, with every disagreement written out.

    python -m evals.verifiers.accuracy [--data FOLDER] [--only NAME] [--most N] [--out disagreements.jsonl]

Where math-verify is not installed (extra: bench) only our own verdicts are counted.
"""

# ruff: noqa: E501

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from evals.verifiers.corpora import CORPORA, Pair, data_folder
from verifiers import Attempt, Verdict, open_verifier


def peer() -> Callable[[Pair], bool] | None:
    """math-verify with its default settings; a reference without marks is wrapped in $, as its guide asks."""
    try:
        from math_verify import parse, verify  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    logging.disable(logging.ERROR)
    golds: dict[str, list[object]] = {}

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
    parser.add_argument("--out", type=Path, default=Path("disagreements.jsonl"))
    options = parser.parse_args()
    data = data_folder(options.data)
    judge, other = ours(), peer()
    if other is None:
        print("math-verify is not installed (extra: bench); its columns are empty.")
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
