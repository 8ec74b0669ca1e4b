"""Which problems are held out of a fit, whole: a fifth, and of few problems enough to measure on. Knows no model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from reasoning.errors import UserError
from reasoning.records import digest
from reasoning.train.heads import Example
from reasoning.train.preferences import Pair
from reasoning.train.process import Judged, Stepped

Datum = Example | Pair | Judged | Stepped

ENOUGH = 20
"""Problems held out from which figures are more than rough."""
LEAST = 5
"""Problems held out of few, where half of them are so many."""


def problem_of(one: Datum) -> str:
    return one.problem_id if isinstance(one, Example) else one.problem.id


def split(data: Sequence[Any], seed: int) -> tuple[list[Any], list[Any]]:
    """(held out, used): a fifth of the problems is held out whole, each by its own hash, so that more data leaves it
    where it is. Where that gives fewer than `ENOUGH`, exactly a fifth is, or `LEAST` where half of the problems are
    so many, in the order of the hashes; right and wrong chains are in both parts where the problems allow it."""
    labels: dict[str, set[bool]] = {}
    for one in data:
        labels.setdefault(problem_of(one), set()).update(_labels(one))
    number = {id: int(digest("held", id, seed), 16) for id in labels}
    held = {id for id, n in number.items() if n % 5 == 0}
    if len(held) < ENOUGH:
        held = _of_few(sorted(number, key=number.__getitem__), labels)
    return [one for one in data if problem_of(one) in held], [
        one for one in data if problem_of(one) not in held
    ]


def _of_few(order: Sequence[str], labels: dict[str, set[bool]]) -> set[str]:
    count = max(round(len(order) / 5), min(LEAST, len(order) // 2))
    chosen, others = list(order[:count]), list(order[count:])

    def kinds(problems: Collection[str]) -> int:
        return len(set().union(*(labels[id] for id in problems)))

    best = kinds(chosen) + kinds(others)
    for i in reversed(
        range(len(chosen))
    ):  # the first exchange of two problems that puts both kinds into both parts
        for j in range(len(others)):
            swapped = [*chosen[:i], others[j], *chosen[i + 1 :]]
            left = [*others[:j], chosen[i], *others[j + 1 :]]
            if (now := kinds(swapped) + kinds(left)) > best:
                chosen, others, best = swapped, left, now
    return set(chosen)


def _labels(one: Datum) -> set[bool]:
    if isinstance(one, Pair):
        return {True, False}
    return {one.label >= 0.5 if isinstance(one, Example) else one.right}


def refuse_one_kind(held: Sequence[Datum], used: Sequence[Datum]) -> None:
    """Raise UserError where a part is empty, or holds only right or only wrong chains."""
    for what, part in (("to fit on", used), ("held out", held)):
        if not part:
            raise UserError(
                f"Nothing is left {what}: give chains or pairs of more problems (a fifth is held out)."
            )
        labels = set().union(*map(_labels, part))
        if len(labels) == 1:
            raise UserError(
                f"The chains {what} ({len(part)}) are all {'right' if True in labels else 'wrong'}: nothing can be "
                "learned from them. Give --pool runs with both kinds."
            )


def problems_in(data: Sequence[Datum]) -> int:
    return len({problem_of(one) for one in data})
