"""Is a pool whole? Reads every byte of it; with ``repair``, sets aside what is damaged and keeps the rest.

Damage is what can no longer be read. What merely looks odd (chains that two writers drew, verdicts on chains that
are gone, files that a killed writer left) is told beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from reasoning.durable import AppendFile, cannot_write, fsync_folder, try_lock
from reasoning.errors import PoolError
from reasoning.pool import keyindex, shards, wal
from reasoning.pool.columns import COST_FIELDS, IDENTITY, SCHEMAS, is_key
from reasoning.pool.folder import Folder, Sealed, find_folder, fsync_file
from reasoning.pool.segment import Segment, groups
from reasoning.pool.store import Pool


@dataclass(slots=True)
class CheckReport:
    """damage, remarks: one line each. lost_rows: of damaged shards; saved_rows: of these, what can still be read.
    repaired: what was done about it."""

    path: Path
    rows: Counter[str] = field(default_factory=Counter)
    shards: int = 0
    damage: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    lost_rows: int = 0
    saved_rows: int = 0

    @property
    def whole(self) -> bool:
        return not self.damage


def check(path: str | Path, repair: bool = False) -> CheckReport:
    """Raises UserError when there is no pool, PoolError when it was written by a newer version or when the disk
    refuses a repair."""
    folder = find_folder(path, create=False)
    with _alone(folder) if repair else nullcontext():
        return _check(path, folder, repair)


@contextmanager
def _alone(folder: Folder) -> Iterator[None]:
    """Two that mend the same file would get into each other's way. Raises PoolError where another is at it."""
    try:
        file = AppendFile(folder.path / ".repair")
    except OSError as e:
        raise cannot_write(folder.path, e) from e
    try:
        if not file.lock():
            raise PoolError(f"{folder.path}: another process is repairing this pool; wait for it to end.")
        yield
    finally:
        file.close()


def _check(path: str | Path, folder: Folder, repair: bool) -> CheckReport:
    report = CheckReport(folder.path)
    _check_manifest(folder, report)
    sealed = folder.sealed()
    for segment in sealed.values():
        for table in list(segment.rows):
            _check_shard(folder, segment, table, report, repair)
    _check_files(folder, sealed, report, repair)
    _check_index(folder, sealed, report, repair)
    with Pool.open(path, read_only=not repair) as pool:
        told = ("is missing: its", "were written: damaged")  # by line of `_check_shard`
        report.remarks += [
            n
            for n in pool.notes
            if n not in [*report.remarks, *report.damage] and not any(t in n for t in told)
        ]
        _check_links(pool, report)
    return report


def _check_manifest(folder: Folder, report: CheckReport) -> None:
    unsealed = {path.stem for path in folder.wal_paths()}  # of some the sealing may have begun
    if not folder.manifest.exists() and folder.shard_names() - unsealed:
        report.damage.append(
            f"{folder.manifest} is missing; its shards are taken in again by the next writer."
        )
    folder.sealed()
    report.damage += folder.notes


def _check_shard(folder: Folder, segment: Sealed, table: str, report: CheckReport, repair: bool) -> None:
    path, rows = folder.shard(table, segment.name), segment.rows[table]
    if not path.exists():
        report.lost_rows += rows
        report.damage.append(
            f"{path} is missing: its {rows} rows are gone; the command that made them makes them anew."
        )
        if repair:
            _replace(folder, segment, table, None)
            report.repaired.append(f"{path.name} is no longer expected.")
        return
    report.shards += 1
    whole, why = _read_groups(path, table)
    saved = sum(t.num_rows for t in whole)
    if not why and saved != rows:
        report.lost_rows += max(0, rows - saved)
        report.damage.append(f"{path} has {saved} rows where {folder.manifest.name} has {rows}.")
        if repair:  # a repair that was killed has put the shard there, and not yet its line
            _new_line(folder, segment, table, pa.concat_tables(whole) if saved else None)
            report.repaired.append(f"{path.name} is expected to have {saved} rows.")
        report.rows[table] += saved
        return
    if not why and (twice := _twice(whole, table)):
        why = f"{twice} rows are there twice"
    report.rows[table] += saved
    if not why:
        return
    report.lost_rows += max(0, rows - saved)
    report.saved_rows += saved
    report.damage.append(f"{path}: damaged ({why}). {saved} of its {rows} rows can be saved.")
    if repair:
        target = _replace(folder, segment, table, pa.concat_tables(whole) if saved else None)
        report.repaired.append(
            f"{path.name} is kept in {target}; {saved} of its {rows} rows stay in the pool."
        )


