"""What work costs in money: a table of rates per model, read from a TOML or JSON file.

    currency = "USD"

    [models."Qwen/Qwen3-0.6B"]      # as the engine names it, with or without "@version"
    input = 0.05                    # per million prompt tokens
    cached = 0.01                   # per million prompt tokens found in a cache (default: input)
    output = 0.20                   # per million generated tokens
    [models."learned:runs/verifier"]
    scored = 0.02                   # per million tokens that a verifier reads (default: input)
    [models."runs/mine"]
    hour = 2.50                     # per hour of the device, in place of tokens or beside them

Knows nothing of ledgers or of what a model is.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from reasoning.errors import UserError, unknown
from reasoning.records import Cost

FILES = ("prices.toml", "prices.json")
"""Names under which a run folder may hold its own table."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Prices of one model, per million tokens (input, cached, output, scored) and per hour; None: not given."""

    input: float | None = None
    cached: float | None = None
    output: float | None = None
    scored: float | None = None
    hour: float | None = None

    def price(self, cost: Cost, model: str) -> float:
        """Of ``cost``. Raises UserError where it has tokens of a kind that has no price."""
        total = (self.hour or 0.0) * cost.seconds / 3600
        for name, tokens, rate in (
            ("input", cost.prompt_tokens, self.input),
            ("cached", cost.cached_tokens, self.input if self.cached is None else self.cached),
            ("output", cost.output_tokens, self.output),
            ("scored", cost.scored_tokens, self.input if self.scored is None else self.scored),
        ):
            if tokens and rate is None and self.hour is None:
                raise UserError(
                    f"The price table gives no {name!r} price for {model}, which has such tokens: add it."
                )
            total += tokens * (rate or 0.0) / 1e6
        return total

    def most(self, cost: Cost, model: str) -> float:
        """The most that work bounded by ``cost`` may be charged: a prompt token may be computed or found in a
        cache, whichever is dearer. Seconds are known only afterwards, so hours are not in it."""
        dearer = max(self.input or 0.0, self.input or 0.0 if self.cached is None else self.cached)
        return self.price(cost, model) + cost.prompt_tokens * (dearer - (self.input or 0.0)) / 1e6


@dataclass(frozen=True, slots=True)
class Prices:
    """rates: by model name. currency: a name such as "USD". source: where the table was read, for messages."""

    rates: Mapping[str, Rate]
    currency: str = "USD"
    source: str = "the price table"

    def rate(self, model: str) -> Rate:
        """Raises UserError for a model that the table does not have."""
        for name in (model, model.partition("@")[0], model.partition(":version=")[0]):
            if name in self.rates:
                return self.rates[name]
        if not model:
            raise UserError(f"{self.source}: work that names no model has no price.")
        bare = model.partition("@")[0].partition(":version=")[0]
        raise UserError(
            f"{self.source} has no price for model {bare!r}: add [models.{json.dumps(bare)}]  "
            f"(it has: {', '.join(sorted(self.rates)) or 'none'})"
        )

    def __contains__(self, model: str) -> bool:
        return any(n in self.rates for n in (model, model.partition("@")[0], model.partition(":version=")[0]))

    @classmethod
    def read(cls, path: str | Path) -> Prices:
        """From a TOML or (by its suffix) JSON file. Raises UserError that names the file and what is wrong."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise UserError(f"{path}: no such price table.") from None
        except (OSError, UnicodeDecodeError, ValueError) as e:
            raise UserError(f"{path}: cannot be read as a price table ({e}).") from None
        try:
            content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        except (ValueError, RecursionError) as e:
            kind = "JSON" if path.suffix == ".json" else "TOML"
            raise UserError(f"{path}: not {kind} ({' '.join(str(e).split())[:200]}).") from None
        return cls.from_mapping(content, str(path))

    @classmethod
    def from_mapping(cls, content: Any, source: str = "the price table") -> Prices:
        """From {"currency": ..., "models": {name: {"input": ..., ...}}}."""
        if not isinstance(content, Mapping) or not isinstance(content.get("models"), Mapping):
            raise UserError(f'{source}: no price table: it needs a table [models."NAME"] per model.')
        for key in content:
            if key not in ("currency", "models"):
                raise unknown(f"key in {source}", key, ("currency", "models"))
        currency = content.get("currency", "USD")
        if not isinstance(currency, str) or not currency.strip():
            raise UserError(f"{source}: currency must be a name such as USD, not {currency!r}.")
        return cls({m: _rate(m, r, source) for m, r in content["models"].items()}, currency.strip(), source)


def find_prices(folder: Path, given: str = "") -> Prices | None:
    """The table at ``given``, else the run folder's own (prices.toml or prices.json), else None."""
    if given:
        return Prices.read(given)
    found = [folder / name for name in FILES if (folder / name).is_file()]
    if len(found) > 1:
        raise UserError(f"{folder} holds {' and '.join(FILES)}: keep one of them.")
    return Prices.read(found[0]) if found else None


def _rate(model: str, given: Any, source: str) -> Rate:
    where = f"{source}, model {model!r}"
    names = [f.name for f in fields(Rate)]
    if not isinstance(given, Mapping) or not given:
        raise UserError(f"{where}: give one or more of {', '.join(names)}.")
    for name, value in given.items():
        if name not in names:
            raise unknown(f"price in {where}", name, names)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not (0 <= value <= 1e12 and math.isfinite(value)):
            raise UserError(f"{where}: {name} must be a price from 0, not {value!r}.")
    return Rate(**{name: float(value) for name, value in given.items()})
