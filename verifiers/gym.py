"""``gym:<task>``: the scorer of a reasoning-gym task as a verifier, in a killable worker process.

Nine of reasoning-gym's scorers hand the model's text to ``eval`` or ``sympy.parse_expr``. Here such a text reaches
its scorer only when it is a plain literal or a formula of known names; any other is refused unread.

An attempt carries the entry in ``metadata["entry"]`` ({"question", "answer", "metadata"}), or the entry's answer as
reference and the entry's metadata as metadata.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

from verifiers.arithmetic import NotArithmetic, parse_arithmetic
from verifiers.base import Attempt, Verdict
from verifiers.errors import VerifierError
from verifiers.extract import final_part, statement
from verifiers.judging import BadReference, RuleVerifier, no_answer, shown
from verifiers.pool import Pooled
from verifiers.registry import unknown_name

UNSUPPORTED = {
    "boxnet": "its entries have no answer of their own; a plan is scored by simulation only",
    "composite": "it mixes other tasks and needs a configuration; open those tasks by name",
    "graph_color": "its entries have no answer of their own",
    "propositional_logic": "its entries have no answer of their own",
    "rubiks_cube": "its entries have no answer of their own",
    "rush_hour": "its entries have no answer of their own",
}
"""Tasks whose own answer does not score 1 (reasoning-gym 0.1.25), and why."""

_GRIDS = {"arc_agi", "rearc"}
"""Their scorers compare tuples, which JSON (a file of rows, the way to the worker) has turned into lists."""
_LITERALS = {"string_insertion", "spiral_matrix", "binary_matrix", "n_queens"}
_FORMULAS = {
    "simple_integration",
    "intermediate_integration",
    "polynomial_multiplication",
    "puzzle24",
    "countdown",
}
_NAMES = frozenset(
    [
        "sin",
        "cos",
        "tan",
        "asin",
        "acos",
        "atan",
        "sinh",
        "cosh",
        "tanh",
        "sec",
        "csc",
        "cot",
        "exp",
        "log",
        "ln",
        "sqrt",
        "pi",
        "E",
        "C",
        "Abs",
    ]
)
_FORMULA = re.compile(r"[0-9A-Za-z+\-*/^(). ]{1,600}")
_MOST_CHARACTERS = 20_000


def open_gym(task: str, seconds: float = 10.0, workers: int = 1) -> Gym:
    """Raises VerifierError for an unknown or unsupported task, or where reasoning-gym is not installed."""
    return Gym(task, seconds, workers)


class Gym:
    """The pooled scorer; a score below 0.99 is not "correct", however near it is."""

    oracle = True

    def __init__(self, task: str, seconds: float, workers: int):
        if task in UNSUPPORTED:
            raise VerifierError(f"gym:{task} is not supported: {UNSUPPORTED[task]}.")
        self.name = f"gym:{task}"
        self.pool = Pooled(f"gym_scorer:{task}", workers=workers, seconds=seconds, cache=10_000)

    def verify(self, attempts: Any) -> list[Verdict]:
        return self.pool.verify(attempts)

    def close(self) -> None:
        self.pool.close()


class Scorer(RuleVerifier):
    """The task's scorer in this process (`Gym` runs it in a worker)."""

    def __init__(self, task: str):
        self.task = task
        self.name = f"gym_scorer:{task}"
        self.score = _library().get_score_answer_fn(_known(task))

    def judge(self, attempt: Attempt) -> Verdict:
        entry = _entry(attempt)
        text = answer_in(attempt.response)
        if not text:
            return no_answer("the response is empty")
        if len(text) > _MOST_CHARACTERS:
            return Verdict(
                0.0, status="unparsable", reason=f"an answer of more than {_MOST_CHARACTERS} characters"
            )
        if text != entry["answer"] and not self._harmless(text):
            return Verdict(
                0.0, status="unparsable", reason=f"{shown(text)!r} is neither a literal nor a formula"
            )
        doubt = _DOUBTS[self.task](text, entry) if self.task in _DOUBTS else ""
        if doubt:
            return Verdict(0.0, text[:400], rule=self.task, reason=doubt)
        if self.task in _GRIDS:
            entry["metadata"] = _as_tuples(entry["metadata"])
        try:
            score = float(self.score(answer=text, entry=entry))
        except Exception as error:
            if text == entry["answer"]:
                raise  # not the text's fault
            reason = f"{shown(text)!r} is not read by the scorer: {type(error).__name__}"
            return Verdict(0.0, status="unparsable", reason=reason)
        if not 0 <= score <= 1:
            return Verdict(None, status="error", reason=f"the scorer returned {score}")
        return Verdict(score, text[:400], rule=self.task, reason=f"scored {score:g} by reasoning-gym")

    def stated(self, response: str) -> str | None:
        return answer_in(response)[:400] or None

    def _harmless(self, text: str) -> bool:
        if self.task in _LITERALS:
            return is_literal(text)
        return self.task not in _FORMULAS or is_formula(text)


