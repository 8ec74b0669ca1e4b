"""Roll-outs: groups of chains drawn from the model being trained, judged by a verifier, with their rewards.

Draws go through the run's pool, so a killed step is finished from what it had already drawn. Knows nothing of
advantages or optimizers.
"""

from __future__ import annotations

import bisect
import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reasoning.budget import Charge, Ledger, Reservation
from reasoning.drawing import draw_keys
from reasoning.errors import PoolError, ReasoningError
from reasoning.pool import Pool
from reasoning.records import Chain, Cost, Draw, Problem, Sampling
from reasoning.sampling import sample, verify
from reasoning.train.credit import overlong_penalty
from reasoning.train.distributed import ALONE, Ranks
from reasoning.train.objective import Objective
from reasoning.train.options import TrainOptions
from reasoning.train.rows import Row
from reasoning.train.sources import BudgetSpent, StepData
from reasoning.train.stream import Stream
from reasoning.train.together import meet
from reasoning.train.update import TrainingFlops, whole_cost
from verifiers import Verdict, Verifier


@dataclass(slots=True)
class Group:
    """The chains of one problem, and their rewards (G,), NaN where there is none."""

    problem: Problem
    chains: list[Chain]
    rewards: np.ndarray

    @property
    def known(self) -> np.ndarray:
        return self.rewards[~np.isnan(self.rewards)]

    @property
    def dead(self) -> bool:
        """Whether the rewards are all equal: nothing to compare."""
        return bool(len(self.known)) and float(np.ptp(self.known)) == 0

    @property
    def differs(self) -> bool:
        """Whether there are rewards to compare."""
        return bool(len(self.known)) and not self.dead

    def rows(self) -> list[Row]:
        return [
            Row(c.prompt_token_ids, c.token_ids, old_logprobs=c.logprobs, reward=float(r))
            for c, r in zip(self.chains, self.rewards, strict=True)
        ]


