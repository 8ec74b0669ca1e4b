"""Look after a run's pool: check, query, export, merge, seal. The docstring of each function is its verb's help."""

from __future__ import annotations

import csv
import json
import shlex
import sys
from dataclasses import dataclass

from reasoning.cli.show import note, say
from reasoning.errors import PoolError
from reasoning.options import option
from reasoning.pool import Pool
from reasoning.pool.check import check as check_pool
from reasoning.pool.export import FORMATS
from reasoning.pool.export import export as export_pool
from reasoning.pool.folder import counted
from reasoning.pool.merge import merge as merge_pools


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    run: str = option(..., "folder of the run", metavar="RUN")
    repair: bool = option(False, "set aside what is damaged (in pool/quarantine) and keep the rest")


@dataclass(frozen=True, kw_only=True)
class QueryOptions:
    run: str = option(..., "folder of the run", metavar="RUN")
    sql: str = option(..., "one select statement", metavar="SQL")
    format: str = option("table", "how rows are printed", choices=("table", "csv", "jsonl"))


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    run: str = option(..., "folder of the run", metavar="RUN")
    to: str = option(..., "FILE.jsonl, FILE.parquet, or a folder for a Hugging Face data set")
    format: str = option("rows", "rows (can be imported again), or what trainers read", choices=FORMATS)
    verifier: str = option("", "whose verdicts go with the chains (default: the only one there is)")
    correct_only: bool = option(False, "only chains that the verifier finds correct, none that was cut off")
    model: str = option("", "only chains of this model")


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    runs: list[str] = option(..., "folders of runs", metavar="RUN")
    to: str = option(..., "folder of the run that gets all (new, or one to add to)")


@dataclass(frozen=True, kw_only=True)
class SealOptions:
    run: str = option(..., "folder of the run", metavar="RUN")


def check(options: CheckOptions) -> int:
    """Read every byte of a run's pool and say whether it is whole.

      reasoning pool check runs/r
      reasoning pool check runs/r --repair           set damaged files aside, keep what can be saved

    Checksums of all shards and write-ahead files are compared. What --repair sets aside lies in RUN/pool/quarantine;
    the command that filled the pool then makes lost chains anew. Exit status: 0 whole, 3 damaged.
    """
    report = check_pool(options.run, options.repair)
    for line in report.remarks:
        note(line)
    rows = counted(report.rows)
    if report.whole:
        say(f"{report.path}: whole. {rows} in {report.shards} shards and the write-ahead files.")
        return 0
    for line in [*report.damage, *report.repaired]:
        say(line)
    if options.repair:
        say(
            f"{report.path}: repaired. {report.lost_rows} rows were lost, {report.saved_rows} saved out of damaged "
            "shards."
        )
        if report.lost_rows:
            note("Next:  the command that filled the pool makes lost chains anew.")
        return 0
    say(
        f"{report.path}: damaged. {report.lost_rows} rows are lost, {report.saved_rows} can be saved out of damaged "
        "shards."
    )
    note(f"Next:  reasoning pool check {options.run} --repair")
    return PoolError.exit_status


def query(options: QueryOptions) -> int:
    """One SQL select over a run's pool (DuckDB; extra "query").

      reasoning pool query runs/r "select verifier, avg(score) from verdicts group by verifier"
      reasoning pool query runs/r "select * from problems limit 3" --format jsonl
      reasoning pool query runs/r "describe chains"

    Tables: chains, verdicts, problems, models, verifiers, charges. It reads only, and can open no other file.
    """
    with Pool.open(options.run, read_only=True) as pool:
        answer = pool.sql(options.sql)
    names, rows = answer.column_names, list(zip(*(c.to_pylist() for c in answer.columns), strict=True))
    if options.format == "jsonl":
        for row in rows:
            say(json.dumps(dict(zip(names, row, strict=True)), default=str))
    elif options.format == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(rows)
    else:
        cells = [[_cell(value) for value in row] for row in [names, *rows]]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for row in cells:
            say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        note(f"{len(rows)} rows")
    return 0


def _cell(value: object) -> str:
    """A value in a table: one line of at most 60 characters."""
    text = f"{value:.6g}" if isinstance(value, float) else " ".join(str(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def export(options: ExportOptions) -> int:
    """Write a run's chains to a file for other tools, with their problems and one verifier's verdicts.

      reasoning pool export runs/r --to chains.parquet
      reasoning pool export runs/r --to sft.jsonl --format messages --verifier math --correct-only
      reasoning pool export runs/r --to dataset/     a folder for Hugging Face datasets (extra "hub")
      reasoning import chains.parquet runs/copy      read an export back, keys and all

    Formats: rows (everything; the one that can be read back), messages (a chat per chain) and prompt-completion,
    which trainers of supervised learning read. Nothing that is there already is overwritten.
    """
    with Pool.open(options.run, read_only=True) as pool:
        judges = list(pool.verifiers())
        done = export_pool(
            pool,
            options.to,
            verifier=options.verifier,
            correct_only=options.correct_only,
            format=options.format,
            model=options.model,
        )
    say(f"{options.to}  {done.rows} rows ({options.format})")
    if done.without_verdict:
        what = "left out" if options.correct_only else "without a score"
        note(f"{done.without_verdict} chains have no verdict: {what}.")
    if len(judges) > 1 and not options.verifier:
        note(
            f"Without verdicts: the pool has several verifiers. Name one:  --verifier {shlex.quote(judges[0])}"
        )
    if options.format == "rows":
        note(f"Next:  reasoning import {options.to} RUN   (reads it back)")
    return 0


def merge(options: MergeOptions) -> int:
    """Bring the pools of several runs together in one: chains, verdicts, problems and what they cost.

      reasoning pool merge runs/a runs/b --to runs/c

    The runs stay as they are; what --to has already is not taken twice. What drawing and judging cost counts as spent
    in --to, so nothing is merged into a run while a command with a --budget is at work there; what training took to
    learn stays in its own run.
    """
    added = merge_pools(options.runs, options.to)
    new = counted(added)
    say(f"{options.to}  new: {new}")
    note(f"Next:  reasoning show {options.to} --cost")
    return 0


def seal(options: SealOptions) -> int:
    """Turn a run's write-ahead files into Parquet shards now, for other tools to read.

      reasoning pool seal runs/r

    Not needed for anything of this toolkit: pools seal themselves in the background while they grow.
    """
    with Pool.open(options.run, create=False) as pool:
        pool.seal()
        shards = pool.summary()["shards"]
        left = len(pool.folder.wal_paths())
        for line in pool.notes:
            note(line)
    say(f"{pool.path}  {shards} shards" + (f", {left} write-ahead files of writers at work" if left else ""))
    return 0
