"""Search strategies, each a generator in a file of its own. `open_search` finds one by its spec:

best_of_n:n=16                        the chain that the scorer likes best
adaptive:n=64,step=4,confidence=0.95  stop when the leader is safe
path/to/file.py:name                  your own: a search, or a function (or class) without arguments that
makes one
"""

from __future__ import annotations

import sys
from dataclasses import MISSING, fields
from typing import Any

from reasoning.errors import UserError, unknown
from reasoning.search.adaptive import Adaptive
from reasoning.search.base import Answer, Candidate, Judge, Search, Steps, Strategy
from reasoning.search.best_of_n import BestOfN
from reasoning.search.majority import Majority
from reasoning.search.weighted_majority import WeightedMajority
from reasoning.spec import is_user_code, load_user_code, parse_spec

SEARCHES: dict[str, type[Strategy]] = {s.kind: s for s in (Adaptive, BestOfN, Majority, WeightedMajority)}

__all__ = ["SEARCHES", "Answer", "Candidate", "Judge", "Search", "Steps", "list_searches", "open_search"]


def open_search(spec: str) -> Search:
    """The strategy that ``spec`` names. Raises UserError for an unknown name or option, with the nearest one,
    and for a value that does not fit."""
    if is_user_code(spec):
        return _from_user_code(spec)
    parsed = parse_spec(spec)
    if is_user_code(f"{parsed.name}:{parsed.argument}"):
        kind = load_user_code(f"{parsed.name}:{parsed.argument}")
        if not (isinstance(kind, type) and issubclass(kind, Strategy)):
            raise UserError(f"{spec!r}: options go with a Strategy class; {parsed.argument!r} is none.")
        return kind(**parsed.take(_defaults(kind)))
    if parsed.name not in SEARCHES:
        raise unknown("strategy", parsed.name, SEARCHES)
    if parsed.argument:
        raise UserError(f"{spec!r}: options are written {parsed.name}:key=value,key=value.")
    kind = SEARCHES[parsed.name]
    return kind(**parsed.take(_defaults(kind)))


def _from_user_code(spec: str) -> Any:
    search: Any = load_user_code(spec)
    if isinstance(search, type) or not hasattr(search, "needs_scorer"):
        try:
            search = search()
        except TypeError as e:
            raise UserError(f"{spec!r} cannot be called without arguments: {e}") from None
    if not (callable(search) and hasattr(search, "needs_scorer") and hasattr(search, "name")):
        raise UserError(f"{spec!r} is not a search: it needs name, needs_scorer and (problem, sampling).")
    return search


def list_searches() -> dict[str, str]:
    """Spec of each strategy with its defaults -> what it does, in one sentence."""
    return {kind().name: _first_paragraph(kind) for _, kind in sorted(SEARCHES.items())}


def _defaults(kind: type[Strategy]) -> dict[str, object]:
    return {f.name: f.default for f in fields(kind) if f.default is not MISSING}  # type: ignore[arg-type]


def _first_paragraph(kind: type[Strategy]) -> str:
    return " ".join((sys.modules[kind.__module__].__doc__ or "").partition("\n\n")[0].split())
