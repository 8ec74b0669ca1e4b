"""What the processes of one run share: its folder, where the first writes, and its pool and ledger, where all do.

A rank draws and judges its part of the problems; when all have, each reads the whole from the pool. Knows nothing of
models or objectives.
"""

from __future__ import annotations

from pathlib import Path

from reasoning.budget import Budget, Ledger
from reasoning.drawing import catch_up
from reasoning.errors import UserError
from reasoning.pool import Pool
from reasoning.train.distributed import ALONE, Ranks


class Shared:
    """The pool and the ledger of the run in ``folder``, open. Close it, or use ``with``.

    Raises UserError for a budget with several ranks: no two processes can keep to one purse.
    """

    def __init__(self, folder: Path, ranks: Ranks = ALONE, budget: Budget | None = None):
        if budget is not None and ranks.size > 1:
            raise UserError("--budget holds for one process: leave it out, or start without torchrun.")
        for turn in range(ranks.size):  # one after another: who comes first makes the files
            if turn == ranks.rank:
                self.pool = Pool.open(folder)
                self.ledger = Ledger(budget, path=folder)
                catch_up(self.ledger, self.pool)
            ranks.wait()

    def close(self) -> None:
        self.pool.close()
        self.ledger.close()

    def __enter__(self) -> Shared:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def meet(ranks: Ranks, pool: Pool) -> None:
    """Wait until every rank has stored its part; then see all of it."""
    if ranks.size > 1:
        ranks.wait()
        pool.refresh()
