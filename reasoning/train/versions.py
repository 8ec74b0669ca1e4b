"""How the weights of a run are named: their chains are stored under the name, so each evaluation can be found again.
Knows no settings and no models.
"""

from __future__ import annotations

from collections.abc import Collection

from reasoning.records import digest


def after(version: str, step: int) -> str:
    """The weights that step number ``step`` (from 0) makes out of those named ``version``."""
    return digest(version, step)


def versions_at(steps: Collection[int], known: Collection[str]) -> dict[int, str]:
    """Number of ``steps`` done -> the name of the weights then, all in ``known``: the names of a run's weights that
    have chains, the earliest first. {} where no name in ``known`` leads to all of them."""
    for first in known:
        found: dict[int, str] = {}
        version, done = first, 0
        for wanted in sorted(steps):
            while done < wanted:
                version, done = after(version, done), done + 1
            if version not in known:
                break
            found[wanted] = version
        else:
            return found
    return {}
