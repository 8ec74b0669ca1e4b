"""SQL over a pool, by DuckDB (extra ``query``): read only, and closed to every file but the pool's own shards.

Views: chains, verdicts, problems, models, verifiers, charges; what is not sealed yet is in them. Columns are those
of `columns.SCHEMAS`; a charge's are those of its row. Of chains and verdicts only the last row of each counts.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from reasoning.errors import MissingExtra, UserError
from reasoning.pool import columns
from reasoning.pool.folder import Sealed
from reasoning.pool.scan import pieces, stale_rows

if TYPE_CHECKING:
    from reasoning.pool.store import Pool

VIEWS = ("chains", "verdicts", "problems", "models", "verifiers", "charges")


def query(pool: Pool, sql: str) -> pa.Table:
    """The rows that ``sql`` gives. Raises UserError for a mistake in it, and for what it may not do (write, or read
    other files)."""
    duckdb = _duckdb()
    connection = connect(pool)
    try:
        statements = connection.extract_statements(sql)
        if len(statements) != 1 or statements[0].type not in (
            duckdb.StatementType.SELECT,
            duckdb.StatementType.EXPLAIN,
        ):
            raise UserError(
                "A query is one statement that reads: select ... (or: explain, with ... select ...)."
            )
        return connection.sql(sql).to_arrow_table()
    except duckdb.Error as e:
        raise UserError(
            f"The query failed: {' '.join(str(e).split())[:600]}  (tables: {', '.join(VIEWS)})"
        ) from None
    finally:
        connection.close()


def connect(pool: Pool) -> Any:
    """A DuckDB connection in memory with the views. Close it when done."""
    duckdb = _duckdb()
    connection = duckdb.connect(":memory:", config={"python_enable_replacements": False})
    segments = pool.segments()
    paths: list[str] = []
    for table in ("chains", "verdicts"):
        paths += _view(connection, pool, segments, table)
    for table in ("problems", "models", "verifiers"):
        parts = list(pool.scan(table))
        connection.register(table, pa.concat_tables(parts) if parts else columns.SCHEMAS[table].empty_table())
    charges = [c.to_json() for c in pool.charges()]
    connection.register(
        "charges", pa.Table.from_pylist(charges) if charges else pa.table({"id": pa.array([], "str")})
    )
    listed = ", ".join(_text(p) for p in paths)
    connection.execute(f"set allowed_paths = [{listed}]")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")
    return connection


def _view(connection: Any, pool: Pool, segments: list[Any], table: str) -> list[str]:
    """Make the view of a table over the shards and what is in memory; the shards' paths."""
    shards = [pool.folder.shard(table, s.name) for s in segments if isinstance(s, Sealed) and table in s.rows]
    paths = [str(p.absolute()) for p in shards if p.exists()]
    names = ", ".join(f'"{name}"' for name in columns.SCHEMAS[table].names)
    parts = []
    if paths:
        listed = ", ".join(_text(p) for p in paths)
        parts.append(
            f"select {names}, parse_filename(filename, true) as segment from "
            f"read_parquet([{listed}], filename = true, union_by_name = true)"
        )
    live = [(s.name, part) for s in segments if not isinstance(s, Sealed) for part in pieces(s, table)]
    empty = columns.SCHEMAS[table].empty_table()
    tagged = [
        part.append_column("segment", pa.array([f"{table}-{name}"] * part.num_rows, pa.string()))
        for name, part in [*live, ("", empty)]
    ]
    connection.register(f"_live_{table}", pa.concat_tables(tagged).unify_dictionaries())
    parts.append(f"select {names}, segment from _live_{table}")
    rows = " union all ".join(parts)
    if table == "verdicts":
        last = "row_number() over (partition by verifier, key order by segment desc) = 1"
        rows = f"select * from ({rows}) qualify {last}"
    elif stale := stale_rows(segments, pool.repeated_keys()):
        keys, owners = zip(*stale, strict=True)
        connection.register(
            "_stale", pa.table({"key": keys, "segment": [f"{table}-{name}" for name in owners]})
        )
        rows = f"select * from ({rows}) anti join _stale using (key, segment)"
    connection.execute(f"create view {table} as select {names} from ({rows})")
    return paths


def _text(path: str | Path) -> str:
    """A path as an SQL literal."""
    return "'" + str(path).replace("'", "''") + "'"


def _duckdb() -> Any:
    try:
        return importlib.import_module("duckdb")
    except ModuleNotFoundError:
        raise MissingExtra("duckdb", "query", "reasoning pool query") from None
