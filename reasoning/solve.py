"""Run a search on many problems: one driver that batches what all of them ask for into few engine calls,
charges the ledger before and after, and writes the pool. It knows nothing of any strategy.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from reasoning.budget import Ledger, Reservation
from reasoning.drawing import BATCH_CHAINS, Drawer, default_sampling, draw_keys
from reasoning.engines.base import Engine
from reasoning.errors import UserError
from reasoning.pool import Pool
from reasoning.pool.claims import POLL_SECONDS, Claims
from reasoning.progress import Progress, Silent
from reasoning.records import Chain, Cost, Draw, Problem, Sampling, digest
from reasoning.sampling import attempt, budget_text, judge, refuse_failed, scoring_worst, unjudged
from reasoning.search.base import Answer, Candidate, Judge, Request, Search, Steps
from reasoning.sharing import draw_claimed, take_turn
from verifiers.base import Attempt, Verdict, Verifier
from verifiers.exact import Exact

_FRONT = 32
"""Batches among which a process claims its next one to score: enough for so many processes side by side, and few
beside a million chains, which would take minutes to go through for every batch."""


@dataclass(frozen=True, slots=True)
class Solution:
    """What a search came to on one problem, and what it took.

    chains: keys of all chains that it was given, in the order in which it asked. cost: of all of these and of
    scoring them, whether they were drawn now or found in the pool. short: it was given fewer chains or scores
    than it asked for. discarded_tokens: output of chains that had no part in the answer; in cost already.
    """

    problem_id: str
    answer: Answer
    cost: Cost
    chains: tuple[str, ...] = ()
    discarded_tokens: int = 0
    short: bool = False

    @property
    def samples(self) -> int:
        return len(self.chains)


def solve(
    problems: Sequence[Problem],
    search: Search,
    engine: Engine,
    ledger: Ledger | None = None,
    pool: Pool | None = None,
    scorer: Verifier | None = None,
    extractor: Verifier | None = None,
    sampling: Sampling | None = None,
    *,
    progress: Progress | None = None,
    phase: str = "search",
) -> list[Solution]:
    """One `Solution` per problem, in order.

    Chains and scores that ``pool`` has are taken from there (and are not charged again); the others are
    drawn, charged and stored, so that a killed search goes on where it stopped. When the purse is short,
    draws return fewer chains and judgements no score, spread evenly over the problems, and the search answers
    with those. Chains that another process is drawing into ``pool`` are waited for, not drawn a second time;
    without a budget the problems that lack none of them go on meanwhile, and scores are shared in the same way.

    scorer: judges chains for strategies that need it; unless it is an oracle it is never shown the reference.
    extractor: gives the answer that a chain votes for; it is never shown the reference, whichever it is, so
    voting stays deployable. By default the stated answer as text.

    Raises UserError when the search needs a scorer and there is none, EngineError, PoolError.
    """
    if search.needs_scorer and scorer is None:
        raise UserError(f"{search.name} needs a scorer, such as --scorer learned:PATH.")
    ledger = ledger if ledger is not None else Ledger()
    sampling = sampling or default_sampling(engine)
    run = _Run(engine, ledger, pool, scorer, extractor or Exact(), search.name, phase, search.needs_scorer)
    run.add(problems)
    games = [_Game(problem, search(problem, sampling)) for problem in problems]
    progress = progress or Silent()

    def show(**more: Any) -> None:
        progress.update(
            done=sum(not g.asked for g in games),
            total=len(games),
            output_tokens=run.drawer.total.cost.output_tokens,
            budget=budget_text(ledger),
            **more,
        )

    with run:
        while asking := [g for g in games if g.asked]:
            ready = run.draw(asking, show)
            run.score([(g, r) for g in ready for r in g.asked if isinstance(r, Judge)])
            for game in ready:
                game.move([run.result(game, request) for request in game.asked])
            show(note="")
    solutions = [run.solution(game) for game in games]
    run.note_discarded(games)
    return solutions


class _Game:
    """One problem and its running search. in_vain: keys of what it asks for that could not be had."""

    def __init__(self, problem: Problem, steps: Steps):
        self.problem = problem
        self.steps = steps
        self.asked: list[Request] = []
        self.answer = Answer()
        self.chains: dict[str, None] = {}
        self.scored: dict[str, None] = {}
        self.short = False
        self.in_vain: set[str] = set()
        self._listed = False
        self._advance(None)

    def move(self, results: list[Any]) -> None:
        self.in_vain.clear()
        self._advance(results if self._listed else results[0])

    def _advance(self, result: Any) -> None:
        """On to the next requests. An empty list of requests is answered with an empty list at once."""
        try:
            while True:
                asked = next(self.steps) if result is None else self.steps.send(result)
                self._listed = isinstance(asked, list)
                self.asked = asked if isinstance(asked, list) else [asked]
                if self.asked:
                    return
                result = []
        except StopIteration as end:
            self.asked, self.answer = [], end.value


@dataclass(frozen=True, slots=True)
class _Asker:
    """A game that asks for a chain: the ``index``-th of ``draw``'s problem. number: of the draw among all."""

    number: int
    game: _Game
    draw: Draw
    index: int