def answer_in(response: str) -> str:
    """Tags and boxes first; else the whole response, for answers of several lines."""
    found = statement(response)
    if found is not None and found.rule in ("tag", "boxed"):
        return found.text.strip()
    return final_part(response).strip()


def _another_word(text: str, entry: Mapping[str, Any]) -> str:
    """The scorer of game_of_life_halting takes any text for right: bool("False") is true."""
    return "" if text.strip(" .").casefold() == str(entry["answer"]).casefold() else "another answer"


def _other_numbers(text: str, entry: Mapping[str, Any]) -> str:
    """The scorer of puzzle24 neither asks for the puzzle's own numbers nor for exactly 24."""
    try:
        node = parse_arithmetic(text)
        value = node.value()
    except (NotArithmetic, ZeroDivisionError) as error:
        return f"{shown(text)!r}: {error}"
    if sorted(node.numbers()) != sorted(entry["metadata"]["numbers"]):
        return "not the numbers of the puzzle, each once"
    return "" if value == 24 else f"makes {value}"


def _first_digits(text: str, entry: Mapping[str, Any]) -> str:
    """The scorer of coin_flip takes "0" for 0.17: it counts the characters that agree."""
    try:
        off = abs(float(Fraction(text.replace(",", ""))) - float(Fraction(str(entry["answer"]))))
    except (ValueError, ZeroDivisionError, OverflowError):
        return f"{shown(text)!r} is no number"
    near = min(1e-4, 0.01 * float(Fraction(str(entry["answer"]))))
    return "" if off <= near else f"off by {off:g}"


def _not_finite(text: str, entry: Mapping[str, Any]) -> str:
    """The scorer of complex_arithmetic takes "nan" for right."""
    return f"{shown(text)!r} is not finite" if re.search(r"nan|inf", text, re.IGNORECASE) else ""


_DOUBTS: dict[str, Callable[[str, Mapping[str, Any]], str]] = {
    "game_of_life_halting": _another_word,
    "puzzle24": _other_numbers,
    "coin_flip": _first_digits,
    "complex_arithmetic": _not_finite,
}
"""Tasks whose own scorer (reasoning-gym 0.1.25) gives 1 to wrong answers: what is against an answer, or ""."""


def _as_tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _as_tuples(item) for name, item in value.items()}
    return tuple(map(_as_tuples, value)) if isinstance(value, list | tuple) else value


def is_literal(text: str) -> bool:
    """Whether ``text`` is a Python literal of lists and tuples of numbers and strings, or words that name nothing."""
    if not re.search(r"[(\[{]", text):
        return re.fullmatch(r"[\w .,\n-]*", text) is not None and "__" not in text
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return False
    return True


def is_formula(text: str) -> bool:
    """Whether ``text`` is arithmetic in single letters and known functions: no attributes, quotes or other names."""
    if not _FORMULA.fullmatch(text) or re.search(
        r"(?<!\d)\.(?!\d)|\.\s*[A-Za-z(]|[0-9]{30}|\d[A-Za-z]\w*\(", text
    ):
        return False
    return all(len(name) == 1 or name in _NAMES for name in re.findall(r"[A-Za-z]+", text))


def entries(task: str, size: int, seed: int = 0, **config: Any) -> Iterator[dict[str, Any]]:
    """``size`` entries of a task ({"question", "answer", "metadata"}), the same for the same seed."""
    yield from _library().create_dataset(_known(task), size=size, seed=seed, **config)


def task_names() -> list[str]:
    """Every supported task."""
    _library()
    from reasoning_gym.factory import DATASETS  # pyright: ignore[reportMissingImports]

    return sorted(set(DATASETS) - set(UNSUPPORTED))


def _known(task: str) -> str:
    names = task_names()
    if task not in names:
        raise VerifierError(unknown_name("reasoning-gym task", task, names))
    return task


def _library() -> Any:
    try:
        import reasoning_gym  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise VerifierError(
            "reasoning-gym is not installed; gym:<task> needs it:  pip install 'reasoning-toolkit[gym]'"
        ) from None
    return reasoning_gym


def _entry(attempt: Attempt) -> dict[str, Any]:
    metadata = attempt.metadata if isinstance(attempt.metadata, Mapping) else {}
    entry = metadata.get("entry")
    if isinstance(entry, Mapping) and "answer" in entry and isinstance(entry.get("metadata"), Mapping):
        return dict(entry)
    if attempt.reference is not None and "source_dataset" in metadata:
        return {"question": attempt.prompt, "answer": attempt.reference, "metadata": dict(metadata)}
    raise BadReference('the entry is missing: metadata needs "entry" (question, answer, metadata)')
