"""How commands open a run's ledger: with its budget and price table, and whatever it has to say about its file."""

from __future__ import annotations

from pathlib import Path

from reasoning.budget import Budget, Ledger
from reasoning.cli.show import note
from reasoning.drawing import catch_up
from reasoning.pool import Pool
from reasoning.prices import Prices, find_prices

BUDGET = "limit on all that the run spends, such as tokens=2e6,seconds=60 (also flops, samples, price)"
PRICES = "price table (TOML or JSON; default: prices.toml in the run folder)"


def terms(folder: Path, budget: str, prices: str = "") -> tuple[Budget | None, Prices | None]:
    """The budget and the price table that the options name, checked before anything is written."""
    found = Budget.parse(budget) if budget else None, find_prices(folder, prices)
    Ledger(found[0], prices=found[1])  # raises where the two do not go together
    return found


def open_ledger(
    folder: Path, budget: Budget | None = None, prices: Prices | None = None, pool: Pool | None = None
) -> Ledger:
    """The run's ledger; its notes are printed. What ``pool``, the run's, was charged and the ledger lacks (its file
    was deleted or damaged, or the pool merged) is written into it."""
    ledger = Ledger(budget, folder, prices)
    try:
        if pool is not None:
            catch_up(ledger, pool, others=True)
    except BaseException:
        ledger.close()
        raise
    for text in ledger.notes:
        note(text)
    return ledger


def in_money(value: float) -> str:
    """A sum of money, in two digits at least: "12.40", "0.0030"."""
    return f"{value:.2f}" if value == 0 or value >= 0.995 else f"{value:#.2g}"


def money(ledger: Ledger, before: int) -> str:
    """ "0.0031 EUR": what was charged since the ledger had ``before`` charges, with a word where some have no price;
    "" without a price table, or where it has no model that was used."""
    new = ledger.charges[before:]
    priced = [charge.price for charge in new if charge.price is not None]
    lacking = any(charge.price is None and not charge.empty for charge in new)
    if ledger.prices is None or ledger.spent.price is None or (lacking and not priced):
        return ""
    rest = " for what has a price" if lacking else ""
    return f"{in_money(sum(priced))} {ledger.prices.currency}{rest}"


def look_at_ledger(folder: Path, prices: Prices | None = None, pool: Pool | None = None) -> Ledger | None:
    """The run's ledger for reading, beside whoever writes it, with the charges of ``pool`` that it lacks; None where
    nothing was spent. Its notes are printed."""
    there = (folder / "ledger.jsonl").is_file()
    charges = [] if pool is None else pool.charges()
    if not there and not charges:
        return None
    ledger = Ledger(None, folder if there else None, prices, read_only=True)
    ledger.recover(charges, others=True)
    for text in ledger.notes:
        note(text)
    return ledger
