"""What one segment of the pool holds, in memory: the rows of a write-ahead file, as Arrow tables.

A segment is the unit of writing and of sealing. Within it the last row of a key wins. This module knows
nothing of files.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reasoning.pool.columns import (
    SCHEMAS,
    chains_from,
    charges_from,
    latest,
    models_from,
    problems_from,
    verdicts_from,
)
from reasoning.records import Chain
from verifiers.base import Verdict

_SMALL, _LARGE = 256, 16_384
"""Rows of a batch that is joined with others, and of one that is not."""
Group = tuple[str, str]
"""(model, sampling as JSON): what `Pool.samplings` and `Pool.summary` count by."""
Tables = Mapping[str, pa.RecordBatch]
"""One write: rows by table."""


UNPACK: dict[str, Callable[[Any], dict[str, Any]]] = {
    "problems": lambda rows: {p.id: (order, p) for order, p in problems_from(rows)},
    "models": lambda rows: dict(models_from(rows)),
    "verifiers": lambda rows: dict(zip(rows["name"].to_pylist(), rows["oracle"].to_pylist(), strict=True)),
    "charges": lambda rows: {c.id: c for c in charges_from(rows)},
}
"""The tables that fit into memory: their rows (a batch or a table) as id -> (order, problem), id -> information,
verifier -> oracle, id -> charge."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which chains are wanted; None is all. sampling is JSON text."""

    model: str | None = None
    sampling: str | None = None
    problem_ids: Collection[str] | None = None
    continuations: bool = False


@dataclass(slots=True)
class Segment:
    """Rows of a write-ahead file that is not sealed yet. keys: of its chains."""

    name: str
    keys: set[str] = field(default_factory=set)
    new: dict[str, list[pa.RecordBatch]] = field(default_factory=dict)
    joined: dict[str, list[pa.Table]] = field(default_factory=dict)
    counted: Counter[Group] = field(default_factory=Counter)
    unpacked: dict[str, dict[str, Any]] = field(default_factory=dict)
    unread: dict[str, list[pa.RecordBatch]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, tables: Tables, keys: Iterable[str] | None = None, unpack: bool = False) -> None:
        """keys: of the chains, where they are at hand. unpack: small tables at once, so that a row of them that
        cannot be is told now, by whatever `UNPACK` raises, and nothing is added."""
        nouns = {name: UNPACK[name](b) for name, b in tables.items() if name in UNPACK} if unpack else {}
        for name, batch in tables.items():
            self.new.setdefault(name, []).append(batch)
            if name == "chains":
                self.keys.update(batch["key"].to_pylist() if keys is None else keys)
            if name in nouns:
                self.small(name).update(nouns[name])
            elif name == "chains" or name in UNPACK:
                self.unread.setdefault(name, []).append(batch)

    def small(self, name: str) -> dict[str, Any]:
        """The nouns of a small table, by their identity (see `UNPACK`). They are kept, and unpacked when first asked
        for."""
        with self.lock:
            found = self.unpacked.setdefault(name, {})
            for batch in self.unread.pop(name, ()):
                found.update(UNPACK[name](batch))
            return found

    @property
    def empty(self) -> bool:
        return not (self.new or any(self.joined.values()))

    def table(self, name: str) -> pa.Table:
        """All rows in the order in which they were written. Small batches are joined as they are asked for, like
        with like, so that a row is copied a few times at most."""
        with self.lock:
            parts = self.joined.setdefault(name, [])
            if new := self.new.pop(name, None):
                table = pa.Table.from_batches(new)
                parts.append(_joined([table]) if table.num_rows < _SMALL * len(new) else table)
            while len(parts) > 1 and parts[-2].num_rows <= 2 * parts[-1].num_rows < _LARGE:
                last = parts.pop()
                parts[-1] = _joined([parts[-1], last])
            return _unified(parts) if parts else SCHEMAS[name].empty_table()

    def tables(self) -> dict[str, pa.Table]:
        """As they are sealed: the last row of each key."""
        found = {name: latest(name, self.table(name)) for name in SCHEMAS}
        return {name: table for name, table in found.items() if table.num_rows}

    def find_chains(self, wanted: Filter, expression: Any) -> dict[str, Chain]:
        if not self.keys:
            return {}
        table = latest("chains", self.table("chains"))
        if expression is not None:
            table = table.filter(expression)
        return {c.key: c for c in chains_from(table)}

    def find_verdicts(self, verifier: str) -> dict[str, Verdict]:
        table = self.table("verdicts")
        return dict(verdicts_from(table.filter(pc.field("verifier") == verifier)))

    def groups(self) -> Counter[Group]:
        """How many chains of each group, continuations left out; counted when first asked for."""
        with self.lock:
            for batch in self.unread.pop("chains", ()):
                self.counted.update(groups(batch))
            return self.counted


def _joined(parts: list[pa.Table]) -> pa.Table:
    return _unified(parts).combine_chunks()


def _unified(parts: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(parts).unify_dictionaries()


def groups(rows: pa.RecordBatch | pa.Table) -> Counter[Group]:
    """How many of some chains' rows belong to each (model, sampling), continuations left out."""
    found: Counter[Group] = Counter()
    for batch in [rows] if isinstance(rows, pa.RecordBatch) else rows.to_batches():
        models, samplings = batch["model"], batch["sampling"]
        roots = pc.equal(batch["parent"], "")  # type: ignore[reportAttributeAccessIssue]
        if len(models.dictionary) == len(samplings.dictionary) == 1:
            if count := roots.true_count:
                found[models.dictionary[0].as_py(), samplings.dictionary[0].as_py()] += count
            continue
        wide = len(samplings.dictionary)
        pairs = models.indices.to_numpy().astype(np.int64) * wide + samplings.indices.to_numpy()
        numbers, counts = np.unique(pairs[roots.to_numpy(zero_copy_only=False)], return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            names = models.dictionary[number // wide].as_py(), samplings.dictionary[number % wide].as_py()
            found[names] += count
    return found
