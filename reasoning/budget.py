"""One purse: `Ledger` (what was spent, on what, by whom) within a `Budget` (see `limits`).

Reserve the worst case before a call, settle the real cost after it: then no order of events, thread or kill
can overshoot. This module knows nothing of engines, pools or strategies.
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from reasoning.charges import FORMAT, PHASES, Charge, read_rows, totals
from reasoning.durable import AppendFile, cannot_write, frame_row, fsync_folder, read_lines, try_lock
from reasoning.errors import EngineError, PoolError, UserError
from reasoning.limits import LIMITS, Budget, Left
from reasoning.prices import Prices
from reasoning.records import Cost

__all__ = ["LIMITS", "PHASES", "Budget", "Charge", "Ledger", "Left", "Reservation"]

PATIENCE_SECONDS = 2.0
"""How long an opener of a ledger's file waits for another to let go of it."""


@dataclass(slots=True)
class Reservation:
    """Part of the purse set aside. Settle it once, or in parts with ``final=False``; what is not settled goes
    back when it is final, released, or at the end of a ``with`` block."""

    ledger: Ledger
    worst: Cost
    samples: int
    phase: str
    strategy: str
    model: str = ""
    price: float = 0.0
    open: bool = True

    def prepare(
        self,
        actual: Cost,
        samples: int = 0,
        discarded_tokens: int = 0,
        *,
        cancelled_tokens: int = 0,
        failed_tokens: int = 0,
    ) -> Charge:
        """The row that `commit` will write. A caller that stores results writes the row with them first, so
        that a kill between the two is mended by `Ledger.recover`."""
        return self.ledger.priced(
            Charge(
                self.phase,
                self.strategy,
                actual,
                samples,
                discarded_tokens,
                f"{self.ledger.id}-{secrets.token_hex(8)}",
                self.model,
                cancelled_tokens,
                failed_tokens,
            )
        )

    def commit(self, charge: Charge, final: bool = True, *, stored: bool = False) -> Charge:
        """Write the row. stored: it is on the disk beside the results (see `prepare`), so that no fsync is waited
        for: should the machine fail, `Ledger.recover` writes what is missing."""
        self.ledger._commit(self, charge, final, stored)
        return charge

    def settle(
        self,
        actual: Cost,
        samples: int = 0,
        discarded_tokens: int = 0,
        final: bool = True,
        *,
        failed_tokens: int = 0,
    ) -> Charge:
        """Charge the real cost. Raises EngineError when it overshoots a limit, which an honest ``worst``
        rules out; the row is written all the same, because the work was done."""
        charge = self.prepare(actual, samples, discarded_tokens, failed_tokens=failed_tokens)
        return self.commit(charge, final)

    def shrink(self, worst: Cost) -> None:
        """Give back what is set aside beyond ``worst``, which has turned out to be the most. Raises ValueError
        where that is more than before."""
        self.ledger._shrink(self, worst)

    def release(self) -> None:
        self.ledger._release(self)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


@dataclass(slots=True)
class _Reserved:
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    samples: int = 0
    price: float = 0.0
    reservations: int = 0


