"""The pool's folder: where files lie, which segments there are, and how one is sealed.

    pool.json        format and version
    lock             held while the manifest changes
    manifest.jsonl   one line per sealed segment: the commit point of sealing
    wal/NAME.wal     write-ahead file of a writer that is at work (it holds the file's lock), or that left it:
                     because it was small, or because it died
    shards/TABLE-NAME.parquet
    index/           which keys are sealed (see `keyindex`); derived from the shards
    claims/          who is drawing what (see `claims`)
    quarantine/      what was found damaged, or holds what no shard takes; read by nothing

A segment's name starts with its time of birth, so names sort by age and sealing never changes the order in
which rows overrule one another. This module knows nothing of chains beyond `Segment`.
"""

from __future__ import annotations

import contextlib
import filecmp
import json
import os
import re
import secrets
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from reasoning.durable import AppendFile, cannot_write, frame_row, fsync_folder, read_lines, turn
from reasoning.errors import PoolError, UserError
from reasoning.pool import keyindex, shards, wal
from reasoning.pool.columns import COST_FIELDS, SCHEMAS, chains_from, key_numbers, verdicts_from
from reasoning.pool.segment import Filter, Group, Segment, groups
from reasoning.records import Chain
from verifiers.base import Verdict

FORMAT = 2
_SEGMENT = re.compile(r"\d+-[0-9a-f]+")
"""Names of segments; files of other names in the pool's folders (copies, notes) are not the pool's."""


