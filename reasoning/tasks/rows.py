"""Rows out of local files (JSON Lines, JSON, Parquet, CSV), their columns by name, and filters on columns.

Knows no benchmark and no problem. Text of a file is read, never run: columns of CSV stay text.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from reasoning.errors import UserError, unknown

Row = Mapping[str, Any]
Placed = tuple[str, dict[str, Any]]
"""(where, row): where names the row in an error ("data.jsonl, line 3")."""

Broken = Callable[[UserError], None]
"""Told of a row that cannot be read; the next row is read where it returns."""

LIKELY = {
    "question": ("question", "problem", "prompt", "input", "query", "instruction"),
    "answer": ("answer", "reference", "gt", "gold", "target", "expected_answer", "ground_truth", "label"),
}
"""Names that columns often have, to suggest a mapping by; nothing is read by them."""

_BATCH_ROWS = 1024


def stop(error: UserError) -> None:
    raise error


def read_rows(path: str | Path, broken: Broken = stop) -> Iterator[Placed]:
    """The rows of a file, one after the other, by its ending: .jsonl, .ndjson, .json (a list, or one object a line),
    .parquet, .csv, .tsv.

    Raises UserError for a missing file, another ending, and for what cannot be read, naming the place; of single rows
    ``broken`` is told.
    """
    file = Path(path)
    read = READERS.get(file.suffix.lower())
    if read is None:
        known = ", ".join(READERS)
        raise UserError(
            f"{path}: files of problems end with one of {known}, not {file.suffix or 'nothing'!r}."
        )
    if not file.is_file():
        raise UserError(f"No such file: {str(path)!r}.")
    return read(file, broken)


def read_jsonl(path: str | Path, broken: Broken = stop) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) for each non-blank line of a UTF-8 file.

    Raises UserError for a missing file; ``broken`` is told of a line that is not a JSON object, with its number.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"No such file: {str(path)!r}.")
    with file.open("rb") as lines:
        for number, raw in enumerate(lines, 1):
            if not raw.strip():
                continue
            try:
                row = json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:
                broken(UserError(f"{path}, line {number}: not valid JSON ({error})."))
                continue
            if not isinstance(row, dict):
                kind = type(row).__name__
                broken(UserError(f"{path}, line {number}: expected a JSON object, found {kind}."))
                continue
            yield number, row


def _jsonl(file: Path, broken: Broken) -> Iterator[Placed]:
    return ((f"{file}, line {number}", row) for number, row in read_jsonl(file, broken))


def _json(file: Path, broken: Broken) -> Iterator[Placed]:
    with file.open("rb") as opened:
        listed = opened.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
    if not listed:
        yield from _jsonl(file, broken)
        return
    try:
        rows = json.loads(file.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not valid JSON ({error}).") from None
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            broken(UserError(f"{file}, row {number}: expected a JSON object, found {type(row).__name__}."))
            continue
        yield f"{file}, row {number}", row


def _parquet(file: Path, broken: Broken) -> Iterator[Placed]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(file) as opened:
            number = 0
            for batch in opened.iter_batches(batch_size=_BATCH_ROWS):
                for row in batch.to_pylist():
                    yield f"{file}, row {number}", row
                    number += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{file}: not a Parquet file ({' '.join(str(error).split())[:160]}).") from None


def _separated(file: Path, delimiter: str, broken: Broken) -> Iterator[Placed]:
    with file.open(encoding="utf-8-sig", newline="") as opened:
        rows = csv.DictReader(opened, delimiter=delimiter, strict=True)
        try:
            names = [name.strip() for name in rows.fieldnames or []]  # "question, answer" is often typed so
            rows.fieldnames = names
            if len(set(names)) < len(names):
                raise UserError(f"{file}: two columns have one name: {', '.join(names)}.")
            for row in rows:
                where = f"{file}, line {rows.line_num}"
                if None in row or None in row.values():
                    found = sum(v is not None for k, v in row.items() if k is not None) + len(
                        row.get(None) or []
                    )
                    broken(UserError(f"{where}: {found} values where the header names {len(names)} columns."))
                    continue
                yield where, row
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"{file}, line {rows.line_num}: cannot be read ({error}).") from None


READERS: dict[str, Callable[[Path, Broken], Iterator[Placed]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
    ".csv": lambda file, broken: _separated(file, ",", broken),
    ".tsv": lambda file, broken: _separated(file, "\t", broken),
}


def column(row: Row, name: str, where: str, hint: str = "") -> Any:
    """The value of a column; ``a.b.0`` reaches into objects and lists (a key that holds dots wins as it is).

    where, hint: name the row in the error ("data.jsonl, line 3"), and what mends it. Raises UserError that offers the
    nearest column.
    """
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            known = paths(row)
            raise unknown("column", name, known, see=f"{where} has: {', '.join(known) or 'nothing'}{hint}")
    return value


def likely(row: Row) -> str:
    """ "question=problem,answer=gold": which columns of ``row`` hold them, by their names, else COLUMN."""
    known = {path.casefold(): path for path in reversed(paths(row))}
    found = {part: next((known[n] for n in names if n in known), "COLUMN") for part, names in LIKELY.items()}
    return ",".join(f"{part}={name}" for part, name in found.items())


def paths(row: Row, prefix: str = "", depth: int = 3) -> list[str]:
    """The dotted names of a row's columns, objects opened to ``depth``."""
    out: list[str] = []
    for key, value in row.items():
        out.append(f"{prefix}{key}")
        if isinstance(value, Mapping) and depth > 1:
            out += paths(value, f"{prefix}{key}.", depth - 1)
    return out


def text_of(value: Any, name: str, where: str) -> str:
    """A column that must hold text (a number is taken as written). Raises UserError otherwise."""
    if isinstance(value, bool) or value is None or not isinstance(value, str | int | float):
        raise UserError(f"{where}: column {name!r} must hold text, found {type(value).__name__}.")
    text = str(value)
    if not text.strip():
        raise UserError(f"{where}: column {name!r} is empty.")
    return text


def plain(value: Any) -> Any:
    """A cell as a JSON value: dates, decimals and bytes of a Parquet file as text."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else str(value)


def kept(row: Row, where: Mapping[str, str], place: str) -> bool:
    """Whether a row passes the filters ``where`` (column -> wanted text).

    A cell passes that is the wanted text (letter case aside), the same number, a number in a wanted range (3-5), or
    the column's name before the wanted text ("Level 5" for level=5). ``a|b`` allows both; of a list one element is
    enough. Raises UserError for a column that is not there.
    """
    return all(_passes(column(row, name, place), name, wanted) for name, wanted in where.items())


def _passes(cell: Any, name: str, wanted: str) -> bool:
    cells = cell if isinstance(cell, list) else [cell]
    return any(_is(one, name, choice.strip()) for one in cells for choice in wanted.split("|"))


def _is(cell: Any, name: str, wanted: str) -> bool:
    text = str(cell).strip().casefold()
    bare = text.removeprefix(name.rpartition(".")[2].casefold()).strip()
    if wanted.casefold() in (text, bare):
        return True
    number = _number(bare)
    if number is None:
        return False
    low, dash, high = wanted.partition("-")
    bounds = _number(low), _number(high if dash else low)
    return bounds[0] is not None and bounds[1] is not None and bounds[0] <= number <= bounds[1]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
