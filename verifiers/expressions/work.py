"""How much one verdict may compute: steps are counted where they are taken; beyond the cap `TooMuchWork` is raised.

A step is about a microsecond of one core. The count depends on the texts alone, never on time, on the machine or on
what a cache holds, so that a verdict is the same everywhere. Each thread counts by itself. Knows no tree.
"""

from __future__ import annotations

import threading

MAX_STEPS = 50_000
"""For each of the three parts of a verdict: reading the response, reading the reference, comparing the two."""


class TooMuchWork(Exception):
    """Not a ValueError on purpose: what cannot be evaluated is passed over, this ends the verdict."""


class _Count(threading.local):
    left: float = float("inf")


_count = _Count()


class limited:
    """A cap on what happens inside; one that is set inside another counts by itself. Raises TooMuchWork there."""

    __slots__ = ("before", "steps")

    def __init__(self, steps: float = MAX_STEPS):
        self.steps = steps

    def __enter__(self) -> None:
        self.before, _count.left = _count.left, self.steps

    def __exit__(self, *_: object) -> None:
        _count.left = self.before


def charge(steps: float) -> None:
    """Takes ``steps`` from what is left. Raises TooMuchWork."""
    _count.left -= steps
    if _count.left < 0:
        raise TooMuchWork("more computation than one verdict may take")
