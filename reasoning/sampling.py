"""Fill a pool: draw the chains that are missing, judge those that are not judged yet.

Both drivers go by key, so a run that was killed anywhere and started again ends with the same pool. They know
nothing of how an engine samples or what a verifier looks for.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from reasoning.budget import Budget, Ledger, Reservation
from reasoning.engines.base import Engine
from reasoning.errors import BudgetError, EngineError, PoolError
from reasoning.pool import Pool
from reasoning.progress import Progress, Silent, human
from reasoning.records import Chain, Cost, Draw, Problem, Sampling, chain_key
from verifiers.base import Attempt, Verdict, Verifier

BATCH_CHAINS = 512
BATCH_SECONDS = 1.0
_TRUNCATION_WARNING = 0.05

Want = tuple[int, int]
"""(sample index, position of the problem): sorted, it is the order in which a short purse is spent."""


@dataclass(slots=True)
class SampleReport:
    """What one call of `sample` did, in chains.

    wanted = present (there before) + drawn + unaffordable (the budget was too short) + unavailable (the
    engine had no more, as a recorded pool has not). truncated: of the drawn ones.
    """

    wanted: int = 0
    present: int = 0
    drawn: int = 0
    unaffordable: int = 0
    unavailable: int = 0
    truncated: int = 0
    max_new_tokens: int = 0
    cost: Cost = field(default_factory=Cost)

    @property
    def complete(self) -> bool:
        return self.present + self.drawn == self.wanted

    @property
    def truncation_rate(self) -> float:
        return self.truncated / self.drawn if self.drawn else 0.0

    @property
    def warnings(self) -> list[str]:
        """Lines that a person should see; none when all is well."""
        lines = []
        if self.truncation_rate > _TRUNCATION_WARNING:
            lines.append(
                f"{self.truncation_rate:.0%} of chains hit max_new_tokens={self.max_new_tokens}; their accuracy "
                f"is a lower bound. Try max_new_tokens={4 * self.max_new_tokens}."
            )
        if self.unaffordable:
            lines.append(f"The budget was spent: {self.unaffordable} of {self.wanted} chains were not drawn.")
        if self.unavailable:
            lines.append(f"The engine had no chain for {self.unavailable} of {self.wanted} draws.")
        return lines


def sample(
    problems: Sequence[Problem],
    engine: Engine,
    pool: Pool,
    ledger: Ledger | None = None,
    n: int = 1,
    sampling: Sampling | None = None,
    *,
    progress: Progress | None = None,
    phase: str = "sample",
    batch_chains: int = BATCH_CHAINS,
    batch_seconds: float = BATCH_SECONDS,
) -> SampleReport:
    """Draw chains 0..n-1 of each problem that ``pool`` does not have yet.

    sampling: by default the engine's own (a recorded pool has one), else `Sampling` as it stands.

    The worst case of every draw is reserved first. Where the purse cannot pay for all in the worst case, the
    draws go level by level (chain 0 of every problem, then chain 1, ...) in as large steps as it allows, so
    that a short budget leaves every problem with equally many chains, give or take one.

    Chains are stored in batches (of ``batch_chains``, or what came in ``batch_seconds``), each together with
    its charge. After a SIGKILL the same call goes on; what had not been stored is drawn again and is charged
    once. An interrupt stores what has arrived, then raises KeyboardInterrupt with the count.

    Raises BudgetError when the whole budget cannot pay for one chain, EngineError when the engine fails or
    costs more than its worst case, PoolError when the disk refuses.
    """
    sampling = sampling or default_sampling(engine)
    ledger = ledger if ledger is not None else Ledger()
    pool.add_problems(problems)
    register_model(engine, pool)
    ledger.recover(pool.charges())
    wants, keys = _wants(problems, engine.model, sampling, n)
    missing = set(pool.missing(keys))
    todo = sorted(want for want, key in zip(wants, keys, strict=True) if key in missing)
    report = SampleReport(len(wants), len(wants) - len(todo), max_new_tokens=sampling.max_new_tokens)
    job = _Job(problems, engine, pool, ledger, sampling, progress or Silent(), report, phase)
    job.show()
    while todo:
        worst = job.cumulative_worst(todo)
        count, held = job.reserve(worst)
        if held is None:
            if report.drawn == 0 and ledger.spent.cost == Cost() and ledger.budget is not None:
                raise BudgetError(
                    f"The budget {ledger.budget} cannot pay for one chain, which may take up to "
                    f"{worst[0].tokens} tokens and {worst[0].flops:.3g} FLOPs. Raise it, or lower max_new_tokens."
                )
            report.unaffordable = len(todo)
            break
        with held:
            job.draw(todo[:count], held, batch_chains, batch_seconds)
        todo = todo[count:]
    return report


def default_sampling(engine: Engine) -> Sampling:
    """The sampling parameters that an engine suggests (``engine.sampling``), or the plain ones."""
    return getattr(engine, "sampling", None) or Sampling()


def register_model(engine: Engine, pool: Pool) -> None:
    if not pool.models().get(engine.model):
        pool.add_model(engine.model, {"shape": engine.shape.to_json()} if engine.shape else {})


def _wants(
    problems: Sequence[Problem], model: str, sampling: Sampling, n: int
) -> tuple[list[Want], list[str]]:
    wants = [(index, at) for at in range(len(problems)) for index in range(n)]
    keys = [chain_key(model, sampling, problems[at].id, problems[at].prompt, index) for index, at in wants]
    return wants, keys


class _Job:
    """One call of `sample`: the parts that every step needs."""

    def __init__(
        self,
        problems: Sequence[Problem],
        engine: Engine,
        pool: Pool,
        ledger: Ledger,
        sampling: Sampling,
        progress: Progress,
        report: SampleReport,
        phase: str,
    ):
        self.problems = problems
        self.engine = engine
        self.pool = pool
        self.ledger = ledger
        self.sampling = sampling
        self.progress = progress
        self.report = report
        self.phase = phase
        self.seconds = 0.0
        self._worst: dict[tuple[int, int], Cost] = {}

    def draws(self, wants: Sequence[Want]) -> list[Draw]:
        """One draw per problem, in problem order."""
        indices: dict[int, list[int]] = {}
        for index, at in wants:
            indices.setdefault(at, []).append(index)
        return [Draw(self.problems[at], self.sampling, tuple(indices[at])) for at in sorted(indices)]

    def cumulative_worst(self, wants: Sequence[Want]) -> list[Cost]:
        """Worst case of the first 1, 2, ... wants together; one entry, for all, where there is no limit."""
        if self.ledger.budget is None:
            return [Cost()] * len(wants)
        counts: dict[int, int] = {}
        steps: list[Cost] = []
        for _, at in wants:
            counts[at] = k = counts.get(at, 0) + 1
            before, after = self.worst(at, k - 1), self.worst(at, k)
            steps.append(Cost(prompt_tokens=after.tokens - before.tokens, flops=after.flops - before.flops))
        return list(accumulate(steps))

    def worst(self, at: int, count: int) -> Cost:
        """Worst case of ``count`` chains of one problem (it depends on how many, not on which)."""
        if count == 0:
            return Cost()
        if (at, count) not in self._worst:
            draw = Draw(self.problems[at], self.sampling, tuple(range(count)))
            self._worst[at, count] = self.engine.worst_case(draw)
        return self._worst[at, count]

    def reserve(self, worst: list[Cost]) -> tuple[int, Reservation | None]:
        """Reserve for as many of the wants as fit; (0, None) when not even one does."""
        most = self._most_in_time(len(worst))
        count = bisect_right(range(1, most + 1), False, key=lambda k: not self.ledger.fits(worst[k - 1], k))
        while count > 0:  # another thread may have spent in between
            if held := self.ledger.reserve(worst[count - 1], count, phase=self.phase):
                return count, held
            count -= 1
        return 0, None

    def _most_in_time(self, most: int) -> int:
        """With a limit in seconds: about as many chains as half of what is left is good for."""
        budget = self.ledger.budget or Budget()
        if budget.seconds is None:
            return most
        if self.seconds == 0:
            return min(most, 16)
        rate = self.report.drawn / self.seconds
        return max(1, min(most, int(rate * self.ledger.left().seconds / 2)))

    def draw(self, wants: Sequence[Want], held: Reservation, batch_chains: int, batch_seconds: float) -> None:
        expected = set(_wants_keys(self, wants))
        arrived: list[Chain] = []
        since = time.monotonic()

        def store() -> None:
            nonlocal since
            seconds = time.monotonic() - since
            self.store(arrived, held, seconds)
            since += seconds
            arrived.clear()

        stream = self.engine.generate(self.draws(wants))
        try:
            for chain in stream:
                if chain.key not in expected:
                    raise EngineError(
                        f"{self.engine.model} returned chain {chain.key}, which nobody asked for."
                    )
                expected.discard(chain.key)
                arrived.append(chain)
                if len(arrived) >= batch_chains or time.monotonic() - since >= batch_seconds:
                    store()
        except PoolError:
            raise
        except BaseException as e:
            store()  # what has arrived is paid for
            if isinstance(e, KeyboardInterrupt):
                have = self.report.present + self.report.drawn
                raise KeyboardInterrupt(
                    f"{have} of {self.report.wanted} chains are kept in {self.pool.path}; "
                    "the same command goes on from there."
                ) from None
            raise
        store()
        self.report.unavailable += len(expected)

    def store(self, chains: Sequence[Chain], held: Reservation, seconds: float) -> None:
        if not chains:
            return
        cost = replace(sum((c.cost for c in chains), Cost()), seconds=seconds)
        whole = [c for c in chains if c.finish_reason in ("stop", "length")]
        discarded = sum(c.cost.output_tokens for c in chains if c.finish_reason not in ("stop", "length"))
        charge = held.prepare(cost, len(chains), discarded)
        self.pool.append(whole, charges=[charge] if self.ledger.durable else [])
        report = self.report
        report.drawn += len(whole)
        report.unavailable += len(chains) - len(whole)
        report.truncated += sum(c.truncated for c in whole)
        report.cost += cost
        self.seconds += seconds
        held.commit(charge, final=False)
        self.show()

    def show(self) -> None:
        self.progress.update(
            done=self.report.present + self.report.drawn,
            total=self.report.wanted,
            output_tokens=self.report.cost.output_tokens,
            budget=budget_text(self.ledger),
        )


def _wants_keys(job: _Job, wants: Sequence[Want]) -> Iterator[str]:
    for index, at in wants:
        problem = job.problems[at]
        yield chain_key(job.engine.model, job.sampling, problem.id, problem.prompt, index)


def budget_text(ledger: Ledger) -> str:
    """ "71k/200k tokens", for each limit that is set."""
    budget, spent = ledger.budget, ledger.spent
    if budget is None:
        return ""
    pairs = (
        ("tokens", spent.cost.tokens, budget.tokens),
        ("flops", spent.cost.flops, budget.flops),
        ("seconds", spent.cost.seconds, budget.seconds),
        ("samples", spent.samples, budget.samples),
    )
    return ", ".join(
        f"{human(used)}/{human(limit)} {name}" for name, used, limit in pairs if limit is not None
    )


@dataclass(slots=True)
class VerifyReport:
    """What one call of `verify` did, in chains. wanted = present (judged before) + judged + unaffordable.
    correct, missing (no judgement): of the judged ones."""

    wanted: int = 0
    present: int = 0
    judged: int = 0
    unaffordable: int = 0
    correct: int = 0
    missing: int = 0
    cost: Cost = field(default_factory=Cost)


def attempt(chain: Chain, problem: Problem, oracle: bool) -> Attempt:
    """What a verifier is shown of a chain. Only an oracle gets the reference: this is the place that holds
    it.

    metadata: the problem's, with "token_ids", "prompt_token_ids" and "logprobs" of the chain beside it.
    """
    tokens = {
        "token_ids": chain.token_ids,
        "prompt_token_ids": chain.prompt_token_ids,
        "logprobs": chain.logprobs,
    }
    return Attempt(
        prompt=problem.prompt,
        response=chain.text,
        reference=problem.reference if oracle else None,
        metadata={**problem.metadata, **tokens},
    )


def verify(
    pool: Pool,
    verifier: Verifier,
    *,
    progress: Progress | None = None,
    ledger: Ledger | None = None,
    model: str | None = None,
    sampling: Sampling | None = None,
    problem_ids: Collection[str] | None = None,
    phase: str = "verify",
    batch_chains: int = BATCH_CHAINS,
) -> VerifyReport:
    """Judge the chains that have no verdict by ``verifier`` yet, and store the verdicts.

    A verifier that is no oracle is never shown the reference. What a model-based verifier spends is reserved
    before (see `scoring_worst`) and charged to ``ledger``; what it cannot pay for stays without a verdict.
    """
    ledger = ledger if ledger is not None else Ledger()
    progress = progress or Silent()
    ledger.recover(pool.charges())
    problems = pool.problems()
    chains = pool.chains(model, sampling, problem_ids)
    known = pool.verdicts(verifier.name)
    todo = [c for c in chains if c.key not in known]
    report = VerifyReport(len(chains), len(chains) - len(todo))
    pool.add_verdicts(verifier.name, {}, oracle=verifier.oracle)
    while todo:
        end = min(batch_chains, len(todo))
        while end < len(todo) and todo[end].problem_id == todo[end - 1].problem_id:
            end += 1  # the chains of a problem stay together: a model-based verifier reads its prompt once
        batch = todo[:end]
        attempts = [attempt(c, problems[c.problem_id], verifier.oracle) for c in batch]
        held = None
        while attempts and held is None:
            held = ledger.reserve(scoring_worst(verifier, attempts), phase=phase, strategy=verifier.name)
            if held is None:
                attempts = attempts[: len(attempts) // 2]
        if held is None:
            report.unaffordable = len(todo)
            break
        with held:
            verdicts, cost = judge(verifier, attempts)
            judged = {c.key: v for c, v in zip(batch, verdicts, strict=False)}
            charge = held.prepare(cost)
            pool.add_verdicts(verifier.name, judged, charges=[charge] if ledger.durable else [])
            held.commit(charge)
        todo = todo[len(attempts) :]
        report.judged += len(attempts)
        report.correct += sum(v.correct for v in verdicts)
        report.missing += sum(v.missing for v in verdicts)
        report.cost += cost
        share = report.correct / max(1, report.judged - report.missing)
        progress.update(done=report.present + report.judged, total=report.wanted, correct=share)
    return report


def scoring_worst(verifier: Verifier, attempts: Sequence[Attempt]) -> Cost:
    """The most that judging ``attempts`` can cost: nothing for rules; a verifier that spends compute tells it
    by a method ``worst_case(attempts) -> (scored_tokens, flops)``."""
    tell = getattr(verifier, "worst_case", None)
    tokens, flops = tell(attempts) if tell is not None else (0, 0.0)
    return Cost(scored_tokens=tokens, flops=flops)


def judge(verifier: Verifier, attempts: Sequence[Attempt]) -> tuple[list[Verdict], Cost]:
    """The verdicts and what they cost. Raises EngineError when their number is wrong."""
    started = time.monotonic()
    verdicts = verifier.verify(attempts)
    if len(verdicts) != len(attempts):
        raise EngineError(f"{verifier.name} gave {len(verdicts)} verdicts on {len(attempts)} attempts.")
    return verdicts, Cost(
        scored_tokens=sum(v.scored_tokens for v in verdicts),
        flops=sum(v.flops for v in verdicts),
        seconds=time.monotonic() - started,
    )
