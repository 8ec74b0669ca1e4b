"""Fill a pool: draw the chains that are missing, judge those that are not judged yet.

Both drivers go by key, so a run that was killed anywhere and started again ends with the same pool. They know
nothing of how an engine samples or what a verifier looks for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial

from reasoning.budget import Ledger
from reasoning.drawing import ATTEMPTS, BATCH_CHAINS, BATCH_SECONDS, Drawer, catch_up, default_sampling
from reasoning.engines.base import Engine
from reasoning.errors import BudgetError, EngineError, ReasoningError, UserError
from reasoning.pool import Pool
from reasoning.pool.admission import admit_verdict, short
from reasoning.pool.claims import POLL_SECONDS
from reasoning.progress import Progress, Silent, human
from reasoning.records import Chain, Cost, Draw, Problem, Sampling, chain_keys
from reasoning.sharing import draw_claimed, take_turn
from reasoning.tasks.conversation import start_of_answer
from verifiers.base import Attempt, Verdict, Verifier
from verifiers.errors import VerifierError

_TRUNCATION_WARNING = 0.05


@dataclass(slots=True)
class SampleReport:
    """What one call of `sample` did, in chains.

    wanted = present (there before) + drawn + unaffordable (the budget was too short) + unavailable (the
    engine had no more, as a recorded pool has not) + failed (every attempt did). Of the drawn ones: truncated, and
    of these early, those that end below max_new_tokens, where the model's context is full.
    """

    wanted: int = 0
    present: int = 0
    drawn: int = 0
    unaffordable: int = 0
    unavailable: int = 0
    failed: int = 0
    truncated: int = 0
    early: int = 0
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
        many = _TRUNCATION_WARNING * self.drawn
        if self.truncated > many and (late := self.truncated - self.early):
            lines.append(
                f"{late / self.drawn:.0%} of chains hit max_new_tokens={self.max_new_tokens}; their accuracy "
                f"is a lower bound. Try --max-new-tokens {4 * self.max_new_tokens}."
            )
        if self.truncated > many and self.early:
            lines.append(
                f"{self.early / self.drawn:.0%} of chains were cut off before max_new_tokens={self.max_new_tokens}, "
                "where the model's context (or a limit of its server) ends; their accuracy is a lower bound. A "
                "longer context mends that (vLLM: max_model_len), or a shorter prompt."
            )
        if self.unaffordable:
            lines.append(f"The budget was spent: {self.unaffordable} of {self.wanted} chains were not drawn.")
        if self.unavailable:
            lines.append(f"The engine had no chain for {self.unavailable} of {self.wanted} draws.")
        if self.failed:
            lines.append(
                f"{self.failed} of {self.wanted} chains failed {ATTEMPTS} times each and were given up; the same "
                "command tries them again."
            )
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
    strategy: str = "",
    batch_chains: int = BATCH_CHAINS,
    batch_seconds: float = BATCH_SECONDS,
) -> SampleReport:
    """Draw chains 0..n-1 of each problem that ``pool`` does not have yet.

    sampling: by default the engine's own (a recorded pool has one), else `Sampling` as it stands. phase,
    strategy: what the ledger files the charges under.

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
    progress = progress or Silent()
    pool.add_problems(problems)
    keys = [k for p in problems for k in chain_keys(engine.model, sampling, p.id, p.prompt, range(n))]
    todo = len(pool.missing(keys))
    report = SampleReport(len(keys), len(keys) - todo, max_new_tokens=sampling.max_new_tokens)

    def show(chains: Sequence[Chain]) -> None:
        report.drawn += len(chains)
        cut = [c for c in chains if c.truncated]
        report.truncated += len(cut)
        report.early += sum(0 < c.cost.output_tokens < sampling.max_new_tokens for c in cut)
        report.cost = drawer.total.cost
        progress.update(
            done=report.present + report.drawn,
            total=report.wanted,
            output_tokens=report.cost.output_tokens,
            budget=budget_text(ledger),
        )

    places = {(p.id, p.prompt): at * n for at, p in enumerate(problems)}

    def keys_of(draw: Draw) -> list[str]:
        at = places[draw.problem.id, draw.problem.prompt]
        return [keys[at + index] for index in draw.indices]

    drawer = Drawer(engine, ledger, pool, show, phase, strategy, batch_chains, batch_seconds, keys=keys_of)
    show([])
    untouched = ledger.spent.cost == Cost()
    try:
        _draw_missing(
            drawer, pool, keys, n, lambda wanted: _draws(problems, keys, n, sampling, wanted), report, show
        )
    except KeyboardInterrupt:
        have = report.present + report.drawn
        raise KeyboardInterrupt(
            f"{have} of {report.wanted} chains are kept in {pool.path}; the same command goes on from there."
        ) from None
    if untouched and report.unaffordable == todo > 0:
        worst = drawer.worst_of_one(_draws(problems, keys, n, sampling, set(pool.missing(keys)))[0])
        price = ledger.most(worst, engine.model)
        money = f", at a price of {price:.4g} {ledger.prices.currency}" if price and ledger.prices else ""
        raise BudgetError(
            f"The budget {ledger.budget} cannot pay for one chain, which may take up to {worst.tokens} tokens "
            f"and {worst.flops:.3g} FLOPs{money}. Raise it, or lower --max-new-tokens."
        )
    return report


