"""Sealed segments: one Parquet file (zstd, page checksums) per table, and back.

This module knows the columns and nothing of manifests, locks or write-ahead files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reasoning.budget import Charge
from reasoning.pool.rows import (
    COST_FIELDS,
    clean_text,
    cost_values,
    json_value,
    sampling_from_json,
    sampling_json,
)
from reasoning.pool.segment import Filter, Segment
from reasoning.records import Chain, Cost, Problem
from verifiers.base import Verdict

_NAME = pa.dictionary(pa.int32(), pa.string())
_IDS = pa.list_(pa.int32())
_FLOATS = pa.list_(pa.float64())
_COSTS = [(n, pa.float64() if n in ("flops", "seconds") else pa.int64()) for n in COST_FIELDS]

SCHEMAS = {
    "problems": pa.schema(
        [
            ("id", pa.string()),
            ("order", pa.int64()),
            ("prompt", pa.string()),
            ("reference", pa.string()),  # JSON
            ("task", pa.string()),
            ("metadata", pa.string()),  # JSON
        ]
    ),
    "models": pa.schema([("id", pa.string()), ("info", pa.string())]),
    "chains": pa.schema(
        [
            ("key", pa.string()),
            ("problem_id", _NAME),
            ("index", pa.int64()),
            ("model", _NAME),
            ("sampling", _NAME),  # JSON
            ("parent", pa.string()),
            ("finish_reason", _NAME),
            ("text", pa.string()),
            ("token_ids", _IDS),
            ("logprobs", _FLOATS),
            ("prompt_token_ids", _IDS),
            *_COSTS,
        ]
    ),
    "verdicts": pa.schema(
        [
            ("verifier", _NAME),
            ("key", pa.string()),
            ("score", pa.float64()),
            ("answer", pa.string()),
            ("status", _NAME),
            ("rule", _NAME),
            ("reason", pa.string()),
            ("steps", _FLOATS),
            ("scored_tokens", pa.int64()),
            ("flops", pa.float64()),
        ]
    ),
    "verifiers": pa.schema([("name", pa.string()), ("oracle", pa.bool_())]),
    "charges": pa.schema([("id", pa.string()), ("row", pa.string())]),
}


def tables(segment: Segment) -> dict[str, pa.Table]:
    """The segment's tables by name; empty ones are left out."""
    columns: dict[str, list[Any]] = {}
    if segment.problems:
        rows = [(order, p) for order, p in segment.problems.values()]
        columns["problems"] = [
            [p.id for _, p in rows],
            [order for order, _ in rows],
            [clean_text(p.prompt) for _, p in rows],
            [json_value(p.reference, f"problem {p.id}") for _, p in rows],
            [p.task for _, p in rows],
            [json_value(dict(p.metadata), f"problem {p.id}") for _, p in rows],
        ]
    if segment.models:
        columns["models"] = [list(segment.models), [json_value(i, "model") for i in segment.models.values()]]
    if segment.chains:
        columns["chains"] = _chain_columns(list(segment.chains.values()))
    if any(segment.verdicts.values()):
        columns["verdicts"] = _verdict_columns(segment.verdicts)
    if segment.oracles:
        columns["verifiers"] = [list(segment.oracles), list(segment.oracles.values())]
    if segment.charges:
        columns["charges"] = [
            list(segment.charges),
            [json_value(c.to_json(), "charge") for c in segment.charges.values()],
        ]
    return {
        name: pa.Table.from_arrays(
            [
                c if isinstance(c, pa.Array) else pa.array(c, f.type)
                for c, f in zip(cs, SCHEMAS[name], strict=True)
            ],
            schema=SCHEMAS[name],
        )
        for name, cs in columns.items()
    }


def _lists(rows: list[tuple[Any, ...]], type_: pa.ListType) -> pa.Array:
    """A list column from tuples of numbers; much faster than letting Arrow look at each value."""
    offsets = np.zeros(len(rows) + 1, np.int32)
    np.cumsum(list(map(len, rows)), out=offsets[1:])
    dtype = np.int32 if pa.types.is_int32(type_.value_type) else np.float64
    flat = np.fromiter(chain.from_iterable(rows), dtype, count=int(offsets[-1]))
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat), type=type_)


def _chain_columns(chains: list[Chain]) -> list[Any]:
    costs = list(zip(*(cost_values(c.cost) for c in chains), strict=True))
    return [
        [c.key for c in chains],
        [c.problem_id for c in chains],
        [c.index for c in chains],
        [c.model for c in chains],
        [sampling_json(c.sampling) for c in chains],
        [c.parent for c in chains],
        [c.finish_reason for c in chains],
        [clean_text(c.text) for c in chains],
        _lists([c.token_ids for c in chains], _IDS),
        _lists([c.logprobs for c in chains], _FLOATS),
        _lists([c.prompt_token_ids for c in chains], _IDS),
        *costs,
    ]


