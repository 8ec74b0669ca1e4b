"""Draw chains within a purse: reserve the worst case, generate, store, settle. Both drivers (`sample`,
`solve`) draw through this, and it knows of neither.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from reasoning.budget import Budget, Ledger, Reservation
from reasoning.engines.base import Engine
from reasoning.errors import EngineError, PoolError
from reasoning.pool import Pool
from reasoning.records import Chain, Cost, Draw, Sampling, chain_key

BATCH_CHAINS = 512
BATCH_SECONDS = 1.0

Want = tuple[int, int]
"""(sample index, position of its draw): sorted, it is the order in which a short purse is spent."""


def default_sampling(engine: Engine) -> Sampling:
    """The sampling parameters that an engine suggests (``engine.sampling``), or the plain ones."""
    return getattr(engine, "sampling", None) or Sampling()


def draw_keys(draw: Draw, model: str) -> list[str]:
    """The keys of the chains that a draw asks for, one per index."""
    problem = draw.problem
    return [chain_key(model, draw.sampling, problem.id, problem.prompt, i, draw.parent) for i in draw.indices]


@dataclass(slots=True)
class Outcome:
    """What became of the chains that were asked for. unaffordable: the purse was short; unavailable: the
    engine had none (a recorded pool), or it was cancelled. cost: of everything that was drawn."""

    drawn: int = 0
    unaffordable: int = 0
    unavailable: int = 0
    cost: Cost = Cost()


class Drawer:
    """Draws through one engine on one purse. ``store`` gets every batch of whole chains once it is safe in
    the pool (when there is one).

    scoring: for chains that are to be scored, about the most that scoring one chain of a draw costs; it is
    reserved with each chain. stepped: called after each step, when its reservation is settled, to set aside
    what scoring its chains really takes.
    """

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        pool: Pool | None,
        store: Callable[[Sequence[Chain]], None],
        phase: str,
        strategy: str = "",
        batch_chains: int = BATCH_CHAINS,
        batch_seconds: float = BATCH_SECONDS,
        scoring: Callable[[Draw], Cost] | None = None,
        stepped: Callable[[], None] | None = None,
    ):
        self.scoring = scoring
        self.stepped = stepped
        self.engine = engine
        self.ledger = ledger
        self.pool = pool
        self.store = store
        self.phase = phase
        self.strategy = strategy
        self.batch_chains = batch_chains
        self.batch_seconds = batch_seconds
        self.total = Outcome()
        if pool is not None:
            ledger.recover(pool.charges())
            if not pool.models().get(engine.model):
                pool.add_model(engine.model, {"shape": engine.shape.to_json()} if engine.shape else {})

    def draw(self, draws: Sequence[Draw]) -> Outcome:
        """Draw as many of the chains as the purse affords: all at once when it can pay for all in the worst
        case, else level by level (index 0 of every draw, then index 1, ...) in as large steps as it allows.

        Raises EngineError, PoolError, and KeyboardInterrupt; what had arrived by then is stored and paid for.
        """
        outcome = Outcome()
        todo = sorted((index, at) for at, draw in enumerate(draws) for index in draw.indices)
        known: dict[Want, Cost] = {}
        while todo:
            count, held = self._reserve(draws, todo, known)
            if held is None:
                outcome.unaffordable = len(todo)
                break
            with held:
                self._generate(_part(draws, todo[:count]), held, outcome)
            if self.stepped is not None:
                self.stepped()
            todo = todo[count:]
        return outcome

    def worst_of_one(self, draw: Draw) -> Cost:
        return self.engine.worst_case(replace(draw, indices=draw.indices[:1]))

    def _reserve(
        self, draws: Sequence[Draw], wants: Sequence[Want], known: dict[Want, Cost]
    ) -> tuple[int, Reservation | None]:
        """Reserve for as many of the wants, from the front, as fit; (0, None) when not even one does."""
        while True:
            count, worst = self._affordable(draws, wants[: self._most_in_time(len(wants))], known)
            if count == 0:
                return 0, None
            if held := self.ledger.reserve(worst, count, phase=self.phase, strategy=self.strategy):
                return count, held  # else another thread has spent in between

    def _affordable(
        self, draws: Sequence[Draw], wants: Sequence[Want], known: dict[Want, Cost]
    ) -> tuple[int, Cost]:
        """How many of the wants fit, and their worst case. known: (number of chains, draw) -> worst case; it
        depends on how many chains of a draw there are, not on which."""
        if self.ledger.budget is None:
            return len(wants), Cost()
        counts: dict[int, int] = {}
        scored: dict[int, Cost] = {}
        total = Cost()
        for number, (_, at) in enumerate(wants):
            counts[at] = k = counts.get(at, 0) + 1
            if (k, at) not in known:
                known[k, at] = self.engine.worst_case(replace(draws[at], indices=draws[at].indices[:k]))
            if self.scoring is not None and at not in scored:
                scored[at] = self.scoring(draws[at])
            after, before = known[k, at], known[k - 1, at] if k > 1 else Cost()
            score = scored.get(at, Cost())
            more = Cost(
                prompt_tokens=total.tokens + after.tokens - before.tokens + score.tokens,
                flops=total.flops + after.flops - before.flops + score.flops,
            )
            if not self.ledger.fits(more, number + 1):
                return number, total
            total = more
        return len(wants), total

    def _most_in_time(self, most: int) -> int:
        """With a limit in seconds: about as many chains as half of what is left is good for."""
        budget = self.ledger.budget or Budget()
        if budget.seconds is None:
            return most
        if self.total.cost.seconds == 0:
            return min(most, 16)
        rate = self.total.drawn / self.total.cost.seconds
        return max(1, min(most, int(rate * self.ledger.left().seconds / 2)))

    def _generate(self, draws: Sequence[Draw], held: Reservation, outcome: Outcome) -> None:
        expected = {key for draw in draws for key in draw_keys(draw, self.engine.model)}
        arrived: list[Chain] = []
        since = time.monotonic()

        def settle() -> None:
            nonlocal since
            seconds = time.monotonic() - since
            self._settle(arrived, held, seconds, outcome)
            since += seconds
            arrived.clear()

        try:
            for chain in self.engine.generate(draws):
                if chain.key not in expected:
                    raise EngineError(
                        f"{self.engine.model} returned chain {chain.key}, which nobody asked for."
                    )
                expected.discard(chain.key)
                arrived.append(chain)
                if len(arrived) >= self.batch_chains or time.monotonic() - since >= self.batch_seconds:
                    settle()
        except PoolError:
            raise
        except BaseException:
            settle()
            raise
        settle()
        outcome.unavailable += len(expected)

    def _settle(self, chains: Sequence[Chain], held: Reservation, seconds: float, outcome: Outcome) -> None:
        if not chains:
            return
        cost = replace(sum((c.cost for c in chains), Cost()), seconds=seconds)
        whole = [c for c in chains if c.finish_reason in ("stop", "length")]
        cut = sum(c.cost.output_tokens for c in chains if c.finish_reason not in ("stop", "length"))
        charge = held.prepare(cost, len(chains), cut)
        if self.pool is not None:
            self.pool.append(whole, charges=[charge] if self.ledger.durable else [])
        for tally in (outcome, self.total):
            tally.drawn += len(whole)
            tally.unavailable += len(chains) - len(whole)
            tally.cost += cost
        held.commit(charge, final=False)
        self.store(whole)


def _part(draws: Sequence[Draw], wants: Sequence[Want]) -> list[Draw]:
    """The draws, with only those indices that are wanted."""
    indices: dict[int, list[int]] = {}
    for index, at in wants:
        indices.setdefault(at, []).append(index)
    return [replace(draws[at], indices=tuple(indices[at])) for at in sorted(indices)]
