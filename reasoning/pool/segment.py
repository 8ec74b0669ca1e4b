"""What one segment of the pool holds, in memory: the rows of a write-ahead file, as Arrow tables.

A segment is the unit of writing and of sealing. Within it the last row of a key wins. This module knows
nothing of files.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reasoning.budget import Charge
from reasoning.pool.columns import (
    SCHEMAS,
    chains_from,
    charges_from,
    latest,
    models_from,
    problems_from,
    verdicts_from,
)
from reasoning.records import Chain, Problem
from verifiers.base import Verdict

_SMALL, _LARGE = 256, 16_384
"""Rows of a batch that is joined with others, and of one that is not."""
Group = tuple[str, str]
"""(model, sampling as JSON): what `Pool.samplings` and `Pool.summary` count by."""
Tables = Mapping[str, pa.RecordBatch]
"""One write: rows by table."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which chains are wanted; None is all. sampling is JSON text."""

    model: str | None = None
    sampling: str | None = None
    problem_ids: Collection[str] | None = None
    continuations: bool = False


@dataclass(slots=True)
class Segment:
    """Rows of a write-ahead file that is not sealed yet.

    keys: of its chains. problems: id -> (order, problem). oracles: verifier -> oracle. Of the small tables the
    rows are kept unpacked as well.
    """

    name: str
    keys: set[str] = field(default_factory=set)
    problems: dict[str, tuple[int, Problem]] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    oracles: dict[str, bool] = field(default_factory=dict)
    charges: dict[str, Charge] = field(default_factory=dict)
    counts: Counter[Group] = field(default_factory=Counter)
    new: dict[str, list[pa.RecordBatch]] = field(default_factory=dict)
    joined: dict[str, list[pa.Table]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, tables: Tables) -> None:
        for name, batch in tables.items():
            self.new.setdefault(name, []).append(batch)
            if name == "chains":
                self.keys.update(batch["key"].to_pylist())
                self.counts.update(groups(batch))
            elif name == "problems":
                self.problems.update({p.id: (order, p) for order, p in problems_from(batch)})
            elif name == "models":
                self.models.update(models_from(batch))
            elif name == "verifiers":
                names, flags = batch["name"].to_pylist(), batch["oracle"].to_pylist()
                self.oracles.update(zip(names, flags, strict=True))
            elif name == "charges":
                self.charges.update((c.id, c) for c in charges_from(batch))

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
        """How many chains of each group, continuations left out."""
        return self.counts


def _joined(parts: list[pa.Table]) -> pa.Table:
    return _unified(parts).combine_chunks()


def _unified(parts: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(parts).unify_dictionaries()


def groups(rows: pa.RecordBatch | pa.Table) -> Counter[Group]:
    """How many of some chains' rows belong to each (model, sampling), continuations left out."""
    found: Counter[Group] = Counter()
    for batch in [rows] if isinstance(rows, pa.RecordBatch) else rows.to_batches():
        models, samplings = batch["model"], batch["sampling"]
        roots = np.array([not parent for parent in batch["parent"].to_pylist()], bool)
        if len(models.dictionary) == len(samplings.dictionary) == 1:
            if count := int(roots.sum()):
                found[models.dictionary[0].as_py(), samplings.dictionary[0].as_py()] += count
            continue
        wide = len(samplings.dictionary)
        pairs = models.indices.to_numpy().astype(np.int64) * wide + samplings.indices.to_numpy()
        numbers, counts = np.unique(pairs[roots], return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            names = models.dictionary[number // wide].as_py(), samplings.dictionary[number % wide].as_py()
            found[names] += count
    return found
