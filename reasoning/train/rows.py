"""What a learner is given: rows of tokens, and how they are cut into forwards. Plain Python, no tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
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
    """Rows that go through the model together. shared: a prompt that several of them have is computed once (in a
    forward that is padded they all have one)."""

    rows: tuple[int, ...]
    shared: bool = False


def micro_batches(rows: Sequence[Sized], tokens: int) -> Iterator[list[int]]:
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


def packs(rows: Sequence[Sized], tokens: int, together: int = 1) -> Iterator[list[int]]:
    """Indices of ``rows`` in order, as many at a time as have at most ``tokens`` tokens (or one row).

    together: so many consecutive rows are not parted.
    """
    batch: list[int] = []
    used = 0
    for unit in _units(len(rows), together):
        here = sum(len(rows[i]) for i in unit)
        if batch and used + here > tokens:
            yield batch
            batch, used = [], 0
        batch += unit
        used += here
    if batch:
        yield batch


def _units(rows: int, together: int) -> list[list[int]]:
    return [list(range(i, i + together)) for i in range(0, rows, together)]


def forwards(rows: Sequence[Row], tokens: int, share: bool, pack: bool = False) -> list[Forward]:
    """``rows`` cut into forwards of at most ``tokens`` padded tokens (or one row); those with a shared prompt first.

    share: rows with one prompt may be computed together with the prompt once, where that saves enough. pack: rows
    without a shared prompt are laid one behind another, unpadded.
    """
    out: list[Forward] = []
    alone = list(range(len(rows)))
    if share:
        alone = []
        for prompt, members in by_prompt(rows).items():
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
    cut = packs if pack else micro_batches
    return out + [Forward(tuple(alone[i] for i in batch)) for batch in cut([rows[i] for i in alone], tokens)]


def bundles(rows: Sequence[Row], tokens: int, share: bool, together: int = 1) -> list[Forward]:
    """``rows`` cut into forwards without padding, of at most ``tokens`` tokens (or one unit), rows with one prompt in
    the same one as far as they fit.

    share: a common prompt is computed once. together: so many consecutive rows are not parted.
    """
    out: list[Forward] = []
    batch: list[int] = []
    used = 0
    for prompt, members in by_prompt(rows, together).items():
        new = True  # the prompt is not in the batch yet
        for unit in _units(len(members), together):
            part = [members[k] for k in unit]
            own = sum(len(rows[i].ids) for i in part)
            size = own + len(prompt) * (len(part) if not share else int(new))
            if batch and used + size > tokens:
                out.append(Forward(tuple(batch), share))
                size = own + len(prompt) * (len(part) if not share else 1)
                batch, used = [], 0
            batch += part
            used += size
            new = False
    return [*out, Forward(tuple(batch), share)] if batch else out


def by_prompt(rows: Sequence[Row], together: int = 1) -> dict[tuple[int, ...], list[int]]:
    """Prompt -> indices of the rows that have it, in order; those that stay together have one."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for unit in _units(len(rows), together):
        groups.setdefault(rows[unit[0]].prompt_ids, []).extend(unit)
    return groups


def computed_tokens(rows: Sequence[Row], forward: Forward, pack: bool) -> tuple[int, int]:
    """(positions that ``forward`` computes, those of them that are padding)."""
    part = [rows[i] for i in forward.rows]
    if forward.shared and pack:
        again = sum((len(same) - 1) * len(prompt) for prompt, same in by_prompt(part).items())
        return sum(len(row) - 1 for row in part) - again, 0
    if forward.shared:
        prompt, lengths = len(part[0].prompt_ids), [len(row.ids) - 1 for row in part]
        computed = prompt + len(part) * max(1, max(lengths))
        return computed, computed - prompt - sum(lengths)
    lengths = [len(row) - 1 for row in part]
    computed = sum(lengths) if pack else len(part) * max(lengths)
    return computed, computed - sum(lengths)


def shares(rows: Sequence[Row], ranks: int, together: int = 1) -> list[list[int]]:
    """Indices of ``rows`` dealt to ``ranks`` so that each gets about as many tokens: the rows of a prompt together
    where they are not too many, the heaviest first, each to whoever has least. The same on every rank."""
    if ranks == 1:
        return [list(range(len(rows)))]
    most = sum(len(row) for row in rows) // (2 * ranks)
    units: list[list[int]] = []
    for members in by_prompt(rows, together).values():
        cut = packs([rows[i] for i in members], most, together)
        units += [[members[i] for i in part] for part in cut]
    weight = [sum(len(rows[i]) for i in unit) for unit in units]
    given: list[list[int]] = [[] for _ in range(ranks)]
    load = [0] * ranks
    for at in sorted(range(len(units)), key=lambda i: (-weight[i], i)):
        least = load.index(min(load))
        given[least] += units[at]
        load[least] += weight[at]
    return [sorted(indices) for indices in given]
