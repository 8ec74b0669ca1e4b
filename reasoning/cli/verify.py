"""Judge chains. TARGET is a run folder, or a JSONL file of rows with "response" and "reference" (- for a pipe).

  reasoning verify runs/x --verifier numeric
  reasoning verify runs/x --verifier learned:runs/verifier
  reasoning verify answers.jsonl --verifier math --out verdicts.jsonl
  cat answers.jsonl | reasoning verify - --verifier math

A row has "reference" and "response" (a whole response, the answer is extracted) or "gold" and "answer" (the bare
answer). Verifiers: math, numeric, exact, choice, code, countdown, game24, regex:PATTERN, json, format,
judge:URL:model=NAME, gym:TASK, learned:FOLDER, FILE.py:name, pooled:ANY (in killable processes), and weighted means
such as math*1.0+format*0.1. What each reads and its options:  pydoc verifiers.code (.mathematics, .patterns, ...)

Of a run, only chains without a verdict of that verifier are judged. A verifier that reads the reference is an
oracle: fine for training and measuring, never a thing that could be deployed. A chain that was cut off at the length
limit keeps its verdict but counts as wrong, here as in `reasoning curve`; a row of a file is judged as it stands.

Exit status: 0 when everything was judged, right or wrong; 1 when some rows or chains got no judgement (a row that
cannot be read, no usable reference, a verifier that failed), which have a line and a status of their own all the
same; 2 when nothing could be judged. Chains that a budget left out are no failure.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from reasoning.cli.purse import PRICES, open_ledger, terms
from reasoning.cli.show import note, say
from reasoning.cluster import CLUSTER
from reasoning.cluster.verifier import on_cluster
from reasoning.errors import UserError
from reasoning.options import option
from reasoning.pool import Pool
from reasoning.progress import Line
from reasoning.runfile import write_run
from reasoning.sampling import verify
from verifiers import Verdict, Verifier
from verifiers.rows import verify_rows

UNJUDGED = 1
"""Exit status where some rows or chains got no judgement, and the others did."""


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    target: str = option(..., "run folder, or JSONL file (- for standard input)", metavar="TARGET")
    verifier: str = option(..., "verifier spec, such as math, numeric, learned:FOLDER")
    cluster: str = option("", CLUSTER)
    out: str = option("", "with a JSONL file: where the verdicts go (default: standard output)")
    budget: str = option("", "limit on all that the run spends, such as flops=1e15 or price=2.50")
    prices: str = option("", PRICES)


def run(options: VerifyOptions) -> int:
    verifier = on_cluster(options.verifier, options.cluster)
    folder = Path(options.target)
    if options.target == "-" or (folder.exists() and not folder.is_dir()):  # a pipe has a name too
        for name in ("budget", "prices"):
            if getattr(options, name):
                raise UserError(f"--{name} goes with a run folder: the rows of a file have no ledger.")
        return verify_file(options, verifier)
    if not folder.exists() and (options.out or folder.suffix == ".jsonl"):
        raise UserError(f"{folder}: no such file of rows.")
    if options.out:
        raise UserError("--out goes with a JSONL file: the verdicts on a run's chains are kept in its pool.")
    line = Line(f"verify {options.verifier}")
    budget, prices = terms(folder, options.budget, options.prices)
    with line, Pool.open(folder, create=False) as pool, open_ledger(folder, budget, prices, pool) as ledger:
        if fit := fitting_flops(verifier):
            pool.add_model(verifier.name, {"verifier": True, "training": {"flops": fit}})
        report = verify(pool, verifier, progress=line, ledger=ledger)
        example = an_unjudged(pool.verdicts(verifier.name)) if report.missing else ""
    write_run(folder, "verify", asdict(options))
    if report.judged and report.missing == report.judged:
        raise UserError(
            f"{verifier.name} could judge none of the {report.judged} chains of {folder}: {example}."
        )
    if report.unaffordable:
        note(f"The budget was spent: {report.unaffordable} chains were not judged.")
    share = f"  {report.accuracy:.1%} correct" if report.accuracy is not None and verifier.oracle else ""
    kind = "oracle (reads the reference)" if verifier.oracle else "deployable (sees no reference)"
    say(
        f"{folder}  {verifier.name}, {kind}: {report.judged} chains judged, {report.present} were already{share}"
    )
    if report.cut_correct and verifier.oracle:
        note(
            f"{report.cut_correct} of the {report.cut} chains that were cut off score as correct; a chain that was "
            "cut off counts as wrong."
        )
    if report.missing:
        note(
            f"{report.missing} chains have no verdict ({example}): left out, not taken for wrong. Exit status 1."
        )
    note(f"Next:  reasoning curve {folder}")
    return UNJUDGED if report.missing else 0


def an_unjudged(verdicts: Mapping[str, Verdict]) -> str:
    """What stood in the way of one that is missing: its status and reason."""
    found = next((v for v in verdicts.values() if v.missing), Verdict(None, status="no verdict"))
    return ": ".join(" ".join(text.split())[:200] for text in (found.status, found.reason) if text).rstrip(
        "."
    )


def fitting_flops(verifier: Verifier) -> float:
    """What fitting a learned verifier took, the kinds that were compared included; 0 for others."""
    measured = getattr(getattr(verifier, "card", None), "measured", {})
    return float(sum(measured.get("flops", {}).values()))


def verify_file(options: VerifyOptions, verifier: Verifier) -> int:
    """Judge rows of a JSONL file or of standard input; one line each, in order. Returns the exit status."""
    line = Line(f"verify {options.verifier}")
    done = 0

    def advance(rows: int) -> None:
        nonlocal done
        done += rows
        line.update(done=done)

    if options.target == "-" and sys.stdin is None:
        raise UserError("Standard input is closed: pipe rows into it, or name a JSONL file.")
    to_file = options.out not in ("", "-")
    written = Path(options.out)
    if to_file and options.target != "-" and written.exists() and written.samefile(options.target):
        raise UserError(f"--out {options.out} is the file of rows itself: name another.")
    with contextlib.ExitStack() as stack:
        rows = sys.stdin.buffer if options.target == "-" else stack.enter_context(open(options.target, "rb"))
        out = stack.enter_context(open(options.out, "w", encoding="utf-8")) if to_file else sys.stdout
        summary = verify_rows(rows, verifier, out.write, advance=advance)
    line.close()
    note(str(summary))
    unusable = summary.statuses.get("bad_row", 0)
    if summary.rows == unusable:
        raise UserError(
            f"{options.target} holds no row that can be judged: give JSON objects with response and reference, or "
            "gold and answer."
        )
    if summary.missing:
        note(
            f"{summary.missing} of {summary.rows} rows were not judged ({summary.example.rstrip('.')}): exit "
            "status 1."
        )
    return UNJUDGED if summary.missing else 0