def _draws(
    problems: Sequence[Problem], keys: Sequence[str], n: int, sampling: Sampling, wanted: Collection[str]
) -> list[Draw]:
    """One draw per problem, of its chains that are ``wanted``. keys: n of each problem."""
    draws = []
    for at, problem in enumerate(problems):
        indices = tuple(i for i, key in enumerate(keys[at * n : (at + 1) * n]) if key in wanted)
        if indices:
            draws.append(Draw(problem, sampling, indices))
    return draws


def _draw_missing(
    drawer: Drawer,
    pool: Pool,
    keys: Sequence[str],
    n: int,
    draws: Callable[[Collection[str]], list[Draw]],
    report: SampleReport,
    show: Callable[[Sequence[Chain]], None],
) -> None:
    """Draw what is missing of ``keys`` (n of each problem), sharing it with other processes that fill the same pool:
    what they claim is theirs, some of ours goes to one that waits for it, and theirs is ours when they die."""
    in_vain: set[str] = set()
    with pool.claims() as claims:
        while rest := [k for k in pool.missing(keys) if k not in in_vain]:
            turn = take_turn(claims, pool, rest, partial(_problems, keys, n, rest))
            if claims.company:
                report.present = report.wanted - len(pool.missing(keys)) - report.drawn
                show([])
            if not turn.mine:
                if not turn.arrived:
                    time.sleep(POLL_SECONDS)
                continue
            outcome = draw_claimed(claims, drawer, draws(turn.mine), len(turn.mine))
            if not outcome.left:
                in_vain.update(pool.missing(list(turn.mine)))
                report.unaffordable += outcome.unaffordable
                report.unavailable += outcome.unavailable
                report.failed += outcome.failed
    report.present = report.wanted - report.drawn - report.unaffordable - report.unavailable - report.failed


