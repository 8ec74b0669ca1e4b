"""What a training step's rows are drawn from (`Source`), and the simplest one: a book of demonstrations. The other
one, the model itself, is in `rollouts`.

A source turns a step number into groups of rows with rewards. It is a pure function of (options, weights, step), so
a resumed run gets the same rows. It knows nothing of advantages or optimizers.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from reasoning.budget import Reservation
from reasoning.errors import UserError
from reasoning.records import Cost, Problem, digest
from reasoning.tasks.base import Demonstration
from reasoning.tasks.conversation import check_messages, with_messages
from reasoning.train.rows import Row


@dataclass(frozen=True, slots=True)
class StepData:
    """Rows with their rewards in groups (the chains of one problem each), figures by metric name, and what getting
    them cost (FLOPs of the generator). held: what was set aside for learning from them."""

    groups: list[list[Row]]
    metrics: dict[str, float] = field(default_factory=dict)
    sample_flops: float = 0.0
    output_tokens: int = 0
    held: list[Reservation] = field(default_factory=list)


class BudgetSpent(Exception):
    """What is left of the purse does not pay for another step.

    needed: what it has no room for. of: what that is, "known" (a step whose rows are there), "most" (a step at its
    longest), "lately" (the largest of the last steps), "begun" (one more problem of a step whose other chains are
    drawn and stored) or "short" (not known: it ran out while chains were drawn or judged).
    """

    def __init__(self, needed: Cost, of: str):
        super().__init__(needed, of)
        self.needed = needed
        self.of = of


class Source(Protocol):
    """state: JSON values that the next draw depends on beside the step; saved with a checkpoint."""

    @property
    def state(self) -> dict[str, Any]: ...

    def draw(self, step: int) -> StepData: ...


def order_of(n: int, seed: int, epoch: int) -> list[int]:
    """A permutation of range(n), the same for the same (seed, epoch) everywhere."""
    order = list(range(n))
    random.Random(digest("order", seed, epoch, length=32)).shuffle(order)
    return order


def choose(n: int, start: int, count: int, seed: int) -> list[int]:
    """The indices of 0..n-1 at the positions start..start+count-1 of an endless order in which every index comes
    once before any comes again."""
    places = [divmod(position, n) for position in range(start, start + count)]
    orders = {epoch: order_of(n, seed, epoch) for epoch in {epoch for epoch, _ in places}}
    return [orders[epoch][place] for epoch, place in places]


class DemonstrationSource:
    """Prompt and completion pairs, each read once before any is read again."""

    def __init__(self, demonstrations: Sequence[Demonstration], engine: Any, count: int, seed: int):
        self.demonstrations = demonstrations
        self.engine = engine
        self.count = count
        self.seed = seed
        self.state: dict[str, Any] = {}

    def draw(self, step: int) -> StepData:
        tokenizer = self.engine.tokenizer
        end = (tokenizer.eos_token_id,)
        rows = []
        for i in choose(len(self.demonstrations), step * self.count, self.count, self.seed):
            problem, completion = self.demonstrations[i]
            ids = tuple(tokenizer(completion, add_special_tokens=False)["input_ids"])
            rows.append(Row(tuple(self.engine.ask(problem)), ids + end, reward=1.0))
        lengths = [len(row.ids) for row in rows]
        return StepData([rows], {"completions/mean_length": float(np.mean(lengths))})


def refuse_longer(texts: Iterable[tuple[Problem, str]], engine: Any, what: str) -> None:
    """Raises UserError for a prompt with its text (``what`` it is) of more tokens than the engine's model reads."""
    for problem, text in texts:
        if 2 * len((problem.prompt + text).encode()) < engine.limit:
            continue  # a token is a byte at least; a template rarely adds as much again
        length = (
            len(engine.ask(problem)) + len(engine.tokenizer(text, add_special_tokens=False)["input_ids"]) + 1
        )
        if length > engine.limit:
            raise UserError(
                f"{what} has {length} tokens with its prompt ({problem.prompt[:60]!r}...); {engine.name} reads at "
                f"most {engine.limit}. Cut it, or leave it out."
            )


def read_demonstrations(path: Path) -> list[Demonstration]:
    """JSONL rows of {"prompt": ..., "completion": ...}; the prompt may be a list of messages (roles and contents),
    which a chat model is shown by its template. Raises UserError naming a malformed line."""
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
        if not isinstance(prompt, str | list) or not isinstance(completion, str):
            raise UserError(f"{path}, line {number}: prompt and completion must be text.")
        if isinstance(prompt, str):
            found.append((Problem.make(prompt, None, "demonstration"), completion))
            continue
        messages = check_messages(prompt, f"{path}, line {number}")
        question = next(m["content"] for m in reversed(messages) if m["role"] == "user")
        problem = with_messages(Problem.make(question, None, "demonstration"), messages)
        found.append((problem, completion))
    if not found:
        raise UserError(f"{path}: holds no demonstration.")
    return found
