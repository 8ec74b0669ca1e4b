"""Roll-outs: groups of chains drawn from the model being trained, judged by a verifier, with their rewards.

Draws go through the run's pool, so a killed step is finished from what it had already drawn. Knows nothing of
advantages or optimizers.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reasoning.budget import Ledger, Reservation
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
        drawn = self._groups(self.stream.next(wanted))
        if self.objective.dynamic_sampling:
            while (missing := wanted - sum(g.differs for g in drawn)) > 0 and len(drawn) < limit:
                more = self.stream.next(min(missing, limit - len(drawn)), {g.problem.id for g in drawn})
                try:
                    drawn += self._groups(more)
                except BudgetSpent:
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

    def _groups(self, problems: Sequence[Problem]) -> list[Group]:
        if not problems:
            return []
        n = self.options.chains_per_problem
        self._look_ahead(problems)
        mine = self.ranks.share(problems)
        sample(mine, self.engine, self.pool, self.ledger, n, self.sampling, phase="train")
        started = time.monotonic()
        judged: dict[str, Verdict] = {}
        for name, verifier in self.verifiers.items():
            ids = [p.id for p in mine if self._task[p.id][1] == name]
            if ids:
                verify(
                    self.pool,
                    verifier,
                    ledger=self.ledger,
                    model=self.engine.model,
                    problem_ids=ids,
                    phase="train",
                )
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

    def _look_ahead(self, problems: Sequence[Problem]) -> None:
        """Set aside what learning from these chains can take at most. Raises BudgetSpent where the purse has no room
        for that and for drawing what is missing, PoolError where ``recorded`` chains are missing."""
        if not self.recorded and self.ledger.budget is None:
            return
        draws = [Draw(p, self.sampling, tuple(range(self.options.chains_per_problem))) for p in problems]
        keys = [key for draw in draws for key in draw_keys(draw, self.engine.model)]
        missing = set(self.pool.missing(keys))
        if self.recorded and missing:
            raise PoolError(
                f"{len(missing)} chains of {self.engine.model} are not in {self.pool.path} any more, and the weights "
                "that drew them are gone: begin this run anew in another folder."
            )
        if self.ledger.budget is None:
            return
        worst, count = Cost(), 0
        for draw in draws:
            left = [
                i
                for i, key in zip(draw.indices, draw_keys(draw, self.engine.model), strict=True)
                if key in missing
            ]
            if left:
                worst += self.engine.worst_case(dataclasses.replace(draw, indices=tuple(left)))
                count += len(left)
        n, most = self.options.chains_per_problem, self.options.max_new_tokens
        lengths = [len(self.engine.ask(p)) + most for p in problems for _ in range(n)]
        learning = whole_cost(self.objective, self.options, self.training_flops, lengths)
        price = self.ledger.most(worst + learning, self.engine.model)
        if not self.ledger.fits(worst + learning, count, price=price):
            raise BudgetSpent(worst + learning)
        held = self.ledger.reserve(
            learning, phase="train", strategy=self.objective.name, model=self.engine.model
        )
        if held is None:
            raise BudgetSpent(worst + learning)
        self.held.append(held)

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
        try:
            drawn = self._groups(hinted)
        except BudgetSpent:
            drawn = []
        self.stream.state["rates"] = rates  # what a hint solved says nothing of the question
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
