"""Durable append-only files: one checksummed record after another, acknowledged only after an fsync.

Two kinds of record. A line is ``{"crc":"1a2b3c4d","row":{...}}`` with the CRC-32 of the row's bytes, so that it
stays readable by any JSON tool. A block is a header (magic, length, CRC-32 of the content, CRC-32 of the header)
and any bytes: for what is large and comes in batches. Of both, a torn or damaged one is told apart from a whole
one, and what comes after it is still found. This module knows nothing of what the records mean.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reasoning.errors import PoolError

_HEAD = b'{"crc":"'
_MID = b'","row":'
_BODY_AT = len(_HEAD) + 8 + len(_MID)


def frame(body: bytes) -> bytes:
    """The line of a row given as JSON bytes (which must hold no newline)."""
    return b'{"crc":"%08x","row":%b}\n' % (zlib.crc32(body), body)


_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


def frame_row(row: Any) -> bytes:
    return frame(_encode(row).encode())


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


_MAGIC = b"\x89RTPOOL\n"
_HEADER = struct.Struct("<8sQII")  # magic, length of the content, its CRC-32, CRC-32 of what is before


def block(content: bytes | memoryview) -> bytes:
    """The header that goes before ``content``. Contents are multiples of 8 bytes long, so all stay aligned."""
    if len(content) % 8:
        raise ValueError(f"a block's content is a multiple of 8 bytes long, not {len(content)}")
    head = _HEADER.pack(_MAGIC, len(content), zlib.crc32(content), 0)[:-4]
    return head + struct.pack("<I", zlib.crc32(head))


@dataclass(slots=True)
class Blocks:
    """Reads the blocks of a file's bytes. After iterating, whole_bytes: length up to the end of the last whole
    one; notes: one line for each piece that was dropped. ``live`` as in `read_lines`."""

    data: bytes
    name: str
    live: bool = False
    whole_bytes: int = 0
    notes: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[memoryview]:
        view, at, size = memoryview(self.data), 0, len(self.data)
        while at < size:
            length = self._length(at)
            end = at + _HEADER.size + (length or 0)
            if length is not None and end <= size:
                content = view[at + _HEADER.size : end]
                if zlib.crc32(content) == _HEADER.unpack_from(self.data, at)[2]:
                    at = self.whole_bytes = end
                    yield content
                    continue
            found = self._next(at + 1 if length is None or end > size else end)
            if found < size:
                self.notes.append(f"{self.name}: skipped {found - at} damaged bytes at byte {at}.")
            elif not self.live:
                self.notes.append(f"{self.name}: dropped a torn record at the end ({size - at} bytes).")
            at = found

    def _length(self, at: int) -> int | None:
        """Of the content of the block that starts at ``at``; None when no whole header does."""
        if len(self.data) - at < _HEADER.size:
            return None
        magic, length, _, check = _HEADER.unpack_from(self.data, at)
        whole = magic == _MAGIC and check == zlib.crc32(self.data[at : at + _HEADER.size - 4])
        return length if whole else None

    def _next(self, at: int) -> int:
        """Where the next whole header starts, or the end."""
        while (at := self.data.find(_MAGIC, at)) >= 0:
            if self._length(at) is not None:
                return at
            at += 1
        return len(self.data)


class AppendFile:
    """A file that only grows. `append` returns after the fsync, unless its caller does not wait for that; when it
    raises, nothing of that call counts.

    lines: whether records are lines (else blocks, by one writer alone). Raises PoolError for a full disk or any
    other failure to write.
    """

    def __init__(self, path: Path, create: bool = True, lines: bool = True):
        self.path = path
        self._lines = lines
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT * create | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._unusable = ""
        self._alone = False
        self._newline_first = self._torn(os.fstat(self._fd).st_size)

    def _torn(self, size: int) -> bool:
        """Whether the last line has no end."""
        return self._lines and size > 0 and os.pread(self._fd, 1, size - 1) != b"\n"

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

    def gone(self) -> bool:
        """Whether the path has been removed, or names another file by now."""
        try:
            return os.stat(self.path).st_ino != os.fstat(self._fd).st_ino
        except FileNotFoundError:
            return True

    def rename(self, path: Path) -> None:
        self.path.rename(path)
        self.path = path

    @property
    def usable(self) -> bool:
        """Whether everything in it was acknowledged, and more may be."""
        return not self._unusable

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)
        self._newline_first = self._torn(size)

    def append(self, *pieces: bytes | memoryview, wait: bool = True) -> None:
        """Write the pieces one after another, as one record or several. wait: until they are on the disk; else they
        may get there only with the next `append` or `sync` that waits."""
        if self._unusable:
            raise PoolError(f"{self.path}: not written, because an earlier write failed ({self._unusable}).")
        if self._lines:  # in one piece: others may be writing to the same file
            pieces = (b"".join([b"\n", *pieces] if self._newline_first else pieces),)
        start = self.size
        try:
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    view = view[os.write(self._fd, view) :]
        except OSError as e:
            self._take_back(start)
            raise cannot_write(self.path, e) from e
        self._newline_first = False
        if wait:
            self.sync()

    def sync(self) -> None:
        """Wait until what the file holds is on the disk."""
        try:
            os.fsync(self._fd)
        except OSError as e:
            # After a failed fsync the kernel may have dropped the pages: nothing written here can be trusted.
            self._unusable = e.strerror or str(e)
            raise cannot_write(self.path, e) from e

    def _take_back(self, start: int) -> None:
        """Remove a half-written line; beside other writers, make the next append start a line of its own."""
        self._newline_first = self._lines
        if self._alone:
            try:
                self.truncate(start)
            except OSError as e:
                self._unusable = e.strerror or str(e)

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


TURN_SECONDS = 60.0
"""Locks of this kind are held for milliseconds: whoever has one for so long was stopped."""


@contextlib.contextmanager
def turn(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``, for a moment: one process (or thread) at a time. Waits for its turn; raises
    PoolError where another keeps it for a minute, OSError where the file cannot be made."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        until = time.monotonic() + TURN_SECONDS
        while not try_lock(fd):
            if time.monotonic() > until:
                raise PoolError(
                    f"{path}: another process has held this lock for {TURN_SECONDS:g} s. It seems to be stopped "
                    "(Ctrl-Z?): let it go on, or end it, and run the same command again."
                )
            time.sleep(0.005)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def rewriting(path: Path) -> Iterator[Path]:
    """A new file that takes the place of ``path`` at the end of the block. Other processes that rewrite a file of
    this folder wait meanwhile, so that what is read in the block is not out of date when it is written."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    with turn(path.with_name(".rewriting")):
        try:
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


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
