"""A pool as rows for other tools, and back: JSONL, Parquet, or the folder of a Hugging Face data set.

A row is a chain with its problem and, where a verifier is named, its verdict. ``messages`` and
``prompt-completion`` are what trainers of supervised learning read; only plain rows can be read back. Rows are
written some thousand at a time, so a pool of any size can be exported.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from reasoning.durable import cannot_write
from reasoning.errors import MissingExtra, UserError, unknown
from reasoning.pool.columns import COST_FIELDS, SCHEMAS, verdicts_from
from reasoning.pool.judges import verifier_named
from reasoning.pool.rows import json_value, sampling_from_json
from reasoning.records import Chain, Cost, Problem
from reasoning.tasks.conversation import messages_of
from verifiers.base import Verdict

if TYPE_CHECKING:
    from reasoning.pool.store import Pool

FORMATS = ("rows", "messages", "prompt-completion")
_PLAIN = {pa.dictionary(pa.int32(), pa.string()): pa.string()}
_CHAIN = [(f.name, _PLAIN.get(f.type, f.type)) for f in SCHEMAS["chains"]]
_PROBLEM = [(n, pa.string()) for n in ("prompt", "reference", "task", "metadata")]
_VERDICT = [
    ("verifier", pa.string()),
    ("oracle", pa.bool_()),
    ("score", pa.float64()),
    ("answer", pa.string()),
    ("status", pa.string()),
    ("rule", pa.string()),
    ("reason", pa.string()),
    ("steps", pa.list_(pa.float64())),
    ("verdict_tokens", pa.int64()),
    ("verdict_flops", pa.float64()),
]
_ATTRIBUTES = {"verdict_tokens": "scored_tokens", "verdict_flops": "flops"}
_TURN = pa.struct([("role", pa.string()), ("content", pa.string())])
ROWS = pa.schema([*_CHAIN, *_PROBLEM, *_VERDICT])
"""Columns of a plain row. sampling, reference and metadata are JSON; without a verdict its columns are null."""
_SCHEMAS = {
    "rows": ROWS,
    "messages": pa.schema([("messages", pa.list_(_TURN)), ("key", pa.string()), ("score", pa.float64())]),
    "prompt-completion": pa.schema(
        [("prompt", pa.string()), ("completion", pa.string()), ("key", pa.string()), ("score", pa.float64())]
    ),
}


@dataclass(frozen=True, slots=True)
class Exported:
    """rows: written. without_verdict: chains that the verifier had not judged (left out with correct_only)."""

    rows: int
    without_verdict: int


def export(
    pool: Pool,
    to: str | Path,
    *,
    verifier: str = "",
    correct_only: bool = False,
    format: str = "rows",
    model: str = "",
) -> Exported:
    """Write the pool's chains (continuations left out, but for plain rows) to ``to``: FILE.jsonl, FILE.parquet, or
    else the folder of a data set.

    verifier: whose verdicts go with them; by default the only one there is. Raises UserError for an unknown
    verifier or format, for correct_only without a verifier, and for what is there already; PoolError when the disk
    refuses. A file that could not be finished is not left behind.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    names = pool.verifiers()
    verifier = verifier and verifier_named(verifier, names, str(pool.path))
    if not verifier and len(names) == 1:
        verifier = next(iter(names))
    if correct_only and not verifier:
        has = (
            f"name one of {', '.join(names)} by --verifier"
            if names
            else "the pool has no verdicts: verify it first"
        )
        raise UserError(f"Which chains are correct? {has[0].upper()}{has[1:]}.")
    target = Path(to)
    if target.exists():
        raise UserError(f"{target} is there already: name another file, or remove it first.")
    counts = [0, 0]
    batches = _batches(pool, verifier, names.get(verifier, True), correct_only, format, model, counts)
    try:
        _write(target, _SCHEMAS[format], batches)
    except OSError as e:
        raise cannot_write(target, e) from e
    return Exported(*counts)


