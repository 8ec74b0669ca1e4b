"""The pool's folder: where files lie, which segments there are, and how one is sealed.

    pool.json        format and version
    lock             held while the manifest changes
    manifest.jsonl   one line per sealed segment: the commit point of sealing
    wal/NAME.jsonl   write-ahead file of a writer that is at work (it holds the file's lock) or that died
    shards/TABLE-NAME.parquet

A segment's name starts with its time of birth, so names sort by age and sealing never changes the order in
which rows overrule one another. This module knows nothing of chains beyond `Segment`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from reasoning.durable import AppendFile, cannot_write, frame_row, fsync_folder, read_lines
from reasoning.errors import PoolError, UserError
from reasoning.pool import shards
from reasoning.pool.segment import Filter, Group, Segment
from reasoning.records import Chain
from verifiers.base import Verdict

FORMAT = 1


@dataclass(slots=True)
class Sealed:
    """A sealed segment: its shards are read when asked for, never kept. rows: table -> number of rows."""

    name: str
    folder: Folder
    rows: dict[str, int]
    counts: Counter[Group] = field(default_factory=Counter)

    def read(self, table: str, columns: list[str] | None = None, filters: Any = None) -> pa.Table | None:
        """The table's shard, or None when the segment has none (or the user removed a damaged one)."""
        if table not in self.rows:
            return None
        path = self.folder.shard(table, self.name)
        try:
            return shards.read_shard(path, columns, filters)
        except FileNotFoundError:
            return None  # `Folder.load` has noted it
        except (OSError, pa.ArrowException) as e:
            raise PoolError(
                f"{path}: damaged ({str(e).splitlines()[0]}). Its {self.rows[table]} rows are lost, all others "
                "are whole: delete this file and run the same command again to make them anew."
            ) from e

    def find_chains(self, wanted: Filter) -> dict[str, Chain]:
        if not wanted.continuations and not any(wanted.model in (None, model) for model, _ in self.counts):
            return {}
        table = self.read("chains", filters=shards.chain_filter(wanted))
        return {} if table is None else {c.key: c for c in shards.chains_from(table)}

    def find_verdicts(self, verifier: str) -> dict[str, Verdict]:
        table = self.read("verdicts", filters=shards.pc.field("verifier") == verifier)
        return {} if table is None else dict(shards.verdicts_from(table))

    def groups(self) -> Counter[Group]:
        return self.counts