class Ledger:
    """What was spent. Thread safe. With ``path`` (a run folder, or a ``.jsonl`` file) every row is on the
    disk before `Reservation.settle` returns (of a row that is stored beside its results, that copy is), and a new
    ledger on the same path goes on with what is left.

    Tokens, FLOPs, samples and the price of tokens are never overshot. Seconds, and prices by the hour, are known
    only afterwards: once they are spent, nothing more is granted, so the overshoot is at most the call in flight.

    prices: the table that gives each row its price; a limit in price needs one. read_only: look at the file,
    beside whoever writes it.

    Raises PoolError when the file cannot be written, or when another process spends from the same budget,
    UserError for a limit in price without a table, or with one that does not have what was spent before.
    """

    def __init__(
        self,
        budget: Budget | None = None,
        path: str | Path | None = None,
        prices: Prices | None = None,
        *,
        read_only: bool = False,
    ):
        if budget is not None and budget.price is not None and prices is None:
            raise UserError(
                "A budget in price needs a price table: --prices FILE, or prices.toml in the run folder."
            )
        self.budget = budget
        self.prices = prices
        self.id = secrets.token_hex(8)
        self.notes: list[str] = []
        self._lock = threading.RLock()
        self._charges: list[Charge] = []
        self._ids: set[str] = set()
        self._spent = Charge()
        self._reserved = _Reserved()
        self._by_the_hour = False
        self._read_only = read_only
        self._waited = True  # whether the last row is known to be on the disk
        self._file: AppendFile | None = None
        if path is not None:
            path = Path(path)
            path = path if path.suffix == ".jsonl" else path / "ledger.jsonl"
            self._file = self._look(path) if read_only else self._open(path)

    def _look(self, path: Path) -> None:
        """Read without mending anything and without keeping a writer out."""
        try:
            with path.open("rb") as file:
                data = file.read()
                reading = read_lines(data, path.name)
                if reading.whole_bytes < len(data) and not try_lock(file.fileno()):
                    reading = read_lines(data, path.name, live=True)  # its writer is in the middle of a line
        except FileNotFoundError:
            raise UserError(f"{path}: there is no ledger, nothing was spent.") from None
        self.notes += reading.notes
        if reading.rows:
            self._take(reading.rows, path)
        else:
            self.notes.append(f"{path} holds no rows: what was spent before is not known.")

    def _open(self, path: Path) -> AppendFile:
        existed = path.exists()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = AppendFile(path)
        except OSError as e:
            raise cannot_write(path, e) from e
        try:
            alone = self._enter(file)
        except PoolError:
            file.close()
            raise
        reading = read_lines(file.read(), path.name, live=not alone)
        self.notes += reading.notes
        if alone and reading.whole_bytes < file.size:
            file.truncate(reading.whole_bytes)
        if reading.rows:
            try:
                self._take(reading.rows, path)
            except BaseException:
                file.close()
                raise
        else:
            if existed:
                self.notes.append(
                    f"{path} holds no rows: what was spent before is not known, and counts from 0 again."
                )
            file.append(frame_row({"ledger": self.id, "format": FORMAT}))
            fsync_folder(path.parent)
        if alone and self.budget is None:
            try:
                self._enter(
                    file, mending=False
                )  # others may write beside us, where there is no budget to keep
            except PoolError:
                file.close()
                raise
        return file

    def _enter(self, file: AppendFile, mending: bool = True) -> bool:
        """Lock the file: alone, or where there is no budget to keep (and it is not ``mending`` that is to be done)
        beside others. Whether we are alone. Waits for those who only begin: they are alone while they read."""
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            if (mending or self.budget is not None) and file.lock():
                return True
            if self.budget is None and file.lock(shared=True):
                return False
            if time.monotonic() > until:
                raise PoolError(
                    f"{file.path}: another process is spending from this budget; wait for it to end."
                )
            time.sleep(0.01)

    def _take(self, rows: list[Any], path: Path) -> None:
        """Go on from what a file holds."""
        self.id, charges = read_rows(rows, path)
        known = sorted({c.currency for c in charges if c.currency})
        if self.prices is not None and any(c != self.prices.currency for c in known):
            raise UserError(
                f"{path} was charged in {', '.join(known)}, and {self.prices.source} is in "
                f"{self.prices.currency}: give a table in {known[0]}, or use another run folder."
            )
        for charge in charges:
            if charge.id not in self._ids:  # two writers may have recovered the same row
                self._add(self.priced(charge))

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
        budget = self.budget
        if budget is None:
            return Left()
        with self._lock:
            spent, reserved = self.used(), self._reserved
            used = {name: spent[name] + getattr(reserved, name) for name in LIMITS}
        limits = {name: getattr(budget, name) for name in LIMITS}
        return Left(**{n: max(0, limit - used[n]) for n, limit in limits.items() if limit is not None})

    def used(self) -> dict[str, float]:
        """What was spent of each kind of limit."""
        spent = self._spent
        cost = spent.cost
        return {
            "tokens": cost.tokens,
            "flops": cost.flops,
            "seconds": cost.seconds,
            "samples": spent.samples,
            "price": spent.price or 0.0,
        }

    def seconds_left(self, model: str = "") -> float:
        """How long ``model`` may go on by the limits in seconds and in price (where it is paid by the hour)."""
        left = self.left()
        if left.price == math.inf or self.prices is None or model not in self.prices:
            return left.seconds
        hour = self.prices.rate(model).hour
        return min(left.seconds, left.price * 3600 / hour) if hour else left.seconds

    def most(self, worst: Cost, model: str) -> float:
        """The most that ``worst`` may be charged for ``model``; 0 where there is no limit in price. Raises
        UserError for a model that the price table does not have."""
        if self.budget is None or self.budget.price is None or Charge(cost=worst).empty:
            return 0.0
        assert self.prices is not None
        return self.prices.rate(model).most(worst, model)

    def priced(self, charge: Charge) -> Charge:
        """``charge`` with its price, where there is a table that has its model. Under a limit in price every
        model must be in it: raises UserError."""
        if self.prices is None or charge.price is not None:
            return charge
        # Rows of format 1 name no model; the commands gave the model as their strategy.
        name = charge.model or (charge.strategy if charge.strategy in self.prices else "")
        limited = self.budget is not None and self.budget.price is not None
        if name not in self.prices and (charge.empty or not limited):
            return charge
        rate = self.prices.rate(name)
        return replace(charge, price=rate.price(charge.cost, name), currency=self.prices.currency)

    def fits(self, worst: Cost, samples: int = 0, *, price: float = 0.0) -> bool:
        """Whether work of at most this cost and price (see `most`) is within what is left."""
        if self.budget is None:
            return True
        left = self.left()
        return (
            worst.tokens <= left.tokens
            and worst.flops <= left.flops
            and worst.seconds <= left.seconds
            and left.seconds > 0
            and samples <= left.samples
            and price <= left.price
            and left.price > 0
        )

    def affordable(self, unit: Cost, at_most: int, samples: int = 1, *, model: str = "") -> int:
        """How many equal units (each of ``samples`` chains) fit into what is left, at most ``at_most``."""
        left = self.left()
        if left.seconds <= 0 or left.price <= 0:
            return 0
        n = at_most
        for have, need in (
            (left.tokens, unit.tokens),
            (left.flops, unit.flops),
            (left.seconds, unit.seconds),
            (left.samples, samples),
            (left.price, self.most(unit, model)),
        ):
            if need > 0 and have < need * n:
                n = int(have // need)
                n += (need * (n + 1) <= have) - (
                    need * n > have
                )  # a quotient of floats is off by one at times
        return max(0, n)

    def reserve(
        self,
        worst: Cost,
        samples: int = 0,
        *,
        phase: str,
        strategy: str = "",
        model: str = "",
        price: float | None = None,
    ) -> Reservation | None:
        """Set the worst case aside, or None when it does not fit. model: what will compute it, for its price;
        price: the most it may cost, where ``worst`` is also the work of others."""
        _check_phase(phase)
        price = self.most(worst, model) if price is None else price
        with self._lock:
            if not self.fits(worst, samples, price=price):
                return None
            self._hold(worst, samples, price, 1)
            return Reservation(self, worst, samples, phase, strategy, model, price)

    def charge(
        self,
        cost: Cost,
        samples: int = 0,
        *,
        phase: str,
        strategy: str = "",
        model: str = "",
        discarded_tokens: int = 0,
        instead_of: Iterable[Reservation] = (),
    ) -> Charge:
        """Write a row for work that is done and was not reserved as one (a training step, an import).
        instead_of: what was set aside for it, which goes back at the same moment, so that no other thread counts it
        twice or not at all."""
        _check_phase(phase)
        with self._lock:
            for reserved in instead_of:
                reserved.release()
            self._hold(Cost(), 0, 0.0, 1)
            held = Reservation(self, Cost(), 0, phase, strategy, model)
            with held:
                return held.settle(cost, samples, discarded_tokens)

    def recover(self, charges: Iterable[Charge], others: bool = False) -> int:
        """Write the rows of this ledger that a kill kept from it (a ledger opened for reading only counts them);
        returns how many there were.

        others: also the rows that other ledgers wrote, with a note. A run's pool and ledger belong together, so
        this brings back a deleted ledger, and gives a merged pool the charges of all its parts.
        """
        with self._lock:
            missing = {c.id: c for c in charges if c.id and c.id not in self._ids}
            own = {id for id in missing if id.startswith(self.id + "-")}
            lost = [self.priced(c) for id, c in missing.items() if others or id in own]
            for charge in lost:
                if self._read_only:
                    self._add(charge)
                else:
                    self._write(charge)
            if foreign := [c for c in lost if c.id not in own]:
                tokens = sum(c.cost.tokens for c in foreign)
                self.notes.append(
                    f"Of the pool's charges, {len(foreign)} ({tokens} tokens) were not in this ledger (it "
                    "was lost, or the pool was merged from other runs): they count as spent here."
                )
            elif lost and self.notes:
                self.notes.append(f"Rows that only the pool has, counted here: {len(lost)}.")
            return len(lost)

    def totals(self, by: Iterable[str] = ("phase",)) -> dict[tuple[str, ...], Charge]:
        """Sums of the rows that agree in ``by`` (of "phase", "strategy" and "model"), in order of first
        appearance."""
        return totals(self.charges, by)

    def close(self) -> None:
        if self._file is not None:
            try:
                if not self._waited:
                    self._file.sync()
            finally:
                self._file.close()
                self._file = None

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hold(self, worst: Cost, samples: int, price: float, sign: int) -> None:
        held = self._reserved
        held.tokens += sign * worst.tokens
        held.flops += sign * worst.flops
        held.seconds += sign * worst.seconds
        held.samples += sign * samples
        held.price += sign * price
        held.reservations += sign
        if held.reservations == 0:
            held.flops = held.seconds = held.price = (
                0.0  # sums of floats leave dust that would eat into the last draw
            )

    def _add(self, charge: Charge) -> None:
        self._charges.append(charge)
        self._ids.add(charge.id)
        self._spent += charge
        if charge.price and self.prices is not None:
            name = charge.model or charge.strategy
            self._by_the_hour |= name not in self.prices or bool(self.prices.rate(name).hour)

    def _write(self, charge: Charge, wait: bool = True) -> None:
        if self._read_only:
            raise PoolError("This ledger was opened for reading only.")
        if self._file is not None:
            self._file.append(frame_row(charge.to_json()), wait=wait)
            self._waited = wait
        self._add(charge)

    def _release(self, held: Reservation) -> None:
        with self._lock:
            if held.open:
                self._hold(held.worst, held.samples, held.price, -1)
                held.open = False

    def _shrink(self, held: Reservation, worst: Cost) -> None:
        old = held.worst
        if worst.tokens > old.tokens or worst.flops > old.flops or worst.seconds > old.seconds:
            raise ValueError(f"{worst} is more than the {old} that was set aside")
        with self._lock:
            if not held.open:
                raise ValueError("this reservation is settled or released already")
            price = self.most(worst, held.model)
            self._hold(worst, held.samples, price, 1)
            self._hold(old, held.samples, held.price, -1)
            held.worst, held.price = worst, price

    def _commit(self, held: Reservation, charge: Charge, final: bool, stored: bool) -> None:
        with self._lock:
            if not held.open:
                raise ValueError("this reservation is settled or released already")
            before = self.used()
            self._write(charge, wait=not stored)
            rest = Cost(
                prompt_tokens=max(0, held.worst.tokens - charge.cost.tokens),
                flops=max(0.0, held.worst.flops - charge.cost.flops),
                seconds=max(0.0, held.worst.seconds - charge.cost.seconds),
            )
            self._release(held)
            if not final:
                held.worst, held.samples = rest, max(0, held.samples - charge.samples)
                held.price = max(0.0, held.price - (charge.price or 0.0))
                self._hold(held.worst, held.samples, held.price, 1)
                held.open = True
            self._refuse_overshoot(before)

    def _refuse_overshoot(self, before: dict[str, float]) -> None:
        """before: what was used before the last charge. A run may go on with a budget below what it has spent, and do
        what takes nothing of that: only what adds to it overshoots."""
        if self.budget is None:
            return
        spent = self.used()
        del spent["seconds"]
        if self._by_the_hour:
            del spent["price"]
        for name, value in spent.items():
            limit = getattr(self.budget, name)
            room = math.inf if limit is None else limit * (1 + 1e-9 * (name in ("flops", "price")))
            if value > max(room, before[name]):
                raise EngineError(
                    f"{value:g} {name} were spent of {limit:g}: a call cost more than its worst case."
                )


def _check_phase(phase: str) -> None:
    if phase not in PHASES:
        raise ValueError(f"phase must be one of {', '.join(PHASES)}, not {phase!r}")
