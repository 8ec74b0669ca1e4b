"""Step labels by Monte Carlo roll-outs (Math-Shepherd, arXiv 2312.08935): a step is as good as the completions that
go on from it. Chains of a pool are cut at their steps, completions are drawn behind each, and a verifier judges them.

Draws go through the run's own pool and purse, keyed by the prefix, so a killed fit goes on where it stopped, and
chains that begin alike share their roll-outs. Knows nothing of models that learn from the labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reasoning.budget import Ledger
from reasoning.drawing import BATCH_CHAINS, Drawer, draw_keys
from reasoning.errors import BudgetError, UserError
from reasoning.pool import Pool
from reasoning.progress import Progress
from reasoning.records import Chain, Draw, Problem, Sampling, digest
from reasoning.sampling import attempt, judge, scoring_worst, unjudged
from verifiers import Verdict, Verifier
from verifiers.steps import split_steps

ESTIMATIONS = ("hard", "soft")


@dataclass(frozen=True, slots=True)
class Judged:
    """A chain of a pool and whether it was right."""

    problem: Problem
    chain: Chain
    right: bool


@dataclass(frozen=True, slots=True)
class Stepped:
    """A chain's steps with their labels in [0, 1] and the completions that each was estimated from."""

    problem: Problem
    chain: Chain
    steps: tuple[str, ...]
    labels: tuple[float, ...]
    completions: tuple[int, ...]
    right: bool


@dataclass(frozen=True, slots=True)
class Rollouts:
    """How labels are made. steps: see `verifiers.steps`. count: completions of a prefix. estimation: "hard" (1 where
    any of them is right) or "soft" (the share that is). temperature, seed, max_new_tokens (0: the chain's own) of the
    completions; whatever else, stop strings say, is as the chain was sampled."""

    steps: str
    count: int
    estimation: str
    temperature: float = 1.0
    max_new_tokens: int = 0
    seed: int = 0

    def sampling(self, chain: Chain) -> Sampling:
        limit = self.max_new_tokens or chain.sampling.max_new_tokens
        return replace(chain.sampling, temperature=self.temperature, max_new_tokens=limit, seed=self.seed)

    def counts(self, chain: Chain, model: str) -> bool:
        """Whether a chain is as good as a completion drawn now: of the same model, sampled in the same way."""
        own = replace(chain.sampling, seed=self.seed, max_new_tokens=self.sampling(chain).max_new_tokens)
        return chain.model == model and own == self.sampling(chain)


def prefix_key(prefix: Sequence[int]) -> str:
    """The ``parent`` of chains that go on from ``prefix``: a digest of its ids, so that equal prefixes of different
    chains are one, and the same chain cut at two places is two."""
    return digest("prefix", list(prefix), length=32)


def cut_points(chain: Chain, by: str, engine: Any) -> list[tuple[str, int]]:
    """(step, sampled tokens up to its end) of every step but the last, whose end is the chain's. A token that reaches
    over the end of a step counts to it."""
    points = []
    end = at = 0
    steps = split_steps(chain.text, by)
    for step in steps[:-1]:
        end += len(step)
        low, high = at, len(chain.token_ids)  # fewest tokens whose text reaches ``end``
        while low < high:
            middle = (low + high) // 2
            if len(engine.decode(chain.token_ids[:middle])) < end:
                low = middle + 1
            else:
                high = middle
        at = low
        points.append((step, at))
    return points


def label(
    judged: Sequence[Judged],
    engine: Any,
    verifier: Verifier,
    pool: Pool,
    ledger: Ledger,
    rollouts: Rollouts,
    progress: Progress,
    others: Sequence[Judged] = (),
) -> list[Stepped]:
    """``judged`` with step labels. What is known already is not drawn: the chain itself is one completion of each of
    its prefixes, and so is every chain of ``judged`` and ``others`` that begins with the same tokens, where they are
    of the engine's own model. The last step's label is the chain's own. A chain with a step none of whose completions
    could be judged is left out.

    Raises UserError for chains without token ids or an engine that cannot read them, BudgetError when the purse
    cannot pay for the roll-outs, and what `judge` raises.
    """
    if not hasattr(engine, "decode"):
        raise UserError(
            "Roll-outs go on from sampled tokens: take an engine that has them, such as transformers:PATH."
        )
    cuts = []
    for one in judged:
        chain = one.chain
        if not chain.token_ids or len(engine.decode(chain.token_ids)) < len(chain.text.rstrip()):
            raise UserError(
                f"Chain {chain.key} of {chain.model or 'a recorded pool'} has no token ids that {engine.model} reads "
                "as its text: step labels need chains that were sampled with this model's tokenizer (--engine)."
            )
        cuts.append(cut_points(chain, rollouts.steps, engine))
    known = _known([one for one in (*judged, *others) if rollouts.counts(one.chain, engine.model)])
    draws = _draws(judged, cuts, known, rollouts)
    pool.add_problems([one.problem for one in judged])
    completed = _complete(list(draws.values()), engine, verifier, pool, ledger, progress)
    out = []
    for one, points in zip(judged, cuts, strict=True):
        steps = split_steps(one.chain.text, rollouts.steps)
        labels, counts = [], []
        for _, at in points:
            prefix = one.chain.token_ids[:at]
            results = _results(known, one.problem.id, prefix)[: rollouts.count]
            results += completed.get((one.problem.id, prefix_key(prefix)), [])
            if not results:
                break
            share = sum(results) / len(results)
            labels.append(float(share > 0) if rollouts.estimation == "hard" else share)
            counts.append(len(results))
        if len(labels) == len(points):
            given = (*labels, float(one.right)), (*counts, 1)
            out.append(Stepped(one.problem, one.chain, tuple(steps), *given, one.right))
    return out


