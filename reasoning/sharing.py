"""Draw what no other process draws: both drivers claim chains before they draw them, and see what others have stored.

A claim is held while its chains are drawn and never while its owner waits, so nobody waits in a circle. See
`reasoning.pool.claims`. Knows nothing of strategies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reasoning.drawing import Drawer, Outcome
from reasoning.pool import Pool
from reasoning.pool.claims import Claims
from reasoning.records import Draw

_WORTH_SHARING = 128
"""Chains that must be left for a process to stop and give some of them away."""


@dataclass(frozen=True, slots=True)
class Turn:
    """mine: the keys that are ours to draw; arrived: those that the pool has, from another process; the rest are
    claimed."""

    mine: set[str]
    arrived: set[str]


def take_turn(
    claims: Claims, pool: Pool, keys: Sequence[str], groups: Callable[[], Sequence[int]] | None = None
) -> Turn:
    """Claim what of ``keys`` is free and not in ``pool`` (groups: see `Claims.take`)."""
    mine = claims.take(keys, groups)
    if claims.company:
        pool.refresh()  # after the claim: what others had stored before they let go of it is seen
    arrived = set(keys).difference(pool.missing(keys))
    return Turn(mine - arrived, arrived)


def draw_claimed(claims: Claims, drawer: Drawer, draws: Sequence[Draw], count: int) -> Outcome:
    """Draw the ``count`` chains that we claimed, and let go of them. It ends early, with the rest ``left``, where
    another process waits for as much of it as is worth an interruption."""
    before = drawer.total.drawn

    def wanted() -> bool:
        return count - (drawer.total.drawn - before) >= _WORTH_SHARING and claims.asked(_WORTH_SHARING)

    drawer.yields = wanted
    try:
        return drawer.draw(draws)
    finally:
        claims.drop()
