"""Roll-outs: groups of chains drawn from the model being trained, judged by a verifier, with their rewards.

Draws go through the run's pool, so a killed step is finished from what it had already drawn. Knows nothing of
advantages or optimizers.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reasoning.budget import Ledger
from reasoning.errors import ReasoningError
from reasoning.pool import Pool
from reasoning.records import Chain, Problem, Sampling
from reasoning.sampling import sample, verify
from reasoning.train.credit import overlong_penalty
from reasoning.train.objective import Objective
from reasoning.train.options import TrainOptions
from reasoning.train.rows import Row
from reasoning.train.sources import StepData, choose
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

    def rows(self) -> list[Row]:
        return [
            Row(c.prompt_token_ids, c.token_ids, old_logprobs=c.logprobs, reward=float(r))
            for c, r in zip(self.chains, self.rewards, strict=True)
        ]


class ModelSource:
    """Draws ``chains_per_problem`` chains of ``problems_per_step`` problems a step.

    With dynamic sampling, groups whose rewards are all equal are put aside and further problems drawn, until as many
    groups as wanted can teach something, or ``max_refill`` times as many were drawn, or every problem was.
    """

    def __init__(
        self,
        options: TrainOptions,
        objective: Objective,
        problems: Sequence[Problem],
        engine: Any,
        verifier: Verifier,
        pool: Pool,
        ledger: Ledger,
    ):
        self.options = options
        self.objective = objective
        self.problems = problems
        self.engine = engine
        self.verifier = verifier
        self.pool = pool
        self.ledger = ledger
        self.state: dict[str, int] = {"position": 0}
        self.seconds = 0.0
        self.sampling = Sampling(
            temperature=options.temperature, max_new_tokens=options.max_new_tokens, seed=options.seed
        )

    def draw(self, step: int) -> StepData:
        wanted = self.options.problems_per_step
        limit = min(wanted * self.options.max_refill, len(self.problems))
        self.seconds = 0.0
        drawn = self._draw(wanted, set())
        if self.objective.dynamic_sampling:
            while (missing := wanted - sum(not g.dead for g in drawn)) > 0 and len(drawn) < limit:
                drawn += self._draw(min(missing, limit - len(drawn)), {g.problem.id for g in drawn})
        self._refuse_silence(drawn)
        groups = [g.rows() for g in drawn if not (self.objective.dynamic_sampling and g.dead)]
        flops = [self._sample_flops(g.chains) for g in drawn]
        metrics = self._metrics(drawn)
        if self.objective.source == "rationalised":
            added, hinted = self._rationalised([g for g in drawn if not (g.known >= 0.99).any()])
            groups += added
            flops += [self._sample_flops(g.chains) for g in hinted]
            metrics["rationalised"] = float(sum(len(rows) for rows in added))
            drawn = drawn + hinted
        tokens = sum(len(c.token_ids) for g in drawn for c in g.chains)
        return StepData(groups, metrics, sum(flops), tokens)

    def _draw(self, count: int, seen: set[str]) -> list[Group]:
        """Groups of the next ``count`` problems, those of ``seen`` and repetitions left out."""
        picked = choose(len(self.problems), self.state["position"], count, self.options.seed)
        self.state["position"] += count
        problems = {self.problems[i].id: self.problems[i] for i in picked}
        return self._groups([p for p in problems.values() if p.id not in seen])

    def _groups(self, problems: Sequence[Problem]) -> list[Group]:
        if not problems:
            return []
        n = self.options.chains_per_problem
        sample(problems, self.engine, self.pool, self.ledger, n, self.sampling, phase="train")
        ids = [p.id for p in problems]
        started = time.monotonic()
        verify(
            self.pool,
            self.verifier,
            ledger=self.ledger,
            model=self.engine.model,
            problem_ids=ids,
            phase="train",
        )
        self.seconds += time.monotonic() - started
        chains: dict[str, list[Chain]] = {}
        for chain in self.pool.chains(model=self.engine.model, sampling=self.sampling, problem_ids=ids):
            chains.setdefault(chain.problem_id, []).append(chain)
        judged = self.pool.verdicts(self.verifier.name)
        shaping = Shaping(self.objective, self.options.max_new_tokens)
        by_id = {p.id: p for p in problems}
        self.judged = judged
        return [
            Group(by_id[id], found, np.array([shaping.reward(judged.get(c.key), c) for c in found]))
            for id, found in chains.items()
        ]

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
            prompt_ids[asked.id] = group.chains[0].prompt_token_ids
        drawn = self._groups(hinted)
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
        silent = (self.judged.get(c.key) for c in finished)
        first = next((v for v in silent if v is not None and v.score is None), None)
        why = f"The first one says: {first.status}, {first.reason or 'no reason given'}" if first else ""
        raise ReasoningError(
            f"Verifier {self.verifier.name!r} judged none of the {len(finished)} finished chains of this step: there "
            f"is no reward to learn from. {why}"
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
        return metrics

    def _sample_flops(self, chains: Sequence[Chain]) -> float:
        """What a group's roll-outs cost by the model's shape (one prefill): the same whether or not the step was
        interrupted, as the chains' own records are not."""
        shape = self.engine.shape
        prompt = len(chains[0].prompt_token_ids)
        lengths = np.array([len(c.token_ids) for c in chains])
        return float(shape.prefill_flops(prompt)) + float(np.sum(shape.decode_flops(prompt, lengths)))


@dataclass(frozen=True, slots=True)
class Shaping:
    """From a verdict to the reward of a chain, as the objective wants it."""

    objective: Objective
    max_new_tokens: int

    def reward(self, verdict: Verdict | None, chain: Chain) -> float:
        """The score of a chain, NaN when there is no judgement (missing, not wrong); one that was cut short has 0,
        or what the objective's ``overlong`` says."""
        kind = self.objective.overlong
        if chain.truncated:
            score = float("nan") if kind == "mask" else 0.0
        else:
            score = float("nan") if verdict is None or verdict.score is None else float(verdict.score)
        if kind != "shape":
            return score
        buffer = self.objective.overlong_buffer or max(1, self.max_new_tokens // 5)
        return score + overlong_penalty(len(chain.token_ids), chain.truncated, self.max_new_tokens, buffer)