def _problems(keys: Sequence[str], n: int, wanted: Sequence[str]) -> list[int]:
    """The problem's number of each of ``wanted``, which are some of ``keys`` (n of each problem) in their order."""
    there = set(wanted)
    return [at // n for at, key in enumerate(keys) if key in there]


def budget_text(ledger: Ledger) -> str:
    """ "71k/200k tokens", for each limit that is set."""
    budget = ledger.budget
    if budget is None:
        return ""
    pairs = [(name, used, getattr(budget, name)) for name, used in ledger.used().items()]
    return ", ".join(
        f"{used:.4g}/{limit:g} {ledger.prices.currency}"
        if name == "price" and ledger.prices
        else f"{human(used)}/{human(limit)} {name}"
        for name, used, limit in pairs
        if limit is not None
    )


@dataclass(slots=True)
class VerifyReport:
    """What one call of `verify` did, in chains. wanted = present (judged before) + judged + unaffordable.

    Of the judged ones: missing (no judgement); cut (cut off at the length limit), and of these cut_correct (the
    verifier scores them as correct all the same) and cut_missing; correct: whole chains that score as correct.
    """

    wanted: int = 0
    present: int = 0
    judged: int = 0
    unaffordable: int = 0
    correct: int = 0
    missing: int = 0
    cut: int = 0
    cut_correct: int = 0
    cut_missing: int = 0
    cost: Cost = field(default_factory=Cost)

    @property
    def known(self) -> int:
        """Chains of which it is known whether they are right: one that was cut off is wrong, as in every curve."""
        return self.judged - self.missing + self.cut_missing

    @property
    def accuracy(self) -> float | None:
        """Share of the known ones that are right; None where none is known."""
        return self.correct / self.known if self.known else None


def attempt(chain: Chain, problem: Problem, oracle: bool) -> Attempt:
    """What a verifier is shown of a chain. Only an oracle gets the reference: this is the place that holds
    it. The words that the prompt put at the start of the answer (a prefill) are read as the response's own.

    metadata: the problem's, with "token_ids", "prompt_token_ids" and "logprobs" of the chain beside it.
    """
    tokens = {
        "token_ids": chain.token_ids,
        "prompt_token_ids": chain.prompt_token_ids,
        "logprobs": chain.logprobs,
    }
    start = start_of_answer(problem)
    return Attempt(
        prompt=problem.prompt.removesuffix(start).rstrip() if start else problem.prompt,
        response=start + chain.text,
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
    again: bool = True,
) -> VerifyReport:
    """Judge the chains that have no verdict by ``verifier`` yet, and store the verdicts.

    A verifier that is no oracle is never shown the reference. What a model-based verifier spends is reserved
    before (see `scoring_worst`) and charged to ``ledger``; what it cannot pay for stays without a verdict.

    again: where the verifier itself had failed (`Verdict.failed`: its server was down, its sandbox missing), ask it
    once more, and raise UserError as soon as it is not reached for a whole batch (what came before is stored).
    """
    ledger = ledger if ledger is not None else Ledger()
    progress = progress or Silent()
    catch_up(ledger, pool)
    problems = pool.problems()
    chains = pool.chains(model, sampling, problem_ids)
    known = pool.verdicts(verifier.name)
    todo = [c for c in chains if c.key not in known or (again and known[c.key].failed)]
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
            worst = scoring_worst(verifier, attempts)
            held = ledger.reserve(worst, phase=phase, strategy=verifier.name, model=verifier.name)
            if held is None:
                attempts = attempts[: len(attempts) // 2]
        if held is None:
            report.unaffordable = len(todo)
            break
        with held:
            verdicts, cost = judge(verifier, attempts)
            judged = {c.key: v for c, v in zip(batch, verdicts, strict=False)}
            charge = held.prepare(cost, failed_tokens=unjudged(verdicts))
            pool.add_verdicts(verifier.name, judged, charges=[charge] if ledger.durable else [])
            held.commit(charge, stored=True)
        if again:
            refuse_failed(verifier, verdicts)
        todo = todo[len(attempts) :]
        report.judged += len(attempts)
        cut = [v for c, v in zip(batch, verdicts, strict=False) if c.truncated]
        report.cut += len(cut)
        report.cut_correct += sum(v.correct for v in cut)
        report.cut_missing += sum(v.missing for v in cut)
        report.correct += sum(v.correct for v in verdicts) - sum(v.correct for v in cut)
        report.missing += sum(v.missing for v in verdicts)
        report.cost += cost
        share = report.accuracy if verifier.oracle else None
        progress.update(done=report.present + report.judged, total=report.wanted, correct=share)
    return report


def scoring_worst(verifier: Verifier, attempts: Sequence[Attempt]) -> Cost:
    """The most that judging ``attempts`` can cost: nothing for rules; a verifier that spends compute tells it
    by a method ``worst_case(attempts) -> (scored_tokens, flops)``."""
    tell = getattr(verifier, "worst_case", None)
    tokens, flops = tell(attempts) if tell is not None else (0, 0.0)
    return Cost(scored_tokens=tokens, flops=flops)


def refuse_failed(verifier: Verifier, verdicts: Sequence[Verdict]) -> None:
    """Raise UserError where the verifier was not reached for any attempt of a batch: nor would it be for the next."""
    if verdicts and all(v.missing and v.status == "infrastructure" for v in verdicts):
        why = f"{verdicts[0].status}: {verdicts[0].reason or 'no reason given'}".rstrip(".")
        raise UserError(
            f"{verifier.name} could judge none of {len(verdicts)} chains ({why}). Mend that and run the same command "
            "again: it goes on from what was judged before."
        )


def unjudged(verdicts: Sequence[Verdict]) -> int:
    """Tokens that were read and came to no judgement."""
    return sum(v.scored_tokens for v in verdicts if v.missing)


def judge(verifier: Verifier, attempts: Sequence[Attempt]) -> tuple[list[Verdict], Cost]:
    """The verdicts and what they cost; a score that is not a number (NaN) is missing.

    Raises EngineError when their number is wrong, UserError that names the verifier when it raises or gives
    something that is no verdict.
    """
    started = time.monotonic()
    try:
        given = verifier.verify(attempts)
    except (ReasoningError, VerifierError):
        raise
    except Exception as e:
        said = " ".join(str(e).split())[:300]
        raise UserError(f"Verifier {verifier.name!r} failed with {type(e).__name__}: {said}") from e
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise UserError(f"Verifier {verifier.name!r} gave {short(given)} where a list of Verdict was due.")
    if len(given) != len(attempts):
        raise EngineError(f"{verifier.name} gave {len(given)} verdicts on {len(attempts)} attempts.")
    verdicts = [admit_verdict(verifier.name, v) for v in given]
    return verdicts, Cost(
        scored_tokens=sum(v.scored_tokens for v in verdicts),
        flops=sum(v.flops for v in verdicts),
        seconds=time.monotonic() - started,
    )
