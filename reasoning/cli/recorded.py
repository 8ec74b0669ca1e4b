"""Read recorded model outputs into RUN/pool, judge them again, and compare with the file's labels.

  reasoning import outputs.jsonl runs/r --map 'question=question,answer=gt,response=output' --verifier numeric
  reasoning import outputs.jsonl runs/r --map 'question=question,answer=gt,response=outputs[],label=scores[]'
  reasoning import outputs.parquet runs/r --map 'question=problem,response=completions[].text'
  reasoning import saved_dataset/ runs/r --map ...   a folder that Hugging Face datasets saved (extra "hub")
  reasoning import chains.parquet runs/r             rows of `reasoning pool export`: no --map, same keys

A mapping is FIELD=COLUMN pairs, in quotes since shells read brackets. Fields: question, response (these two are
needed), answer (the reference), label (right or wrong, as the file says), model, index, finish (stop or length),
score.NAME (a recorded score), meta.NAME (what the verifier needs). A column is a path into the row: gt, info.level,
infos[0].r. Where a row holds a list of responses, [] takes each element: outputs[] is one chain per element, and
label=scores[] goes along with it. Without --map the command looks at the first row and suggests one. Give --map
several times for rows that hold the outputs of several models.
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from reasoning.agreement import LABEL, Agreement
from reasoning.cli.show import note, say
from reasoning.options import option
from reasoning.pool import Pool
from reasoning.recorded import import_rows
from reasoning.records import Sampling
from reasoning.runfile import write_run
from verifiers import open_verifier


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    file: str = option(..., ".jsonl, .json, .parquet or .csv file, or a data set's folder", metavar="FILE")
    run: str = option(..., "folder of the run", metavar="RUN")
    map: list[str] = option(
        [], "'FIELD=COLUMN,...' (see above; repeat for several models per row)", metavar="MAPPING"
    )
    model: str = option("", "name of the model, where the mapping gives none (default: the file's name)")
    verifier: str = option("", "verifier that judges the responses again")
    task: str = option("recorded", "name of the task, stored with the problems")
    temperature: float = option(1.0, "temperature they were sampled at, where it is known", low=0, high=100)
    disagreements: int = option(5, "how many disagreements with the labels to show", low=0)


def run(options: ImportOptions) -> int:
    folder = Path(options.run)
    verifier = open_verifier(options.verifier) if options.verifier else None
    new = not folder.exists()
    with contextlib.ExitStack() as stack:
        if new:  # a mistake in the mapping leaves no empty run behind
            stack.push(
                lambda kind, *_: shutil.rmtree(folder, ignore_errors=True) if kind is not None else None
            )
        pool = stack.enter_context(Pool.open(folder))
        report = import_rows(
            options.file,
            options.map,
            pool,
            model=options.model,
            sampling=Sampling(temperature=options.temperature),
            task=options.task,
            verifier=verifier,
        )
        oracles = [name for name, oracle in pool.verifiers().items() if oracle]
        write_run(folder, "import", asdict(options))
    say(
        f"{folder}  {report.rows} rows, {report.problems} problems, {report.chains} chains read "
        f"({report.present} were there)  models: {', '.join(report.models)}"
    )
    if report.empty:
        note(f"{report.empty} responses were null and were left out.")
    for name in report.squashed:
        note(
            f"Scores {name} are not in [0, 1]: stored through the logistic function, which keeps their order."
        )
    if report.verified is not None:
        accuracy, known = report.verified.accuracy, report.verified.known
        if accuracy is not None:
            say(f"{options.verifier}: {accuracy:.1%} of {known} chains are correct")
    if report.agreement is not None:
        show(report.agreement, options.disagreements)
    note(f"Next:  {following(folder, verifier.name if verifier else '', oracles)}")
    return 0


def following(folder: Path, judged_by: str, oracles: list[str]) -> str:
    """The command to run next: the curve by the verifier asked for, else by what the rows brought along, else the
    judging."""
    if not judged_by and not oracles:
        return f"reasoning verify {folder} --verifier NAME"
    name = judged_by or (LABEL if LABEL in oracles else oracles[0])
    return f"reasoning curve {folder} --verifier {name}"


def show(found: Agreement, most: int) -> None:
    """Print the agreement with the labels and the first ``most`` disagreements."""
    say(
        f"agreement with the labels: {found.rate:.2%} of {found.judged} (kappa {found.kappa:.3f}); "
        f"right by both {found.both}, by the verifier alone {found.only_verifier}, by the label alone "
        f"{found.only_label}, by neither {found.neither}; no verdict {found.missing}"
    )
    for d in found.disagreements[:most]:
        said = d.response.strip().replace("\n", " ")[-80:]
        why = f" ({d.verdict.reason})" if d.verdict.reason else ""
        say(
            f"  label {d.label:g}, verifier {d.verdict.score:g}{why}: reference {d.reference!r}, response ...{said!r}"
        )
