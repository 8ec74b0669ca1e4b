"""`Charge`, a row of the ledger, and how rows are read from its file. Knows no budget.

Format 2 (format 1 had no model, price, cancelled or failed columns) is read by older versions too: they pass over
the columns that they do not know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from reasoning.errors import PoolError, unknown
from reasoning.records import Cost

FORMAT = 2
PHASES = ("sample", "verify", "train", "search", "evaluate")
COLUMNS = ("phase", "strategy", "model")
_COST = tuple(f.name for f in fields(Cost))
_ADDED = {"model": "", "cancelled_tokens": 0, "failed_tokens": 0, "price": None, "currency": ""}
"""Columns of format 2 and their defaults, at which they are left out of a row."""


@dataclass(frozen=True, slots=True)
class Charge:
    """One row of the ledger, or a sum of rows.

    cost: what was computed. samples: chains drawn. model: what computed it.
    Of cost, and counted in it already: discarded_tokens, output of whole chains that were thrown away (rejected
    beams, dead groups); cancelled_tokens, computed for chains that were stopped early; failed_tokens, computed
    by calls that raised or gave no judgement.
    price: in ``currency``, None where no price table was in force; of a sum, of the rows that have one.
    """

    phase: str = ""
    strategy: str = ""
    cost: Cost = Cost()
    samples: int = 0
    discarded_tokens: int = 0
    id: str = ""
    model: str = ""
    cancelled_tokens: int = 0
    failed_tokens: int = 0
    price: float | None = None
    currency: str = ""

    def __add__(self, other: Charge) -> Charge:
        prices = [p for p in (self.price, other.price) if p is not None]
        return replace(
            self,
            cost=self.cost + other.cost,
            samples=self.samples + other.samples,
            discarded_tokens=self.discarded_tokens + other.discarded_tokens,
            cancelled_tokens=self.cancelled_tokens + other.cancelled_tokens,
            failed_tokens=self.failed_tokens + other.failed_tokens,
            price=sum(prices) if prices else None,
            currency=self.currency or other.currency,
            id="",
        )

    @property
    def empty(self) -> bool:
        """Whether no model computed anything (a rule's verdict, a note on what was discarded)."""
        cost = self.cost
        return not (cost.tokens or cost.cached_tokens or cost.flops)

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {"id": self.id, "phase": self.phase, "strategy": self.strategy}
        row |= {name: getattr(self.cost, name) for name in _COST}
        row |= {"samples": self.samples, "discarded_tokens": self.discarded_tokens}
        for name, default in _ADDED.items():
            if (value := getattr(self, name)) != default:
                row[name] = value
        return row

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Charge:
        """A row of either format. Raises KeyError, TypeError for what is none."""
        cost = Cost(**{name: row[name] for name in _COST})
        added = {name: row[name] for name in _ADDED if name in row}
        return cls(
            row["phase"], row["strategy"], cost, row["samples"], row["discarded_tokens"], row["id"], **added
        )


def read_rows(rows: Iterable[Mapping[str, Any]], path: Path) -> tuple[str, list[Charge]]:
    """(the ledger's id, its charges) of the rows of ``path``. Raises PoolError for what is no ledger, or one of a
    newer format."""
    try:
        heads = [row for row in rows if "ledger" in row]
        newer = max((int(head.get("format", 1)) for head in heads), default=1)
        charges = [] if newer > FORMAT else [Charge.from_json(row) for row in rows if "ledger" not in row]
        # Where the first line, which names the ledger, is damaged: rows begin with its name.
        id = heads[0]["ledger"] if heads else charges[0].id.rpartition("-")[0]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as e:
        raise PoolError(
            f"{path}: this is no ledger ({type(e).__name__}: {e}); move it away and run the same "
            "command again to begin a new one."
        ) from e
    if newer > FORMAT:
        raise PoolError(
            f"{path}: written by a newer version (format {newer}; this one reads up to {FORMAT}). "
            "Update reasoning-toolkit, or use another run folder."
        )
    return id, charges


def totals(charges: Iterable[Charge], by: Iterable[str] = ("phase",)) -> dict[tuple[str, ...], Charge]:
    """Sums of the charges that agree in ``by`` (of "phase", "strategy" and "model"), in order of first
    appearance."""
    by = tuple(by)
    for name in by:
        if name not in COLUMNS:
            raise unknown("ledger column", name, COLUMNS)
    sums: dict[tuple[str, ...], Charge] = {}
    for charge in charges:
        key = tuple(getattr(charge, name) for name in by)
        named = Charge(**dict(zip(by, key, strict=True)))
        sums[key] = sums.get(key, named) + charge
    return sums
