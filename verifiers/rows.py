"""JSONL rows in, one verdict line per row out, in order: what ``reasoning verify`` runs.

A row has ``reference`` and ``response`` (a whole response; the answer is extracted) or ``gold`` and ``answer`` (the
bare answer). ``prompt``, ``metadata`` and any further fields reach the verifier as well.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from verifiers.base import Attempt, Verdict, Verifier

_FIELDS = ("reference", "response", "gold", "answer", "prompt", "metadata", "id")


@dataclass(slots=True)
class Summary:
    """Counts over the rows that `verify_rows` has written. seconds: in the verifier, over all rows. example: what
    stood in the way of the first that was not judged."""

    rows: int = 0
    correct: int = 0
    missing: int = 0
    seconds: float = 0.0
    example: str = ""
    statuses: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)

    def add(self, verdict: Verdict) -> None:
        self.rows += 1
        self.correct += verdict.correct
        self.missing += verdict.missing
        if verdict.missing and not self.example:
            self.example = f"{verdict.status}: {verdict.reason}" if verdict.reason else verdict.status
        self.statuses[verdict.status] += 1
        if verdict.correct:
            self.rules[verdict.rule or "-"] += 1

    def __str__(self) -> str:
        if not self.rows:
            return "no rows"
        judged = self.rows - self.missing
        share = f"{self.correct / judged:.1%} of {judged} judged" if judged else "none judged"
        statuses = ", ".join(f"{name} {count}" for name, count in self.statuses.most_common())
        pace = f"{self.rows / self.seconds:.0f} rows/s" if self.seconds else ""
        lines = [f"{self.rows} rows: {self.correct} correct ({share})", f"status: {statuses}"]
        if self.rules:
            lines.append(
                "equal by: " + ", ".join(f"{name} {count}" for name, count in self.rules.most_common())
            )
        lines.append(f"{self.seconds:.2f} s in the verifier  {pace}".rstrip())
        return "\n".join(lines)


def attempt_of(row: Any) -> Attempt | str:
    """The attempt that a row describes, or what is wrong with the row."""
    if not isinstance(row, Mapping):
        return f"a row is a JSON object, not {type(row).__name__}"
    if "response" in row and "gold" not in row:
        reference, response, bare = row.get("reference"), row["response"], False
    elif "gold" in row and "answer" in row:
        reference, response, bare = row["gold"], row["answer"], True
        if type(response) in (int, float):  # a bare answer may be a JSON number
            response = str(response)
    else:
        return f"a row needs reference and response, or gold and answer (fields here: {_fields(row)})"
    given = row.get("metadata") or {}
    if not isinstance(given, Mapping):
        return f"metadata is a JSON object, not {type(given).__name__}"
    metadata = (
        {k: v for k, v in row.items() if k not in _FIELDS} | dict(given) | ({"bare": True} if bare else {})
    )
    return Attempt(prompt=row.get("prompt") or "", response=response, reference=reference, metadata=metadata)


def _fields(row: Mapping[str, Any]) -> str:
    return ", ".join(sorted(map(str, row)))[:200] or "none"


def verify_rows(
    lines: Iterable[str | bytes],
    verifier: Verifier,
    write: Callable[[str], object],
    *,
    batch: int = 256,
    advance: Callable[[int], object] | None = None,
) -> Summary:
    """Judge ``lines`` (blank ones are skipped) and ``write`` a JSON line for each: score, answer, status, rule,
    reason, and the row's ``id`` if it has one. A row that cannot be used gets status "bad_row" with the line's
    number and no score. ``advance`` is called with the number of rows done, for a progress bar.
    """
    summary = Summary()
    for rows in _batches(_parsed(lines), batch):
        attempts = [attempt for _, attempt, _ in rows if isinstance(attempt, Attempt)]
        begun = time.perf_counter()
        verdicts = iter(verifier.verify(attempts) if attempts else [])
        summary.seconds += time.perf_counter() - begun
        for identity, attempt, lacking in rows:
            verdict = (
                next(verdicts)
                if isinstance(attempt, Attempt)
                else Verdict(None, status="bad_row", reason=attempt)
            )
            if verdict.status == "bad_reference" and lacking:
                verdict = replace(verdict, status="bad_row", reason=lacking)
            summary.add(verdict)
            write(json.dumps(identity | as_json(verdict), ensure_ascii=True) + "\n")
        if advance is not None:
            advance(len(rows))
    return summary


def as_json(verdict: Verdict) -> dict[str, Any]:
    out: dict[str, Any] = {
        name: getattr(verdict, name) for name in ("score", "answer", "status", "rule", "reason")
    }
    if verdict.steps is not None:
        out["steps"] = list(verdict.steps)
    if verdict.scored_tokens:
        out |= {"scored_tokens": verdict.scored_tokens, "flops": verdict.flops}
    return out


def _parsed(lines: Iterable[str | bytes]) -> Iterator[tuple[dict[str, Any], Attempt | str, str]]:
    """(what names the row, its attempt or what is wrong, what to say should the verifier miss a reference)"""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_object)
        except _Twice as error:
            yield {}, f"line {number}: the field {str(error)!r} is given twice", ""
            continue
        except (ValueError, RecursionError) as error:
            yield {}, f"line {number}: not JSON ({str(error)[:120]})", ""
            continue
        attempt = attempt_of(row)
        identity = {"id": row["id"]} if isinstance(row, Mapping) and "id" in row else {}
        if isinstance(attempt, str):
            yield identity, f"line {number}: {attempt}", ""
        else:
            named = "reference" in row or "gold" in row
            lacking = (
                ""
                if named
                else f"line {number}: the row has no field 'reference' (fields here: {_fields(row)})"
            )
            yield identity, attempt, lacking


class _Twice(Exception):
    """A field that an object gives twice; which of the two is meant nobody knows."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Twice(key[:80])
        found[key] = value
    return found


def _batches(rows: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(islice(rows, size)):
        yield batch