def _read_groups(path: Path, table: str) -> tuple[list[pa.Table], str]:
    """The groups of rows that can be read whole, and what is wrong with the others."""
    whole: list[pa.Table] = []
    why = ""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            names = set(file.schema_arrow.names)
            lacking = set(SCHEMAS[table].names) - names - set(COST_FIELDS)
            if lacking:
                return [], f"it lacks the columns {', '.join(sorted(lacking))}"
            for group in range(file.num_row_groups):
                try:
                    content = file.read_row_group(group, use_threads=False)
                    content.validate(full=True)
                    whole.append(content)
                except (OSError, pa.ArrowException) as e:
                    why = str(e).split("\n")[0]
    except (OSError, pa.ArrowException) as e:
        why = str(e).split("\n")[0]
    return whole, why


def _twice(tables: list[pa.Table], table: str) -> int:
    ids = [id for t in tables for id in zip(*(t[c].to_pylist() for c in IDENTITY[table]), strict=True)]
    return len(ids) - len(set(ids))


def _replace(folder: Folder, segment: Sealed, table: str, content: pa.Table | None) -> Path | None:
    """Put ``content`` (None: nothing) in the place of a shard, which goes into quarantine if it is there."""
    path = folder.shard(table, segment.name)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        if content is not None:
            shards.write_shard(content.unify_dictionaries(), temporary)
            fsync_file(temporary)
        target = folder.keep(path) if path.exists() else None
        if content is None:
            path.unlink(missing_ok=True)
        else:
            temporary.rename(path)  # in one step: whoever is killed here leaves the one or the other
        fsync_folder(path.parent)
    except OSError as e:
        raise cannot_write(path, e) from e
    _new_line(folder, segment, table, content)
    return target


def _new_line(folder: Folder, segment: Sealed, table: str, content: pa.Table | None) -> None:
    """Tell the manifest what a shard holds by now."""
    if content is None:
        segment.rows.pop(table)
    else:
        segment.rows[table] = content.num_rows
    if table == "chains":
        segment.counts = Counter() if content is None else groups(content.unify_dictionaries())
    try:
        with folder.locked():
            folder.add_line(segment)
    except OSError as e:
        raise cannot_write(folder.manifest, e) from e