class _Run:
    """What one call of `solve` shares between its problems, and with other processes while it is entered. chains,
    answers, verdicts: by chain key."""

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        pool: Pool | None,
        scorer: Verifier | None,
        extractor: Verifier,
        strategy: str,
        phase: str,
        reserve_scores: bool,
    ):
        self.engine = engine
        self.ledger = ledger
        self.pool = pool
        self.scorer = scorer
        self.extractor = extractor
        self.strategy = strategy
        self.phase = phase
        self.problems: dict[str, Problem] = {}
        self.chains: dict[str, Chain] = {}
        self.fresh: set[str] = set()
        self.answers: dict[str, str | None] = {}
        self.verdicts: dict[str, Verdict] = {}
        self.unscored: list[Chain] = []
        self.aside: list[Reservation] = []
        """Set aside for scoring what was drawn; given back before it is scored."""
        self._stack = contextlib.ExitStack()
        self._claims: Claims | None = None
        self._company = False
        """Whether another process may have stored verdicts since we read them."""
        limited = reserve_scores and ledger.budget is not None
        self.drawer = Drawer(
            engine,
            ledger,
            pool,
            self._keep,
            phase,
            strategy,
            scoring=self._scoring_of_one if limited else None,
            stepped=self._set_aside if limited else None,
            scorer=scorer.name if scorer is not None else "",
        )

    def add(self, problems: Sequence[Problem]) -> None:
        self.problems = {p.id: p for p in problems}
        if self.pool is None:
            return
        self.pool.add_problems(problems)
        known = self.pool.chains(self.engine.model, problem_ids=list(self.problems), continuations=True)
        self.chains = {c.key: c for c in known}
        if self.scorer is not None:
            stored = self.pool.verdicts(self.scorer.name)
            self.verdicts = {key: verdict for key, verdict in stored.items() if not verdict.failed}
            self.pool.add_verdicts(self.scorer.name, {}, oracle=self.scorer.oracle)

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()
        self._stack.close()

    def draw(self, games: Sequence[_Game], show: Callable[..., None]) -> list[_Game]:
        """Draw what is asked for and not there yet, for all problems in one go. Returns the games that have all they
        can get; what the others lack is being drawn by other processes. Under a budget these are all games, so that
        what it buys is spread as without company."""
        asked = self._asked([(g, r) for g in games for r in g.asked if isinstance(r, Draw)])
        if self.drawer.stepped is not None and asked:
            self.unscored += [self.chains[k] for k in asked if k in self.chains and k not in self.verdicts]
            if not asked.keys() <= self.chains.keys():
                self.drawer.stepped()
        while lacking := self._lacking(asked):
            if self._draw_free(lacking):
                continue
            waiting = {id(asker.game) for askers in lacking.values() for asker in askers}
            ready = [g for g in games if id(g) not in waiting]
            if ready and self.ledger.budget is None:
                if self._claims is not None:
                    self._claims.drop()
                return ready
            show(note=f"waiting for {len(lacking)} chains that another process draws")
            time.sleep(POLL_SECONDS)
        return list(games)

    def _asked(self, requests: Sequence[tuple[_Game, Draw]]) -> dict[str, list[_Asker]]:
        """The keys of the chains that are asked for -> who asks."""
        asked: dict[str, list[_Asker]] = {}
        for number, (game, draw) in enumerate(requests):
            for index, key in zip(draw.indices, draw_keys(draw, self.engine.model), strict=True):
                asked.setdefault(key, []).append(_Asker(number, game, draw, index))
        return asked

    def _lacking(self, asked: Mapping[str, list[_Asker]]) -> dict[str, list[_Asker]]:
        """Those that are not there, and were not asked for in vain."""
        lacking: dict[str, list[_Asker]] = {}
        for key, askers in asked.items():
            if key not in self.chains and (left := [a for a in askers if key not in a.game.in_vain]):
                lacking[key] = left
        return lacking

    def _draw_free(self, lacking: Mapping[str, list[_Asker]]) -> bool:
        """Draw what nobody else draws, and take in what others have drawn; False where there was neither."""
        mine, found = set(lacking), set[str]()
        if self.pool is not None:
            claims = self._sharing(self.pool)
            turn = take_turn(
                claims, self.pool, list(lacking), lambda: [a[0].number for a in lacking.values()]
            )
            self._company |= claims.company
            if turn.arrived:
                problems = {lacking[key][0].game.problem.id for key in turn.arrived}
                found = self._take_in(self.pool, turn.arrived, problems)
            mine = turn.mine | (turn.arrived - found)  # its shard is damaged: drawn again
        if not mine:
            return bool(found)
        parts: dict[int, list[_Asker]] = {}
        for key, [first, *_] in lacking.items():
            if key in mine:
                parts.setdefault(first.number, []).append(first)
        draws = [replace(part[0].draw, indices=tuple(a.index for a in part)) for part in parts.values()]
        if self._claims is None:
            outcome = self.drawer.draw(draws)
        else:
            outcome = draw_claimed(self._claims, self.drawer, draws, len(mine))
        if not outcome.left:
            for key in mine - self.chains.keys():
                for asker in lacking[key]:
                    asker.game.in_vain.add(key)
        return True

    def _take_in(self, pool: Pool, keys: set[str], problems: Collection[str]) -> set[str]:
        """Chains that another process has stored; those of ``keys`` that could be read."""
        chains = pool.chains(self.engine.model, problem_ids=problems, continuations=True)
        new = {c.key: c for c in chains if c.key in keys}
        self.chains.update(new)
        self.unscored += new.values()
        return set(new)

    def _keep(self, chains: Sequence[Chain]) -> None:
        self.chains.update((c.key, c) for c in chains)
        self.fresh.update(c.key for c in chains)
        self.unscored += chains

    def _attempts(self, scorer: Verifier, chains: Sequence[Chain]) -> list[Attempt]:
        return [attempt(c, self.problems[c.problem_id], scorer.oracle) for c in chains]

    def _scoring_of_one(self, draw: Draw) -> Cost:
        """What scoring a chain of max_new_tokens (about as many words) takes: a chain's text is not known
        before it is drawn. A guess too low leaves chains without a score; it never overshoots."""
        assert self.scorer is not None
        n = len(draw.prefix) + draw.sampling.max_new_tokens
        longest = Chain(draw.problem.id, 0, " a" * n, (0,) * n, (0.0,) * n)
        return scoring_worst(self.scorer, self._attempts(self.scorer, [longest]))

    def _set_aside(self) -> None:
        """Keep what scoring the chains just drawn (or found in the pool) takes from being spent on further chains."""
        assert self.scorer is not None
        count = self._affordable_scores(self.scorer, self.unscored)
        if count:
            worst = scoring_worst(self.scorer, self._attempts(self.scorer, self.unscored[:count]))
            if held := self._reserve(worst, self.scorer):
                self.aside.append(held)
        self.unscored = []

    def _reserve(self, worst: Cost, verifier: Verifier) -> Reservation | None:
        return self.ledger.reserve(worst, phase=self.phase, strategy=self.strategy, model=verifier.name)

    def release(self) -> None:
        for held in self.aside:
            held.release()
        self.aside, self.unscored = [], []

    def score(self, requests: list[tuple[_Game, Judge]]) -> None:
        """Judge the chains that have no score yet, as many as the purse affords: the first chain of every
        problem, then the second, and so on."""
        if self.scorer is None or not requests:
            return
        self.release()
        places = {
            c.chain.key: (level, c.chain)
            for _, request in requests
            for level, c in enumerate(request.candidates)
            if c.chain.key not in self.verdicts
        }
        together = {key: at for at, key in enumerate(places)}  # a problem's chains stay side by side
        if self.pool is not None and self.ledger.budget is None:
            self._score_beside_others(self.pool, self.scorer, [chain for _, chain in places.values()])
            return
        todo = [chain for _, chain in sorted(places.values(), key=lambda place: place[0])]
        while todo and (count := self._affordable_scores(self.scorer, todo)):
            chosen = sorted(todo[:count], key=lambda c: together[c.key])
            for start in range(0, count, BATCH_CHAINS):
                if not self._judge(self.scorer, chosen[start : start + BATCH_CHAINS]):
                    return
            todo = todo[count:]

    def _score_beside_others(self, pool: Pool, scorer: Verifier, chains: Sequence[Chain]) -> None:
        """Judge those that no other process judges, batch by batch, and take the verdicts of the others from the
        pool."""
        keys = {c.key: digest(scorer.name, c.key, length=32) for c in chains}
        claims = self._sharing(pool)
        lacking = {c.key: c for c in chains}
        most = BATCH_CHAINS
        while lacking:
            front = list(islice(lacking, _FRONT * most))
            mine = claims.take([keys[k] for k in front], most=most)
            began = time.monotonic()
            self._company |= claims.company
            if self._company:
                pool.refresh()
                stored = pool.verdicts(scorer.name)
                for key in [k for k in lacking if k in stored and not stored[k].failed]:
                    self.verdicts[key] = stored[key]
                    del lacking[key]
                self._company = False
            read = time.monotonic()
            free = [lacking[k] for k in front if keys[k] in mine and k in lacking]
            for start in range(0, len(free), BATCH_CHAINS):
                self._judge(scorer, free[start : start + BATCH_CHAINS])
            if free:
                for chain in free:
                    del lacking[chain.key]
                if read - began > time.monotonic() - read:
                    most *= 2  # rules judge a batch sooner than a large pool is read
            elif not mine:
                # A large pool is not read all the time.
                time.sleep(max(POLL_SECONDS, time.monotonic() - began))
        claims.drop()

    def _sharing(self, pool: Pool) -> Claims:
        self._claims = self._claims or self._stack.enter_context(pool.claims())
        return self._claims

    def _affordable_scores(self, scorer: Verifier, chains: Sequence[Chain]) -> int:
        count = len(chains)
        if self.ledger.budget is None:
            return count
        attempts = self._attempts(scorer, chains)
        while count:
            worst = scoring_worst(scorer, attempts[:count])
            if self.ledger.fits(worst, price=self.ledger.most(worst, scorer.name)):
                break
            count //= 2
        return count

    def _judge(self, scorer: Verifier, chains: Sequence[Chain]) -> bool:
        """Score, charge and store; False when the purse does not pay for it (another thread has spent)."""
        attempts = self._attempts(scorer, chains)
        worst = scoring_worst(scorer, attempts)
        held = self._reserve(worst, scorer)
        if held is None:
            return False
        with held:
            verdicts, cost = judge(scorer, attempts)
            judged = {c.key: v for c, v in zip(chains, verdicts, strict=True)}
            charge = held.prepare(cost, failed_tokens=unjudged(verdicts))
            if self.pool is not None:
                charges = [charge] if self.ledger.durable else []
                self.pool.add_verdicts(scorer.name, judged, charges=charges)
            held.commit(charge, stored=self.pool is not None)
        if len(verdicts) > 1 or not self.verdicts:  # a single chain may be too long for a judge
            refuse_failed(scorer, verdicts)
        self.verdicts.update(judged)
        return True

    def result(self, game: _Game, request: Request) -> list[Any]:
        if isinstance(request, Draw):
            keys = [k for k in draw_keys(request, self.engine.model) if k in self.chains]
            game.short |= len(keys) < len(request.indices)
            game.chains.update(dict.fromkeys(keys))
            self._extract(game, keys)
            return [Candidate(self.chains[k], self.answers[k]) for k in keys]
        keys = [c.chain.key for c in request.candidates]
        game.scored.update(dict.fromkeys(k for k in keys if k in self.verdicts))
        game.short |= any(k not in self.verdicts for k in keys)
        return [self.verdicts[k].score if k in self.verdicts else None for k in keys]

    def _extract(self, game: _Game, keys: Iterable[str]) -> None:
        """What each chain answers; None (it abstains) of one that was cut off, or that the purse is too short to
        have read by an extractor that costs something."""
        new = [k for k in keys if k not in self.answers]
        whole = [k for k in new if not self.chains[k].truncated]
        self.answers.update(dict.fromkeys(new))
        if not whole:
            return
        problem = game.problem
        shown = [Attempt(problem.prompt, self.chains[k].text, None, problem.metadata) for k in whole]
        worst = scoring_worst(self.extractor, shown)
        held = self._reserve(worst, self.extractor) if worst != Cost() else None
        if worst != Cost() and held is None:
            game.short = True
            return
        with held or contextlib.nullcontext():
            verdicts, cost = judge(self.extractor, shown)
            self.answers.update((k, v.answer) for k, v in zip(whole, verdicts, strict=True))
            if held is not None:
                held.settle(cost, failed_tokens=unjudged(verdicts))
            elif cost.tokens or cost.flops:
                self.ledger.charge(cost, phase=self.phase, strategy=self.strategy, model=self.extractor.name)

    def solution(self, game: _Game) -> Solution:
        cost = sum((self.chains[k].cost for k in game.chains), Cost())
        judged = [self.verdicts[k] for k in game.scored]
        cost += Cost(
            scored_tokens=sum(v.scored_tokens for v in judged),
            flops=sum(v.flops for v in judged),
        )
        unused = game.answer.unused & set(game.chains)
        discarded = sum(self.chains[k].cost.output_tokens for k in unused)
        return Solution(game.problem.id, game.answer, cost, tuple(game.chains), discarded, game.short)

    def note_discarded(self, games: Sequence[_Game]) -> None:
        """What was drawn now and left unused, in the ledger's column for it; its cost is charged already."""
        unused = self.fresh & {k for game in games for k in game.answer.unused}
        if unused:
            tokens = sum(self.chains[k].cost.output_tokens for k in unused)
            self.ledger.charge(Cost(), phase=self.phase, strategy=self.strategy, discarded_tokens=tokens)
