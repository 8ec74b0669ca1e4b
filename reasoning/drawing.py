"""Draw chains within a purse: reserve the worst case, generate, store, settle. Both drivers (`sample`,
`solve`) draw through this, and it knows of neither.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from reasoning.budget import Ledger, Reservation
from reasoning.engines.base import WHOLE, Engine, unfinished
from reasoning.errors import EngineError, PoolError, UserError
from reasoning.pool import Pool
from reasoning.records import Chain, Cost, Draw, Sampling, chain_keys

BATCH_CHAINS = 512
BATCH_SECONDS = 1.0
ATTEMPTS = 3
"""How often a chain that failed is asked for in all."""

Want = tuple[int, int]
"""(sample index, position of its draw): sorted (see `in_turn`), it is the order in which a short purse is spent."""


def default_sampling(engine: Engine) -> Sampling:
    """The sampling parameters that an engine suggests (``engine.sampling``), or the plain ones."""
    return getattr(engine, "sampling", None) or Sampling()


def catch_up(ledger: Ledger, pool: Pool, others: bool = False) -> None:
    """Charge what ``pool`` was charged and a kill kept from ``ledger`` (others: see `Ledger.recover`).

    Under a budget the pool is read anew: whoever had the purse before us may have drawn, and died, after we opened
    the pool and before the purse was ours."""
    if ledger.budget is not None:
        pool.refresh()
    ledger.recover(pool.charges(), others)


def draw_keys(draw: Draw, model: str) -> list[str]:
    """The keys of the chains that a draw asks for, one per index."""
    problem = draw.problem
    return chain_keys(model, draw.sampling, problem.id, problem.prompt, draw.indices, draw.parent)


@dataclass(slots=True)
class Outcome:
    """What became of the chains that were asked for. unaffordable: the purse was short; unavailable: the
    engine had none (a recorded pool), or cancelled it; failed: each attempt at it did; left: not drawn, because
    the caller wanted the work back. cost: of everything that was computed, for chains that came to nothing too."""

    drawn: int = 0
    unaffordable: int = 0
    unavailable: int = 0
    failed: int = 0
    left: int = 0
    cost: Cost = Cost()


@dataclass(slots=True)
class _Step:
    """What one call of the engine is asked for: key -> want. whole, failed: keys that arrived so; stopped:
    the time was up before all had arrived; yielded: the caller wanted the work back."""

    wants: dict[str, Want]
    draws: list[Draw]
    whole: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    stopped: bool = False
    yielded: bool = False


class Drawer:
    """Draws through one engine on one purse. ``store`` gets every batch of whole chains once it is safe in
    the pool (when there is one).

    scoring: for chains that are to be scored, about the most that scoring one chain of a draw costs; it is
    reserved with each chain, at the price of ``scorer``. stepped: called after each step, when its reservation
    is settled, to set aside what scoring its chains really takes. yields: asked whenever chains were stored;
    when it says so, the drawing ends early, with the rest counted as ``left``. keys: of a draw's chains, where the
    caller has them; by default they are worked out.
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
        scorer: str = "",
        yields: Callable[[], bool] | None = None,
        keys: Callable[[Draw], Sequence[str]] | None = None,
    ):
        self.keys = keys or (lambda draw: draw_keys(draw, engine.model))
        self.scoring = scoring
        self.yields = yields
        self.scorer = scorer
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
            catch_up(ledger, pool)
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
        attempts: Counter[Want] = Counter()
        while todo:
            count, held = self._reserve(draws, todo, known)
            if held is None:
                outcome.unaffordable += len(todo)
                break
            with held:
                step = self._step(draws, todo[:count])
                self._generate(step, held, outcome)
            if self.stepped is not None:
                self.stepped()
            todo = in_turn(self._again(step, attempts, outcome) + todo[count:])
            if step.yielded:
                outcome.left = len(todo)
                break
        return outcome

    def _again(self, step: _Step, attempts: Counter[Want], outcome: Outcome) -> list[Want]:
        """What is to be asked for once more: what failed, and what there was no time for."""
        again: list[Want] = []
        if len(step.whole) == len(step.wants):
            return again
        for key, want in step.wants.items():
            if key in step.whole:
                continue
            if key in step.failed:
                attempts[want] += 1
                if attempts[want] < ATTEMPTS:
                    again.append(want)
                else:
                    self._tally(outcome, failed=1)
            elif step.stopped:
                again.append(want)
            else:
                self._tally(outcome, unavailable=1)
        return sorted(again)

    def worst_of_one(self, draw: Draw) -> Cost:
        return self.engine.worst_case(replace(draw, indices=draw.indices[:1]))

    def _reserve(
        self, draws: Sequence[Draw], wants: Sequence[Want], known: dict[Want, Cost]
    ) -> tuple[int, Reservation | None]:
        """Reserve for as many of the wants, from the front, as fit; (0, None) when not even one does."""
        while True:
            count, worst, price = self._affordable(draws, wants[: self._most_in_time(len(wants))], known)
            if count == 0:
                return 0, None
            held = self.ledger.reserve(
                worst, count, phase=self.phase, strategy=self.strategy, model=self.engine.model, price=price
            )
            if held:
                return count, held  # else another thread has spent in between

    def _affordable(
        self, draws: Sequence[Draw], wants: Sequence[Want], known: dict[Want, Cost]
    ) -> tuple[int, Cost, float]:
        """How many of the wants fit, their worst case and its price. The worst case does not fall with the number
        of chains, so the answer is found by halving."""
        if self.ledger.budget is None:
            return len(wants), Cost(), 0.0
        fits, fails = 0, len(wants) + 1
        best, best_price, count = Cost(), 0.0, len(wants)
        while fails - fits > 1:
            worst, price = self._worst(draws, wants[:count], known)
            if self.ledger.fits(worst, count, price=price):
                fits, best, best_price = count, worst, price
            else:
                fails = count
            count = (fits + fails) // 2
        return fits, best, best_price

    def _worst(
        self, draws: Sequence[Draw], wants: Sequence[Want], known: dict[Want, Cost]
    ) -> tuple[Cost, float]:
        """The worst case of ``wants`` and the most it may be charged, the scoring of its chains included. known:
        (number of chains, draw) -> worst case, and (0, draw) -> of scoring one."""
        drawn, scored = Cost(), Cost()
        for at, count in Counter(at for _, at in wants).items():
            if (count, at) not in known:
                first = replace(draws[at], indices=draws[at].indices[:count])
                known[count, at] = self.engine.worst_case(first)
            drawn += known[count, at]
            if self.scoring is not None:
                if (0, at) not in known:
                    known[0, at] = self.scoring(draws[at])
                scored += times(known[0, at], count)
        budget = self.ledger.budget
        if budget is not None and budget.flops is not None and drawn.tokens and not drawn.flops:
            raise UserError(
                f"A budget in FLOPs cannot be kept: the engine does not know the FLOPs of {self.engine.model!r}. "
                "Give the budget in tokens, seconds or price."
            )
        price = self.ledger.most(drawn, self.engine.model) + self.ledger.most(scored, self.scorer)
        return drawn + scored, price

    def _most_in_time(self, most: int) -> int:
        """With a limit in time: about as many chains as half of what is left is good for."""
        left = self.ledger.seconds_left(self.engine.model)
        if left == float("inf"):
            return most
        if self.total.cost.seconds == 0 or self.total.drawn == 0:
            return min(most, 16)
        rate = self.total.drawn / self.total.cost.seconds
        return max(1, min(most, int(rate * left / 2)))

    def _step(self, draws: Sequence[Draw], wants: Sequence[Want]) -> _Step:
        parts = _part(draws, wants)
        keys = {
            key: (index, at)
            for at, draw in parts.items()
            for index, key in zip(draw.indices, self.keys(draw), strict=True)
        }
        return _Step(keys, list(parts.values()))

    def _generate(self, step: _Step, held: Reservation, outcome: Outcome) -> None:
        """Let the engine draw, and settle what arrives and what it leaves unfinished, however it ends."""
        arrived: list[Chain] = []
        began = since = time.monotonic()
        until = began + self.ledger.seconds_left(self.engine.model)

        def settle() -> None:
            nonlocal since
            now = time.monotonic()
            self._settle(arrived, held, now - since, outcome)
            since = now

        monotonic = time.monotonic
        chains = iter(self.engine.generate(step.draws))
        try:
            coming: Iterator[Chain] | None = chains
            while coming is not None:
                under_way = None
                for chain in coming:
                    self._admit(chain, step)
                    arrived.append(chain)
                    now = monotonic()
                    if len(arrived) >= self.batch_chains or now - since >= self.batch_seconds:
                        settle()
                        if self.yields is not None and not step.yielded and self.yields():
                            step.yielded = step.stopped = True
                            under_way = self._under_way(chains)
                            break
                    if now >= until:
                        step.stopped = True
                        break
                coming = under_way
        except PoolError:
            self._end(chains)
            raise
        except BaseException:
            arrived += self._end(chains)
            settle()
            raise
        arrived += self._end(chains)
        step.failed.update(c.key for c in arrived if c.finish_reason == "failed")
        settle()

    def _under_way(self, chains: Iterator[Chain]) -> Iterator[Chain] | None:
        """What has begun, where the engine can leave it at that; None of one that cannot, and is to be closed."""
        if not getattr(self.engine, "gives_way", False):
            return None
        return _last(cast("Generator[Chain, bool]", chains))

    def _end(self, chains: Iterator[Chain]) -> Sequence[Chain]:
        """Close what `generate` gave; what it left unfinished."""
        close = getattr(chains, "close", None)
        if close is not None:
            close()
        return unfinished(self.engine)

    def _admit(self, chain: Chain, step: _Step) -> None:
        key, whole = chain.key, chain.finish_reason in WHOLE
        if key not in step.wants or (whole and key in step.whole):
            raise EngineError(f"{self.engine.model} returned chain {key}, which nobody asked for.")
        if whole:
            step.whole.add(key)
        elif chain.finish_reason == "failed":
            step.failed.add(key)

    def _settle(self, chains: list[Chain], held: Reservation, seconds: float, outcome: Outcome) -> None:
        """Store and charge ``chains``, which is empty from the moment when they are safe."""
        if not chains:
            return
        cost = _sum([c.cost for c in chains], seconds)
        whole = [c for c in chains if c.finish_reason in WHOLE]
        lost = [c for c in chains if c.finish_reason not in WHOLE] if len(whole) < len(chains) else []
        failed = sum(c.cost.tokens for c in lost if c.finish_reason == "failed")
        cancelled = sum(c.cost.tokens for c in lost) - failed
        charge = held.prepare(cost, len(whole), cancelled_tokens=cancelled, failed_tokens=failed)
        if self.pool is not None:
            self.pool.append(whole, charges=[charge] if self.ledger.durable else [])
        chains.clear()
        self._tally(outcome, drawn=len(whole), cost=cost)
        held.commit(charge, final=False, stored=self.pool is not None)
        self.store(whole)

    def _tally(self, outcome: Outcome, **more: int | Cost) -> None:
        for tally in (outcome, self.total):
            for name, value in more.items():
                setattr(tally, name, getattr(tally, name) + value)