@dataclass(slots=True)
class Sealed:
    """A sealed segment: its shards are read when asked for, never kept. rows: table -> number of rows. bytes: table
    -> size of its shard, where the manifest says it (older ones do not)."""

    name: str
    folder: Folder
    rows: dict[str, int]
    counts: Counter[Group] = field(default_factory=Counter)
    bytes: dict[str, int] = field(default_factory=dict)

    def read(self, table: str, columns: list[str] | None = None, filters: Any = None) -> pa.Table | None:
        """The table's shard, or None when the segment has none (or the user removed a damaged one)."""
        if table not in self.rows:
            return None
        try:
            return shards.read_shard(self.folder.shard(table, self.name), columns, filters)
        except FileNotFoundError:
            self.folder.note_missing(self, table)
            return None
        except (OSError, pa.ArrowException) as e:
            raise self._damaged(table, e) from e

    def pieces(self, table: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """As `read`, some thousand rows at a time."""
        if table in self.rows:
            try:
                yield from shards.row_groups(self.folder.shard(table, self.name), columns)
            except FileNotFoundError:
                self.folder.note_missing(self, table)
            except (OSError, pa.ArrowException) as e:
                raise self._damaged(table, e) from e

    def _damaged(self, table: str, e: Exception) -> PoolError:
        return PoolError(
            f"{self.folder.shard(table, self.name)}: damaged ({_first_line(e)}). Its {self.rows[table]} rows are "
            f"lost, all others are whole: `reasoning pool check {self.folder.run} --repair` sets the file aside, "
            "and the same command makes them anew."
        )

    def find_chains(self, wanted: Filter, expression: Any) -> dict[str, Chain]:
        if not wanted.continuations and not any(wanted.model in (None, model) for model, _ in self.counts):
            return {}
        table = self.read("chains", filters=expression)
        return {} if table is None else {c.key: c for c in chains_from(table)}

    def find_verdicts(self, verifier: str) -> dict[str, Verdict]:
        table = self.read("verdicts", filters=shards.pc.field("verifier") == verifier)
        return {} if table is None else dict(verdicts_from(table))

    def groups(self) -> Counter[Group]:
        return self.counts


@dataclass(slots=True)
class Left:
    """A segment whose writer is gone, with its file, whose lock we hold. whole: nothing in it is torn or damaged, and
    its sealing has not begun, so that another writer may go on with it."""

    segment: Segment
    file: AppendFile
    whole: bool


@dataclass(slots=True)
class Found:
    """The segments of a folder. live: of writers at work; left: of those that are gone."""

    sealed: list[Sealed]
    live: list[Segment]
    left: list[Left]

    def youngest(self) -> str:
        """The name of the last segment, whose rows overrule all others."""
        return max(
            (s.name for s in (*self.sealed, *self.live, *(one.segment for one in self.left))), default=""
        )


class Folder:
    """Layout and sealing of one pool folder. notes: what was found torn, damaged or missing."""

    def __init__(self, path: Path):
        self.path = path
        self.format = FORMAT
        self.notes: list[str] = []
        self._followed: dict[str, tuple[Segment, int]] = {}

    @property
    def run(self) -> Path:
        """The folder as commands are given it: the run's, where the pool lies in one."""
        return self.path.parent if self.path.name == "pool" else self.path

    @property
    def wal(self) -> Path:
        return self.path / "wal"

    @property
    def index(self) -> Path:
        return self.path / "index"

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
            self._write_format()
        except OSError as e:
            raise cannot_write(self.path, e) from e

    def _write_format(self) -> None:
        temporary = self.path / f".pool.json.{secrets.token_hex(4)}"
        with temporary.open("w") as file:
            file.write(json.dumps({"format": FORMAT, "what": "a pool of chains of thought"}) + "\n")
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the name without the content
        temporary.rename(self.path / "pool.json")
        fsync_folder(self.path)
        self.format = FORMAT

    def check_format(self) -> None:
        try:
            found = json.loads((self.path / "pool.json").read_text())["format"]
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise PoolError(
                f"{self.path / 'pool.json'}: cannot be read ({type(e).__name__}: {e}). It only says the pool's "
                f'format: if this version filled the pool, write {{"format": {FORMAT}}} there.'
            ) from e
        if not isinstance(found, int) or not 1 <= found <= FORMAT:
            raise PoolError(
                f"{self.path}: written by a newer version, in pool format {found}; this one reads formats up to "
                f"{FORMAT}. Upgrade it:  pip install --upgrade reasoning-toolkit"
            )
        self.format = found

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock: only one process at a time seals. Waits for its turn."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(turn(self.path / "lock"))
            except OSError as e:
                raise cannot_write(self.path, e) from e
            yield

    def new_wal(self) -> tuple[str, AppendFile]:
        """A write-ahead file of our own, locked, younger than every segment there is."""
        with self.locked():
            names = {*self.shard_names(), *self.sealed(), *(p.stem for p in self.wal_paths())}
            youngest = max((int(n.split("-")[0]) for n in names), default=0)
            name = f"{max(time.time_ns(), youngest + 1):020d}-{secrets.token_hex(4)}"
            try:
                if self.format != FORMAT:
                    self._write_format()
                path = self.wal / f"{name}{wal.SUFFIX}"
                file = AppendFile(path.with_name(f".{path.name}.tmp"), lines=False)
                if not file.lock():
                    raise PoolError(f"{path}: this file system does not support locks, which a pool needs.")
                # It is locked when it gets its name: else somebody would take it for one that was left.
                file.rename(path)
                fsync_folder(self.wal)
            except OSError as e:
                raise cannot_write(self.wal, e) from e
        return name, file

    def youngest(self) -> str:
        """The name of the last segment that has a file."""
        return max((*self.shard_names(), *(p.stem for p in self.wal_paths())), default="")

    def wal_paths(self) -> list[Path]:
        return sorted(
            p for p in self.wal.glob("[!.]*") if p.suffix in wal.READERS and _SEGMENT.fullmatch(p.stem)
        )

    def shard_paths(self) -> list[Path]:
        return sorted(
            p
            for p in (self.path / "shards").glob("[!.]*.parquet")
            if _SEGMENT.fullmatch(p.stem.partition("-")[2])
        )

    def strange(self) -> list[Path]:
        """Files among the pool's that are none of it."""
        known = {*self.wal_paths(), *self.shard_paths()}
        there = [*self.wal.glob("[!.]*"), *(self.path / "shards").glob("[!.]*")]
        return sorted(path for path in there if path not in known)

    def sealed(self) -> dict[str, Sealed]:
        """The sealed segments by name, as the manifest has them."""
        try:
            data = self.manifest.read_bytes()
        except FileNotFoundError:
            return {}
        reading = read_lines(data, str(self.manifest), live=True)
        self.notes += [n for n in reading.notes if n not in self.notes]
        found: dict[str, Sealed] = {}
        for row in reading.rows:
            try:
                counts = Counter({(model, sampling): n for model, sampling, n in row["groups"]})
                found[row["segment"]] = Sealed(
                    row["segment"], self, dict(row["rows"]), counts, dict(row.get("bytes", {}))
                )
            except (AttributeError, KeyError, TypeError, ValueError) as e:
                self._note(
                    f"{self.manifest}: passed over a line that this version cannot read ({type(e).__name__}: {e})."
                )
        return found

    def load(self, repair: bool, own: Collection[str] = ()) -> Found:
        """All segments but our ``own`` unsealed ones. With ``repair``, what writers left behind is locked, so that we
        alone seal it or go on with it.

        No lock is needed to read: the shards are listed before the write-ahead files, and these before the
        manifest is read, so one that is sealed and removed in between is in the manifest by then. A shard that
        neither knows has lost its line (the manifest was deleted or emptied): it is taken in again, with a note.
        """
        shard_names = self.shard_names()
        live: list[Segment] = []
        left: list[Left] = []
        for path in self.wal_paths():
            if path.stem not in own:
                self._read_wal(path, repair, live, left)
        for one in left:
            one.whole = one.whole and one.segment.name not in shard_names
        sealed = self.sealed()
        for name in sorted(
            shard_names - {*sealed, *own, *(s.name for s in live), *(one.segment.name for one in left)}
        ):
            with self.locked() if repair else contextlib.nullcontext():
                if name in self.sealed():
                    continue  # another process was quicker
                if (orphan := self._adopt(name)) is not None:
                    sealed[name] = orphan
                    if repair:
                        self.add_line(orphan)
        self._note_missing(sealed)
        for one in [one for one in left if one.segment.name in sealed]:
            self.seal(one.segment, one.file)  # killed between the manifest's line and the removal of the file
            one.file.close()
        self._followed = {n: known for n, known in self._followed.items() if n not in sealed}
        return Found(
            sorted(sealed.values(), key=lambda s: s.name),
            [s for s in live if s.name not in sealed],
            [one for one in left if one.segment.name not in sealed],
        )

    def _read_wal(self, path: Path, repair: bool, live: list[Segment], left: list[Left]) -> None:
        try:
            file = AppendFile(path, create=False, lines=path.suffix == wal.OLD_SUFFIX) if repair else None
        except FileNotFoundError:
            return
        except OSError as e:
            raise cannot_write(path, e) from e
        ours = file is not None and file.lock()
        if file is not None and (not ours or file.gone()):
            file.close()
            if ours:
                return  # sealed and removed since we listed it
            file = None
        segment, start = (None, 0) if file else self._followed.get(path.stem, (None, 0))
        segment = segment or Segment(path.stem)
        try:
            with path.open("rb") as f:
                f.seek(start)
                data = f.read()
        except FileNotFoundError:
            return
        reading = wal.READERS[path.suffix](data, segment, live=file is None)
        for text in reading.notes:
            self._note(text)
        if file is None:
            self._followed[path.stem] = (segment, start + reading.whole_bytes)
            live.append(segment)
            return
        if reading.refused:
            self.quarantine(path.name, b"".join(reading.refused))
        left.append(Left(segment, file, path.suffix == wal.SUFFIX and not reading.notes))

    def set_aside(self, path: Path) -> Path:
        """Move a damaged file into quarantine."""
        target = self.keep(path)
        try:
            path.unlink()
            fsync_folder(path.parent)
        except OSError as e:
            raise cannot_write(path, e) from e
        return target

    def keep(self, path: Path) -> Path:
        """Put a damaged file into quarantine, and leave it where it is as well, so that the caller can replace it
        in one step. What is kept there already is not overwritten."""
        folder = self.path / "quarantine"
        target, number = folder / path.name, 1
        try:
            folder.mkdir(exist_ok=True)
            while target.exists() and not filecmp.cmp(path, target, shallow=False):
                target, number = folder / f"{path.name}.{number}", number + 1
            if not target.exists():
                os.link(path, target)  # takes no room on a full disk
            fsync_folder(folder)
        except OSError as e:
            raise cannot_write(target, e) from e
        return target

    def quarantine(self, name: str, content: bytes) -> Path:
        """Keep bytes that the pool cannot use, for a person to look at."""
        target = self.path / "quarantine" / name
        try:
            target.parent.mkdir(exist_ok=True)
            with target.open("wb") as f:
                f.write(content)
                f.flush()
                os.fsync(f.fileno())
            fsync_folder(target.parent)
        except OSError as e:
            raise cannot_write(target, e) from e
        self._note(f"{target}: what was left out is kept there.")
        return target

    def shard_names(self) -> set[str]:
        """The segments that have shards."""
        return {p.stem.partition("-")[2] for p in self.shard_paths()}

    def _adopt(self, name: str) -> Sealed | None:
        """The segment whose shards lie there without a line in the manifest; None when none is whole."""
        found = Sealed(name, self, {})
        for table, schema in SCHEMAS.items():
            path = self.shard(table, name)
            try:
                content = shards.read_shard(path)
                lacking, odd = (
                    set(schema.names) - set(content.column_names),
                    set(content.column_names) - set(schema.names),
                )
                if odd or lacking - set(COST_FIELDS):  # an older shard may have fewer kinds of cost
                    raise pa.ArrowInvalid(f"its columns are not those of {table}")
            except FileNotFoundError:
                continue
            except (OSError, pa.ArrowException) as e:
                self._note(f"{path}: damaged, and not in {self.manifest.name}: left out ({_first_line(e)}).")
                continue
            found.rows[table] = content.num_rows
            if table == "chains":
                found.counts = groups(content.unify_dictionaries())
        if not found.rows:
            return None
        self._note(f"{self.manifest} had lost the shards of {name}: taken in again ({counted(found.rows)}).")
        return found

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def note_missing(self, segment: Sealed, table: str) -> None:
        path = self.shard(table, segment.name)
        self._note(f"{path} is missing: its {segment.rows[table]} rows are gone and will be made anew.")

    def _note_missing(self, sealed: dict[str, Sealed]) -> None:
        for segment in sealed.values():
            for table in segment.rows:
                path = self.shard(table, segment.name)
                try:
                    size = path.stat().st_size
                except FileNotFoundError:
                    self.note_missing(segment, table)
                    continue
                if size != segment.bytes.get(table, size):
                    self._note(
                        f"{path} has {size} bytes where {segment.bytes[table]} were written: damaged. What can be "
                        f"saved is saved by:  reasoning pool check {self.run} --repair"
                    )

    def seal(self, segment: Segment, file: AppendFile) -> Sealed | None:
        """Turn a write-ahead file, whose lock we hold, into shards; None when it held no rows.

        Shards are written to temporary names, synced and renamed; the manifest's line makes them count; only
        then does the write-ahead file go. A kill at any point leaves either the file or the shards in force.
        Raises PoolError when the disk is full: the write-ahead file then stays as it is.
        """
        sealed = self.sealed().get(segment.name)  # there already when a kill came before the unlink below
        if sealed is None and not segment.empty:
            sealed = Sealed(segment.name, self, {})
            written: list[Path] = []
            try:
                for name, table in segment.tables().items():
                    path = self.shard(name, segment.name)
                    temporary = path.with_name(f".{path.name}.tmp")
                    written.append(temporary)
                    shards.write_shard(table, temporary)
                    fsync_file(temporary)
                    temporary.rename(path)
                    written[-1] = path
                    sealed.rows[name] = table.num_rows
                    if name == "chains":
                        sealed.counts = groups(table)
                fsync_folder(self.path / "shards")
                with self.locked():
                    self.add_line(sealed)
            except (OSError, PoolError) as e:
                if segment.name not in self.sealed():  # else its line is there all the same, and counts
                    for path in written:
                        path.unlink(missing_ok=True)
                raise cannot_write(self.path / "shards", e) if isinstance(e, OSError) else e from e
            # The index is derived, and does as well without a part or in small ones. Not before the line is there:
            # until then somebody may go on with the file, and it would get more keys than the part has.
            with contextlib.suppress(OSError):
                if segment.keys:
                    numbers = keyindex.in_order(key_numbers([*segment.keys]))
                    keyindex.write_part(self.index, [segment.name], numbers)
                keyindex.merge_parts(self.index)
        file.path.unlink(missing_ok=True)
        fsync_folder(self.wal)
        return sealed

    def sealed_numbers(self, name: str) -> np.ndarray:
        """The digests of a sealed segment's keys, (2, keys), from its shard."""
        table = Sealed(name, self, {"chains": 0}).read("chains", ["key"])
        return key_numbers([] if table is None else table["key"].to_pylist())

    def add_line(self, sealed: Sealed) -> None:
        """Put a segment into the manifest; its last line counts. The caller holds the folder's lock."""
        groups = [[model, sampling, n] for (model, sampling), n in sealed.counts.items()]
        paths = {table: self.shard(table, sealed.name) for table in sealed.rows}
        sealed.bytes = {table: path.stat().st_size for table, path in paths.items() if path.exists()}
        row = {"segment": sealed.name, "rows": sealed.rows, "groups": groups, "bytes": sealed.bytes}
        manifest = AppendFile(self.manifest)
        try:
            manifest.lock()  # nobody else writes while the folder is locked; a torn line is ours to remove
            manifest.truncate(read_lines(manifest.read(), "", live=True).whole_bytes)
            manifest.append(frame_row(row))
        finally:
            manifest.close()
        fsync_folder(self.path)


def counted(rows: Mapping[str, int]) -> str:
    """table -> number of rows, for a person: "1 model, 8 chains"."""
    parts = [f"{n} {table if n != 1 else table.removesuffix('s')}" for table, n in rows.items() if n]
    return ", ".join(parts) or "nothing"


def _first_line(e: Exception) -> str:
    return str(e).split("\n")[0]


def fsync_file(path: Path) -> None:
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
        for candidate in (path, path / "pool"):
            if Folder(candidate).manifest.exists() or Folder(candidate).wal_paths():
                raise PoolError(
                    f"{candidate}: pool.json is missing. It only says the pool's format: if this version filled the "
                    f'pool, write {{"format": {FORMAT}}} there.'
                )
        raise UserError(
            f"No pool at {path}. Fill one first:  reasoning sample {path} ...  (or: reasoning import FILE {path} ...)"
        )
    folder = Folder(path if path.name == "pool" else path / "pool")
    folder.create()
    return folder
