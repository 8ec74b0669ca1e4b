"""Where a training step's chains come from: a book of demonstrations, or the model itself.

A source turns a step number into rows with advantages. It is a pure function of (options, weights, step), so a
resumed run gets the same rows. It knows nothing of optimizers.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from reasoning.budget import Ledger
from reasoning.errors import ReasoningError, UserError
from reasoning.pool import Pool
from reasoning.records import Chain, Problem, Sampling, digest
from reasoning.sampling import sample, verify
from reasoning.tasks.base import Demonstration
from reasoning.train.learner import Row
from reasoning.train.objective import Objective
from reasoning.train.options import TrainOptions
from verifiers import Verdict, Verifier


@dataclass(frozen=True, slots=True)
class StepData:
    """Rows to learn from, figures by metric name, and what getting them cost (FLOPs of the generator)."""

    rows: list[Row]
    metrics: dict[str, float] = field(default_factory=dict)
    sample_flops: float = 0.0
    output_tokens: int = 0


class Source(Protocol):
    def rows(self, step: int) -> StepData: ...


def order_of(n: int, seed: int, epoch: int) -> list[int]:
    """A permutation of range(n), the same for the same (seed, epoch) everywhere."""
    order = list(range(n))
    random.Random(digest("order", seed, epoch, length=32)).shuffle(order)
    return order


def choose(n: int, count: int, step: int, seed: int) -> list[int]:
    """The ``count`` indices of 0..n-1 that belong to ``step``: every index once before any comes again."""
    places = [divmod(position, n) for position in range(step * count, (step + 1) * count)]
    orders = {epoch: order_of(n, seed, epoch) for epoch in {epoch for epoch, _ in places}}
    return [orders[epoch][place] for epoch, place in places]


class DemonstrationSource:
    """Prompt and completion pairs, each read once before any is read again."""

    def __init__(
        self, demonstrations: Sequence[Demonstration], tokenizer: Any, encode: Any, count: int, seed: int
    ):
        self.demonstrations = demonstrations
        self.tokenizer = tokenizer
        self.encode = encode  # prompt text -> ids, as the engine renders it
        self.count = count
        self.seed = seed

    def rows(self, step: int) -> StepData:
        end = (self.tokenizer.eos_token_id,)
        rows = []
        for i in choose(len(self.demonstrations), self.count, step, self.seed):
            problem, completion = self.demonstrations[i]
            ids = tuple(self.tokenizer(completion, add_special_tokens=False)["input_ids"])
            rows.append(Row(tuple(self.encode(problem.prompt)), ids + end, 1.0))
        lengths = [len(row.ids) for row in rows]
        return StepData(rows, {"completions/mean_length": float(np.mean(lengths))})


def read_demonstrations(path: Path) -> list[Demonstration]:
    """JSONL rows of {"prompt": ..., "completion": ...}. Raises UserError naming a malformed line."""
    if not path.is_file():
        raise UserError(f"{path}: no such file of demonstrations (JSONL rows of prompt and completion).")
    found: list[Demonstration] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            prompt, completion = row["prompt"], row["completion"]
        except (json.JSONDecodeError, KeyError, TypeError) as e:
            raise UserError(f"{path}, line {number}: not a row of prompt and completion ({e}).") from None
        if not isinstance(prompt, str) or not isinstance(completion, str):
            raise UserError(f"{path}, line {number}: prompt and completion must be text.")
        found.append((Problem.make(prompt, None, "demonstration"), completion))
    if not found:
        raise UserError(f"{path}: holds no demonstration.")
    return found


class ModelSource:
    """Groups of chains sampled from the model being trained, judged by a verifier.

    Draws go through the run's pool, so a killed step is finished from what it had already drawn.
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
        self.sampling = Sampling(
            temperature=options.temperature, max_new_tokens=options.max_new_tokens, seed=options.seed
        )

    def rows(self, step: int) -> StepData:
        options = self.options
        picked = choose(len(self.problems), options.problems_per_step, step, options.seed)
        problems = list({self.problems[i].id: self.problems[i] for i in picked}.values())
        n = options.chains_per_problem
        sample(problems, self.engine, self.pool, self.ledger, n, self.sampling, phase="train")
        started = time.monotonic()
        verify(self.pool, self.verifier, ledger=self.ledger, model=self.engine.model, phase="train")
        seconds = time.monotonic() - started
        chains = self.pool.chains(
            model=self.engine.model, sampling=self.sampling, problem_ids=[p.id for p in problems]
        )
        groups: dict[str, list[Chain]] = {}
        for chain in chains:
            groups.setdefault(chain.problem_id, []).append(chain)
        judged = self.pool.verdicts(self.verifier.name)
        return self._step_data(list(groups.values()), judged, seconds)

    def _step_data(self, groups: list[list[Chain]], judged: dict[str, Verdict], seconds: float) -> StepData:
        rows: list[Row] = []
        rewards: list[float] = []
        stds: list[float] = []
        all_right = all_wrong = missing = wasted = finished = 0
        for group in groups:
            scores = np.array([reward(judged.get(chain.key), chain) for chain in group])
            known = scores[~np.isnan(scores)]
            missing += len(scores) - len(known)
            finished += sum(not chain.truncated for chain in group)
            if not len(known):
                continue
            rewards.extend(known)
            stds.append(float(known.std()))
            dead = float(np.ptp(known)) == 0
            all_right += dead and known[0] >= 0.99
            all_wrong += dead and known[0] < 0.99
            advantages = self.objective.advantages(scores)
            kept = select_rows(
                group, advantages, self.options.keep_correct, self.objective.advantage == "correct"
            )
            rows.extend(kept)
            used = sum(len(row.ids) for row in kept if row.advantage != 0)
            wasted += sum(len(chain.token_ids) for chain in group) - used
        if not rewards or (finished and missing == finished):
            raise ReasoningError(
                f"Verifier {self.verifier.name!r} judged none of the {finished} finished chains of this step: there "
                f"is no reward to learn from. {why(judged, groups)}"
            )
        chains = [chain for group in groups for chain in group]
        lengths = np.array([len(chain.token_ids) for chain in chains], dtype=float)
        cut = np.array([chain.truncated for chain in chains])
        tokens = int(lengths.sum())
        metrics = {
            "reward": float(np.mean(rewards)),
            "reward_std": float(np.mean(stds)),
            "frac_reward_zero_std": (all_right + all_wrong) / len(groups),
            "frac_reward_zero_std/all_right": all_right / len(groups),
            "frac_reward_zero_std/all_wrong": all_wrong / len(groups),
            "completions/mean_length": float(lengths.mean()),
            "completions/mean_terminated_length": float(lengths[~cut].mean()) if not cut.all() else 0.0,
            "completions/clipped_ratio": float(cut.mean()),
            "rewards_missing": float(missing),
            "wasted_token_fraction": wasted / max(tokens, 1),
            "verifier_seconds": seconds,
        }
        return StepData(rows, metrics, self._sample_flops(groups), tokens)

    def _sample_flops(self, groups: list[list[Chain]]) -> float:
        """What the roll-outs cost by the model's shape (one prefill a group): the same whether or not the step
        was interrupted, as the chains' own records are not."""
        shape = self.engine.shape
        total = 0.0
        for group in groups:
            prompt = len(group[0].prompt_token_ids)
            total += float(shape.prefill_flops(prompt))
            total += float(np.sum(shape.decode_flops(prompt, np.array([len(c.token_ids) for c in group]))))
        return total


