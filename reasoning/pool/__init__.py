"""The pool: an append-only, crash-proof set of chains; the only state that everything else shares."""

from reasoning.pool.store import Pool

__all__ = ["Pool"]
