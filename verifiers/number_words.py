"""English number words."""

from __future__ import annotations

ONES = [  # the index is the value
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_NUMBER_WORDS = {word: i for i, word in enumerate(ONES)} | {word: 10 * i for i, word in enumerate(TENS, 2)}
SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}


def number_in_words(words: str) -> int | None:
    """ "twenty-five" -> 25, "two hundred and six" -> 206."""
    parts = words.replace("-", " ").split()
    if not parts or len(parts) > 12:
        return None
    total = current = 0
    seen = False
    for part in parts:
        if part in _NUMBER_WORDS:
            current += _NUMBER_WORDS[part]
            seen = True
        elif part in SCALES and seen:
            if part == "hundred":
                current *= 100
            else:
                total += current * SCALES[part]
                current = 0
        elif part != "and" or not seen:
            return None
    return total + current if seen else None
