"""Write-ahead files: one block (see `durable`) per write, which holds the written rows of each table as an Arrow
stream. A write is in the file whole or not at all. Files of format 1 (JSON lines) are read as well.

This module knows what is in a file, not where it lies or who holds it.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from reasoning.budget import Charge
from reasoning.durable import Blocks, block, frame_row, read_lines
from reasoning.errors import ReasoningError
from reasoning.pool import columns
from reasoning.pool.admission import admit_verdict, check_text, short
from reasoning.pool.rows import chain_from_row, problem_from_row, verdict_from_row
from reasoning.pool.segment import Segment, Tables
from verifiers.errors import VerifierError

SUFFIX = ".wal"
OLD_SUFFIX = ".jsonl"
_NAMED = {name: schema.with_metadata({"table": name}) for name, schema in columns.SCHEMAS.items()}
_ODD = (ReasoningError, VerifierError, pa.ArrowException, ArithmeticError, AttributeError, LookupError,
        TypeError, ValueError, binascii.Error)  # fmt: skip


_KEPT_BYTES = 8 << 20


class Encoder:
    """Puts writes into the form they have in the file. The memory is used again: fresh memory costs more than the
    copying does."""

    def __init__(self) -> None:
        self._buffer = pa.allocate_buffer(0)

    def pieces(self, tables: Tables) -> tuple[bytes, memoryview]:
        """One write: (header, content). The content is good until the next call."""
        named = {name: batch.replace_schema_metadata({"table": name}) for name, batch in tables.items()}
        measure = pa.MockOutputStream()
        _write(named, measure)
        size, buffer = measure.size(), self._buffer
        if buffer.size < size:
            buffer = pa.allocate_buffer(size)
            if size <= _KEPT_BYTES:
                self._buffer = buffer
        _write(named, pa.FixedSizeBufferWriter(buffer))
        content = memoryview(buffer)[:size]
        return block(content), content


def _write(tables: Tables, sink: pa.NativeFile) -> None:
    for name, batch in tables.items():
        with pa.ipc.new_stream(sink, _NAMED[name]) as stream:
            stream.write_batch(batch)


def _tables(content: memoryview) -> dict[str, pa.RecordBatch]:
    """Raises ValueError or pyarrow.ArrowException for what this version does not know."""
    reader = pa.BufferReader(content)
    found: dict[str, pa.RecordBatch] = {}
    while reader.tell() < len(content):
        with pa.ipc.open_stream(reader) as stream:
            name = (stream.schema.metadata or {}).get(b"table", b"").decode()
            if name not in columns.SCHEMAS or not stream.schema.equals(columns.SCHEMAS[name]):
                raise ValueError(f"a table {name!r} of columns that this version does not know")
            for batch in stream:
                found[name] = batch.replace_schema_metadata(None)
    return found


@dataclass(slots=True)
class WalReading:
    """What was read. whole_bytes: up to the end of the last whole record. refused: records that are whole, but
    hold what no shard takes, as they were written."""

    segment: Segment
    whole_bytes: int = 0
    notes: list[str] = field(default_factory=list)
    refused: list[bytes] = field(default_factory=list)


def read_blocks(data: bytes, segment: Segment, live: bool = False) -> WalReading:
    """Add the rows of a file's bytes to ``segment``."""
    blocks, reading = Blocks(data, segment.name + SUFFIX, live), WalReading(segment)
    for content in blocks:
        try:
            segment.add(_tables(content), unpack=True)
        except _ODD as e:
            reading.refused.append(block(content) + bytes(content))
            reading.notes.append(
                f"{segment.name}{SUFFIX}: left out a record that cannot be read ({_line(e)})."
            )
    reading.whole_bytes = blocks.whole_bytes
    reading.notes += blocks.notes
    return reading


def read_old(data: bytes, segment: Segment, live: bool = False) -> WalReading:
    """As `read_blocks`, of a file of format 1."""
    lines = read_lines(data, segment.name + OLD_SUFFIX, live)
    reading = WalReading(segment, lines.whole_bytes, list(lines.notes))
    rows: dict[str, list[Any]] = {}
    for row in lines.rows:
        try:
            ((kind, content),) = row.items()
            one = _NOUNS[kind](content)
            _BATCHES[kind]([one])  # what a shard would refuse is refused here
        except _ODD as e:
            reading.refused.append(frame_row(row))
            what = short(json.dumps(row))
            reading.notes.append(
                f"{segment.name}{OLD_SUFFIX}: left out {what}, which no shard takes ({_line(e)})."
            )
            continue
        rows.setdefault(kind, []).append(one)
    segment.add({_TABLES[kind]: _BATCHES[kind](found) for kind, found in rows.items()})
    return reading


def _verdict(row: Mapping[str, Any]) -> tuple[str, str, Any]:
    check_text(row["verifier"], "A verifier's name")
    check_text(row["key"], "A chain's key")
    return row["verifier"], row["key"], admit_verdict(row["verifier"], verdict_from_row(row))


_NOUNS: dict[str, Callable[[Any], Any]] = {
    "problem": lambda row: (row["order"], problem_from_row(row)),
    "model": lambda row: (row["id"], row["info"]),
    "chain": chain_from_row,
    "verdict": _verdict,
    "verifier": lambda row: (row["name"], row["oracle"]),
    "charge": Charge.from_json,
}
_BATCHES: dict[str, Callable[[list[Any]], pa.RecordBatch]] = {
    "problem": columns.problem_batch,
    "model": lambda rows: columns.model_batch(dict(rows)),
    "chain": columns.chain_batch,
    "verdict": columns.verdict_batch,
    "verifier": lambda rows: columns.verifier_batch(dict(rows)),
    "charge": columns.charge_batch,
}
_TABLES = {kind: kind + "s" for kind in _NOUNS}

READERS: dict[str, Callable[..., WalReading]] = {SUFFIX: read_blocks, OLD_SUFFIX: read_old}


def _line(e: BaseException) -> str:
    return str(e).split("\n")[0]