def why(judged: dict[str, Verdict], groups: list[list[Chain]]) -> str:
    """What the first missing verdict says of itself."""
    verdicts = (judged.get(chain.key) for group in groups for chain in group if not chain.truncated)
    first = next((v for v in verdicts if v is not None and v.score is None), None)
    return f"The first one says: {first.status}, {first.reason or 'no reason given'}" if first else ""


def reward(verdict: Verdict | None, chain: Chain) -> float:
    """The score of a chain: 0 when it was cut short, NaN when there is no judgement (missing, not wrong)."""
    if chain.truncated:
        return 0.0
    return float("nan") if verdict is None or verdict.score is None else float(verdict.score)


def select_rows(group: list[Chain], advantages: np.ndarray, keep: int, only_correct: bool) -> list[Row]:
    """Rows of one group. only_correct: drop what has advantage 0, drop repeated chains, keep the first
    ``keep`` (0: all)."""
    rows: list[Row] = []
    seen: set[tuple[int, ...]] = set()
    for chain, advantage in zip(group, advantages, strict=True):
        if np.isnan(advantage) or (only_correct and (advantage == 0 or chain.token_ids in seen)):
            continue
        seen.add(chain.token_ids)
        rows.append(Row(chain.prompt_token_ids, chain.token_ids, float(advantage), chain.logprobs))
        if only_correct and keep and len(rows) == keep:
            break
    return rows
