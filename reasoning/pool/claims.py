"""Who is drawing what: processes that fill one pool at the same time share the work out instead of drawing it twice.

    claims/NAME.claim   of one process, which holds the file's lock: a line of JSON, then the digests it claims,
                        then those it waits for

A claim counts while its owner lives (the lock) and moves (the file's time, renewed by a thread); what a dead or
stopped owner claimed is free again. Who waits claims nothing, so no two can wait for each other. Claims save work and
guard nothing: a chain that two draw all the same is one chain, since the same key gives the same chain. This module
knows nothing of chains or engines; a key is 32 hex digits of anything.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reasoning.durable import cannot_write, try_lock, turn
from reasoning.pool.columns import key_numbers
from reasoning.pool.keyindex import Numbers, Part, in_order

POLL_SECONDS = 0.3
PATIENCE_SECONDS = 2.0
BEAT_SECONDS = 2.0
STALE_SECONDS = 30.0
LONG_SECONDS = 10.0
"""Who has waited for so long, and got nothing meanwhile, is given way to for a single key."""


@dataclass(frozen=True, slots=True)
class _Other:
    """Another process at work. wanted: what it waits for, with nothing else to draw; waited: for how many seconds,
    since it last got some of it."""

    claimed: Part
    wanted: Part
    waited: float


class Claims:
    """One participant. Use it as a context manager; leaving frees what it claimed.

    company: whether anybody else has been there since we last took, or may have been before we first did. Raises
    PoolError when the folder cannot be written.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._path = folder / f"{time.time_ns():020d}-{secrets.token_hex(4)}.claim"
        self._fd = -1
        self._stop = threading.Event()
        self._patience = 0.0
        self._claimed = _part(key_numbers([]))
        self._wanted = 0
        self._since = 0.0
        self._changed = -1
        self.company = False

    def __enter__(self) -> Claims:
        try:
            self.folder.mkdir(exist_ok=True)
            with self._locked():
                self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                try_lock(self._fd)
                self._write()
        except OSError as e:
            raise cannot_write(self.folder, e) from e
        threading.Thread(target=self._beat, daemon=True, name="pool-claims").start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._path.unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = -1

    def take(
        self,
        keys: Sequence[str],
        groups: Callable[[], Sequence[int]] | None = None,
        most: int | None = None,
    ) -> set[str]:
        """Claim those of ``keys`` that nobody else claims (at ``most`` so many). Only these are claimed from now on;
        where there are none, we wait for all of them.

        What others wait for is left to them as long as there is anything else; then an equal share of it is ours.
        groups: a number for each key, asked for only where somebody waits: whoever waits for one key of a group is
        left all of it, since it will want the next ones too.
        """
        with self._locked():
            changed = self.folder.stat().st_mtime_ns  # by whoever came or went
            others = self._others()
            self.company = bool(others) or changed != self._changed
            self._changed = changed
            numbers = key_numbers(keys)
            taken = np.zeros(len(keys), bool)
            for other in others:
                taken |= other.claimed.contains(numbers)
            asked = [w for o in others if len(o.wanted) and (w := o.wanted.contains(numbers))[~taken].any()]
            places = np.flatnonzero(~taken)
            if asked:
                wanted = np.logical_or.reduce(asked)
                if groups is not None:
                    of = np.asarray(groups())
                    wanted = np.isin(of, of[wanted])
                apart = places[~wanted[places]]
                places = apart if len(apart) else places[: -(-len(places) // (1 + len(asked)))]
            places = places[:most]
            mine = {keys[int(at)] for at in places}
            self._write(numbers[:, places], numbers if not mine else None)
            self._patience = time.monotonic() + (PATIENCE_SECONDS if asked else 0.0)
        return mine

    def drop(self) -> None:
        """Claim nothing and wait for nothing."""
        with self._locked():
            self._write()

    def asked(self, least: int = 1) -> bool:
        """Whether another waits for at least ``least`` of what we claim, or for any of it and for long, and has had
        the time to take what was free."""
        if time.monotonic() < self._patience:
            return False
        with self._locked():
            others = self._others()
        for other in others:
            wanted = int(self._claimed.contains(np.stack([other.wanted.high, other.wanted.low])).sum())
            if wanted >= (1 if other.waited >= LONG_SECONDS else least):
                return True
        return False

    # ---- files

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        return turn(self.folder / ".lock")

    def _write(self, claimed: Numbers | None = None, wanted: Numbers | None = None) -> None:
        nothing = key_numbers([])
        self._claimed = _part(nothing if claimed is None else claimed)
        waited_for = _part(nothing if wanted is None else wanted)
        now = time.monotonic()
        if len(waited_for) == 0 or len(waited_for) != self._wanted:
            self._since = now
        self._wanted = len(waited_for)
        content = b"".join(
            np.stack([part.high, part.low]).astype("<u8").tobytes() for part in (self._claimed, waited_for)
        )
        row = {
            "keys": len(self._claimed),
            "wanted": self._wanted,
            "waited": round(now - self._since, 1),
            "crc": zlib.crc32(content),
            "process": os.getpid(),
        }
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps(row).encode() + b"\n" + content, 0)

    def _others(self) -> list[_Other]:
        """The living, without ourselves; what the dead left is removed."""
        os.utime(self._fd)
        now = os.fstat(self._fd).st_mtime  # by the clock of the disk, which all share
        found = []
        for path in self.folder.glob("*.claim"):
            if path == self._path:
                continue
            try:
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                if try_lock(fd):
                    path.unlink(missing_ok=True)
                elif now - os.fstat(fd).st_mtime < STALE_SECONDS:
                    found += _read(fd)
            finally:
                os.close(fd)
        return found

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            with contextlib.suppress(
                OSError
            ):  # it was closed meanwhile, or the disk is away: then we seem stopped
                os.utime(self._path)


def _read(fd: int) -> list[_Other]:
    """What the file says; nothing when it is not whole."""
    data = os.pread(fd, os.fstat(fd).st_size, 0)
    head, _, content = data.partition(b"\n")
    try:
        row = json.loads(head)
        sizes, waited, crc = (int(row["keys"]), int(row["wanted"])), float(row["waited"]), row["crc"]
    except (ValueError, KeyError, TypeError):
        return []
    if len(content) != 16 * sum(sizes) or zlib.crc32(content) != crc:
        return []
    numbers = np.frombuffer(content, "<u8")
    claimed, wanted = numbers[: 2 * sizes[0]].reshape(2, -1), numbers[2 * sizes[0] :].reshape(2, -1)
    return [_Other(_sorted(claimed), _sorted(wanted), waited)]


def _part(numbers: Numbers) -> Part:
    return _sorted(in_order(numbers))


def _sorted(numbers: Numbers) -> Part:
    return Part(None, frozenset(), numbers[0], numbers[1])
