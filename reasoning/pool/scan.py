"""Read whole tables of a pool in bounded memory: some thousand rows at a time, each row's last version only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

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
    """Rows of any other table. 8 bytes a row are held in memory, and the identities of rows that are there twice."""
    identity = list(columns.IDENTITY[table])
    wanted = None if names is None else list(dict.fromkeys([*identity, *names]))
    last = _last_of_repeated(segments, table, identity)
    for segment in segments:
        for part in pieces(segment, table, wanted):
            kept = part
            if last:
                current = [last.get(id, segment.name) == segment.name for id in _identities(part, identity)]
                kept = part.filter(pa.array(current, pa.bool_()))
            if kept.num_rows:
                yield kept if names is None else kept.select(list(names))


def _identities(part: pa.Table, identity: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return zip(*(part[c].to_pylist() for c in identity), strict=True)


def _last_of_repeated(
    segments: Sequence[Sealed | Segment], table: str, identity: Sequence[str]
) -> dict[tuple[str, ...], str]:
    """The last segment of each row that several have. Rows are told apart by 64-bit hashes at first, so that few
    are looked at a second time; no two rows are taken for one because their hashes are equal."""
    hashes = [
        np.fromiter(map(hash, _identities(part, identity)), np.int64, part.num_rows)
        for segment in segments
        for part in pieces(segment, table, identity)
    ]
    found = np.sort(np.concatenate(hashes)) if hashes else np.zeros(0, np.int64)
    again = set(found[1:][found[1:] == found[:-1]].tolist())
    last: dict[tuple[str, ...], str] = {}
    if again:
        for segment in segments:
            for part in pieces(segment, table, identity):
                last.update((id, segment.name) for id in _identities(part, identity) if hash(id) in again)
    return last


def count_verdicts(segments: Sequence[Sealed | Segment]) -> Counter[str]:
    """How many chains have a verdict of each verifier."""
    found: Counter[str] = Counter()
    for part in rows(segments, "verdicts", ["verifier"]):
        found.update(part["verifier"].to_pylist())
    return found
