"""Sealed segments: one Parquet file (zstd, page checksums) per table, and back.

This module knows nothing of manifests, locks or write-ahead files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reasoning.pool.segment import Filter

_GROUP_ROWS = 8_192
"""Of a damaged shard the whole groups of rows can be saved."""


def write_shard(table: pa.Table, path: Path) -> None:
    """Write a Parquet file. The caller names it, syncs it and renames it."""
    schema = table.schema
    named = [f.name for f in schema if pa.types.is_dictionary(f.type)]
    # Only names repeat, and only by them and by the parent are rows looked for. Log-probabilities are float32 in
    # float64: split into byte planes, the empty ones vanish.
    pq.write_table(
        table,
        path,
        compression="zstd",
        use_dictionary=named,  # type: ignore[arg-type]
        write_statistics=[*named, *({"parent"} & {*schema.names})],  # type: ignore[arg-type]
        column_encoding={"logprobs.list.element": "BYTE_STREAM_SPLIT"}
        if "logprobs" in schema.names
        else None,
        write_page_checksum=True,
        row_group_size=_GROUP_ROWS,
    )


def read_shard(path: Path, columns: list[str] | None = None, filters: Any = None) -> pa.Table:
    """Read a Parquet file, its page checksums verified. Raises OSError or pyarrow.ArrowException."""
    return pq.read_table(path, columns=columns, filters=filters, page_checksum_verification=True)


def row_groups(path: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """As `read_shard`, some thousand rows at a time."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=columns, use_threads=False)


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