def _last(chains: Generator[Chain, bool]) -> Iterator[Chain]:
    """What a `generate` yields that is told to begin no more."""
    try:
        first = chains.send(True)
    except StopIteration:
        return
    yield first
    yield from chains


def _sum(costs: Sequence[Cost], seconds: float) -> Cost:
    """Of all columns but the seconds, which are given: those of chains that ran side by side do not add up."""
    return Cost(
        sum([c.prompt_tokens for c in costs]),
        sum([c.cached_tokens for c in costs]),
        sum([c.output_tokens for c in costs]),
        sum([c.scored_tokens for c in costs]),
        sum([c.flops for c in costs], 0.0),
        seconds,
    )


def times(cost: Cost, count: int) -> Cost:
    """``cost``, ``count`` times."""
    return Cost(
        cost.prompt_tokens * count,
        cost.cached_tokens * count,
        cost.output_tokens * count,
        cost.scored_tokens * count,
        cost.flops * count,
        cost.seconds * count,
    )


def in_turn(wants: Sequence[Want]) -> list[Want]:
    """``wants`` level by level. Within a level the draws come first that the lowest one still lacks: a step that
    ends in the next level gives these draws both chains for one prefill of their prompt, where the plain order
    would pay for the prompts of others."""
    lowest = min((index for index, _ in wants), default=0)
    begun = {at for index, at in wants if index == lowest}
    return sorted(wants, key=lambda want: (want[0], want[1] not in begun, want[1]))


def _part(draws: Sequence[Draw], wants: Sequence[Want]) -> dict[int, Draw]:
    """The draws by position, with only those indices that are wanted."""
    indices: dict[int, list[int]] = {}
    for index, at in wants:
        indices.setdefault(at, []).append(index)
    return {at: replace(draws[at], indices=tuple(indices[at])) for at in sorted(indices)}