def _check_files(folder: Folder, sealed: dict[str, Sealed], report: CheckReport, repair: bool) -> None:
    """Write-ahead files, shards of no segment, and what killed writers left."""
    at_work: set[str] = set()
    for path in folder.wal_paths():
        held = _held(path)
        at_work |= {path.stem} if held else set()
        reading = wal.READERS[path.suffix](path.read_bytes(), Segment(path.stem), live=held)
        rows = {t: reading.segment.table(t).num_rows for t in SCHEMAS}
        report.rows.update(rows)
        report.damage += [n for n in reading.notes if "torn record" not in n]
        report.remarks += [n for n in reading.notes if "torn record" in n]
        if not held:
            report.remarks.append(f"{path.name}: not sealed; the next writer goes on with it or seals it.")
    report.remarks += [f"{path} is no file of the pool: it is not read." for path in folder.strange()]
    for path in folder.shard_paths():
        table, _, name = path.stem.partition("-")
        known = name in sealed or name in at_work or any(p.stem == name for p in folder.wal_paths())
        if not known and name not in folder.sealed():  # read anew: it may have been sealed meanwhile
            whole, why = _read_groups(path, table) if table in SCHEMAS else ([], "of no table")
            if why:
                report.damage.append(f"{path}: damaged ({why}), and not in {folder.manifest.name}.")
                if repair:
                    report.repaired.append(f"{path.name} is kept in {folder.set_aside(path)}.")
            else:
                rows = sum(t.num_rows for t in whole)
                report.damage.append(
                    f"{path}: {rows} rows that {folder.manifest.name} has lost; they can all be saved."
                )
                if repair:
                    report.repaired.append(f"{path.name} is taken in again.")
    with folder.locked() if repair else nullcontext():  # no writer is beginning a file
        at_work |= {
            path.stem for path in folder.wal_paths() if _held(path)
        }  # some have begun since we looked
        left = [p for p in folder.path.rglob(".*.tmp") if not any(name in p.name for name in at_work)]
        if left:
            report.remarks.append(f"{len(left)} temporary files of killed writers.")
            if repair:
                for path in left:
                    path.unlink(missing_ok=True)
                report.repaired.append(f"{len(left)} temporary files were removed.")


def _held(path: Path) -> bool:
    """Whether a writer is at work on a write-ahead file."""
    try:
        with path.open("rb") as f:
            return not try_lock(f.fileno(), shared=True)
    except FileNotFoundError:
        return False


def _check_index(folder: Folder, sealed: dict[str, Sealed], report: CheckReport, repair: bool) -> None:
    """The index is derived: a part that is wrong is made anew, and loses nothing."""
    for path in sorted(folder.index.glob("[!.]*.keys")) if folder.index.is_dir() else []:
        part = keyindex.read_part(path)
        wrong = part is None and path.exists()  # one that was merged into another meanwhile is gone
        if part is not None and all(
            n in sealed and folder.shard("chains", n).exists() for n in part.segments
        ):
            try:
                parts = [folder.sealed_numbers(name) for name in sorted(part.segments)]
            except PoolError:
                continue  # the shard's own damage is told above
            expected = keyindex.in_order(np.concatenate(parts, axis=1))
            wrong = not np.array_equal(expected, np.stack([part.high, part.low]))
        if wrong:
            report.damage.append(f"{path}: not the keys of its shards; it can be made anew from them.")
            if repair:
                path.unlink(missing_ok=True)
                report.repaired.append(f"{path.name} was removed and is made anew.")


def _check_links(pool: Pool, report: CheckReport) -> None:
    """Chains of no problem, verdicts on no chain, chains that are there twice."""
    if not report.whole and not report.repaired:
        return  # what is unreadable would be blamed on its neighbours
    known = pool.problems()
    strange: Counter[str] = Counter()
    for part in pool.scan("chains", ["problem_id"]):
        strange.update(i for i in part["problem_id"].to_pylist() if i not in known)
    if strange:
        report.remarks.append(
            f"{sum(strange.values())} chains are of {len(strange)} problems that are not there."
        )
    orphans: Counter[str] = Counter()
    for part in pool.scan("verdicts", ["verifier", "key"]):
        keys, names = part["key"].to_pylist(), part["verifier"].to_pylist()
        there = set(keys) - set(_missing(pool.missing, keys))
        orphans.update(name for name, key in zip(names, keys, strict=True) if key not in there)
    for name, count in sorted(orphans.items()):
        report.remarks.append(f"{count} verdicts of {name!r} are on chains that are not there.")
    if repeats := len(pool.repeated_keys()):
        report.remarks.append(f"{repeats} chains were stored by two writers; the later one counts.")


def _missing(missing: Callable[[list[str]], list[str]], keys: list[str]) -> list[str]:
    """As `Pool.missing`; what is no chain's key at all is missing too."""
    try:
        return missing(keys)
    except ValueError:
        good = [k for k in keys if is_key(k)]
        return [*missing(good), *(set(keys) - set(good))]
