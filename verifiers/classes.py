"""Answers grouped into classes of equal ones, for voting, with few comparisons."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from verifiers.expressions import canonical
from verifiers.expressions.scalars import STRICT
from verifiers.expressions.work import TooMuchWork, limited
from verifiers.matching import match
from verifiers.reading import Reading, read


def equivalence_classes(
    answers: Sequence[str | None], same: Callable[[str, str], bool] | None = None
) -> list[int | None]:
    """A class number for each answer (texts as they were stated, or votes of `math`), in order of first
    appearance; None for an answer that abstains.

    Canonical keys join most answers without a comparison; only one representative of each key is compared with the
    representatives of the classes so far, by ``same`` (default: the rules of `math`). n answers with k
    distinct keys cost at most k (k - 1) / 2 comparisons.
    """
    equal = same or _equal
    by_key: dict[str, int] = {}
    representatives: list[str] = []
    out: list[int | None] = []
    for answer in answers:
        if answer is None or not answer.strip():
            out.append(None)
            continue
        key = answer.strip() if same else _key(answer)
        if key not in by_key:
            number = next((i for i, other in enumerate(representatives) if equal(other, answer)), None)
            if number is None:
                number = len(representatives)
                representatives.append(answer)
            by_key[key] = number
        out.append(by_key[key])
    return out


def _key(answer: str) -> str:
    try:
        with limited():
            reading = read(answer)
            return canonical.key(reading.tree, reading.words, reading.choice) or answer.strip()
    except TooMuchWork:
        return answer.strip()


def _equal(left: str, right: str) -> bool:
    """Answers whose comparison would take too much work are different ones."""
    try:
        with limited():
            one, other = read(left), read(right)
            return _matches(one, other) and _matches(other, one)
    except TooMuchWork:
        return False


def _matches(gold: Reading, answer: Reading) -> bool:
    return match(gold, answer, STRICT) is not None