class ModelSource:
    """Draws ``chains_per_problem`` chains of ``problems_per_step`` problems a step.

    verifiers: of each task of ``stream``, in order. With dynamic sampling, groups whose rewards are all equal are put
    aside and further problems drawn, until as many groups as wanted can teach something, or ``max_refill`` times as
    many were drawn, or every problem was, or the budget has no room for more.

    recorded: every chain must be in the pool already (those of weights that are gone); PoolError for one that is not.
    """

    def __init__(
        self,
        options: TrainOptions,
        objective: Objective,
        stream: Stream,
        verifiers: Sequence[Verifier],
        engine: Any,
        pool: Pool,
        ledger: Ledger,
        training_flops: TrainingFlops,
        ranks: Ranks = ALONE,
    ):
        self.options = options
        self.training_flops = training_flops
        self.ranks = ranks
        self.objective = objective
        self.stream = stream
        self.engine = engine
        self.pool = pool
        self.ledger = ledger
        self.recorded = False
        self.verifiers = {v.name: v for v in verifiers}
        self._task = {  # problem -> (label of its task, its verifier)
            p.id: (task.label, verifier.name)
            for task, verifier in reversed(list(zip(stream.tasks, verifiers, strict=True)))
            for p in task.problems
        }
        self.judged: Mapping[str, Verdict] = {}
        self.seconds = 0.0
        self.held: list[Reservation] = []
        self.sampling = Sampling(
            temperature=options.temperature, max_new_tokens=options.max_new_tokens, seed=options.seed
        )

    @property
    def state(self) -> dict[str, Any]:
        return self.stream.state

    def draw(self, step: int) -> StepData:
        wanted = self.options.problems_per_step
        limit = min(wanted * self.options.max_refill, self.stream.size)
        self.seconds, self.held = 0.0, []
        started = time.monotonic()
        asked = self.stream.next(wanted)
        self._begin(asked)
        drawn, spent = self._groups(asked)
        self._refuse_part(spent)
        if self.objective.dynamic_sampling:
            while (missing := wanted - sum(g.differs for g in drawn)) > 0 and len(drawn) < limit:
                more = self.stream.next(min(missing, limit - len(drawn)), {g.problem.id for g in drawn})
                found, spent = self._groups(more)
                drawn += found
                if spent is not None:
                    break  # the step goes on with what it has
        self._refuse_silence(drawn)
        groups = [g.rows() for g in drawn if g.differs or not self.objective.dynamic_sampling]
        flops = [self._sample_flops(g.chains) for g in drawn]
        metrics = self._metrics(drawn)
        if self.objective.source == "rationalised":
            added, hinted = self._rationalised([g for g in drawn if not (g.known >= 0.99).any()])
            groups += added
            flops += [self._sample_flops(g.chains) for g in hinted]
            metrics["rationalised"] = float(sum(len(rows) for rows in added))
            drawn = drawn + hinted
        tokens = sum(len(c.token_ids) for g in drawn for c in g.chains)
        metrics["sample_seconds"] = time.monotonic() - started - self.seconds
        return StepData(groups, metrics, sum(flops), tokens, self.held)

    def _refuse_part(self, spent: BudgetSpent | None) -> None:
        """A step of which the purse paid only a part is none: what it set aside goes back; raises ``spent``."""
        if spent is not None:
            for held in self.held:
                held.release()
            raise spent

    def _begin(self, problems: Sequence[Problem]) -> None:
        """Raises BudgetSpent where the purse will hardly pay for a step with these problems, PoolError where
        ``recorded`` chains are missing.

        A step that has begun (before a kill, or within a smaller budget) goes on. Another one needs as much as the
        largest of the last ones took; the first, of which nothing is known, what it may take at its longest.
        """
        if not self.recorded and self.ledger.budget is None:
            return
        keys = [key for p in problems for key in draw_keys(self._draw_of(p), self.engine.model)]
        missing = self.pool.missing(keys)
        if self.recorded and missing:
            raise PoolError(
                f"{len(missing)} chains of {self.engine.model} are not in {self.pool.path} any more, and the weights "
                "that drew them are gone: begin this run anew in another folder."
            )
        if self.ledger.budget is None or len(missing) < len(keys):
            return
        lately = largest_step(self.ledger.charges, self.objective.name)
        if lately is not None:
            if not self.ledger.fits(lately.cost, lately.samples, price=lately.price or 0.0):
                raise BudgetSpent(lately.cost, "lately")
        elif self._affordable(problems) < len(problems):
            raise BudgetSpent(self._worst(problems)[0] + self._learning(problems), "most")

    def _groups(self, problems: Sequence[Problem]) -> tuple[list[Group], BudgetSpent | None]:
        """The groups of ``problems``, or of the first of them that the purse pays for, with what it lacks for more.

        As many as it pays for at their longest are drawn at a time, so that what they did not need pays for others.
        """
        groups: list[Group] = []
        left = list(problems)
        while left:
            count = self._affordable(left)
            if not count:
                return groups, BudgetSpent(self._worst(left[:1])[0] + self._learning(left[:1]), "begun")
            try:
                held = self._hold(left[:count])
            except BudgetSpent as spent:  # what was left a moment ago went into something else
                return groups, spent
            drawn = self._drawn(left[:count])
            if drawn is None:
                if held is not None:
                    held.release()
                    self.held.remove(held)
                return groups, BudgetSpent(Cost(), "short")
            if held is not None:  # from what learning may take to what it takes
                held.shrink(self._whole_cost([len(row) for group in drawn for row in group.rows()]))
            groups += drawn
            left = left[count:]
        return groups, None

    def _drawn(self, problems: Sequence[Problem]) -> list[Group] | None:
        """Their groups; None where the purse ran out before all chains were there and judged: time did, or judging
        takes more than was left. What is stored by then is of use to a larger one."""
        n = self.options.chains_per_problem
        mine = self.ranks.share(problems)
        sampled = sample(mine, self.engine, self.pool, self.ledger, n, self.sampling, phase="train")
        started = time.monotonic()
        short = sampled.unaffordable
        judged: dict[str, Verdict] = {}
        for name, verifier in self.verifiers.items():
            ids = [p.id for p in mine if self._task[p.id][1] == name]
            if ids:
                short += verify(
                    self.pool,
                    verifier,
                    ledger=self.ledger,
                    model=self.engine.model,
                    problem_ids=ids,
                    phase="train",
                    again=False,  # a run that goes on takes what it stored as it stands
                ).unaffordable
        if short:
            return None
        meet(self.ranks, self.pool)
        for name in {self._task[p.id][1]: None for p in problems}:
            judged |= self.pool.verdicts(name)
        self.seconds += time.monotonic() - started
        chains: dict[str, list[Chain]] = {}
        ids = [p.id for p in problems]
        for chain in self.pool.chains(model=self.engine.model, sampling=self.sampling, problem_ids=ids):
            chains.setdefault(chain.problem_id, []).append(chain)
        chains = {p.id: chains[p.id] for p in problems if p.id in chains}  # whichever rank stored them first
        shaping = Shaping(self.objective, self.options.max_new_tokens)
        by_id = {p.id: p for p in problems}
        self.judged = judged
        self.stream.tell(_rates(chains, judged, self.objective.overlong == "judge"))
        return [
            Group(by_id[id], found, np.array([shaping.reward(judged.get(c.key), c) for c in found]))
            for id, found in chains.items()
        ]

    def _affordable(self, problems: Sequence[Problem]) -> int:
        """How many of these problems, from the first on, the purse pays for: drawing what is missing of their chains
        and learning from all, at their longest."""
        if self.ledger.budget is None:
            return len(problems)

        def too_many(count: int) -> bool:
            worst, samples = self._worst(problems[:count])
            worst += self._learning(problems[:count])
            return not self.ledger.fits(worst, samples, price=self.ledger.most(worst, self.engine.model))

        counts = range(1, len(problems) + 1)
        return len(counts) if not too_many(len(counts)) else bisect.bisect_left(counts, True, key=too_many)

    def _hold(self, problems: Sequence[Problem]) -> Reservation | None:
        """Set aside what learning from these chains takes at most."""
        if self.ledger.budget is None:
            return None
        learning = self._learning(problems)
        held = self.ledger.reserve(
            learning, phase="train", strategy=self.objective.name, model=self.engine.model
        )
        if held is None:
            raise BudgetSpent(learning, "begun")
        self.held.append(held)
        return held

    def _draw_of(self, problem: Problem) -> Draw:
        return Draw(problem, self.sampling, tuple(range(self.options.chains_per_problem)))

    def _worst(self, problems: Sequence[Problem]) -> tuple[Cost, int]:
        """What drawing the chains that are missing takes at most, and how many they are."""
        draws = [self._draw_of(p) for p in problems]
        keys = [draw_keys(draw, self.engine.model) for draw in draws]
        missing = set(self.pool.missing([key for of_draw in keys for key in of_draw]))
        worst, count = Cost(), 0
        for draw, of_draw in zip(draws, keys, strict=True):
            left = tuple(i for i, key in zip(draw.indices, of_draw, strict=True) if key in missing)
            if left:
                worst += self.engine.worst_case(dataclasses.replace(draw, indices=left))
                count += len(left)
        return worst, count

    def _learning(self, problems: Sequence[Problem]) -> Cost:
        """What learning from these problems' chains takes at most."""
        n, most = self.options.chains_per_problem, self.options.max_new_tokens
        return self._whole_cost([len(self.engine.ask(p)) + most for p in problems for _ in range(n)])

    def _whole_cost(self, lengths: Sequence[int]) -> Cost:
        return whole_cost(self.objective, self.options, self.training_flops, lengths)

    def _rationalised(self, unsolved: Sequence[Group]) -> tuple[list[list[Row]], list[Group]]:
        """Right chains that were drawn with the answer given as a hint, as rows behind the bare question; and all
        that was drawn (STaR, arXiv 2203.14465)."""
        prompt_ids = {}
        hinted = []
        for group in unsolved:
            problem = group.problem
            text = self.options.hint.replace("{prompt}", problem.prompt)
            text = text.replace("{reference}", str(problem.reference))
            asked = dataclasses.replace(
                Problem.make(text, problem.reference, problem.task, problem.metadata), task=problem.task
            )
            hinted.append(asked)
            self._task[asked.id] = self._task[problem.id]
            prompt_ids[asked.id] = group.chains[0].prompt_token_ids
        rates = dict(self.stream.state["rates"])
        drawn, spent = self._groups(hinted)
        self.stream.state["rates"] = rates  # what a hint solved says nothing of the question
        self._refuse_part(spent)
        rows = [
            [dataclasses.replace(r, prompt_ids=prompt_ids[g.problem.id], old_logprobs=()) for r in g.rows()]
            for g in drawn
        ]
        right = [[r for r in group if r.reward >= 0.99] for group in rows]
        return [group for group in right if group], drawn

    def _refuse_silence(self, groups: Sequence[Group]) -> None:
        finished = [c for g in groups for c in g.chains if not c.truncated]
        judged = sum(len(g.known) for g in groups)
        missing = sum(
            bool(np.isnan(r)) and not c.truncated
            for g in groups
            for c, r in zip(g.chains, g.rewards, strict=True)
        )
        if judged and not (finished and missing == len(finished)):
            return
        if not finished and self.objective.overlong.endswith("mask"):
            chains = sum(len(g.chains) for g in groups)
            raise ReasoningError(
                f"All {chains} chains of this step were cut at --max-new-tokens {self.options.max_new_tokens}, and "
                f"overlong={self.objective.overlong} leaves such chains out: raise it, or take --overlong shape."
            )
        silent = (self.judged.get(c.key) for c in finished)
        first = next((v for v in silent if v is not None and v.score is None), None)
        why = f"The first one says: {first.status}, {first.reason or 'no reason given'}" if first else ""
        names = " and ".join(map(repr, self.verifiers))
        raise ReasoningError(
            f"Verifier {names} judged none of the {len(finished)} finished chains of this step: there is no reward "
            f"to learn from. {why}"
        )

    def _metrics(self, groups: Sequence[Group]) -> dict[str, float]:
        judged = [g for g in groups if len(g.known)]
        chains = [c for g in groups for c in g.chains]
        lengths = np.array([len(c.token_ids) for c in chains], dtype=float)
        cut = np.array([c.truncated for c in chains])
        right = sum(g.dead and g.known[0] >= 0.99 for g in groups)
        wrong = sum(g.dead and g.known[0] < 0.99 for g in groups)
        metrics = {
            "reward": float(np.mean(np.concatenate([g.known for g in judged]))),
            "reward_std": float(np.mean([g.known.std() for g in judged])),
            "frac_reward_zero_std": (right + wrong) / len(groups),
            "frac_reward_zero_std/all_right": right / len(groups),
            "frac_reward_zero_std/all_wrong": wrong / len(groups),
            "completions/mean_length": float(lengths.mean()),
            "completions/mean_terminated_length": float(lengths[~cut].mean()) if not cut.all() else 0.0,
            "completions/clipped_ratio": float(cut.mean()),
            "rewards_missing": float(sum(len(g.rewards) - len(g.known) for g in groups)),
            "verifier_seconds": self.seconds,
        }
        if self.objective.dynamic_sampling:
            metrics["groups_drawn"] = float(len(groups))
        if self.stream.band is not None:
            metrics["curriculum/passed_over"] = float(len(self.stream.state["passed"]))
        if len(self.stream.tasks) > 1:
            for task in self.stream.tasks:
                own = [g for g in judged if self._task[g.problem.id][0] == task.label]
                metrics[f"problems/{task.label}"] = float(len(own))
                if own:
                    metrics[f"reward/{task.label}"] = float(np.mean(np.concatenate([g.known for g in own])))
        return metrics

    def _sample_flops(self, chains: Sequence[Chain]) -> float:
        """What a group's roll-outs cost by the model's shape (one prefill): the same whether or not the step was
        interrupted, as the chains' own records are not."""
        shape = self.engine.shape
        prompt = len(chains[0].prompt_token_ids)
        lengths = np.array([len(c.token_ids) for c in chains])
        return float(shape.prefill_flops(prompt)) + float(np.sum(shape.decode_flops(prompt, lengths)))


