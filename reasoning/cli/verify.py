"""Judge chains. TARGET is a run folder, or a JSONL file of rows with "response" and "reference" (- for a pipe).

  reasoning verify runs/x --verifier numeric
  reasoning verify runs/x --verifier learned:runs/verifier

Only chains without a verdict of that verifier are judged. A verifier that reads the reference is an oracle: fine
for training and measuring, never a thing that could be deployed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reasoning.budget import Budget, Ledger
from reasoning.cli.show import note
from reasoning.options import option
from reasoning.pool import Pool
from reasoning.progress import Line
from reasoning.sampling import verify
from verifiers import open_verifier


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    target: str = option(..., "run folder, or JSONL file (- for standard input)", metavar="TARGET")
    verifier: str = option(..., "verifier spec, such as numeric, countdown, learned:FOLDER")
    out: str = option("", "with a JSONL file: where the verdicts go (default: standard output)")
    budget: str = option("", "limit for verifiers that spend compute, such as flops=1e15")


def run(options: VerifyOptions) -> int:
    verifier = open_verifier(options.verifier)
    folder = Path(options.target)
    line = Line(f"verify {options.verifier}")
    budget = Budget.parse(options.budget) if options.budget else None
    with Pool.open(folder, create=False) as pool, Ledger(budget, path=folder) as ledger:
        report = verify(pool, verifier, progress=line, ledger=ledger)
    line.close()
    if report.unaffordable:
        note(f"The budget was spent: {report.unaffordable} chains were not judged.")
    judged = report.judged - report.missing
    share = f"  {report.correct / judged:.1%} score as correct" if judged and verifier.oracle else ""
    kind = "oracle (reads the reference)" if verifier.oracle else "deployable (sees no reference)"
    print(
        f"{folder}  {verifier.name}, {kind}: {report.judged} chains judged, {report.present} were already{share}"
    )
    if report.missing:
        note(
            f"{report.missing} chains have no verdict (the verifier failed on them); they are left out, not wrong."
        )
    note(f"Next:  reasoning curve {folder}")
    return 0
