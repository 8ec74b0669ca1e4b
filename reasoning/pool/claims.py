"""Who is drawing what: processes that fill one pool at the same time share the work out instead of drawing it twice.

    claims/NAME.claim   of one process, which holds the file's lock: a line of JSON, then the digests it claims

A claim counts while its owner lives (the lock) and moves (the file's time, renewed by a thread); what a dead or
stopped owner claimed is free again. Claims save work and guard nothing: a chain that two draw all the same is one
chain, since the same key gives the same chain. This module knows nothing of chains or engines.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
import time
import zlib
from collections.abc import Sequence
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


@dataclass(frozen=True, slots=True)
class _Other:
    """Another process at work. idle: it has nothing to draw and waits for some."""

    idle: bool
    claimed: Part


class Claims:
    """One participant. Use it as a context manager; leaving frees what it claimed.

    company: whether anybody else was there when we last took. Raises PoolError when the folder cannot be written.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._path = folder / f"{time.time_ns():020d}-{secrets.token_hex(4)}.claim"
        self._fd = -1
        self._stop = threading.Event()
        self._patience = 0.0
        self.company = False

    def __enter__(self) -> Claims:
        try:
            self.folder.mkdir(exist_ok=True)
            with self._locked():
                self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                try_lock(self._fd)
                self._write(key_numbers([]), idle=False)
        except OSError as e:
            raise cannot_write(self.folder, e) from e
        threading.Thread(target=self._beat, daemon=True, name="pool-claims").start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._path.unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = -1

    def take(self, keys: Sequence[str]) -> set[str]:
        """Claim those of ``keys`` that nobody else claims: all of them, or an equal share where others wait for
        work too. Only these are claimed from now on."""
        with self._locked():
            others = self._others()
            numbers = key_numbers(keys)
            taken = np.zeros(len(keys), bool)
            for other in others:
                taken |= other.claimed.contains(numbers)
            free = np.flatnonzero(~taken)
            waiting = sum(other.idle for other in others)
            places = free[: -(-len(free) // (1 + waiting))]
            mine = {keys[int(at)] for at in places}
            self._write(numbers[:, places], idle=not mine)
            self.company = bool(others)
            self._patience = time.monotonic() + (PATIENCE_SECONDS if waiting else 0.0)
        return mine

    def asked(self) -> bool:
        """Whether another process waits for work, and has had the time to take what was free."""
        if time.monotonic() < self._patience:
            return False
        with self._locked():
            return any(other.idle for other in self._others())

    # ---- files

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        return turn(self.folder / ".lock")

    def _write(self, numbers: Numbers, idle: bool) -> None:
        content = in_order(numbers).astype("<u8").tobytes()
        row = {"idle": idle, "keys": numbers.shape[1], "crc": zlib.crc32(content), "process": os.getpid()}
        data = json.dumps(row).encode() + b"\n" + content
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, data, 0)

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
        idle, n, crc = bool(row["idle"]), int(row["keys"]), row["crc"]
    except (ValueError, KeyError, TypeError):
        return []
    if len(content) != 16 * n or zlib.crc32(content) != crc:
        return []
    numbers = np.frombuffer(content, "<u8").reshape(2, n)
    return [_Other(idle, Part(None, frozenset(), numbers[0], numbers[1]))]