class Folder:
    """Layout and sealing of one pool folder. notes: what was found torn, damaged or missing."""

    def __init__(self, path: Path):
        self.path = path
        self.notes: list[str] = []

    @property
    def wal(self) -> Path:
        return self.path / "wal"

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.jsonl"

    def shard(self, table: str, name: str) -> Path:
        return self.path / "shards" / f"{table}-{name}.parquet"

    def exists(self) -> bool:
        return (self.path / "pool.json").is_file()

    def create(self) -> None:
        try:
            for folder in (self.wal, self.path / "shards"):
                folder.mkdir(parents=True, exist_ok=True)
            temporary = self.path / f".pool.json.{secrets.token_hex(4)}"
            temporary.write_text(json.dumps({"format": FORMAT, "what": "a pool of chains of thought"}) + "\n")
            temporary.rename(self.path / "pool.json")
            fsync_folder(self.path)
        except OSError as e:
            raise cannot_write(self.path, e) from e

    def check_format(self) -> None:
        try:
            found = json.loads((self.path / "pool.json").read_text())["format"]
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise PoolError(f"{self.path / 'pool.json'}: cannot be read ({type(e).__name__}: {e}).") from e
        if found != FORMAT:
            raise PoolError(
                f"{self.path}: written in pool format {found}; this version reads {FORMAT}. Use the version "
                "that wrote it, or a newer one."
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock: only one process at a time seals. Waits for its turn."""
        try:
            fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as e:
            raise cannot_write(self.path, e) from e
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def new_wal(self) -> tuple[str, AppendFile]:
        """A write-ahead file of our own, locked, younger than every segment there is."""
        with self.locked():
            names = [*self.sealed(), *(p.stem for p in self.wal.glob("*.jsonl"))]
            youngest = max((int(n.split("-")[0]) for n in names), default=0)
            name = f"{max(time.time_ns(), youngest + 1):020d}-{secrets.token_hex(4)}"
            try:
                file = AppendFile(self.wal / f"{name}.jsonl")
                fsync_folder(self.wal)
            except OSError as e:
                raise cannot_write(self.wal, e) from e
            if not file.lock():
                raise PoolError(f"{file.path}: this file system does not support locks, which a pool needs.")
        return name, file

    def sealed(self) -> dict[str, Sealed]:
        """The sealed segments by name, as the manifest has them."""
        try:
            data = self.manifest.read_bytes()
        except FileNotFoundError:
            return {}
        reading = read_lines(data, str(self.manifest), live=True)
        self.notes += [n for n in reading.notes if n not in self.notes]
        return {
            row["segment"]: Sealed(
                row["segment"],
                self,
                row["rows"],
                Counter({(model, sampling): n for model, sampling, n in row["groups"]}),
            )
            for row in reading.rows
        }

    def load(self, repair: bool) -> list[Sealed | Segment]:
        """All segments, oldest first. ``repair`` seals what dead writers left behind.

        The shards are listed before the write-ahead files, and these before the manifest is read: one that is
        sealed and removed in between is in the manifest by then. So a shard that neither knows has lost its
        line (the manifest was deleted or emptied): it is taken in again, with a note.
        """
        with self.locked() if repair else contextlib.nullcontext():
            shard_names = self._shard_names()
            unsealed: list[Segment] = []
            for path in sorted(self.wal.glob("*.jsonl")):
                try:
                    file = AppendFile(path, create=False) if repair else None
                    dead = file is not None and file.lock()
                    reading = read_lines(path.read_bytes(), path.name, live=not dead)
                except FileNotFoundError:
                    continue
                except OSError as e:
                    raise cannot_write(path, e) from e
                self.notes += reading.notes
                segment = Segment.from_rows(path.stem, reading.rows)
                if dead and file is not None:
                    self._seal(segment, file)
                else:
                    unsealed.append(segment)
                if file is not None:
                    file.close()
            sealed = self.sealed()
            known = {*sealed, *(s.name for s in unsealed)}
            for name in sorted(shard_names - known):
                if (orphan := self._adopt(name)) is not None:
                    sealed[name] = orphan
                    if repair:
                        self._add_line(orphan)
        self._note_missing(sealed)
        live = [s for s in unsealed if s.name not in sealed]
        return sorted([*sealed.values(), *live], key=lambda s: s.name)

    def _shard_names(self) -> set[str]:
        """The segments that have shards."""
        return {p.stem.partition("-")[2] for p in (self.path / "shards").glob("[!.]*-*-*.parquet")}

    def _adopt(self, name: str) -> Sealed | None:
        """The segment whose shards lie there without a line in the manifest; None when none is whole."""
        found = Sealed(name, self, {})
        for table, schema in shards.SCHEMAS.items():
            path = self.shard(table, name)
            try:
                content = shards.read_shard(path)
                if content.schema.names != schema.names:
                    raise pa.ArrowInvalid(f"its columns are not those of {table}")
            except FileNotFoundError:
                continue
            except (OSError, pa.ArrowException) as e:
                self._note(f"{path}: damaged, and not in {self.manifest.name}: left out ({_first_line(e)}).")
                continue
            found.rows[table] = content.num_rows
            if table == "chains":
                columns = (content[c].to_pylist() for c in ("model", "sampling", "parent"))
                rows = zip(*columns, strict=True)
                found.counts = Counter((model, sampling) for model, sampling, parent in rows if not parent)
        if not found.rows:
            return None
        rows = ", ".join(f"{n} {table}" for table, n in found.rows.items())
        self._note(f"{self.manifest} had lost the shards of {name}: taken in again ({rows}).")
        return found

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def _note_missing(self, sealed: dict[str, Sealed]) -> None:
        for segment in sealed.values():
            for table, rows in segment.rows.items():
                path = self.shard(table, segment.name)
                if not path.exists():
                    self.notes.append(f"{path} is missing: its {rows} rows are gone and will be made anew.")

    def seal(self, segment: Segment, file: AppendFile) -> Sealed | None:
        """Turn a write-ahead file, whose lock we hold, into shards; None when it held no rows.

        Shards are written to temporary names, synced and renamed; the manifest's line makes them count; only
        then does the write-ahead file go. A kill at any point leaves either the file or the shards in force.
        Raises PoolError when the disk is full: the write-ahead file then stays as it is.
        """
        with self.locked():
            return self._seal(segment, file)

    def _seal(self, segment: Segment, file: AppendFile) -> Sealed | None:
        sealed = self.sealed().get(segment.name)  # there already when a kill came before the unlink below
        if sealed is None and not segment.empty:
            sealed = Sealed(segment.name, self, {}, segment.groups())
            written: list[Path] = []
            try:
                for name, table in shards.tables(segment).items():
                    path = self.shard(name, segment.name)
                    temporary = path.with_name(f".{path.name}.tmp")
                    written.append(temporary)
                    shards.write_shard(table, temporary)
                    _fsync_file(temporary)
                    temporary.rename(path)
                    written[-1] = path
                    sealed.rows[name] = table.num_rows
                fsync_folder(self.path / "shards")
                self._add_line(sealed)
            except (OSError, PoolError) as e:
                for path in written:
                    path.unlink(missing_ok=True)
                raise cannot_write(self.path / "shards", e) if isinstance(e, OSError) else e from e
        file.path.unlink(missing_ok=True)
        fsync_folder(self.wal)
        return sealed

    def _add_line(self, sealed: Sealed) -> None:
        groups = [[model, sampling, n] for (model, sampling), n in sealed.counts.items()]
        manifest = AppendFile(self.manifest)
        try:
            manifest.lock()  # nobody else writes while the folder is locked; a torn line is ours to remove
            manifest.truncate(read_lines(manifest.read(), "", live=True).whole_bytes)
            manifest.append(frame_row({"segment": sealed.name, "rows": sealed.rows, "groups": groups}))
        finally:
            manifest.close()
        fsync_folder(self.path)


def _first_line(e: Exception) -> str:
    return str(e).split("\n")[0]


def _fsync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def find_folder(path: str | Path, create: bool) -> Folder:
    """The pool folder that ``path`` names: the pool itself, or a run folder with ``pool/`` in it.

    Raises UserError when there is none and ``create`` is false, or when the path is a file.
    """
    path = Path(path)
    for candidate in (path, path / "pool"):
        if (folder := Folder(candidate)).exists():
            folder.check_format()
            return folder
    if path.is_file():
        raise UserError(f"{path} is a file; a pool is a folder (to read recorded outputs: reasoning import).")
    if not create:
        raise UserError(
            f"No pool at {path}. Fill one first:  reasoning sample {path} ...  (or: reasoning import FILE {path} ...)"
        )
    folder = Folder(path if path.name == "pool" else path / "pool")
    folder.create()
    return folder
