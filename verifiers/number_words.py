"""English number words."""

from __future__ import annotations

from fractions import Fraction

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
_ORDINALS = ["third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"]
_PART = {word: n for n, word in enumerate(_ORDINALS, 3)} | {"quarter": 4}
_PARTS = _PART | {f"{word}s": n for word, n in _PART.items()} | {"half": 2, "halves": 2}


def number_in_words(words: str) -> Fraction | None:
    """ "twenty-five" -> 25, "two hundred and six" -> 206, "minus two thirds" -> -2/3; "third" is none."""
    parts = words.replace("-", " ").split()
    if not parts or len(parts) > 12:
        return None
    if parts[0] in ("minus", "negative"):
        value = _positive(parts[1:])
        return None if value is None else -value
    return _positive(parts)


def _positive(parts: list[str]) -> Fraction | None:
    if parts in (["half"], ["dozen"]):
        return Fraction(1, 2) if parts == ["half"] else Fraction(12)
    if len(parts) > 3 and parts[-3:-1] == ["and", "a"] and parts[-1] in ("half", "quarter", "third"):
        whole = _positive(parts[:-3])
        return None if whole is None else whole + Fraction(1, _PARTS[parts[-1]])
    if len(parts) == 2 and parts[1] in _PARTS:
        count = 1 if parts[0] == "a" else _NUMBER_WORDS.get(parts[0], 0)
        return Fraction(count, _PARTS[parts[1]]) if count and (count > 1) == parts[1].endswith("s") else None
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
    return Fraction(total + current) if seen else None
