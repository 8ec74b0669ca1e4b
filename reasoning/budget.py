"""One purse: `Budget` (how much may be spent) and `Ledger` (what was spent, on what, by whom).

Reserve the worst case before a call, settle the real cost after it: then no order of events, thread or kill
can overshoot. This module knows nothing of engines, pools or strategies.
"""

from __future__ import annotations

import math
import secrets
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from reasoning.durable import AppendFile, cannot_write, frame_row, fsync_folder, read_lines
from reasoning.errors import EngineError, PoolError, UserError, unknown
from reasoning.records import Cost

PHASES = ("sample", "verify", "train", "search", "evaluate")


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits, any combination; None is no limit.

    tokens: computed tokens (prompt + output + scored; cached prompt tokens are not computed again).
    flops: floating-point operations of all models. seconds: of charged work. samples: chains drawn.

    >>> Budget.parse("tokens=2e6,seconds=60")
    Budget(tokens=2000000, flops=None, seconds=60.0, samples=None)
    """

    tokens: int | None = None
    flops: float | None = None
    seconds: float | None = None
    samples: int | None = None

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise UserError(f"Budget: {f.name} must be a positive number, not {value}.")

    @classmethod
    def parse(cls, text: str) -> Budget:
        """From ``tokens=2e6,seconds=60``. Raises UserError for an unknown limit or no number."""
        known = [f.name for f in fields(cls)]
        limits: dict[str, Any] = {}
        for part in filter(None, (p.strip() for p in text.split(","))):
            name, _, value = (p.strip() for p in part.partition("="))
            if name not in known:
                raise unknown("budget limit", name, known)
            if name in limits:
                raise UserError(f"Budget: {name} is given twice in {text!r}.")
            try:
                number = float(value)
            except ValueError:
                raise UserError(f"Budget: {part!r} is not {name}=NUMBER (such as {name}=2e6).") from None
            if name in ("tokens", "samples"):
                if not number.is_integer():
                    raise UserError(f"Budget: {name} must be a whole number, not {value}.")
                number = int(number)
            limits[name] = number
        if not limits:
            raise UserError(
                f"Empty budget {text!r}: write one or more of {', '.join(known)}, as in tokens=2e6."
            )
        return cls(**limits)

    def __str__(self) -> str:
        set_ = ((f.name, getattr(self, f.name)) for f in fields(self))
        return ",".join(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
                        for name, value in set_ if value is not None)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Charge:
    """One row of the ledger, or a sum of rows.

    cost: what was computed. samples: chains drawn. discarded_tokens: how many of cost.output_tokens were
    thrown away (rejected beams, cancelled chains, dead groups); they are counted in cost already.
    """

    phase: str = ""
    strategy: str = ""
    cost: Cost = Cost()
    samples: int = 0
    discarded_tokens: int = 0
    id: str = ""

    def __add__(self, other: Charge) -> Charge:
        return replace(
            self,
            cost=self.cost + other.cost,
            samples=self.samples + other.samples,
            discarded_tokens=self.discarded_tokens + other.discarded_tokens,
            id="",
        )

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {"id": self.id, "phase": self.phase, "strategy": self.strategy}
        row |= {f.name: getattr(self.cost, f.name) for f in fields(Cost)}
        return row | {"samples": self.samples, "discarded_tokens": self.discarded_tokens}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Charge:
        cost = Cost(**{f.name: row[f.name] for f in fields(Cost)})
        return cls(row["phase"], row["strategy"], cost, row["samples"], row["discarded_tokens"], row["id"])


@dataclass(slots=True)
class Reservation:
    """Part of the purse set aside. Settle it once, or in parts with ``final=False``; what is not settled goes
    back when it is final, released, or at the end of a ``with`` block."""

    ledger: Ledger
    worst: Cost
    samples: int
    phase: str
    strategy: str
    open: bool = True

    def prepare(self, actual: Cost, samples: int = 0, discarded_tokens: int = 0) -> Charge:
        """The row that `commit` will write. A caller that stores results writes the row with them first, so
        that a kill between the two is mended by `Ledger.recover`."""
        id = f"{self.ledger.id}-{secrets.token_hex(8)}"
        return Charge(self.phase, self.strategy, actual, samples, discarded_tokens, id)

    def commit(self, charge: Charge, final: bool = True) -> Charge:
        self.ledger._commit(self, charge, final)
        return charge

    def settle(self, actual: Cost, samples: int = 0, discarded_tokens: int = 0, final: bool = True) -> Charge:
        """Charge the real cost. Raises EngineError when it overshoots a limit, which an honest ``worst``
        rules out; the row is written all the same, because the work was done."""
        return self.commit(self.prepare(actual, samples, discarded_tokens), final)

    def release(self) -> None:
        self.ledger._release(self)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


@dataclass(frozen=True, slots=True)
class Left:
    """What is neither spent nor reserved; infinite where there is no limit, never below 0."""

    tokens: float = math.inf
    flops: float = math.inf
    seconds: float = math.inf
    samples: float = math.inf


@dataclass(slots=True)
class _Reserved:
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    samples: int = 0
    reservations: int = 0


class Ledger:
    """What was spent. Thread safe. With ``path`` (a run folder, or a ``.jsonl`` file) every row is on the
    disk before `Reservation.settle` returns, and a new ledger on the same path goes on with what is left.

    Tokens, FLOPs and samples are never overshot. Seconds are known only afterwards: once they are spent,
    nothing more is granted, so the overshoot is at most the call in flight.

    Raises PoolError when the file cannot be written, or when another process spends from the same budget.
    """

    def __init__(self, budget: Budget | None = None, path: str | Path | None = None):
        self.budget = budget
        self.id = secrets.token_hex(8)
        self.notes: list[str] = []
        self._lock = threading.RLock()
        self._charges: list[Charge] = []
        self._ids: set[str] = set()
        self._spent = Charge()
        self._reserved = _Reserved()
        self._file = self._open(Path(path)) if path is not None else None

    def _open(self, path: Path) -> AppendFile:
        if path.suffix != ".jsonl":
            path = path / "ledger.jsonl"
        existed = path.exists()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = AppendFile(path)
        except OSError as e:
            raise cannot_write(path, e) from e
        alone = file.lock()
        if not alone and (self.budget is not None or not file.lock(shared=True)):
            file.close()
            raise PoolError(f"{path}: another process is spending from this budget; wait for it to end.")
        reading = read_lines(file.read(), path.name, live=not alone)
        self.notes += reading.notes
        if alone and reading.whole_bytes < file.size:
            file.truncate(reading.whole_bytes)
        if reading.rows:
            try:
                charges = [Charge.from_json(row) for row in reading.rows if "ledger" not in row]
                named = next((row["ledger"] for row in reading.rows if "ledger" in row), "")
                # Where the first line, which names the ledger, is damaged: rows begin with its name.
                self.id = named or charges[0].id.rpartition("-")[0]
            except (KeyError, TypeError, AttributeError) as e:
                file.close()
                raise PoolError(
                    f"{path}: this is no ledger ({type(e).__name__}: {e}); move it away and run the same "
                    "command again to begin a new one."
                ) from e
            for charge in charges:
                self._add(charge)
        else:
            if existed:
                self.notes.append(
                    f"{path} holds no rows: what was spent before is not known, and counts from 0 again."
                )
            file.append(frame_row({"ledger": self.id, "format": 1}))
            fsync_folder(path.parent)
        if alone and self.budget is None:
            file.lock(shared=True)  # others may write beside us, where there is no budget to keep
        return file

    @property
    def durable(self) -> bool:
        """Whether rows go to a file."""
        return self._file is not None

    @property
    def charges(self) -> list[Charge]:
        with self._lock:
            return list(self._charges)

    @property
    def spent(self) -> Charge:
        """The sum of all rows."""
        return self._spent

    def left(self) -> Left:
        budget, spent, reserved = self.budget, self._spent, self._reserved
        if budget is None:
            return Left()
        used = {
            "tokens": spent.cost.tokens + reserved.tokens,
            "flops": spent.cost.flops + reserved.flops,
            "seconds": spent.cost.seconds + reserved.seconds,
            "samples": spent.samples + reserved.samples,
        }
        limits = {name: getattr(budget, name) for name in used}
        return Left(**{n: max(0, limit - used[n]) for n, limit in limits.items() if limit is not None})

    def fits(self, worst: Cost, samples: int = 0) -> bool:
        with self._lock:
            left = self.left()
        return (
            worst.tokens <= left.tokens
            and worst.flops <= left.flops
            and worst.seconds <= left.seconds
            and left.seconds > 0
            and samples <= left.samples
        )

    def affordable(self, unit: Cost, at_most: int, samples: int = 1) -> int:
        """How many equal units (each of ``samples`` chains) fit into what is left, at most ``at_most``."""
        with self._lock:
            left = self.left()
        if left.seconds <= 0:
            return 0
        n = at_most
        for have, need in (
            (left.tokens, unit.tokens),
            (left.flops, unit.flops),
            (left.seconds, unit.seconds),
            (left.samples, samples),
        ):
            if need > 0 and have < need * n:
                n = int(have // need)
                n += (need * (n + 1) <= have) - (
                    need * n > have
                )  # a quotient of floats is off by one at times
        return max(0, n)

    def reserve(self, worst: Cost, samples: int = 0, *, phase: str, strategy: str = "") -> Reservation | None:
        """Set the worst case aside, or None when it does not fit."""
        _check_phase(phase)
        with self._lock:
            if not self.fits(worst, samples):
                return None
            self._hold(worst, samples, 1)
            return Reservation(self, worst, samples, phase, strategy)

    def charge(
        self, cost: Cost, samples: int = 0, *, phase: str, strategy: str = "", discarded_tokens: int = 0
    ) -> Charge:
        """Write a row for work that is done and was not reserved (a training step, an import)."""
        _check_phase(phase)
        with self._lock:
            self._hold(Cost(), 0, 1)
            return Reservation(self, Cost(), 0, phase, strategy).settle(cost, samples, discarded_tokens)

    def recover(self, charges: Iterable[Charge]) -> int:
        """Write the rows of this ledger that a kill kept from it; returns how many there were."""
        with self._lock:
            lost = [c for c in charges if c.id not in self._ids and c.id.startswith(self.id + "-")]
            for charge in lost:
                self._write(charge)
            return len(lost)

    def totals(self, by: Iterable[str] = ("phase",)) -> dict[tuple[str, ...], Charge]:
        """Sums of the rows that agree in ``by`` (of "phase" and "strategy"), in order of first appearance."""
        by = tuple(by)
        for name in by:
            if name not in ("phase", "strategy"):
                raise unknown("ledger column", name, ("phase", "strategy"))
        sums: dict[tuple[str, ...], Charge] = {}
        for charge in self.charges:
            key = tuple(getattr(charge, name) for name in by)
            named = Charge(**dict(zip(by, key, strict=True)))
            sums[key] = sums.get(key, named) + charge
        return sums

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hold(self, worst: Cost, samples: int, sign: int) -> None:
        held = self._reserved
        held.tokens += sign * worst.tokens
        held.flops += sign * worst.flops
        held.seconds += sign * worst.seconds
        held.samples += sign * samples
        held.reservations += sign
        if held.reservations == 0:
            held.flops = held.seconds = 0.0  # sums of floats leave dust that would eat into the last draw

    def _add(self, charge: Charge) -> None:
        self._charges.append(charge)
        self._ids.add(charge.id)
        self._spent += charge

    def _write(self, charge: Charge) -> None:
        if self._file is not None:
            self._file.append(frame_row(charge.to_json()))
        self._add(charge)

    def _release(self, held: Reservation) -> None:
        with self._lock:
            if held.open:
                self._hold(held.worst, held.samples, -1)
                held.open = False

    def _commit(self, held: Reservation, charge: Charge, final: bool) -> None:
        with self._lock:
            if not held.open:
                raise ValueError("this reservation is settled or released already")
            self._write(charge)
            rest = Cost(
                prompt_tokens=max(0, held.worst.tokens - charge.cost.tokens),
                flops=max(0.0, held.worst.flops - charge.cost.flops),
                seconds=max(0.0, held.worst.seconds - charge.cost.seconds),
            )
            self._release(held)
            if not final:
                held.worst, held.samples = rest, max(0, held.samples - charge.samples)
                self._hold(held.worst, held.samples, 1)
                held.open = True
            self._refuse_overshoot()

    def _refuse_overshoot(self) -> None:
        if self.budget is None:
            return
        spent = {
            "tokens": self._spent.cost.tokens,
            "flops": self._spent.cost.flops,
            "samples": self._spent.samples,
        }
        for name, value in spent.items():
            limit = getattr(self.budget, name)
            if limit is not None and value > limit * (1 + 1e-9 * (name == "flops")):
                raise EngineError(
                    f"{value:g} {name} were spent of {limit:g}: a call cost more than its worst case."
                )


def _check_phase(phase: str) -> None:
    if phase not in PHASES:
        raise ValueError(f"phase must be one of {', '.join(PHASES)}, not {phase!r}")
