"""Ten chains worth reading, chosen by stated rules and never by hand.

Every rule names its problems from the records alone; among them the choice is by a digest of the problem, so
it is arbitrary, the same on every run, and not the most flattering one. Knows nothing of text or HTML.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from reasoning.curves import Measured
from reasoning.records import digest
from reasoning.report.words import short_scorer
from reasoning.select import Group

MOST = 10


@dataclass(frozen=True, slots=True)
class Reading:
    """A chain to show. rule: why. position: its place in the group's arrays."""

    rule: str
    model: str
    group: Group
    position: int


def worth_reading(measured: Measured, most: int = MOST) -> list[Reading]:
    """Up to ``most`` readings: each rule's first, then each rule's second, and so on; no chain twice."""
    base, last = measured.models[0], measured.models[-1]
    scorers = [name for name, sees_reference in measured.scorers.items() if not sees_reference]
    both = measured.groups[base][0].scores.keys() & measured.groups[last][0].scores.keys()
    scorer = next((name for name in scorers if name in both), None)
    rules: list[Callable[[], Iterator[list[Reading]]]] = [
        lambda: _vote_lost(measured, base),
        lambda: _trained_right(measured, base, last),
        lambda: _trained_wrong(measured, base, last),
        lambda: _fooled(measured, last, scorer),
        lambda: _overlooked(measured, base, scorer),
        lambda: _confidently_wrong(measured, last),
        lambda: _unsolved(measured),
        lambda: _cut_off(measured),
        lambda: _longest_right(measured, last),
    ]
    queues = [rule() for rule in rules]
    chosen: dict[str, Reading] = {}
    while queues and len(chosen) < most:
        for queue in list(queues):
            found = next(queue, None)
            if found is None:
                queues.remove(queue)
                continue
            fresh = [reading for reading in found if reading.group.keys[reading.position] not in chosen]
            if len(chosen) + len(fresh) <= most:
                chosen.update({reading.group.keys[reading.position]: reading for reading in fresh})
    shown = list(dict.fromkeys(reading.rule for reading in chosen.values()))
    return sorted(chosen.values(), key=lambda reading: shown.index(reading.rule))


def _shuffled(groups: Sequence[Group]) -> list[Group]:
    return sorted(groups, key=lambda g: digest(g.problem_id, "reading"))


def _right(group: Group) -> np.ndarray:
    return np.flatnonzero(group.correct == 1)


def _majority(group: Group) -> int | None:
    """The class with the most votes; None where nothing votes or the first place is shared."""
    votes = np.bincount(group.answers[group.answers >= 0])
    top = np.flatnonzero(votes == votes.max()) if votes.size else votes
    return int(top[0]) if len(top) == 1 else None


def _majority_right(group: Group) -> bool | None:
    winner = _majority(group)
    if winner is None:
        return None
    values = group.correct[group.answers == winner]
    return None if np.isnan(values).any() else bool(values.mean() > 0.5)


def _vote_lost(measured: Measured, model: str) -> Iterator[list[Reading]]:
    rule = (
        f"{measured.labels[model]}: the majority is wrong, though some chains are right (this is one of them)"
    )
    for group in _shuffled(measured.groups[model]):
        if _majority_right(group) is False and len(_right(group)):
            yield [Reading(rule, model, group, int(_right(group)[0]))]


def _pairs(measured: Measured, a: str, b: str) -> Iterator[tuple[Group, Group]]:
    other = {group.problem_id: group for group in measured.groups[b]}
    for group in _shuffled(measured.groups[a]):
        if a != b and group.problem_id in other:
            yield group, other[group.problem_id]


def _trained_right(measured: Measured, base: str, trained: str) -> Iterator[list[Reading]]:
    rule = (
        f"The majority of {measured.labels[base]} is wrong and that of {measured.labels[trained]} right: one "
        "chain of each"
    )
    for before, after in _pairs(measured, base, trained):
        winner = _majority(before)
        if winner is not None and _majority_right(before) is False and _majority_right(after):
            wrong = int(np.flatnonzero(before.answers == winner)[0])
            yield [Reading(rule, base, before, wrong), Reading(rule, trained, after, int(_right(after)[0]))]


def _trained_wrong(measured: Measured, base: str, trained: str) -> Iterator[list[Reading]]:
    rule = (
        f"The majority of {measured.labels[base]} is right and that of {measured.labels[trained]} wrong: what "
        "training lost"
    )
    for before, after in _pairs(measured, base, trained):
        winner = _majority(after)
        if winner is not None and _majority_right(before) and _majority_right(after) is False:
            yield [Reading(rule, trained, after, int(np.flatnonzero(after.answers == winner)[0]))]


def _fooled(measured: Measured, model: str, scorer: str | None) -> Iterator[list[Reading]]:
    if scorer is None:
        return
    rule = (
        f"{measured.labels[model]}: {short_scorer(scorer)!r} scores this wrong chain highest, though a right one "
        "is there"
    )
    for group in _shuffled(measured.groups[model]):
        scores = group.scores[scorer]
        if np.isnan(scores).all() or not len(_right(group)):
            continue
        best = int(np.nanargmax(scores))
        if group.correct[best] == 0:
            yield [Reading(rule, model, group, best)]


def _overlooked(measured: Measured, model: str, scorer: str | None) -> Iterator[list[Reading]]:
    if scorer is None:
        return
    rule = f"{measured.labels[model]}: {short_scorer(scorer)!r} scores this right chain lowest of all"
    for group in _shuffled(measured.groups[model]):
        scores = group.scores[scorer]
        if not np.isnan(scores).all() and group.correct[int(np.nanargmin(scores))] == 1:
            yield [Reading(rule, model, group, int(np.nanargmin(scores)))]


def _confidently_wrong(measured: Measured, model: str) -> Iterator[list[Reading]]:
    rule = f"{measured.labels[model]}: at least nine in ten chains give this same wrong answer"
    for group in _shuffled(measured.groups[model]):
        winner = _majority(group)
        if winner is None or _majority_right(group) is not False:
            continue
        voters = np.flatnonzero(group.answers == winner)
        if len(voters) >= 0.9 * group.n:
            yield [Reading(rule, model, group, int(voters[0]))]


def _unsolved(measured: Measured) -> Iterator[list[Reading]]:
    rule = "No chain of any model is right"
    last = measured.models[-1]
    every = [{g.problem_id: g for g in measured.groups[model]} for model in measured.models]
    for group in _shuffled(measured.groups[last]):
        same = [groups[group.problem_id] for groups in every if group.problem_id in groups]
        if all((g.correct == 0).all() for g in same):
            winner = _majority(group)
            at = 0 if winner is None else int(np.flatnonzero(group.answers == winner)[0])
            yield [Reading(rule, last, group, at)]


def _cut_off(measured: Measured) -> Iterator[list[Reading]]:
    for model in measured.models:
        rule = f"{measured.labels[model]}: cut off before it ended, so it counts as wrong"
        for group in _shuffled(measured.groups[model]):
            if group.truncated.any():
                yield [Reading(rule, model, group, int(np.flatnonzero(group.truncated)[0]))]


def _longest_right(measured: Measured, model: str) -> Iterator[list[Reading]]:
    rule = f"{measured.labels[model]}: the longest right chains"
    found = [
        (-float(group.output_tokens[i]), group.problem_id, int(i), group)
        for group in measured.groups[model]
        for i in _right(group)
        if group.output_tokens[i] == group.output_tokens[i]
    ]
    for _, _, position, group in sorted(found, key=lambda item: item[:3]):
        yield [Reading(rule, model, group, position)]
