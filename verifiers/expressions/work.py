"""How much one verdict may compute: steps are counted where they are taken; beyond the cap `TooMuchWork` is raised.

A step is about a microsecond of one core. The count depends on the texts alone, never on time, on the machine or on
what a cache holds, so that a verdict is the same everywhere. Each thread counts by itself. Knows no tree.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

MAX_STEPS = 50_000
"""For each of the three parts of a verdict: reading the response, reading the reference, comparing the two."""


class TooMuchWork(Exception):
    """Not a ValueError on purpose: what cannot be evaluated is passed over, this ends the verdict."""


class _Count(threading.local):
    left: float = float("inf")


_count = _Count()


@contextmanager
def limited(steps: int | None = None) -> Iterator[None]:
    """A cap on what happens inside; one that is set inside another counts by itself. Raises TooMuchWork there."""
    before, _count.left = _count.left, MAX_STEPS if steps is None else steps
    try:
        yield
    finally:
        _count.left = before


def charge(steps: float) -> None:
    """Takes ``steps`` from what is left. Raises TooMuchWork."""
    _count.left -= steps
    if _count.left < 0:
        raise TooMuchWork("more computation than one verdict may take")
