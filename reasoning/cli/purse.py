"""How commands open a run's ledger: with its budget and price table, and whatever it has to say about its file."""

from __future__ import annotations

from pathlib import Path

from reasoning.budget import Budget, Ledger
from reasoning.cli.show import note
from reasoning.prices import Prices, find_prices

BUDGET = "limit on all that the run spends, such as tokens=2e6,seconds=60 (also flops, samples, price)"
PRICES = "price table (TOML or JSON; default: prices.toml in the run folder)"


def terms(folder: Path, budget: str, prices: str = "") -> tuple[Budget | None, Prices | None]:
    """The budget and the price table that the options name, checked before anything is written."""
    found = Budget.parse(budget) if budget else None, find_prices(folder, prices)
    Ledger(found[0], prices=found[1])  # raises where the two do not go together
    return found


def open_ledger(folder: Path, budget: Budget | None = None, prices: Prices | None = None) -> Ledger:
    """The run's ledger; its notes are printed."""
    ledger = Ledger(budget, folder, prices)
    for text in ledger.notes:
        note(text)
    return ledger


def look_at_ledger(folder: Path, prices: Prices | None = None, budget: Budget | None = None) -> Ledger | None:
    """The run's ledger for reading, beside whoever writes it, or None where nothing was spent; its notes are
    printed."""
    if not (folder / "ledger.jsonl").is_file():
        return None
    ledger = Ledger(budget, folder, prices, read_only=True)
    for text in ledger.notes:
        note(text)
    return ledger
