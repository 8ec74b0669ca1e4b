"""`Budget`: how much may be spent, and `Left`: how much of it is there. Numbers only; the purse is in `budget`."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from reasoning.errors import UserError, unknown


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits, any combination; None is no limit.

    tokens: computed tokens (prompt + output + scored; cached prompt tokens are not computed again).
    flops: floating-point operations of all models. seconds: of charged work. samples: chains drawn.
    price: in the currency of the ledger's price table.

    >>> Budget.parse("tokens=2e6,seconds=60")
    Budget(tokens=2000000, flops=None, seconds=60.0, samples=None, price=None)
    """

    tokens: int | None = None
    flops: float | None = None
    seconds: float | None = None
    samples: int | None = None
    price: float | None = None

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
        return ",".join(f"{name}={_shortest(value)}" for name, value in set_ if value is not None)


LIMITS = tuple(f.name for f in fields(Budget))


def _shortest(value: float) -> str:
    return text if float(text := f"{value:g}") == value else repr(value)


@dataclass(frozen=True, slots=True)
class Left:
    """What is neither spent nor reserved; infinite where there is no limit, never below 0."""

    tokens: float = math.inf
    flops: float = math.inf
    seconds: float = math.inf
    samples: float = math.inf
    price: float = math.inf
