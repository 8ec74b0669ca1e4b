"""What a task is, and how procedural tasks are split. Knows no task by name, no file and no model.

A task turns a split and options into problems, and names the verifier that judges answers to them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from reasoning.errors import UserError, unknown
from reasoning.records import Problem, digest
from reasoning.spec import convert

SPLITS = ("train", "dev", "test")

Demonstration = tuple[Problem, str]
"""A problem and the completion text (chain of thought and answer) shown for it in a cold start."""


def split_of(fingerprint: str) -> str:
    """The split that a procedural problem belongs to: "train" (8 in 10), "dev" or "test" (1 in 10 each).

    Decided by the content alone (`Problem.fingerprint`), so no seed, option or order can put one problem
    into two splits.
    """
    bucket = int(digest("split", fingerprint), 16) % 10
    return "test" if bucket == 0 else "dev" if bucket == 1 else "train"


def rng_of(*parts: Any) -> random.Random:
    """A random stream named by JSON-able parts, the same everywhere: ``rng_of("word", split, seed)``."""
    return random.Random(digest(*parts, length=32))


def distinct_in_split(
    split: str, n: int, make: Callable[[random.Random], Problem], rng: random.Random, what: str
) -> list[Problem]:
    """``n`` problems from ``make(rng)`` that belong to ``split``, no two with the same fingerprint.

    The first m of n are what a request for m gives. what: names the request in the error.
    Raises UserError when the generator cannot supply that many distinct problems.
    """
    found: dict[str, Problem] = {}
    fruitless = 0
    while len(found) < n:
        problem = make(rng)
        mark = problem.fingerprint
        if mark in found or split_of(mark) != split:
            fruitless += 1
            if fruitless > 2000 + 20 * len(found):
                raise UserError(
                    f"{what}: only {len(found)} distinct problems were found where {n} were asked for. "
                    f"Ask for fewer, or allow harder ones."
                )
            continue
        fruitless = 0
        found[mark] = problem
    return list(found.values())


@dataclass(frozen=True, slots=True)
class Task:
    """A source of problems.

    name: as written in a spec. about: one line for listings.
    verifier: spec of the verifier that judges its answers.
    problems: ``(split, **options) -> problems``, called with every option of ``options``; may be a generator.
    options: the options with their defaults; a default's type is the option's type.
    splits: known split names, the first one the default; empty when the argument is free text (a path).
    sampling: settings that suit the task where a caller gives none ("stop", "max_new_tokens").
    demonstrate: ``(split, n, seed, **options) -> list[Demonstration]`` where a task can teach a cold start;
        its own options and defaults are ``demonstration_options``.
    examples: ``(n, seed, **options) -> list[Demonstration]``, worked examples of the task's own for few-shot prompts,
        called with every option of ``options`` but "n" and "seed".
    columns: its problems are rows with columns; an option that is not among ``options`` filters by the column of that
        name, and ``problems`` gets these as ``where``, column -> wanted text.
    details: what a person may want to know, for listings: "hub", "columns", "paper", ...
    tells: ``problems`` gets ``say`` too, which is called with lines that a person should see.
    """

    name: str
    verifier: str
    problems: Callable[..., Iterable[Problem]]
    options: Mapping[str, Any] = field(default_factory=dict)
    splits: tuple[str, ...] = SPLITS
    sampling: Mapping[str, Any] = field(default_factory=dict)
    demonstrate: Callable[..., list[Demonstration]] | None = None
    demonstration_options: Mapping[str, Any] = field(default_factory=dict)
    about: str = ""
    examples: Callable[..., list[Demonstration]] | None = None
    columns: bool = False
    details: Mapping[str, str] = field(default_factory=dict)
    tells: bool = False

    def load(self, split: str = "", /, **options: Any) -> list[Problem]:
        """The problems of a split. Option values may be text, as they come from a spec.

        Raises UserError for an unknown split or option.
        """
        return list(self.stream(split, **options))

    def stream(
        self, split: str = "", say: Callable[[str], None] = lambda text: None, /, **options: Any
    ) -> Iterator[Problem]:
        """`load`, one problem after the other: of a file or a hub no more is read than is taken. say: gets what a
        person should know of the rows."""
        more: dict[str, Any] = {"say": say} if self.tells else {}
        if self.columns:
            more["where"] = {key: str(options.pop(key)) for key in list(options) if key not in self.options}
        return iter(self.problems(self._split(split), **more, **resolve(self.name, self.options, options)))

    def worked(self, n: int, seed: int = 0, /, **options: Any) -> list[Demonstration]:
        """``n`` worked examples of the task's own or more, as few as there are, none where it has none."""
        if self.examples is None:
            return []
        own = {key: value for key, value in options.items() if key in self.options}
        resolved = resolve(self.name, self.options, own)
        return self.examples(n, seed, **{k: v for k, v in resolved.items() if k not in ("n", "seed")})

    def demonstrations(self, split: str, n: int, seed: int = 0, **options: Any) -> list[Demonstration]:
        """``n`` problems of ``split`` with a completion each, for a supervised cold start.

        Raises UserError when the task has none to show.
        """
        if self.demonstrate is None:
            raise UserError(
                f"Task {self.name!r} has no demonstrations of its own: start from a model that already "
                f"answers, or give demonstrations as a file."
            )
        resolved = resolve(self.name, self.demonstration_options, options)
        return self.demonstrate(self._split(split), n, seed, **resolved)

    def _split(self, split: str) -> str:
        if not self.splits:
            return split
        if split and split not in self.splits:
            raise unknown(f"split of {self.name!r}", split, self.splits)
        return split or self.splits[0]


def resolve(name: str, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """``defaults`` overridden by ``given``, text converted to the default's type; unknown keys are errors."""
    out = dict(defaults)
    for key, value in given.items():
        if key not in defaults:
            raise unknown(f"{name!r} option", key, defaults)
        out[key] = convert(value, defaults[key], f"{key} of {name!r}") if isinstance(value, str) else value
    return out


def whole_range(text: str, where: str) -> tuple[int, int]:
    """ "2-5" -> (2, 5); "4" -> (4, 4). Raises UserError for anything else."""
    low, dash, high = text.partition("-")
    try:
        bounds = int(low), int(high if dash else low)
    except ValueError:
        raise UserError(f"{where}: {text!r} is not a range; write it as 2-5 or 4.") from None
    if bounds[0] > bounds[1]:
        raise UserError(f"{where}: {text!r} is empty; write the smaller number first.")
    return bounds
