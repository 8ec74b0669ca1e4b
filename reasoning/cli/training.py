"""The training curves of `reasoning show RUN --training`, and several runs compared."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from reasoning.cli.show import note, say
from reasoning.errors import UserError
from reasoning.progress import printable


def show_training(folder: Path, watch: int, as_json: bool, out: Path | None = None) -> int:
    """Draw the curves; with ``watch`` again and again, until RUN/model is there."""
    from reasoning.report.training import evaluations, write_training

    def shown() -> tuple[Path, Path, bool]:
        ended = (folder / "model" / "training.json").is_file()
        page, picture, rows = write_training(folder, 0 if ended else watch, out)
        if as_json:
            print(json.dumps(rows[-1]))
        else:
            columns, body = evaluations(rows)
            lines = [columns, *body]
            widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
            for line in lines if body else []:
                say("  ".join(f"{cell:>{w}}" for cell, w in zip(line, widths, strict=True)))
            say(f"step {rows[-1]['step']}, {'ended' if ended else 'not ended'}")
        return page, picture, ended

    return _until_ended(shown, watch)


def compare_training(
    folders: Sequence[Path],
    watch: int,
    as_json: bool,
    target: float | None,
    out: Path | None = None,
    each: bool = False,
) -> int:
    """Several runs by what they spent; with ``watch`` again and again, until all have ended. each: runs that differ
    in their seed are lines of their own."""
    from rich.console import Console
    from rich.text import Text

    from reasoning.report.compared import compare_runs
    from reasoning.report.runs import read_runs
    from reasoning.report.seeds import by_method
    from reasoning.report.table import to_rich
    from reasoning.report.write_runs import as_object, runs_table, sentences, write_compared

    place = out or common_folder(folders)

    def shown() -> tuple[Path, Path, bool]:
        runs, metric, notes = read_runs(folders)
        lines, twins = (runs, []) if each else by_method(runs)
        compared = compare_runs(lines, metric, [*twins, *notes], target)
        ended = all(run.ended for run in compared.runs)
        page, picture = write_compared(compared, place, 0 if ended else watch)
        if as_json:
            print(json.dumps(as_object(compared)))
        else:
            console = Console(width=None if sys.stdout.isatty() else 118, highlight=False, soft_wrap=False)
            console.print(to_rich(runs_table(compared)))
            console.print()
            for sentence in sentences(compared):
                console.print(Text(printable(f"- {sentence}")))
        return page, picture, ended

    return _until_ended(shown, watch)


def _until_ended(shown: Callable[[], tuple[Path, Path, bool]], watch: int) -> int:
    """Write and print (page, picture, whether all has ended) once, or every ``watch`` seconds until all has."""
    page, picture, ended = shown()
    while watch and not ended:
        time.sleep(watch)
        page, picture, ended = shown()
    note(f"picture  {picture}")
    note(f"page     {page}")
    return 0


def common_folder(folders: Sequence[Path]) -> Path:
    """The folder that holds all runs. Raises UserError where that is only the root of the file system."""
    place = Path(os.path.commonpath([folder.resolve() for folder in folders]))
    if place == Path(place.anchor):
        raise UserError(
            "These runs lie in no folder together: say by --out FOLDER where page and picture go."
        )
    here = Path.cwd()
    return place.relative_to(here) if place.is_relative_to(here) else place
