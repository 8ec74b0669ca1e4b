"""`Pool`: the durable store of problems, chains and verdicts that everything else reads and writes."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from reasoning.budget import Charge
from reasoning.durable import AppendFile, frame, frame_row
from reasoning.errors import PoolError
from reasoning.pool import shards
from reasoning.pool.admission import admit_verdict, check_chain, check_problem, check_text
from reasoning.pool.folder import Folder, Sealed, find_folder
from reasoning.pool.rows import (
    chain_body,
    clean_text,
    json_value,
    problem_body,
    sampling_from_json,
    sampling_json,
    verdict_body,
)
from reasoning.pool.segment import Filter, Segment
from reasoning.records import Chain, Problem, Sampling
from verifiers.base import Verdict

_KEY = re.compile(r"[0-9a-f]{32}")
SEGMENT_BYTES = 64 << 20


class Pool:
    """A folder of chains. Open it with `Pool.open`; close it, or use ``with``.

    Whatever a method wrote is on the disk when it returns. Several processes may write at the same time, each
    into a file of its own; each sees what the others had written when it opened (or last called `refresh`).
    The last row of a key wins. Safe to use from several threads.

    notes: one line for each torn, damaged or missing piece that was found when opening.
    """

    def __init__(self, folder: Folder, read_only: bool, segment_bytes: int = SEGMENT_BYTES):
        self.folder = folder
        self.read_only = read_only
        self._segment_bytes = segment_bytes
        self._lock = threading.RLock()
        self._file: AppendFile | None = None
        self._tail = Segment("")
        self._segments: list[Sealed | Segment] = []
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
        """See what other processes have written since; seal what dead ones left behind."""
        with self._lock:
            found = self.folder.load(repair=not self.read_only)
            self._segments = [s for s in found if s.name != self._tail.name]
            self._forget_views()

    # ---- writing

    def add_problems(self, problems: Iterable[Problem]) -> None:
        """Add problems that are not there yet; their order is kept by every query.

        Raises PoolError for an id, prompt or task that is not text; nothing of the call is stored then.
        """
        with self._lock:
            orders = self._orders()
            after = max((order for order, _ in orders.values()), default=-1) + 1
            new = list({p.id: p for p in problems if p.id not in orders}.values())
            for problem in new:
                check_problem(problem)
            lines = [frame(problem_body(p, after + i)) for i, p in enumerate(new)]
            self._append(lines)
            self._tail.problems.update({p.id: (after + i, p) for i, p in enumerate(new)})
            self._forget_views()

    def add_model(self, model: str, info: Mapping[str, Any] | None = None) -> None:
        """Register what a model id stands for ("shape" for FLOPs, "training" and what else is to be kept)."""
        with self._lock:
            info = dict(info or {})
            if self.models().get(model) != info:
                check_text(model, "A model's id")
                body = json_value({"model": {"id": model, "info": info}}, f"information on model {model}")
                self._append([frame(body.encode())])
                self._tail.models[model] = info

    def append(self, chains: Iterable[Chain], charges: Sequence[Charge] = ()) -> None:
        """Store chains, and with them, in the same write, the ledger rows that paid for them.

        Lone surrogates in the text become U+FFFD. Raises ValueError for a malformed key or a problem that was
        not added, PoolError for a value that no shard takes (see `admission`) and when the disk refuses;
        nothing of the call is stored then.
        """
        with self._lock:
            problems, kept = self._orders(), []
            for chain in chains:
                if not _KEY.fullmatch(chain.key) or (chain.parent and not _KEY.fullmatch(chain.parent)):
                    raise ValueError(f"a chain's key has 32 hex digits (see chain_key), not {chain.key!r}")
                if chain.problem_id not in problems:
                    raise ValueError(
                        f"problem {chain.problem_id} is not in the pool: add_problems comes first"
                    )
                check_chain(chain)
                kept.append(_with_text(chain, clean_text(chain.text)))
            lines = [frame(_body(c)) for c in kept]
            self._append(lines + [frame_row({"charge": c.to_json()}) for c in charges])
            self._tail.chains.update((c.key, c) for c in kept)
            self._tail.charges.update((c.id, c) for c in charges)
            self._seal_when_full()

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
            lines = [frame(verdict_body(verifier, key, v)) for key, v in verdicts.items()]
            lines += [frame_row({"charge": c.to_json()}) for c in charges]
            if flag != known:
                lines.append(frame_row({"verifier": {"name": verifier, "oracle": flag}}))
            self._append(lines)
            if flag != known:
                self._tail.oracles[verifier] = flag
            self._tail.verdicts.setdefault(verifier, {}).update(verdicts)
            self._tail.charges.update((c.id, c) for c in charges)
            self._seal_when_full()

    def seal(self) -> None:
        """Turn this writer's write-ahead file into Parquet shards."""
        with self._lock:
            if self._file is None:
                return
            sealed = self.folder.seal(self._tail, self._file)
            self._file.close()
            self._file = None
            self._segments += [sealed] if sealed else []
            if self._tail.chains:
                self._numbers = None
            self._tail = Segment("")

    def close(self) -> None:
        """Seal and let go. When the disk is full the write-ahead file stays, with nothing lost."""
        with self._lock:
            try:
                self.seal()
            except PoolError as e:
                self.notes.append(f"not sealed yet: {e}")
            if self._file is not None:
                self._file.close()
                self._file = None
                self._segments.append(self._tail)
                self._tail = Segment("")

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _append(self, lines: Sequence[bytes]) -> None:
        if not lines:
            return
        if self.read_only:
            raise PoolError(f"{self.path} was opened for reading only.")
        if self._file is None:
            name, self._file = self.folder.new_wal()
            self._tail = Segment(name)
        self._file.append(b"".join(lines))

    def _seal_when_full(self) -> None:
        if self._file is not None and self._file.size >= self._segment_bytes:
            self.seal()

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
        found: dict[str, Chain] = {}
        for segment in self._all():
            found.update(segment.find_chains(wanted))
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
            live = [s.chains for s in self._all() if isinstance(s, Segment)]
            rest = [k for k in keys if not any(k in chains for chains in live)]
            if not rest:
                return rest
            if bad := next((k for k in rest if not _KEY.fullmatch(k)), None):
                raise ValueError(f"a chain's key has 32 hex digits (see chain_key), not {bad!r}")
            numbers = self._sealed_numbers()
            wanted = shards.key_numbers(rest)
            at = np.searchsorted(numbers[:, 0], wanted[:, 0]).tolist()
            return [k for k, i, pair in zip(rest, at, wanted, strict=True) if not _found(numbers, i, pair)]

    def keys(self) -> set[str]:
        """The keys of all chains."""
        found = {f"{high:016x}{low:016x}" for high, low in self._sealed_numbers().tolist()}
        for segment in self._all():
            if isinstance(segment, Segment):
                found.update(segment.chains)
        return found

    def summary(self) -> dict[str, Any]:
        """Counts for a person: chains, problems, models, samplings, verdicts by verifier, bytes on disk."""
        verdicts: Counter[str] = Counter()
        for name in self.verifiers():
            verdicts[name] = len(self.verdicts(name))
        files = [p for p in self.path.rglob("*") if p.is_file()]
        return {
            "path": str(self.path),
            "problems": len(self._orders()),
            "chains": len(self.keys()),
            "models": list(self.models()),
            "samplings": len(self.samplings()),
            "verdicts": dict(verdicts),
            "shards": sum(len(s.rows) for s in self._segments if isinstance(s, Sealed)),
            "bytes": sum(p.stat().st_size for p in files),
        }

    def _all(self) -> list[Sealed | Segment]:
        with self._lock:
            return [*self._segments, self._tail]

    def _forget_views(self) -> None:
        self._order_view: dict[str, tuple[int, Problem]] | None = None
        self._numbers: np.ndarray | None = None

    def _orders(self) -> dict[str, tuple[int, Problem]]:
        """id -> (order, problem), sorted by order. A problem added twice keeps its first place."""
        if self._order_view is None:
            found: dict[str, tuple[int, Problem]] = {}
            for segment in self._all():
                for id, (order, problem) in _small(segment, "problems").items():
                    found[id] = (min(order, found[id][0]) if id in found else order, problem)
            self._order_view = dict(sorted(found.items(), key=lambda item: (item[1][0], item[0])))
        return self._order_view

    def _sealed_numbers(self) -> np.ndarray:
        """The keys of sealed chains as sorted pairs of numbers, (chains, 2): 16 bytes a chain."""
        if self._numbers is None:
            tables = (s.read("chains", ["key"]) for s in self._segments if isinstance(s, Sealed))
            parts = [shards.key_numbers(table["key"].to_pylist()) for table in tables if table is not None]
            numbers = np.concatenate([np.zeros((0, 2), np.uint64), *parts])
            self._numbers = numbers[np.lexsort((numbers[:, 1], numbers[:, 0]))]
        return self._numbers


def _found(numbers: np.ndarray, at: int, pair: np.ndarray) -> bool:
    while at < len(numbers) and numbers[at, 0] == pair[0]:
        if numbers[at, 1] == pair[1]:
            return True
        at += 1
    return False


def _small(segment: Sealed | Segment, table: str) -> dict[str, Any]:
    """A table that fits into memory, by its key."""
    if isinstance(segment, Segment):
        return getattr(segment, "oracles" if table == "verifiers" else table)
    content = segment.read(table)
    if content is None:
        return {}
    if table == "problems":
        return {p.id: (order, p) for order, p in shards.problems_from(content)}
    if table == "models":
        return dict(shards.models_from(content))
    if table == "charges":
        return {c.id: c for c in shards.charges_from(content)}
    return dict(zip(content["name"].to_pylist(), content["oracle"].to_pylist(), strict=True))


def _body(chain: Chain) -> bytes:
    try:
        return chain_body(chain)
    except (OverflowError, TypeError, ValueError) as e:  # of packing numbers that are none, or too large
        raise PoolError(f"Chain {chain.key} cannot be stored ({e}); nothing was stored.") from e


def _with_text(chain: Chain, text: str) -> Chain:
    if text is chain.text:
        return chain
    return replace(chain, text=text)
