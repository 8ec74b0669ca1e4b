"""A response cut into its steps, and the scores of steps made into one score. Knows no model."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

STEPS = ("line", "paragraph", "sentence")
AGGREGATES = ("min", "product", "last")
_CUTS = {
    "line": re.compile(r"(?<=\n)"),
    "paragraph": re.compile(r"(?<=\n\n)(?!\n)"),
    "sentence": re.compile(r"(?<=[.!?])(?=\s)|(?<=\n)"),
}


def split_steps(text: str, by: str) -> list[str]:
    """The steps of ``text``; joined they are the text. by: "line", "paragraph" (an empty line between) or "sentence"
    (after . ! or ? before white space, and at line ends). A piece without anything but white space belongs to the
    step before it.

    >>> split_steps("Gus has 6. Leo has 6+3=9.", "sentence")
    ['Gus has 6.', ' Leo has 6+3=9.']
    """
    steps: list[str] = []
    for piece in _CUTS[by].split(text):
        if steps and (not piece.strip() or not steps[-1].strip()):
            steps[-1] += piece
        elif piece:
            steps.append(piece)
    return steps


def aggregate(scores: Sequence[float], how: str) -> float:
    """One score of a chain from those of its steps: the lowest, the product (arXiv 2305.20050) or the last.

    >>> aggregate([0.5, 0.25, 0.5], "product")
    0.0625
    """
    if how == "min":
        return min(scores)
    return math.prod(scores) if how == "product" else scores[-1]
