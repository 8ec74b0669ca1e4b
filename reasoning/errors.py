"""The exception tree.

    ReasoningError
    ├── UserError          a mistake in a command, spec, file or option (exit status 2)
    │   └── MissingExtra   an optional package is not installed; names the extra
    ├── PoolError          the store is damaged, locked or cannot be written (exit status 3)
    ├── EngineError        an engine could not produce chains (exit status 4)
    └── BudgetError        a budget that cannot pay for even one unit of the work (exit status 5)

The message says what happened and what mends it, in as few lines as that takes; the command line prints it
without a traceback (``--debug`` shows one).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ReasoningError(Exception):
    exit_status = 1


class UserError(ReasoningError):
    exit_status = 2


class MissingExtra(UserError):
    def __init__(self, package: str, extra: str, what: str):
        super().__init__(
            f"{package} is not installed; {what} needs it:  pip install 'reasoning-toolkit[{extra}]'"
        )


class PoolError(ReasoningError):
    exit_status = 3


class EngineError(ReasoningError):
    exit_status = 4


class BudgetError(ReasoningError):
    exit_status = 5


def unknown(what: str, name: str, known: Iterable[str], see: str = "") -> UserError:
    """A `UserError` for an unknown name that offers the nearest known one.

    >>> print(unknown("strategy", "best-of-m", ["best_of_n", "majority"]))
    Unknown strategy 'best-of-m'. Did you mean 'best_of_n'?  (known: best_of_n, majority)
    """
    known = sorted(known)
    typed = name.replace("-", "_")
    near = difflib.get_close_matches(typed, known, n=3, cutoff=0.5)
    near.sort(
        key=lambda other: sorted(other) != sorted(typed)
    )  # letters that were swapped are the likeliest slip
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UserError(f"Unknown {what} {name!r}.{hint}  ({see or 'known: ' + ', '.join(known)})")
