"""Worked examples of our own for few-shot prompts, for tasks that have none: (question, work, answer) by the name of
the verifier. Written for this project; no benchmark holds them.
"""

from __future__ import annotations

_NUMBERS = (
    (
        "A baker fills 7 trays with 12 rolls each and sells 59 rolls by noon. How many rolls are left?",
        "The baker makes 7 * 12 = 84 rolls. After the sales 84 - 59 = 25 are left.",
        "25",
    ),
    (
        "A path of 90 metres gets a lamp every 15 metres, one at each end included. How many lamps are needed?",
        "There are 90 / 15 = 6 gaps. With a lamp at each end there is one lamp more than gaps: 6 + 1 = 7.",
        "7",
    ),
    (
        "For which whole number $n$ is $n^2 + n = 156$ and $n > 0$?",
        "$n(n + 1) = 156$, and $12 \\cdot 13 = 156$, so $n = 12$.",
        "12",
    ),
    (
        "Two fair coins and one fair die are thrown. In how many equally likely outcomes do both coins show heads "
        "and the die an even number?",
        "The coins must both show heads: 1 way. The die shows 2, 4 or 6: 3 ways. Together 1 * 3 = 3.",
        "3",
    ),
)
_MATH = (
    _NUMBERS[2],
    (
        "What is the slope of the line through $(1, 2)$ and $(4, 4)$?",
        "The slope is the rise over the run: $\\frac{4 - 2}{4 - 1} = \\frac{2}{3}$.",
        "\\frac{2}{3}",
    ),
    (
        "Solve $|x - 3| < 2$ for real $x$. Answer with an interval.",
        "$-2 < x - 3 < 2$, so $1 < x < 5$.",
        "(1, 5)",
    ),
    _NUMBERS[1],
)
_CHOICES = (
    (
        "A shirt of 40 coins is sold for 30. By how much was it reduced?\n(A) 10%\n(B) 20%\n(C) 25%\n(D) 30%\n"
        "(E) 33%",
        "The price falls by 10 of 40 coins, and 10 / 40 = 25%.",
        "C",
    ),
    (
        "If 3x + 4 = 19, what is 2x?\n(A) 5\n(B) 8\n(C) 9\n(D) 10\n(E) 15",
        "3x = 15, so x = 5 and 2x = 10.",
        "D",
    ),
    (
        "A pump fills a tank in 6 hours, another in 3. How long do both take together?\n(A) 1 hour\n(B) 2 hours\n"
        "(C) 3 hours\n(D) 4.5 hours\n(E) 9 hours",
        "In an hour they fill 1/6 + 1/3 = 1/2 of the tank, so they take 2 hours.",
        "B",
    ),
)
_PROGRAMS = (
    (
        'def longest_word(text: str) -> str:\n    """ The longest word of a text, the first one of several.\n'
        "    >>> longest_word('a bird sang')\n    'bird'\n    \"\"\"\n",
        "def longest_word(text: str) -> str:\n    return max(text.split(), key=len, default='')",
    ),
    (
        'def halves(numbers: list[int]) -> list[float]:\n    """ Half of each even number, in order.\n'
        '    >>> halves([4, 7, 10])\n    [2.0, 5.0]\n    """\n',
        "def halves(numbers: list[int]) -> list[float]:\n    return [n / 2 for n in numbers if n % 2 == 0]",
    ),
)

EXEMPLARS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "numeric": _NUMBERS,
    "math": _MATH,
    "choice": _CHOICES,
    "code": tuple((question, f"```python\n{program}\n```", "") for question, program in _PROGRAMS),
}
"""An empty answer: the work is the answer."""