def _batches(
    pool: Pool, verifier: str, oracle: bool, correct_only: bool, format: str, model: str, counts: list[int]
) -> Iterator[pa.Table]:
    problems = pool.problems()
    judged = _Verdicts(pool, verifier)
    for table in pool.scan("chains"):
        verdicts = judged.of(table["key"].to_pylist())
        counts[1] += sum(v is None for v in verdicts) if verifier else 0
        wanted = [
            (not model or name == model)
            and (format == "rows" or not parent)
            and (not correct_only or (v is not None and v.correct and finish == "stop"))
            for name, parent, finish, v in zip(
                table["model"].to_pylist(),
                table["parent"].to_pylist(),
                table["finish_reason"].to_pylist(),
                verdicts,
                strict=True,
            )
        ]
        verdicts = [v for v, keep in zip(verdicts, wanted, strict=True) if keep]
        table = table.filter(pa.array(wanted, pa.bool_()))
        if not table.num_rows:
            continue
        counts[0] += table.num_rows
        of = [problems[i] for i in table["problem_id"].to_pylist()]
        keys, texts = table["key"].to_pylist(), table["text"].to_pylist()
        scores = [None if v is None else v.score for v in verdicts]
        if format == "messages":
            turns = [_turns(p, text) for p, text in zip(of, texts, strict=True)]
            yield pa.table([turns, keys, scores], schema=_SCHEMAS[format])
        elif format == "prompt-completion":
            yield pa.table([[p.prompt for p in of], texts, keys, scores], schema=_SCHEMAS[format])
        else:
            yield _plain(table, of, verdicts, verifier, oracle)


def _turns(problem: Problem, text: str) -> list[dict[str, str]]:
    """The conversation with the answer; what the prompt had put at its start is part of it."""
    turns = messages_of(problem)
    start = turns.pop()["content"] if turns[-1]["role"] == "assistant" else ""
    return [*turns, {"role": "assistant", "content": start + text}]


def _plain(
    table: pa.Table,
    problems: Sequence[Problem],
    verdicts: Sequence[Verdict | None],
    verifier: str,
    oracle: bool,
) -> pa.Table:
    columns = [table[name].cast(type_) for name, type_ in _CHAIN]
    columns += [
        pa.array([p.prompt for p in problems], pa.string()),
        pa.array([json_value(p.reference, f"problem {p.id}") for p in problems], pa.string()),
        pa.array([p.task for p in problems], pa.string()),
        pa.array([json_value(dict(p.metadata), f"problem {p.id}") for p in problems], pa.string()),
        pa.array([None if v is None else verifier for v in verdicts], pa.string()),
        pa.array([None if v is None else oracle for v in verdicts], pa.bool_()),
    ]
    for name, type_ in _VERDICT[2:]:
        of = _ATTRIBUTES.get(name, name)
        columns.append(pa.array([None if v is None else getattr(v, of) for v in verdicts], type_))
    return pa.table(columns, schema=ROWS)


class _Verdicts:
    """The verdicts of one verifier by chain key."""

    def __init__(self, pool: Pool, verifier: str):
        parts = list(pool.scan("verdicts")) if verifier else []
        mine = [
            t.filter(pa.array([n == verifier for n in t["verifier"].to_pylist()], pa.bool_())) for t in parts
        ]
        self._table = (
            pa.concat_tables(mine).unify_dictionaries() if mine else SCHEMAS["verdicts"].empty_table()
        )
        self._at = {key: at for at, key in enumerate(self._table["key"].to_pylist())}

    def of(self, keys: Sequence[str]) -> list[Verdict | None]:
        places = [self._at.get(k) for k in keys]
        found = self._table.take(pa.array([p for p in places if p is not None], pa.int64()))
        verdicts = iter([v for _, v in verdicts_from(found)])
        return [None if p is None else next(verdicts) for p in places]


# ---- writing


