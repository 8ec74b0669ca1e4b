"""`Pool`: the durable store of problems, chains and verdicts that everything else reads and writes."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from reasoning.budget import Charge
from reasoning.durable import AppendFile
from reasoning.errors import PoolError
from reasoning.pool import columns, scan, shards, wal
from reasoning.pool.admission import admit_verdict, check_text
from reasoning.pool.claims import Claims
from reasoning.pool.folder import Folder, Left, Sealed, find_folder
from reasoning.pool.keyindex import KeyIndex
from reasoning.pool.rows import sampling_from_json, sampling_json
from reasoning.pool.sealing import Job, Sealer
from reasoning.pool.segment import UNPACK, Filter, Segment
from reasoning.records import Chain, Problem, Sampling
from verifiers.base import Verdict

SEGMENT_BYTES = 64 << 20
SMALL_BYTES = 4 << 20
"""A write-ahead file that is smaller when its writer closes is left as it is, and the next writer goes on with it:
short runs would else spend more on shards with next to nothing in them than on all the rest."""


class Pool:
    """A folder of chains. Open it with `Pool.open`; close it, or use ``with``.

    Whatever a method wrote is on the disk when it returns. Several processes may write at the same time, each
    into a file of its own; each sees what the others had written when it opened (or last called `refresh`).
    The last row of a key wins. Full files are sealed into shards by a thread of their own, at the end too but for a
    small one, with which the next writer goes on. Safe to use from several threads.

    notes: one line for each torn, damaged or missing piece that was found when opening.
    """

    def __init__(self, folder: Folder, read_only: bool, segment_bytes: int = SEGMENT_BYTES):
        self.folder = folder
        self.read_only = read_only
        self._segment_bytes = segment_bytes
        self._small_bytes = min(SMALL_BYTES, segment_bytes)
        self._lock = threading.RLock()
        self._file: AppendFile | None = None
        self._tail = Segment("")
        self._begun = False  # whether we have written to the file
        self._encoder = wal.Encoder()
        self._segments: list[Sealed | Segment] = []
        self._sealer: Sealer[Segment] = Sealer()
        self._pending: dict[str, Segment] = {}
        self._index = KeyIndex(folder.index, folder.sealed_numbers, writable=not read_only)
        self.refresh()

    @classmethod
    def open(
        cls,
        path: str | Path,
        create: bool = True,
        read_only: bool = False,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> Pool:
        """Open the pool at ``path`` (the pool's folder, or a run folder that has or gets ``pool/``).

        segment_bytes: a write-ahead file is sealed into shards when it reaches this size.
        Raises UserError when there is none and it may not be created, PoolError when it cannot be read.
        """
        return cls(find_folder(path, create and not read_only), read_only, segment_bytes)

    @property
    def path(self) -> Path:
        return self.folder.path

    @property
    def notes(self) -> list[str]:
        return self.folder.notes

    def refresh(self) -> None:
        """See what other processes have written since; seal what others left behind, or go on with it."""
        with self._lock:
            self._collect()
            own = {*self._pending, self._tail.name}
            found = self.folder.load(repair=not self.read_only, own=own)
            done = {s.name for s in found.sealed}
            self._segments = [*found.sealed, *found.live]
            self._segments += [s for s in self._pending.values() if s.name not in done]
            youngest = max(found.youngest(), *own)
            for left in found.left:
                if not self._go_on(left, youngest):
                    self._segments.append(left.segment)
                    self._submit(left.segment, left.file)
            self._forget_views()

    def _go_on(self, left: Left, youngest: str) -> bool:
        """Make a file that another writer left ours, where it is small and whole. It must be the youngest, so that
        what is added to it overrules what is there."""
        if (
            self._file is not None
            or not left.whole
            or left.segment.name != youngest
            or left.file.size >= self._small_bytes
        ):
            return False
        try:
            left.file.sync()  # its writer may have been killed before it did: what we build on is on the disk
        except PoolError:
            return False
        self._file, self._tail, self._begun = left.file, left.segment, False
        return True

    # ---- writing

    def add_problems(self, problems: Iterable[Problem]) -> None:
        """Add problems that are not there yet; their order is kept by every query.

        Raises PoolError for an id, prompt or task that is not text; nothing of the call is stored then.
        """
        with self._lock:
            orders = self._orders()
            after = max((order for order, _ in orders.values()), default=-1) + 1
            new = list({p.id: p for p in problems if p.id not in orders}.values())
            if new:
                self._append({"problems": columns.problem_batch((after + i, p) for i, p in enumerate(new))})
                self._order_view = orders | {p.id: (after + i, p) for i, p in enumerate(new)}

    def add_model(self, model: str, info: Mapping[str, Any] | None = None) -> None:
        """Register what a model id stands for ("shape" for FLOPs, "training" and what else is to be kept)."""
        with self._lock:
            info = dict(info or {})
            if self.models().get(model) != info:
                check_text(model, "A model's id")
                self._append({"models": columns.model_batch({model: info})})

    def append(self, chains: Iterable[Chain], charges: Sequence[Charge] = ()) -> None:
        """Store chains, and with them, in the same write, the ledger rows that paid for them.

        Lone surrogates in the text become U+FFFD. Raises ValueError for a malformed key or a problem that was
        not added, PoolError for a value that no shard takes (see `admission`) and when the disk refuses;
        nothing of the call is stored then.
        """
        with self._lock:
            chains = list(chains)
            problems = self._orders()
            if strange := {c.problem_id for c in chains} - problems.keys():
                raise ValueError(f"problem {min(strange)} is not in the pool: add_problems comes first")
            tables = {"chains": columns.chain_batch(chains)} if chains else {}
            if charges:
                tables["charges"] = columns.charge_batch(charges)
            self._append(tables, [c.key for c in chains])

    def add_verdicts(
        self,
        verifier: str,
        verdicts: Mapping[str, Verdict],
        oracle: bool | None = None,
        charges: Sequence[Charge] = (),
    ) -> None:
        """Store verdicts by chain key. A later verdict on the same chain replaces the earlier one.

        oracle: whether the verifier reads the reference; None keeps what is known of it, and takes a verifier
        that nothing is known of for an oracle, which is the side on which no result is flattered.
        A score that is not a number (NaN) is stored as missing. Raises UserError that names the verifier for
        any other value that is no score, answer, ...; nothing of the call is stored then.
        """
        check_text(verifier, "A verifier's name")
        verdicts = {key: admit_verdict(verifier, v) for key, v in verdicts.items()}
        for key in verdicts:
            check_text(key, "A chain's key")
        with self._lock:
            known = self.verifiers().get(verifier)
            flag = (True if known is None else known) if oracle is None else bool(oracle)
            tables: dict[str, pa.RecordBatch] = {}
            if verdicts:
                tables["verdicts"] = columns.verdict_batch((verifier, key, v) for key, v in verdicts.items())
            if charges:
                tables["charges"] = columns.charge_batch(charges)
            if flag != known:
                tables["verifiers"] = columns.verifier_batch({verifier: flag})
            self._append(tables)

    def add_tables(self, tables: Mapping[str, pa.Table]) -> None:
        """Store rows as another pool's `scan` gives them, in one write."""
        with self._lock:
            rows = {n: t.unify_dictionaries().combine_chunks() for n, t in tables.items() if t.num_rows}
            self._append({name: table.to_batches()[0] for name, table in rows.items()})
            if "problems" in rows:
                self._forget_views()

    def seal(self) -> None:
        """Turn this writer's write-ahead file into Parquet shards, and wait until that is done."""
        with self._lock:
            self._rotate()
        failed = self._sealer.wait()
        with self._lock:
            self._collect()
        if failed:
            raise failed.pop()

    def close(self) -> None:
        """Let go, and seal what is large. When the disk is full the write-ahead file stays, with nothing lost."""
        with self._lock:
            file = self._file
            if file is not None and self._may_stay(file):
                self._segments.append(self._tail)
                file.close()
                self._file, self._tail = None, Segment("")
        try:
            self.seal()
        except PoolError as e:
            self.notes.append(f"not sealed yet: {e}")
        finally:
            self._sealer.give_up()
            self._pending.clear()

    def _may_stay(self, file: AppendFile) -> bool:
        """Whether our write-ahead file can be left for the next writer to go on with."""
        if self._tail.empty or not file.usable or file.gone():
            return False
        return file.size < self._small_bytes

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _append(self, tables: Mapping[str, pa.RecordBatch], keys: Sequence[str] | None = None) -> None:
        """Write rows. keys: of the chains among them, where they are at hand."""
        if not tables:
            return
        if self.read_only:
            raise PoolError(f"{self.path} was opened for reading only.")
        if self._file is not None and self._file.gone():
            self.notes.append(f"{self._file.path} was removed while it was written: sealed from memory.")
            self._rotate()
        if self._file is not None and not self._begun and self.folder.youngest() > self._tail.name:
            self._rotate()  # somebody has written since we took it over, and would overrule us
        if self._file is None:
            name, self._file = self.folder.new_wal()
            self._tail = Segment(name)
        self._begun = True
        self._file.append(*self._encoder.pieces(tables))
        self._tail.add(tables, keys)
        if self._file.size >= self._segment_bytes:
            self._rotate()

    def _rotate(self) -> None:
        """Hand the write-ahead file to the sealer; the next write begins another."""
        self._collect()
        if self._file is not None:
            self._segments.append(self._tail)
            self._submit(self._tail, self._file)
            self._file, self._tail = None, Segment("")

    def _submit(self, segment: Segment, file: AppendFile) -> None:
        self._pending[segment.name] = segment
        self._sealer.submit(Job(segment, partial(self.folder.seal, segment, file), file.close))

    def _collect(self) -> None:
        """Put what has been sealed in the place of the segments it was made of."""
        for segment, result in self._sealer.finished():
            sealed = cast("Sealed | None", result)
            self._pending.pop(segment.name, None)
            self._segments = [s for s in self._segments if s.name != segment.name]
            self._segments += [sealed] if sealed else []
            self._covered = False

    # ---- reading

    def problems(self) -> dict[str, Problem]:
        """Problems by id, in the order in which they were added."""
        with self._lock:
            return {id: problem for id, (_, problem) in self._orders().items()}

    def models(self) -> dict[str, dict[str, Any]]:
        """What is known of each model: registered information, {} for one that only has chains."""
        found: dict[str, dict[str, Any]] = {}
        for segment in self._all():
            found.update({model: {} for model, _ in segment.groups() if model not in found})
            found.update(_small(segment, "models"))
        return found

    def verifiers(self) -> dict[str, bool]:
        """Name of each verifier that has verdicts -> whether it is an oracle."""
        found: dict[str, bool] = {}
        for segment in self._all():
            found.update(_small(segment, "verifiers"))
        return found

    def charges(self) -> list[Charge]:
        """Ledger rows stored beside the chains they paid for (see `Ledger.recover`)."""
        found: dict[str, Charge] = {}
        for segment in self._all():
            found.update(_small(segment, "charges"))
        return list(found.values())

    def samplings(self, model: str | None = None) -> list[Sampling]:
        """The distinct sampling parameters that were used (by one model), in a fixed order."""
        texts = {s for segment in self._all() for m, s in segment.groups() if model in (None, m)}
        return [sampling_from_json(text) for text in sorted(texts)]

    def chains(
        self,
        model: str | None = None,
        sampling: Sampling | None = None,
        problem_ids: Collection[str] | None = None,
        *,
        continuations: bool = False,
    ) -> list[Chain]:
        """Chains that match, sorted by problem order, then sample index; the same whatever order they came
        in.

        continuations: also chains that continue another one (``parent`` set), as beam searches draw them.
        """
        text = None if sampling is None else sampling_json(sampling)
        ids = None if problem_ids is None else frozenset(problem_ids)
        wanted = Filter(model, text, ids, continuations)
        expression = shards.chain_filter(wanted)
        found: dict[str, Chain] = {}
        for segment in self._all():
            found.update(segment.find_chains(wanted, expression))
        place = {id: i for i, id in enumerate(self._orders())}
        last = len(place)

        def order(c: Chain) -> tuple[Any, ...]:
            at = place.get(c.problem_id, last)
            return at, c.problem_id, c.index, c.model, sampling_json(c.sampling), c.key

        return sorted(found.values(), key=order)

    def verdicts(self, verifier: str) -> dict[str, Verdict]:
        """Chain key -> verdict, of one verifier."""
        found: dict[str, Verdict] = {}
        for segment in self._all():
            found.update(segment.find_verdicts(verifier))
        return found

    def has(self, key: str) -> bool:
        return not self.missing([key])

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Those of ``keys`` that have no chain yet, in order."""
        with self._lock:
            rest = list(keys)
            for known in [s.keys for s in self._all() if isinstance(s, Segment)]:
                rest = [k for k in rest if k not in known]
            if not rest or not len(index := self._sealed_keys()):
                return rest
            there = index.contains(columns.key_numbers(rest)).tolist()
            return [k for k, is_there in zip(rest, there, strict=True) if not is_there]

    def keys(self) -> set[str]:
        """The keys of all chains."""
        found: set[str] = set()
        for numbers in self._key_slices():
            joined = numbers.T.astype(">u8").tobytes().hex()
            found.update(joined[i : i + 32] for i in range(0, len(joined), 32))
        return found

    def __len__(self) -> int:
        """How many chains there are."""
        return sum(scan.distinct(numbers).shape[1] for numbers in self._key_slices())

    def scan(self, table: str, names: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """All rows of a table (see `columns.SCHEMAS`) as Arrow tables of some thousand rows, oldest segment first,
        in as much memory as one of them takes. Of rows with one identity only the last is there."""
        segments = self._all()
        if table != "chains":
            return scan.rows(segments, table, names)
        return scan.chain_rows(segments, names, self.repeated_keys())

    def sql(self, query: str) -> pa.Table:
        """Rows by SQL over the views chains, verdicts, problems, models, verifiers and charges (extra ``query``)."""
        from reasoning.pool.query import query as run

        return run(self, query)

    def segments(self) -> list[Sealed | Segment]:
        """All segments, oldest first."""
        return self._all()

    def repeated_keys(self) -> set[str]:
        """The chains that two writers drew at the same time, so that two segments have them."""
        return scan.repeated(self._key_slices())

    def claims(self) -> Claims:
        """To share the drawing with other processes; see `Claims`."""
        return Claims(self.path / "claims")

    def summary(self) -> dict[str, Any]:
        """Counts for a person: chains, problems, models, samplings, verdicts by verifier, bytes on disk."""
        judged = scan.count_verdicts(self._all())
        verdicts = {name: judged[name] for name in self.verifiers()}
        return {
            "path": str(self.path),
            "problems": len(self._orders()),
            "chains": len(self),
            "models": [model for model, info in self.models().items() if not info.get("verifier")],
            "samplings": len(self.samplings()),
            "verdicts": verdicts,
            "shards": sum(len(s.rows) for s in self._segments if isinstance(s, Sealed)),
            "bytes": sum(map(_size, self.path.rglob("*"))),
        }

    def _all(self) -> list[Sealed | Segment]:
        """All segments, oldest first."""
        with self._lock:
            self._collect()
            tail = [] if self._file is None else [self._tail]
            return sorted([*self._segments, *tail], key=lambda s: s.name)

    def _forget_views(self) -> None:
        self._order_view: dict[str, tuple[int, Problem]] | None = None
        self._covered = False

    def _orders(self) -> dict[str, tuple[int, Problem]]:
        """id -> (order, problem), sorted by order. A problem added twice keeps its first place."""
        if self._order_view is None:
            found: dict[str, tuple[int, Problem]] = {}
            for segment in self._all():
                for id, (order, problem) in _small(segment, "problems").items():
                    found[id] = (min(order, found[id][0]) if id in found else order, problem)
            self._order_view = dict(sorted(found.items(), key=lambda item: (item[1][0], item[0])))
        return self._order_view

    def _sealed_keys(self) -> KeyIndex:
        with self._lock:
            if not self._covered:
                sealed = [s.name for s in self._segments if isinstance(s, Sealed) and "chains" in s.rows]
                self._index.cover(name for name in sealed if self.folder.shard("chains", name).exists())
                self._covered = True
            return self._index

    def _key_slices(self) -> Iterator[np.ndarray]:
        """The digests of all chains in sorted slices; one that is in two segments is there twice."""
        with self._lock:
            live = [k for s in self._all() if isinstance(s, Segment) for k in s.keys]
            return self._sealed_keys().slices(columns.key_numbers(live))


def _size(path: Path) -> int:
    """Bytes of a file; 0 of what is none, or was sealed and removed since it was listed."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        return 0


def _small(segment: Sealed | Segment, table: str) -> dict[str, Any]:
    """A table that fits into memory, by its key."""
    if isinstance(segment, Segment):
        return segment.small(table)
    content = segment.read(table)
    return {} if content is None else UNPACK[table](content)