Known = dict[str, list[tuple[tuple[int, ...], bool]]]


def _known(judged: Sequence[Judged]) -> Known:
    """Problem id -> (token ids, right) of its chains, each chain once, in the order of their keys."""
    by_key = {one.chain.key: one for one in judged}
    known: Known = {}
    for key in sorted(by_key):
        one = by_key[key]
        known.setdefault(one.problem.id, []).append((one.chain.token_ids, one.right))
    return known


def _results(known: Known, problem_id: str, prefix: tuple[int, ...]) -> list[bool]:
    """Whether the known chains that begin with ``prefix`` were right."""
    return [right for ids, right in known.get(problem_id, []) if ids[: len(prefix)] == prefix]


def _draws(
    judged: Sequence[Judged], cuts: Sequence[Sequence[tuple[str, int]]], known: Known, rollouts: Rollouts
) -> dict[tuple[str, str], Draw]:
    """(problem id, prefix key) -> what is still to be drawn there."""
    draws: dict[tuple[str, str], Draw] = {}
    for one, points in zip(judged, cuts, strict=True):
        for _, at in points:
            prefix = one.chain.token_ids[:at]
            parent = prefix_key(prefix)
            missing = rollouts.count - len(_results(known, one.problem.id, prefix))
            if missing > 0:
                draws[one.problem.id, parent] = Draw(
                    one.problem, rollouts.sampling(one.chain), tuple(range(missing)), prefix, parent
                )
    return draws


def _complete(
    draws: Sequence[Draw], engine: Any, verifier: Verifier, pool: Pool, ledger: Ledger, progress: Progress
) -> Mapping[tuple[str, str], list[bool]]:
    """Draw what ``pool`` lacks, judge what has no verdict; (problem id, prefix key) -> whether each completion was
    right. One that was cut at its limit is wrong; one without a judgement does not count."""
    wanted = {key: draw for draw in draws for key in draw_keys(draw, engine.model)}
    missing = set(pool.missing(list(wanted)))
    todo = []
    for draw in draws:
        keys = draw_keys(draw, engine.model)
        indices = tuple(i for i, key in zip(draw.indices, keys, strict=True) if key in missing)
        if indices:
            todo.append(Draw(draw.problem, draw.sampling, indices, draw.prefix, draw.parent))
    done = len(wanted) - len(missing)

    def show(chains: Sequence[Chain]) -> None:
        nonlocal done
        done += len(chains)
        progress.update(done=done, total=len(wanted), note="roll-outs")

    outcome = Drawer(engine, ledger, pool, show, "train", "fit").draw(todo) if todo else None
    if outcome is not None and outcome.unaffordable:
        raise BudgetError(
            f"The budget was spent: {outcome.unaffordable} of {len(wanted)} roll-outs were not drawn. Those drawn "
            "are kept: raise --budget, or lower --rollouts or --chains in a new folder."
        )
    ids = {draw.problem.id for draw in draws}
    chains = [c for c in pool.chains(engine.model, problem_ids=ids, continuations=True) if c.key in wanted]
    verdicts = _judged(chains, wanted, engine, verifier, pool, ledger)
    found: dict[tuple[str, str], list[bool]] = {}
    for chain in chains:
        verdict = verdicts.get(chain.key)
        if chain.truncated:
            found.setdefault((chain.problem_id, chain.parent), []).append(False)
        elif verdict is not None and verdict.score is not None:
            found.setdefault((chain.problem_id, chain.parent), []).append(verdict.correct)
    return found


def _judged(
    chains: Sequence[Chain],
    wanted: Mapping[str, Draw],
    engine: Any,
    verifier: Verifier,
    pool: Pool,
    ledger: Ledger,
) -> Mapping[str, Verdict]:
    """Verdicts on prefix and completion together; a cut-off one is not judged."""
    known = pool.verdicts(verifier.name)
    todo = [c for c in chains if c.key not in known and not c.truncated]
    pool.add_verdicts(verifier.name, {}, oracle=verifier.oracle)
    texts: dict[str, str] = {}
    for start in range(0, len(todo), BATCH_CHAINS):
        part = todo[start : start + BATCH_CHAINS]
        attempts = []
        for chain in part:
            draw = wanted[chain.key]
            if draw.parent not in texts:
                texts[draw.parent] = engine.decode(draw.prefix)
            whole = Chain(chain.problem_id, chain.index, texts[draw.parent] + chain.text)
            attempts.append(attempt(whole, draw.problem, verifier.oracle))
        held = ledger.reserve(
            scoring_worst(verifier, attempts), phase="train", strategy="fit", model=verifier.name
        )
        if held is None:
            raise BudgetError("The budget cannot pay for judging the roll-outs: raise --budget.")
        with held:
            verdicts, cost = judge(verifier, attempts)
            named = {c.key: v for c, v in zip(part, verdicts, strict=True)}
            charge = held.prepare(cost, failed_tokens=unjudged(verdicts))
            pool.add_verdicts(verifier.name, named, charges=[charge] if ledger.durable else [])
            held.commit(charge, stored=True)
        known = {**known, **named}
    return known