def _write(target: Path, schema: pa.Schema, batches: Iterable[pa.Table]) -> None:
    """Write to a temporary name; the real one is there when everything is."""
    partial = target.with_name(f".{target.name}.partial")
    if partial.is_dir():  # left by an export that was killed; a file of that name is written over
        shutil.rmtree(partial)
    try:
        if target.suffix in (".jsonl", ".parquet", ""):
            target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".jsonl":
            with partial.open("w", encoding="utf-8") as f:
                for table in batches:
                    f.writelines(json.dumps(row) + "\n" for row in table.to_pylist())
                _sync(f)
        elif target.suffix == ".parquet":
            with partial.open("wb") as f:
                with pq.ParquetWriter(f, schema, compression="zstd", write_page_checksum=True) as writer:
                    for table in batches:
                        writer.write_table(table)
                _sync(f)
        elif target.suffix:
            raise UserError(
                f"{target}: name a file that ends in .jsonl or .parquet, or a folder for a data set. (Columns of "
                'your choice as CSV:  reasoning pool query RUN "select ..." --format csv)'
            )
        else:
            _write_dataset(partial, schema, batches)
        os.replace(partial, target)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        partial.unlink(missing_ok=True)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _write_dataset(folder: Path, schema: pa.Schema, batches: Iterable[pa.Table]) -> None:
    """The folder that `datasets.load_from_disk` reads."""
    datasets = _datasets("exporting to a data set")
    folder.mkdir()
    stream = folder / "rows.arrow"
    with pa.OSFile(str(stream), "wb") as f, pa.ipc.new_stream(f, schema) as writer:
        for table in batches:
            writer.write_table(table)
    made = folder / "data"
    datasets.Dataset.from_file(str(stream)).save_to_disk(str(made))
    stream.unlink()
    for path in made.iterdir():
        path.rename(folder / path.name)
    made.rmdir()


def _datasets(what: str) -> Any:
    try:
        datasets = importlib.import_module("datasets")
    except ModuleNotFoundError:
        raise MissingExtra("datasets", "hub", what) from None
    datasets.disable_progress_bars()
    return datasets


# ---- reading back


def dataset_rows(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) of a folder that `datasets` saved. Raises UserError when it is none."""
    try:
        data = _datasets("reading a data set's folder").load_from_disk(str(folder))
    except (FileNotFoundError, ValueError, OSError) as e:
        raise UserError(
            f"{folder}: no folder that datasets has saved ({' '.join(str(e).split())[:200]})."
        ) from None
    if isinstance(data, dict):
        raise UserError(f"{folder} holds splits: name one of them, such as {folder / next(iter(data))}.")
    yield from ((f"{folder}, row {number}", row) for number, row in enumerate(data, 1))


def is_plain(row: dict[str, Any]) -> bool:
    """Whether a row is one that `export` wrote in the format "rows"."""
    return {"key", "problem_id", "sampling", "token_ids", "prompt", "reference", "metadata"} <= row.keys()


def noun_of(row: dict[str, Any], where: str) -> tuple[Problem, Chain, tuple[str, bool, Verdict] | None]:
    """The problem, the chain and (verifier, oracle, verdict) of a plain row. Raises UserError naming ``where``."""
    try:
        metadata = json.loads(row["metadata"])
        problem = Problem(
            row["problem_id"], row["prompt"], json.loads(row["reference"]), row["task"], metadata
        )
        chain = Chain(
            row["problem_id"],
            row["index"],
            row["text"],
            tuple(row["token_ids"]),
            tuple(row["logprobs"]),
            tuple(row["prompt_token_ids"]),
            row["finish_reason"],
            row["model"],
            sampling_from_json(row["sampling"]),
            row["key"],
            row["parent"],
            Cost(**{n: row[n] for n in COST_FIELDS if n in row}),
        )
        if row.get("verifier") is None:
            return problem, chain, None
        steps = row.get("steps")
        verdict = Verdict(
            row["score"],
            row["answer"],
            row["status"],
            row["rule"],
            row["reason"],
            None if steps is None else tuple(steps),
            row["verdict_tokens"],
            row["verdict_flops"],
        )
        return problem, chain, (row["verifier"], bool(row["oracle"]), verdict)
    except (KeyError, TypeError, ValueError, RecursionError) as e:
        raise UserError(
            f"{where}: not a row that `reasoning pool export` wrote ({type(e).__name__}: {e})."
        ) from None
