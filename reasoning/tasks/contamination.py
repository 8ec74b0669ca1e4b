"""Keeps evaluation problems out of training. Knows only questions: their fingerprints, not their answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reasoning.errors import UserError
from reasoning.records import Problem


def overlap(train: Iterable[Problem], evaluation: Iterable[Problem]) -> list[Problem]:
    """The training problems whose question (letter case and spacing aside) is asked in ``evaluation`` too."""
    asked = {problem.fingerprint for problem in evaluation}
    return [problem for problem in train if problem.fingerprint in asked]


def refuse_overlap(train: Sequence[Problem], evaluation: Iterable[Problem]) -> None:
    """Raises UserError, with the count and an example, when ``train`` holds evaluation problems."""
    shared = overlap(train, evaluation)
    if shared:
        question = " ".join(shared[0].question.split())
        example = question if len(question) <= 100 else question[:97] + "..."
        raise UserError(
            f"{len(shared)} of {len(train)} training problems are evaluation problems too, for example "
            f"{example!r}. Drop them from training, or evaluate on another split."
        )


def without(problems: Iterable[Problem], others: Iterable[Problem]) -> list[Problem]:
    """``problems`` less those whose question is asked in ``others``."""
    asked = {problem.fingerprint for problem in others}
    return [problem for problem in problems if problem.fingerprint not in asked]
