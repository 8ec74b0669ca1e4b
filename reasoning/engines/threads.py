"""How many of torch's threads a step takes: as many as have been fastest, on this machine, now.

A step of a small model is some hundred operations of a few microseconds. Waking a second thread for each costs more
than it brings where waiting threads sleep (OMP_WAIT_POLICY=PASSIVE), less where they spin, and ten times the step
where they spin and another process wants the core. No rule by size knows which it is, so it is measured: a choice
that loses is tried again ever more rarely. Only for work whose numbers do not depend on it, in any bit.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch

FIRST_WAIT, LAST_WAIT = 32, 4096
"""Steps until a neighbouring number of threads is tried again: doubled each time that it loses."""
TRIED = 3
"""Steps with each of the two numbers, in turns; medians are compared."""
GAIN = 0.95
"""More threads must take at most this share of the time that fewer take: they take it from somebody."""
HOPELESS = 2.0
"""So many times as slow with more threads ends a trial at once. (With fewer it cannot be worse than their number.)"""


class Threads:
    """Numbers of threads by the size of a step, at most what `torch.get_num_threads` says.

    PyTorch's number is the caller's own, but a Python thread that begins within a step starts with that step's: one
    that wants more calls `torch.set_num_threads` itself.
    """

    def __init__(self) -> None:
        self._searches: dict[tuple[int, int], Generator[int, float, None]] = {}
        self._next: dict[tuple[int, int], int] = {}

    @contextmanager
    def working(self, rows: int) -> Generator[None]:
        """Do a step with the number of threads that suits steps of about so many rows."""
        most = torch.get_num_threads()
        if most == 1:
            yield
            return
        key = rows.bit_length(), most
        if key not in self._searches:
            self._searches[key] = search(candidates(most))
            self._next[key] = next(self._searches[key])
        count = self._next[key]
        if count != most:
            torch.set_num_threads(count)
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            if count != most:
                torch.set_num_threads(most)
        self._next[key] = self._searches[key].send(seconds)  # not after an error: its time says nothing


def candidates(most: int) -> list[int]:
    """1, 2, 4, ... and ``most``."""
    return sorted({1 << i for i in range(most.bit_length())} | {most})


def search(counts: Sequence[int]) -> Generator[int, float, None]:
    """Yields how many threads the next step takes, one of ``counts``, and is sent the seconds that it took."""
    at, side, wait = len(counts) - 1, -1, 0
    yield counts[at]  # the first step warms caches up
    while True:
        for _ in range(wait):
            yield counts[at]
        other = at + side
        if 0 <= other < len(counts):
            yield counts[other]  # its threads may have to be made
            here, there = [], []
            for _ in range(TRIED):
                here.append((yield counts[at]))
                there.append((yield counts[other]))
                if other > at and there[-1] > HOPELESS * here[-1]:
                    break
            ours, theirs = statistics.median(here), statistics.median(there)
            if (theirs < GAIN * ours) if other > at else (GAIN * theirs < ours):
                at, wait = other, 0
                continue
        side = -side
        wait = min(max(FIRST_WAIT, 2 * wait), LAST_WAIT)
