"""Accuracy against compute, from a run's finished pool: curves.json, curves.csv, pictures and report.html.

  reasoning curve runs/demo
  reasoning curve runs/gsm8k --verifier math --scorer learned:runs/verifier -k 1 -k 8 -k 64

What is right is said by one verifier that reads the reference, and printed below the table: the only one that has
judged this pool (labels that came with a recording give way to it), or the one named by --verifier. A chain that was
cut off at the length limit counts as wrong. A pure function of stored records: the same pool gives the same bytes.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from reasoning.agreement import LABEL
from reasoning.cli.purse import look_at_ledger
from reasoning.cli.show import note
from reasoning.errors import UserError, unknown
from reasoning.options import option
from reasoning.pool import Pool
from reasoning.pool.judges import verifier_named
from reasoning.progress import printable
from reasoning.report import to_rich, write_report
from reasoning.runfile import read_run


@dataclass(frozen=True, kw_only=True)
class CurveOptions:
    run: str = option(..., "folder of the run", metavar="RUN")
    verifier: str = option(
        "",
        "verifier that says what is right (default: the only one that reads the reference and judged the pool)",
    )
    scorer: list[str] = option(
        [], "verifier whose scores choose (repeat; default: all that see no reference)"
    )
    model: list[str] = option([], "model to include, by name or name@version (repeat; default: all)")
    k: list[int] = option([], "number of chains to show (repeat; default: powers of two)", low=1)
    title: str = option("", "heading of the report")


def run(options: CurveOptions) -> int:
    folder = Path(options.run)
    if "train" in read_run(folder) and not options.model:
        raise UserError(
            f"{folder} is a training run: its pool holds the roll-outs of every step. Draw chains of the trained "
            f"model into a folder of their own:  reasoning sample {folder}/eval --engine transformers:{folder}/model"
        )
    with Pool.open(folder, create=False, read_only=True) as pool:
        known = pool.verifiers()
        oracles = [name for name, oracle in known.items() if oracle]
        if len(oracles) == 2 and LABEL in oracles and not options.verifier:
            oracles.remove(LABEL)  # the labels came with a recording; what judged it afterwards is asked for
            note(f"{oracles[0]!r} says what is right; by the labels of the recording:  --verifier {LABEL}")
        truth = verifier_named(options.verifier, known) if options.verifier else ""
        truth = truth or (oracles[0] if len(oracles) == 1 else "")
        if not truth:
            if not oracles:
                raise UserError(
                    f"No chain was judged yet. Run:  reasoning verify {options.run} --verifier NAME"
                )
            raise UserError(f"Which verifier says what is right? Name it:  --verifier {' | '.join(oracles)}")
        models = [one_model(name, list(pool.models())) for name in options.model] or None
        note(not_judged(pool, truth, options.run, models))
        scorers = [verifier_named(name, known) for name in options.scorer] or [
            name for name, oracle in known.items() if not oracle
        ]
        written = write_report(
            folder,
            pool,
            oracle=truth,
            scorers=scorers,
            models=models,
            ks=options.k or None,
            title=options.title or folder.name,
            seconds=sampling_seconds(folder, pool),
        )
    console = Console(width=None if sys.stdout.isatty() else 118, highlight=False, soft_wrap=False)
    console.print(to_rich(written.table))
    console.print()
    for sentence in written.findings:
        console.print(Text(printable(f"- {sentence}")))
    for path in written.pictures.values():
        note(f"picture  {path}")
    note(f"report   {written.html}")
    return 0


def not_judged(pool: Pool, oracle: str, run: str, models: Sequence[str] | None = None) -> str:
    """A line to print where chains have no verdict of the oracle; "" where all have one."""
    judged = pool.verdicts(oracle)
    chains = [chain for model in models or [None] for chain in pool.chains(model)]
    if not (without := sum(chain.key not in judged for chain in chains)):
        return ""
    return (
        f"{without} of {len(chains)} chains were not judged by {oracle!r} and are left out. To judge them first:  "
        f"reasoning verify {run} --verifier {shlex.quote(oracle)}"
    )


def sampling_seconds(folder: Path, pool: Pool) -> dict[str, float]:
    """Model -> wall-clock seconds that drawing its chains took, from the run's ledger and its pool's charges."""
    ledger = look_at_ledger(folder, pool=pool)
    totals = ledger.totals(by=("phase", "strategy")) if ledger is not None else {}
    return {strategy: sum_.cost.seconds for (phase, strategy), sum_ in totals.items() if phase == "sample"}


def one_model(name: str, known: list[str]) -> str:
    """The model that ``name`` means, with or without its version."""
    found = [m for m in known if m == name or m.partition("@")[0] == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{name!r} has several versions in the pool; name one of: {', '.join(found)}.")
    raise unknown("model", name, known)
