"""The engine protocol. An engine turns `Draw`s into `Chain`s and knows nothing of pools, budgets or verifiers.

Work that comes to no whole chain is paid for like any other, so an engine says what it was:

- While `generate` runs it may yield, beside whole chains ("stop", "length"), chains with the finish_reason
  "cancelled" (stopped early) or "failed" (their call raised, their machine died). They are charged by their
  ``cost``, never stored, and the driver asks for a failed one again, a few times at most, after it has
  reserved for it anew. The cost is that of this attempt alone; what it holds of text and ids is not read.
- What `generate` did not yield because it was closed, interrupted or raised, an engine gives afterwards, by an
  optional method ``unfinished() -> Sequence[Chain]``: one chain as above for each that had begun, "cancelled"
  or "failed" (`ended_by` says which), with what it had cost by then. The driver asks after every `generate`,
  however it ended; an answer is given once. Put it together in the ``finally`` of `generate`. An engine that
  cannot tell what was computed reports what it knows, down to the prompt tokens, and its docstring says so.
- The cost of all that is yielded and left for a draw stays within `worst_case` of that draw. An engine that
  repeats a call by itself therefore covers the repeats in `worst_case`, or yields the chain as "failed" and
  leaves the repeat to the driver.

`generate` is a generator (or an iterator with ``close``): the driver closes it when it stops early, and the
engine then stops computing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from reasoning.flops import ModelShape
from reasoning.records import Chain, Cost, Draw

WHOLE = ("stop", "length")
"""Finish reasons of chains that ran to their end; every other one is work that came to nothing."""


@runtime_checkable
class Engine(Protocol):
    """Generates chains.

    model: "name@weights": changes whenever the weights do.
    shape: the model's shape for FLOPs accounting, or None where it cannot be known (a recorded pool).

    Optional: ``sampling`` (the parameters that it suggests), ``unfinished()`` (see above), ``gives_way`` (True where
    ``send(True)`` into what `generate` gave makes it begin no more chains and end when those under way are done:
    a driver that leaves work to another process then need not cancel anything).
    """

    model: str
    shape: ModelShape | None

    def generate(self, draws: Sequence[Draw]) -> Iterator[Chain]:
        """Yield one chain for each index of each draw, in whatever order they finish.

        Same key, same chain: the result for an index does not depend on what else is in ``draws``.
        Raises EngineError when chains cannot be produced.
        """
        ...

    def worst_case(self, draw: Draw) -> Cost:
        """The most that ``draw`` can cost (every chain running to max_new_tokens); seconds are left 0. It does
        not depend on which indices are asked for, and does not fall when there are more of them."""
        ...

    def close(self) -> None:
        """Free what the engine holds. Safe to call twice."""
        ...


def ended_by(error: BaseException | None) -> str:
    """The finish_reason of chains under way when `generate` ended by ``error``: "cancelled" when the caller
    closed or interrupted it (or nothing went wrong), "failed" for every other error."""
    return "cancelled" if error is None or isinstance(error, GeneratorExit | KeyboardInterrupt) else "failed"


def unfinished(engine: Engine) -> Sequence[Chain]:
    """What ``engine`` had begun and did not yield; nothing of one that does not tell."""
    tell = getattr(engine, "unfinished", None)
    return tell() if tell is not None else ()