def _verdict_columns(verdicts: Mapping[str, Mapping[str, Verdict]]) -> list[Any]:
    rows = [(name, key, v) for name, table in verdicts.items() for key, v in table.items()]
    return [
        [name for name, _, _ in rows],
        [key for _, key, _ in rows],
        [v.score for _, _, v in rows],
        [None if v.answer is None else clean_text(v.answer) for _, _, v in rows],
        [v.status for _, _, v in rows],
        [v.rule for _, _, v in rows],
        [clean_text(v.reason) for _, _, v in rows],
        [v.steps for _, _, v in rows],
        [v.scored_tokens for _, _, v in rows],
        [v.flops for _, _, v in rows],
    ]


def write_shard(table: pa.Table, path: Path) -> None:
    """Write a Parquet file. The caller names it, syncs it and renames it."""
    schema = table.schema
    # Only names repeat. Log-probabilities are float32 in float64: split into byte planes, the empty ones
    # vanish.
    pq.write_table(
        table,
        path,
        compression="zstd",
        use_dictionary=[f.name for f in schema if pa.types.is_dictionary(f.type)],  # type: ignore[arg-type]
        column_encoding={"logprobs.list.element": "BYTE_STREAM_SPLIT"}
        if "logprobs" in schema.names
        else None,
        write_page_checksum=True,
        row_group_size=16_384,
    )


def read_shard(path: Path, columns: list[str] | None = None, filters: Any = None) -> pa.Table:
    """Read a Parquet file, its page checksums verified. Raises OSError or pyarrow.ArrowException."""
    return pq.read_table(path, columns=columns, filters=filters, page_checksum_verification=True)


def chain_filter(wanted: Filter) -> Any:
    """The filter as an Arrow expression, or None for everything."""
    terms = []
    if not wanted.continuations:
        terms.append(pc.field("parent") == "")
    if wanted.model is not None:
        terms.append(pc.field("model") == wanted.model)
    if wanted.sampling is not None:
        terms.append(pc.field("sampling") == wanted.sampling)
    if wanted.problem_ids is not None:
        terms.append(pc.field("problem_id").isin(pa.array(list(wanted.problem_ids), pa.string())))
    expression = None
    for term in terms:
        expression = term if expression is None else expression & term
    return expression


def _tuples(column: pa.ChunkedArray) -> Iterator[tuple[Any, ...] | None]:
    for chunk in column.chunks:
        offsets, values = chunk.offsets.to_pylist(), chunk.values.to_numpy().tolist()
        if chunk.null_count:
            valid = chunk.is_valid().to_pylist()
            yield from (
                tuple(values[a:b]) if ok else None
                for (a, b), ok in zip(pairwise(offsets), valid, strict=True)
            )
        else:
            yield from (tuple(values[a:b]) for a, b in pairwise(offsets))


def chains_from(table: pa.Table) -> Iterator[Chain]:
    plain = {name: table[name].to_pylist() for name in SCHEMAS["chains"].names[:8]}
    costs = zip(*(table[name].to_pylist() for name in COST_FIELDS), strict=True)
    prompts: dict[tuple[Any, ...], tuple[Any, ...]] = {}  # siblings share one tuple
    for key, problem, index, model, sampling, parent, finish, text, ids, logprobs, prompt, cost in zip(
        *plain.values(),
        _tuples(table["token_ids"]),
        _tuples(table["logprobs"]),
        _tuples(table["prompt_token_ids"]),
        costs,
        strict=True,
    ):
        yield Chain(
            problem_id=problem,
            index=index,
            text=text,
            token_ids=ids or (),
            logprobs=logprobs or (),
            prompt_token_ids=prompts.setdefault(prompt or (), prompt or ()),
            finish_reason=finish,
            model=model,
            sampling=sampling_from_json(sampling),
            key=key,
            parent=parent,
            cost=Cost(*cost),
        )


def verdicts_from(table: pa.Table) -> Iterator[tuple[str, Verdict]]:
    names = ("key", "score", "answer", "status", "rule", "reason", "scored_tokens", "flops")
    plain = (table[name].to_pylist() for name in names)
    for *row, steps in zip(*plain, _tuples(table["steps"]), strict=True):
        key, score, answer, status, rule, reason, scored_tokens, flops = row
        yield key, Verdict(score, answer, status, rule, reason, steps, scored_tokens, flops)


def problems_from(table: pa.Table) -> Iterator[tuple[int, Problem]]:
    for row in table.to_pylist():
        reference, metadata = json.loads(row["reference"]), json.loads(row["metadata"])
        yield row["order"], Problem(row["id"], row["prompt"], reference, row["task"], metadata)


def models_from(table: pa.Table) -> Iterator[tuple[str, dict[str, Any]]]:
    for row in table.to_pylist():
        yield row["id"], json.loads(row["info"])


def charges_from(table: pa.Table) -> Iterable[Charge]:
    return [Charge.from_json(json.loads(row)) for row in table["row"].to_pylist()]


def key_numbers(keys: Iterable[str]) -> np.ndarray:
    """Keys (32 hex digits each) as pairs of 64-bit numbers, (keys, 2)."""
    return np.frombuffer(bytes.fromhex("".join(keys)), ">u8").reshape(-1, 2).astype(np.uint64)
