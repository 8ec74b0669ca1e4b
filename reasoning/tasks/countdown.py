"""Countdown: make a target from given numbers with + - * /. Difficulty is how many numbers there are.

    Q: Use each of the numbers 3, 5 and 7 exactly once, with + - * / and parentheses, to make 22.
    A: 3+5=8, 8+7=15, no. 3*5=15, 15+7=22, yes. The answer is 3*5+7.

Every problem is made backwards from a solution, so all are solvable. Demonstrations try and check: some
random tries that miss, then one that hits.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from reasoning.errors import UserError
from reasoning.records import Problem, digest
from reasoning.tasks.base import Demonstration, Task, distinct_in_split, rng_of, whole_range
from reasoning.tasks.prompts import render

MOST_NUMBERS = 16
"""Of more numbers hardly any random derivation ends at a small target."""
MOST_DERIVATIONS = 10_000
"""Tries for one problem; ordinary settings need some tens."""

LOOSE, TIGHT, ATOM = 0, 1, 2  # how strongly an expression's outermost operator binds


@dataclass(frozen=True, slots=True)
class Term:
    """A value on the table and the expression that made it."""

    value: int
    text: str
    binding: int = ATOM


@dataclass(frozen=True, slots=True)
class Derivation:
    """Pairs of terms combined until one is left. work: "3*5=15, 15+7=22"."""

    result: Term
    work: str


def combine(left: Term, operator: str, right: Term) -> Term | None:
    """``left operator right``, or None where it would be negative, fractional or a division by zero."""
    a, b = left.value, right.value
    if operator == "+":
        return Term(a + b, f"{left.text}+{right.text}", LOOSE)
    if operator == "-" and a >= b:
        return Term(a - b, f"{left.text}-{bracketed(right, TIGHT)}", LOOSE)
    if operator == "*":
        return Term(a * b, f"{bracketed(left, TIGHT)}*{bracketed(right, TIGHT)}", TIGHT)
    if operator == "/" and b != 0 and a % b == 0:
        return Term(a // b, f"{bracketed(left, TIGHT)}/{bracketed(right, ATOM)}", TIGHT)
    return None


def bracketed(term: Term, needed: int) -> str:
    return term.text if term.binding >= needed else f"({term.text})"


def derive(numbers: list[int], rng: random.Random) -> Derivation:
    """A random way to use up all ``numbers``."""
    terms = [Term(number, str(number)) for number in numbers]
    lines: list[str] = []
    while len(terms) > 1:
        left, right = rng.sample(range(len(terms)), 2)
        made = combine(terms[left], operator := rng.choice("+-*/"), terms[right])
        if made is None:
            continue  # "+" always works, so this ends
        lines.append(f"{terms[left].value}{operator}{terms[right].value}={made.value}")
        terms = [term for i, term in enumerate(terms) if i not in (left, right)] + [made]
    return Derivation(terms[0], ", ".join(lines))


def make_problem(
    rng: random.Random, fewest: int, most: int, largest: int, highest: int, use_all: bool, template: str
) -> tuple[Problem, Derivation]:
    """A problem with ``fewest`` to ``most`` numbers up to ``largest``, a target up to ``highest``, and the
    derivation that it was made from. Raises UserError where none comes up."""
    for _ in range(MOST_DERIVATIONS):
        numbers = sorted(rng.randint(1, largest) for _ in range(rng.randint(fewest, most)))
        used = numbers if use_all else rng.sample(numbers, rng.randint(2, len(numbers)))
        solution = derive(used, rng)
        target = solution.result.value
        if 1 <= target <= highest and target not in numbers:
            break
    else:
        raise UserError(
            f"countdown: of {MOST_DERIVATIONS} random problems of {fewest} to {most} numbers up to {largest}, none "
            f"has a target of 1 to {highest}. Raise highest, or lower largest or numbers."
        )
    listed = f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
    rule = (
        f"each of the numbers {listed} exactly once"
        if use_all
        else f"numbers from {listed}, each at most once"
    )
    question = f"Use {rule}, with + - * / and parentheses, to make {target}."
    prompt = render(template, question)
    metadata = {
        "question": question,
        "numbers": numbers,
        "target": target,
        "use_all": use_all,
        "difficulty": len(numbers),
    }
    # One id however the problem was come by: a problem has many solutions, and the reference is one of them.
    problem = Problem(digest(prompt, target), prompt, solution.result.text, "countdown", metadata)
    return problem, solution


def problems(
    split: str, numbers: str, largest: int, highest: int, use_all: bool, template: str, n: int, seed: int
) -> list[Problem]:
    fewest, most = count_range(numbers, largest)
    what = f"countdown:{split} with numbers={numbers}, largest={largest}, highest={highest}"
    rng = rng_of("countdown", split, numbers, largest, highest, use_all, seed)
    return distinct_in_split(
        split,
        n,
        lambda rng: make_problem(rng, fewest, most, largest, highest, use_all, template)[0],
        rng,
        what,
    )


def demonstrations(
    split: str,
    n: int,
    seed: int,
    numbers: str,
    largest: int,
    highest: int,
    use_all: bool,
    template: str,
    tries: int,
) -> list[Demonstration]:
    """``n`` distinct problems of ``split``, each with up to ``tries`` random misses before the hit."""
    fewest, most = count_range(numbers, largest)
    solutions: dict[str, Derivation] = {}

    def make(rng: random.Random) -> Problem:
        problem, solution = make_problem(rng, fewest, most, largest, highest, use_all, template)
        solutions.setdefault(problem.id, solution)
        return problem

    rng = rng_of("countdown demonstrations", split, numbers, largest, highest, use_all, seed)
    found = distinct_in_split(split, n, make, rng, f"demonstrations of countdown:{split}")
    return [(problem, chain(problem, solutions[problem.id], tries, rng)) for problem in found]


def examples(n: int, seed: int, **shape: Any) -> list[Demonstration]:
    """Few-shot examples: a miss or two, then the hit."""
    return demonstrations("train", n, seed, **shape, tries=2)


def chain(problem: Problem, solution: Derivation, tries: int, rng: random.Random) -> str:
    """Tries that miss, then the solution (or a try that happens to hit)."""
    numbers, target = problem.metadata["numbers"], problem.metadata["target"]
    lines: list[str] = []
    for _ in range(rng.randint(0, tries)):
        used = numbers if problem.metadata["use_all"] else rng.sample(numbers, rng.randint(2, len(numbers)))
        attempt = derive(used, rng)
        if attempt.result.value == target:
            solution = attempt
            break
        lines.append(f"{attempt.work}, no.")
    return " ".join([*lines, f"{solution.work}, yes.", f"The answer is {solution.result.text}."])


def count_range(numbers: str, largest: int) -> tuple[int, int]:
    fewest, most = whole_range(numbers, "numbers of 'countdown'")
    if fewest < 2:
        raise UserError(f"numbers of 'countdown': at least 2 are needed, not {fewest}.")
    if most > MOST_NUMBERS:
        raise UserError(f"numbers of 'countdown': at most {MOST_NUMBERS}, not {most}.")
    if largest < 2:
        raise UserError(f"largest of 'countdown': at least 2, not {largest}.")
    return fewest, most


SHAPE = {"numbers": "3-4", "largest": 20, "highest": 100, "use_all": True, "template": "qa"}

TASK = Task(
    name="countdown",
    verifier="countdown",
    problems=problems,
    options={**SHAPE, "n": 256, "seed": 0},
    sampling={"max_new_tokens": 256},
    demonstrate=demonstrations,
    demonstration_options={**SHAPE, "tries": 4},
    examples=examples,
    about="make a target from given numbers; difficulty = how many numbers",
)
