"""Which keys are sealed: sorted 128-bit digests in memory-mapped files, so that a look-up reads a few pages and a
pool of any size takes no memory to open.

    index/NAME.keys   a line of JSON (which segments, how many keys), then all high halves, then all low halves

A part covers one segment or several; small ones are merged into larger ones, as in a log-structured merge tree.
The index is derived: what is missing or does not fit is read from the shards again. It knows nothing of chains.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reasoning.durable import AppendFile

_FACTOR = 8
_LARGEST = 1 << 22  # a part is merged no further: what merging takes in memory stays below 200 MB
_ALIGN = 64
Numbers = np.ndarray
"""Digests as 64-bit halves, (2, keys): the high ones, then the low ones."""


@dataclass(frozen=True, slots=True)
class Part:
    """Sorted digests of some segments. path: None when it is in memory only."""

    path: Path | None
    segments: frozenset[str]
    high: np.ndarray
    low: np.ndarray

    def __len__(self) -> int:
        return len(self.high)

    def contains(self, wanted: Numbers) -> np.ndarray:
        at = np.searchsorted(self.high, wanted[0])
        found, n = np.zeros(len(at), bool), len(self.high)
        while len(places := np.flatnonzero((at < n) & ~found)):
            same = self.high[at[places]] == wanted[0][places]
            at[places[~same]] = n
            places = places[same]
            found[places] = self.low[at[places]] == wanted[1][places]
            at[places] += 1  # digests with equal high halves stand together
        return found


def in_order(numbers: Numbers) -> Numbers:
    order = np.argsort(numbers[0])
    high = numbers[0][order]
    if (high[1:] == high[:-1]).any():  # a second key takes longer, and digests hardly ever need one
        order = np.lexsort((numbers[1], numbers[0]))
    return np.ascontiguousarray(numbers[:, order])


def write_part(folder: Path, segments: Iterable[str], numbers: Numbers) -> Part:
    """Store sorted digests. Raises OSError."""
    names = sorted(segments)
    head = json.dumps({"segments": names, "keys": numbers.shape[1]}).encode()
    head += b" " * (-(len(head) + 1) % _ALIGN) + b"\n"
    folder.mkdir(exist_ok=True)
    path = folder / f"{names[-1]}-{len(names)}.keys"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as f:
            f.write(head)
            f.write(np.ascontiguousarray(numbers, "<u8").data)
            f.flush()
            os.fsync(f.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    return Part(path, frozenset(names), numbers[0], numbers[1])


def read_part(path: Path) -> Part | None:
    """None when the file is no whole part."""
    try:
        with path.open("rb") as f:
            head = f.readline(1 << 24)
            row = json.loads(head)
            segments, n = frozenset(row["segments"]), int(row["keys"])
            if os.fstat(f.fileno()).st_size != len(head) + 16 * n or n == 0:
                return None
            numbers = np.memmap(f, "<u8", "r", len(head), (2, n))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Part(path, segments, numbers[0], numbers[1])


class KeyIndex:
    """The parts that cover the sealed segments of a pool.

    read: gives the digests of a segment from its shard. writable: parts may be stored.
    """

    def __init__(self, folder: Path, read: Callable[[str], Numbers], writable: bool):
        self.folder = folder
        self._read = read
        self._writable = writable
        self.parts: list[Part] = []

    def cover(self, segments: Iterable[str]) -> None:
        """Make the parts cover exactly ``segments``."""
        wanted, covered = set(segments), set()
        known = {part.path: part for part in self.parts if part.path}
        memory = [part for part in self.parts if part.path is None]
        paths = sorted(self.folder.glob("[!.]*.keys")) if self.folder.is_dir() else []
        found = [part for path in paths if (part := known.get(path) or read_part(path))]
        self.parts = []
        for part in sorted([*found, *memory], key=len, reverse=True):
            if part.segments <= wanted and not part.segments <= covered:
                self.parts.append(part)
                covered |= part.segments
        for name in sorted(wanted - covered):
            numbers = in_order(self._read(name))
            part = Part(None, frozenset([name]), numbers[0], numbers[1])
            if self._writable and len(part):
                with contextlib.suppress(OSError):  # it is derived: kept in memory where the disk is full
                    part = write_part(self.folder, [name], numbers)
            self.parts.append(part)

    def contains(self, wanted: Numbers) -> np.ndarray:
        """For each of ``wanted`` whether it is there."""
        order = np.argsort(wanted[0])  # neighbours share pages
        wanted = wanted[:, order]
        there = np.zeros(wanted.shape[1], bool)
        for part in self.parts:
            if (rest := np.flatnonzero(~there)).size:
                there[rest] = part.contains(wanted[:, rest])
        found = np.empty_like(there)
        found[order] = there
        return found

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def slices(self, more: Numbers) -> Iterator[Numbers]:
        """All digests and ``more``, in sorted slices of about a million, those that are there twice included."""
        total = len(self) + more.shape[1]
        parts = [*((p.high, p.low) for p in self.parts), tuple(in_order(more))]
        pieces = max(1, total >> 20)
        edges = [np.uint64(i * (2**64 // pieces)) for i in range(1, pieces)]
        bounds = [np.concatenate([[0], np.searchsorted(high, edges), [len(high)]]) for high, _ in parts]
        for i in range(pieces):
            cut = [
                np.stack([high[b[i] : b[i + 1]], low[b[i] : b[i + 1]]])
                for (high, low), b in zip(parts, bounds, strict=True)
            ]
            yield in_order(np.concatenate(cut, axis=1))


def merge_parts(folder: Path) -> None:
    """Merge parts of like size, eight at a time. One process at a time does; others go on without."""
    try:
        lock = AppendFile(folder / ".lock")
    except FileNotFoundError:
        return
    try:
        if not lock.lock():
            return
        while group := _mergeable([p for path in folder.glob("[!.]*.keys") if (p := read_part(path))]):
            numbers = np.concatenate([np.stack([p.high, p.low]) for p in group], axis=1)
            write_part(folder, frozenset().union(*(p.segments for p in group)), in_order(numbers))
            for part in group:
                if part.path is not None:
                    part.path.unlink(missing_ok=True)
    finally:
        lock.close()


def _mergeable(parts: Sequence[Part]) -> list[Part]:
    """Eight parts of like size, or none."""
    sizes: dict[int, list[Part]] = {}
    for part in sorted(parts, key=lambda p: min(p.segments)):
        if len(part) <= _LARGEST // _FACTOR:
            sizes.setdefault(len(part).bit_length() // 3, []).append(part)
    return next((group[:_FACTOR] for group in sizes.values() if len(group) >= _FACTOR), [])
