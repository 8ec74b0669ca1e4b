"""Word problems in plain English with a whole number for an answer; difficulty is the number of steps.

    Q: Gus has 6 toys. Leo has 3 more toys than Gus. Ann has 2 times as many toys as Leo. How many toys does
    Ann have?
    A: Gus has 6. Leo has 6+3=9. Ann has 9*2=18. The answer is 18.

The demonstrations are imperfect as text found in the wild is imperfect: some only state the (right) answer,
the more often the shorter the problem, and where work is shown a step may slip and carry its error on. A small
model cannot get most answers without showing work, which is what training on verified chains can teach it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from reasoning.errors import UserError
from reasoning.records import Problem
from reasoning.tasks.base import Demonstration, Task, distinct_in_split, rng_of, whole_range

NAMES = ("Ann", "Ben", "Cam", "Dan", "Eva", "Fay", "Gus", "Hal", "Ida", "Jon", "Kim", "Leo", "Mia", "Ned")
NAMES += ("Ola", "Pam", "Ray", "Sue", "Tom", "Una", "Vic", "Wes", "Yan", "Zoe")
THINGS = ("toys", "books", "coins", "cards", "pens", "cups", "nuts", "figs", "eggs", "keys", "hats", "maps")
LARGEST_VALUE = 60
LARGEST_OPERAND = 9
PHRASES = {"+": "{k} more {thing} than", "-": "{k} fewer {thing} than", "*": "{k} times as many {thing} as"}


@dataclass(frozen=True, slots=True)
class Step:
    name: str
    operator: str
    operand: int

    def value(self, before: int) -> int:
        if self.operator == "+":
            return before + self.operand
        return before - self.operand if self.operator == "-" else before * self.operand


@dataclass(frozen=True, slots=True)
class Story:
    """A first person with a number of things, then one step a person."""

    first: str
    start: int
    thing: str
    steps: tuple[Step, ...]

    @property
    def answer(self) -> int:
        value = self.start
        for step in self.steps:
            value = step.value(value)
        return value

    def prompt(self) -> str:
        lines = [f"{self.first} has {self.start} {self.thing}."]
        before = self.first
        for step in self.steps:
            phrase = PHRASES[step.operator].format(k=step.operand, thing=self.thing)
            lines.append(f"{step.name} has {phrase} {before}.")
            before = step.name
        return f"Q: {' '.join(lines)} How many {self.thing} does {before} have?\nA:"

    def problem(self) -> Problem:
        return Problem.make(self.prompt(), str(self.answer), "word", {"difficulty": len(self.steps)})


def make_story(rng: random.Random, fewest: int, most: int) -> Story:
    """A story of ``fewest`` to ``most`` steps, every value between 1 and LARGEST_VALUE."""
    count = rng.randint(fewest, most)
    first, *names = rng.sample(NAMES, count + 1)
    value = start = rng.randint(2, 20)
    steps: list[Step] = []
    for name in names:
        choices = [
            step
            for operator in ("+", "-", "*")
            for operand in range(2, LARGEST_OPERAND + 1)
            if 1 <= (step := Step(name, operator, operand)).value(value) <= LARGEST_VALUE
        ]
        operator = rng.choice(sorted({step.operator for step in choices}))
        step = rng.choice([step for step in choices if step.operator == operator])
        steps.append(step)
        value = step.value(value)
    return Story(first, start, rng.choice(THINGS), tuple(steps))


def slipped(right: int, rng: random.Random) -> int:
    """A plausible wrong result: off by a little, or by ten."""
    return max(0, right + rng.choice((-10, -2, -1, 1, 2, 10)))


def completion(story: Story, rng: random.Random, work: float, slip: float) -> str:
    """What somebody might write after ``A:``: with probability ``work`` the steps, each slipping with
    probability ``slip`` (the error is carried on), otherwise the right answer alone."""
    if rng.random() >= work:
        return f" The answer is {story.answer}."
    value = story.start
    lines = [f" {story.first} has {value}."]
    for step in story.steps:
        result = step.value(value)
        if rng.random() < slip:
            result = slipped(result, rng)
        lines.append(f"{step.name} has {value}{step.operator}{step.operand}={result}.")
        value = result
    return " ".join([*lines, f"The answer is {value}."])


def problems(split: str, *, steps: str, n: int, seed: int) -> list[Problem]:
    """``n`` distinct problems of ``split`` with ``steps`` ("2-5") steps."""
    fewest, most = step_range(steps)
    rng = rng_of("word", split, steps, seed)
    what = f"word:{split}:steps={steps},n={n}"
    return distinct_in_split(split, n, lambda r: make_story(r, fewest, most).problem(), rng, what)


def demonstrations(
    split: str, n: int, seed: int, *, steps: str, work: float, work_per_step: float, slip: float
) -> list[Demonstration]:
    """``n`` demonstrations. The chance that one shows its work is ``work`` for one step and rises by
    ``work_per_step`` with each further one, to 0.95 (or ``work``) at most."""
    fewest, most = step_range(steps)
    rng = rng_of("word demonstrations", split, steps, seed)
    stories: dict[str, Story] = {}

    def make(r: random.Random) -> Problem:
        story = make_story(r, fewest, most)
        problem = story.problem()
        stories[problem.id] = story
        return problem

    shown: list[Demonstration] = []
    for problem in distinct_in_split(split, n, make, rng, f"{n} word demonstrations"):
        story = stories[problem.id]
        chance = min(max(0.95, work), work + work_per_step * (len(story.steps) - 1))
        shown.append((problem, completion(story, rng_of("word completion", problem.id, seed), chance, slip)))
    return shown


def examples(n: int, seed: int, *, steps: str) -> list[Demonstration]:
    """Few-shot examples: every step shown, none wrong."""
    return demonstrations("train", n, seed, steps=steps, work=1.0, work_per_step=0.0, slip=0.0)


def step_range(steps: str) -> tuple[int, int]:
    fewest, most = whole_range(steps, "steps of word")
    possible = len(NAMES) - 1  # a person a step, and the first
    if most < 1 or fewest > possible:
        raise UserError(f"steps of word: between 1 and {possible}, not {steps}.")
    return max(1, fewest), min(most, possible)


TASK = Task(
    name="word",
    verifier="numeric",
    problems=problems,
    options={"steps": "2-5", "n": 256, "seed": 0},
    sampling={"max_new_tokens": 128},
    demonstrate=demonstrations,
    demonstration_options={"steps": "2-8", "work": 0.15, "work_per_step": 0.15, "slip": 0.1},
    examples=examples,
    about="procedural word problems in plain English; difficulty = number of steps",
)