def largest_step(charges: Sequence[Charge], strategy: str, lately: int = 4) -> Charge | None:
    """In each column the most that one of the last ``lately`` training steps was charged; None before the first is
    done. A step's rows are those of the phase "train" up to the one of its update, which ``strategy`` names; one
    that was learned again after a kill, from stored chains, is no measure."""
    steps, now = [], Charge()
    for charge in charges:
        if charge.phase != "train":
            continue
        now += charge
        if charge.strategy == strategy:
            steps += [now] if now.samples else []
            now = Charge()
    steps = steps[-lately:]
    if not steps:
        return None
    most = Cost(
        output_tokens=max(s.cost.tokens for s in steps),
        flops=max(s.cost.flops for s in steps),
        seconds=max(s.cost.seconds for s in steps),
    )
    return Charge(cost=most, samples=max(s.samples for s in steps), price=max(s.price or 0.0 for s in steps))


def _rates(
    chains: Mapping[str, Sequence[Chain]], judged: Mapping[str, Verdict], truncated: bool
) -> dict[str, float]:
    """Mean score of each problem's chains, 0 of one that was cut short unless ``truncated`` ones count as judged;
    problems without a judgement are left out."""
    rates = {}
    for id, found in chains.items():
        scores = [
            0.0 if c.truncated and not truncated else v.score
            for c in found
            if (v := judged.get(c.key)) is not None
        ]
        known = [float(s) for s in scores if s is not None]
        if known:
            rates[id] = float(np.mean(known))
    return rates


@dataclass(frozen=True, slots=True)
class Shaping:
    """From a verdict to the reward of a chain, as the objective wants it."""

    objective: Objective
    max_new_tokens: int

    def reward(self, verdict: Verdict | None, chain: Chain) -> float:
        """The score of a chain, NaN when there is no judgement (missing, not wrong); one that was cut short has 0,
        or what the objective's ``overlong`` says."""
        kind = self.objective.overlong
        if chain.truncated and kind != "judge":
            score = float("nan") if kind.endswith("mask") else 0.0
        else:
            score = float("nan") if verdict is None or verdict.score is None else float(verdict.score)
        if not kind.startswith("shape"):
            return score
        buffer = self.objective.overlong_buffer or max(1, self.max_new_tokens // 5)
        return score + overlong_penalty(len(chain.token_ids), chain.truncated, self.max_new_tokens, buffer)
