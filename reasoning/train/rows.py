"""What a learner is given: rows of tokens, and how they are cut into forwards. Plain Python, no tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SHARE_FROM = 0.25
"""A group's prompt is computed once where that saves at least this share of its tokens: below, the second forward
costs more than it saves."""


@dataclass(frozen=True, slots=True)
class Row:
    """One chain to learn from: ids as they were sampled, and its credit.

    reward: what the verifier and the objective's shaping gave it, NaN where there is no judgement.
    advantage: of every token of the chain; token_advantages (T,) instead, where each token has its own.
    old_logprobs: (T,) under the policy that the step begins with; empty for demonstrations. By default the sampler's.
    sampler_logprobs: (T,) as the sampler returned them, where they are told apart from the former.
    old_values, returns: (T,) of a value head, where there is one.
    """

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    advantage: float = 0.0
    old_logprobs: tuple[float, ...] = ()
    sampler_logprobs: tuple[float, ...] = ()
    token_advantages: tuple[float, ...] = ()
    old_values: tuple[float, ...] = ()
    returns: tuple[float, ...] = ()
    reward: float = float("nan")

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.ids)

    @property
    def teaches(self) -> bool:
        """Whether it has an advantage that is not 0, or a value to be learned."""
        return self.advantage != 0 or any(self.token_advantages) or bool(self.returns)


@dataclass(frozen=True, slots=True)
class Forward:
    """Rows that go through the model together. shared: they have one prompt, computed once."""

    rows: tuple[int, ...]
    shared: bool = False


def micro_batches(rows: Sequence[Row | Sequence[int]], tokens: int) -> Iterator[list[int]]:
    """Indices of ``rows`` in batches of similar length, of at most ``tokens`` padded tokens (or one row)."""
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i]), i))
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * len(rows[i]) > tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def forwards(rows: Sequence[Row], tokens: int, share: bool) -> list[Forward]:
    """``rows`` cut into forwards of at most ``tokens`` padded tokens (or one row).

    share: rows with one prompt may be computed together with the prompt once, where that saves enough.
    """
    out: list[Forward] = []
    alone = list(range(len(rows)))
    if share:
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, row in enumerate(rows):
            groups.setdefault(row.prompt_ids, []).append(i)
        alone = []
        for prompt, members in groups.items():
            whole = sum(len(rows[i]) for i in members)
            saved = (len(members) - 1) * len(prompt)
            room = tokens - len(prompt)
            if not saved or saved < SHARE_FROM * whole or room < max(len(rows[i].ids) for i in members):
                alone += members
                continue
            completions = [rows[i].ids for i in members]
            out += [
                Forward(tuple(members[i] for i in batch), True) for batch in micro_batches(completions, room)
            ]
    out += [
        Forward(tuple(alone[i] for i in batch)) for batch in micro_batches([rows[i] for i in alone], tokens)
    ]
    return out
