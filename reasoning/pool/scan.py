"""Read whole tables of a pool in bounded memory: some thousand rows at a time, each row's last version only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reasoning.pool import columns
from reasoning.pool.folder import Sealed
from reasoning.pool.segment import Segment

_ROWS = 16_384


def distinct(numbers: np.ndarray) -> np.ndarray:
    """Sorted digests, (2, keys), each once."""
    first = np.ones(numbers.shape[1], bool)
    first[1:] = (numbers[:, 1:] != numbers[:, :-1]).any(axis=0)
    return numbers[:, first]


def repeated(slices: Iterable[np.ndarray]) -> set[str]:
    """The keys that are there more than once: chains that were drawn by two writers at the same time."""
    found: set[str] = set()
    for numbers in slices:
        again = numbers[:, 1:][:, (numbers[:, 1:] == numbers[:, :-1]).all(axis=0)]
        found.update(f"{high:016x}{low:016x}" for high, low in again.T.tolist())
    return found


def pieces(segment: Sealed | Segment, table: str, names: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The rows of one segment. Raises PoolError for a damaged shard."""
    if isinstance(segment, Sealed):
        yield from segment.pieces(table, None if names is None else list(names))
        return
    content = columns.latest(table, segment.table(table))
    for at in range(0, content.num_rows, _ROWS):
        part = content.slice(at, _ROWS)
        yield part if names is None else part.select(list(names))


def stale_rows(segments: Sequence[Sealed | Segment], repeats: set[str]) -> list[tuple[str, str]]:
    """(key, segment) of the chains that a later segment overrules. repeats: see `repeated`."""
    where: dict[str, list[str]] = {}
    if repeats:
        for segment in segments:
            for part in pieces(segment, "chains", ["key"]):
                for key in repeats.intersection(part["key"].to_pylist()):
                    where.setdefault(key, []).append(segment.name)
    return [(key, name) for key, names in where.items() for name in names[:-1]]


def chain_rows(
    segments: Sequence[Sealed | Segment], names: Sequence[str] | None, repeats: set[str]
) -> Iterator[pa.Table]:
    """The chains, some thousand at a time."""
    stale: dict[str, set[str]] = {}
    for key, name in stale_rows(segments, repeats):
        stale.setdefault(name, set()).add(key)
    for segment in segments:
        without = stale.get(segment.name, set())
        wanted = None if names is None else list(dict.fromkeys(["key", *names]))
        for part in pieces(segment, "chains", wanted):
            kept = part
            if without:
                kept = part.filter(pa.array([k not in without for k in part["key"].to_pylist()], pa.bool_()))
            if kept.num_rows:
                yield kept if names is None else kept.select(list(names))


def rows(segments: Sequence[Sealed | Segment], table: str, names: Sequence[str] | None) -> Iterator[pa.Table]:
    """Rows of any other table: their identities are held in memory, newest segment first."""
    identity = list(columns.IDENTITY[table])
    wanted = None if names is None else list(dict.fromkeys([*identity, *names]))
    seen: set[object] = set()
    for segment in reversed(segments):
        for part in pieces(segment, table, wanted):
            ids = list(zip(*(part[c].to_pylist() for c in identity), strict=True))
            kept = part.filter(pa.array([id not in seen for id in ids], pa.bool_()))
            seen.update(ids)
            if kept.num_rows:
                yield kept if names is None else kept.select(list(names))


def count_verdicts(segments: Sequence[Sealed | Segment], verifier: str) -> int:
    """How many chains have a verdict of ``verifier``."""
    found: set[str] = set()
    for segment in segments:
        for part in pieces(segment, "verdicts", ["verifier", "key"]):
            found.update(part.filter(pc.field("verifier") == verifier)["key"].to_pylist())
    return len(found)
