"""Plain Python functions as verifiers, and verifiers as reward functions of the TRL kind.

Knows two calling conventions, told apart by parameter names:

    def reward(completions, **columns) -> list[float]       the whole batch (TRL)
    def reward(response, reference, ...) -> float           one attempt; any of prompt, response,
                                                            reference, metadata, attempt; returns bool,
                                                            number, Verdict, or None for "no judgement"
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from verifiers.base import Attempt, Verdict, Verifier
from verifiers.errors import VerifierError

_FIELDS = ("attempt", "prompt", "response", "reference", "metadata")
_OF_TRAINER = ("completion_ids", "trainer_state", "log_extra", "log_metric")
"""What TRL's trainer passes to a reward function beside texts and columns."""


class FunctionVerifier:
    """Wraps ``function``. Scores are clipped to nothing: a value outside [0, 1], NaN, or a list of the wrong
    length is a status "error" without a score, never a 0. low, high: what the function returns for the worst and
    the best; rewards from -1 to 1 become scores by low=-1,high=1.

    The vote (`Verdict.answer`) is the answer that the response states, as text; a function that returns
    `Verdict` decides for itself. ``oracle`` is taken to be True unless the function reads neither the
    reference nor other columns.
    """

    def __init__(self, function: Callable[..., Any], name: str = "", *, low: float = 0.0, high: float = 1.0):
        self.function = function
        self.low, self.high = low, high
        self.name = name or getattr(function, "__name__", "function")
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):
            raise VerifierError(
                f"{self.name}: its parameters cannot be read; write a def with named ones."
            ) from None
        self.names = [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        self.open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self.batched = "completions" in self.names
        required = [p.name for p in parameters if p.default is p.empty and p.name in self.names]
        if not -math.inf < low < high < math.inf:
            raise VerifierError(f"{self.name}: low={low:g} must lie below high={high:g}, both finite.")
        if of_trainer := [n for n in required if n in _OF_TRAINER]:
            raise VerifierError(
                f"{self.name}: {of_trainer[0]} comes from TRL's trainer alone, and a verifier is shown texts; give "
                f"it a default ({of_trainer[0]}=None) or do without it."
            )
        unfit = [] if self.batched else [n for n in required if n not in _FIELDS]
        if unfit or not self.names:
            what = f"parameter {unfit[0]!r} is not known" if unfit else "it has no parameters"
            raise VerifierError(
                f"{self.name}: {what}; use completions (a batch) or some of {', '.join(_FIELDS)}."
            )
        reads = set(self.names) - {"prompt", "prompts", "response", "completions", "completion_ids"}
        self.oracle = self.open_ended or bool(reads)

    def verify(self, attempts: Sequence[Attempt]) -> list[Verdict]:
        if self.batched:
            return self._batch(attempts)
        return [self._one(attempt) for attempt in attempts]

    def _one(self, attempt: Attempt) -> Verdict:
        values = {
            name: attempt if name == "attempt" else getattr(attempt, name)
            for name in _FIELDS
            if name != "attempt"
        }
        values["attempt"] = attempt
        try:
            result = self.function(**{n: values[n] for n in self.names if n in values})
        except Exception as error:
            return _failed(f"{type(error).__name__}: {error}")
        return self._verdict(result, attempt)

    def _batch(self, attempts: Sequence[Attempt]) -> list[Verdict]:
        columns: dict[str, Any] = {
            "completions": [_as_trl(a.response, a.prompt) for a in attempts],
            "prompts": [a.prompt for a in attempts],
        }
        keys = sorted({key for a in attempts for key in a.metadata}, key=str)
        columns |= {str(key): [a.metadata.get(key) for a in attempts] for key in keys if key not in columns}
        references = [a.reference for a in attempts]
        for key in ("reference", "answer", "solution", "ground_truth"):
            columns.setdefault(key, references)
        if not self.open_ended:
            columns = {key: value for key, value in columns.items() if key in self.names}
        try:
            results = self.function(**columns)
        except Exception as error:
            return [_failed(f"{type(error).__name__}: {error}")] * len(attempts)
        if not isinstance(results, Sequence | tuple) and hasattr(results, "tolist"):
            results = results.tolist()
        if not isinstance(results, Sequence) or isinstance(results, str) or len(results) != len(attempts):
            got = len(results) if isinstance(results, Sequence) else type(results).__name__
            return [_failed(f"returned {got} rewards for {len(attempts)} completions")] * len(attempts)
        return [self._verdict(result, attempt) for result, attempt in zip(results, attempts, strict=True)]

    def _verdict(self, result: Any, attempt: Attempt) -> Verdict:
        if isinstance(result, Verdict):
            return result
        if result is None:
            return Verdict(None, status="no_judgement", reason="the function returned None")
        try:
            value = float(result)
        except (TypeError, ValueError):
            return _failed(f"returned {type(result).__name__}, not a number")
        if not self.low <= value <= self.high:  # NaN neither
            return _failed(
                f"returned {value}; a score lies in [{self.low:g}, {self.high:g}]: for rewards from -1 to 1 write "
                "FILE.py:NAME:low=-1,high=1"
            )
        from verifiers.extract import statement
        from verifiers.normalise import squeeze, unwrap

        found = statement(attempt.response) if isinstance(attempt.response, str) else None
        score = (value - self.low) / (self.high - self.low)
        return Verdict(score, squeeze(unwrap(found.text)) if found else None, rule="function")


def _as_trl(response: Any, prompt: Any) -> Any:
    """A completion in TRL's conversational form where the prompt is a list of messages, else plain text."""
    return [{"role": "assistant", "content": response}] if isinstance(prompt, list) else response


def _failed(reason: str) -> Verdict:
    return Verdict(None, status="error", reason=reason[:300])


def reward_function(
    verifier: Verifier | str, *, reference: str = "reference"
) -> Callable[..., list[float | None]]:
    """A verifier, or its spec, as a TRL reward function: ``GRPOTrainer(reward_funcs=reward_function("math"), ...)``.

    reference: the dataset's column that holds the answer key. Other columns reach the verifier as metadata.
    A missing judgement is None, which TRL leaves out of the reward, never 0.
    """

    if isinstance(verifier, str):
        from verifiers.registry import open_verifier

        verifier = open_verifier(verifier)

    def reward(
        completions: Sequence[Any], prompts: Sequence[Any] | None = None, **columns: Any
    ) -> list[float | None]:
        count = len(completions)
        if verifier.oracle and reference not in columns:
            raise VerifierError(
                f"{verifier.name} reads a reference, and the dataset has no column {reference!r} "
                f"(columns: {', '.join(sorted(columns)) or 'none'}); pass reference='<column>'."
            )
        rows = {k: v for k, v in columns.items() if isinstance(v, list | tuple) and len(v) == count}
        attempts = [
            Attempt(
                prompt=_text(prompts[i]) if prompts is not None else "",
                response=_text(completions[i]),
                reference=rows[reference][i] if reference in rows else None,
                metadata={k: v[i] for k, v in rows.items() if k != reference},
            )
            for i in range(count)
        ]
        return [verdict.score for verdict in verifier.verify(attempts)]

    reward.__name__ = "".join(c if c.isalnum() else "_" for c in verifier.name)
    return reward


def _text(message: Any) -> Any:
    """Text of a TRL prompt or completion: a string, or a list of {"role", "content"} messages."""
    if isinstance(message, list | tuple):
        return "\n".join(str(m.get("content") or "") if isinstance(m, dict) else str(m) for m in message)
    return message
