"""Durable append-only JSONL: one checksummed record a line, acknowledged only after an fsync.

A line is ``{"crc":"1a2b3c4d","row":{...}}`` with the CRC-32 of the row's bytes, so that it stays readable by
any JSON tool while a torn or damaged line is told apart from a whole one. This module knows nothing of what
the rows mean.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasoning.errors import PoolError

_HEAD = b'{"crc":"'
_MID = b'","row":'
_BODY_AT = len(_HEAD) + 8 + len(_MID)


def frame(body: bytes) -> bytes:
    """The line of a row given as JSON bytes (which must hold no newline)."""
    return b'{"crc":"%08x","row":%b}\n' % (zlib.crc32(body), body)


def frame_row(row: Any) -> bytes:
    return frame(json.dumps(row, ensure_ascii=True, separators=(",", ":")).encode())


def unframe(line: bytes) -> bytes | None:
    """The row's JSON bytes, or None when the line is torn or damaged. ``line`` comes without its newline."""
    body = line[_BODY_AT:-1]
    if (
        line[: len(_HEAD)] != _HEAD
        or line[len(_HEAD) + 8 : _BODY_AT] != _MID
        or line[-1:] != b"}"
        or b"%08x" % zlib.crc32(body) != line[len(_HEAD) : len(_HEAD) + 8]
    ):
        return None
    return body


@dataclass(frozen=True, slots=True)
class Reading:
    """What a file held. whole_bytes: length up to the end of the last whole line; notes: one line for each
    piece that was dropped."""

    rows: list[Any]
    whole_bytes: int
    notes: list[str]


def read_lines(data: bytes, name: str, live: bool = False) -> Reading:
    """Rows of a file's bytes. A torn tail and damaged lines are dropped with a note; ``live`` says that its
    writer is at work, so an unfinished last line is no damage."""
    rows: list[Any] = []
    notes: list[str] = []
    at = whole = number = 0
    while at < len(data):
        end = data.find(b"\n", at)
        line = data[at:] if end < 0 else data[at:end]
        after = len(data) if end < 0 else end + 1
        number += 1
        body = unframe(line)
        if body is not None:
            rows.append(json.loads(body))
            whole = after
        elif after == len(data):
            if not live:
                notes.append(f"{name}: dropped a torn record at the end ({len(line)} bytes).")
        elif line:
            notes.append(f"{name}: skipped the damaged record in line {number}.")
        at = after
    return Reading(rows, whole, notes)


class AppendFile:
    """A file that only grows. `append` returns after the fsync; when it raises, nothing of that call counts.

    Raises PoolError for a full disk or any other failure to write.
    """

    def __init__(self, path: Path, create: bool = True):
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT * create | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._unusable = ""
        self._alone = False
        size = os.fstat(self._fd).st_size
        self._newline_first = size > 0 and os.pread(self._fd, 1, size - 1) != b"\n"

    def lock(self, shared: bool = False) -> bool:
        """Take the file's lock without waiting; it is held until `close`."""
        locked = try_lock(self._fd, shared)
        self._alone = locked and not shared
        return locked

    @property
    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def read(self) -> bytes:
        return os.pread(self._fd, self.size, 0)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)
        self._newline_first = size > 0 and os.pread(self._fd, 1, size - 1) != b"\n"

    def append(self, lines: bytes) -> None:
        if self._unusable:
            raise PoolError(f"{self.path}: not written, because an earlier write failed ({self._unusable}).")
        data = b"\n" + lines if self._newline_first else lines
        start = self.size
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as e:
            self._take_back(start)
            raise cannot_write(self.path, e) from e
        self._newline_first = False
        try:
            os.fsync(self._fd)
        except OSError as e:
            # After a failed fsync the kernel may have dropped the pages: nothing written here can be trusted.
            self._unusable = e.strerror or str(e)
            raise cannot_write(self.path, e) from e

    def _take_back(self, start: int) -> None:
        """Remove a half-written line; beside other writers, make the next append start a line of its own."""
        self._newline_first = True
        if self._alone:
            self.truncate(start)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def try_lock(fd: int, shared: bool = False) -> bool:
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def cannot_write(path: Path, e: OSError) -> PoolError:
    if e.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(e):
        return PoolError(
            f"{path}: the disk is full. Everything acknowledged so far is kept; free some space and run the "
            "same command again."
        )
    return PoolError(
        f"{path}: cannot be written ({e.strerror or e}). Everything acknowledged so far is kept; mend that "
        "and run the same command again."
    )


def fsync_folder(path: Path) -> None:
    """Make a create, rename or unlink inside ``path`` survive a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
