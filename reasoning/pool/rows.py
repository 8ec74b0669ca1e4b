"""Values of the pool as JSON; and the rows of write-ahead files of format 1, which were JSON lines.

In those, token ids and log-probabilities are base64 of little-endian int32 and float32 (float64 where a value
does not fit float32). This module knows nothing of files.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from operator import attrgetter
from typing import Any

import numpy as np

from reasoning.errors import UserError
from reasoning.records import Chain, Cost, Problem, Sampling
from verifiers.base import Verdict

COST_FIELDS = tuple(f.name for f in fields(Cost))
cost_values = attrgetter(*COST_FIELDS)


@lru_cache(maxsize=4096)
def sampling_json(sampling: Sampling) -> str:
    return json.dumps(sampling.to_json(), sort_keys=True, ensure_ascii=True, separators=(",", ":"))


@lru_cache(maxsize=4096)
def sampling_from_json(text: str) -> Sampling:
    return Sampling.from_json(json.loads(text))


def clean_text(text: str) -> str:
    """``text`` as valid Unicode: a lone surrogate, which no file can hold, becomes U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


def json_value(value: Any, where: str) -> str:
    """``value`` as JSON text. Raises UserError when it is none (a set, say), naming ``where``."""
    try:
        return _encode(value)
    except (TypeError, ValueError) as e:
        raise UserError(f"{where} cannot be stored: {e}. Use plain JSON values.") from None


def _unpack_ids(text: str) -> tuple[int, ...]:
    return tuple(np.frombuffer(binascii.a2b_base64(text), "<i4").tolist()) if text else ()


def _unpack_floats(text: str) -> tuple[float, ...]:
    return tuple(np.frombuffer(binascii.a2b_base64(text[3:]), "<" + text[:2]).tolist()) if text else ()


def chain_from_row(row: Mapping[str, Any]) -> Chain:
    return Chain(
        problem_id=row["problem"],
        index=row["index"],
        text=row["text"],
        token_ids=_unpack_ids(row["ids"]),
        logprobs=_unpack_floats(row["logprobs"]),
        prompt_token_ids=_unpack_ids(row["prompt_ids"]),
        finish_reason=row["finish"],
        model=row["model"],
        sampling=sampling_from_json(json.dumps(row["sampling"], sort_keys=True, separators=(",", ":"))),
        key=row["key"],
        parent=row["parent"],
        cost=Cost(*row["cost"]),
    )


def problem_from_row(row: Mapping[str, Any]) -> Problem:
    return Problem(row["id"], row["prompt"], row["reference"], row["task"], row["metadata"])


def verdict_from_row(row: Mapping[str, Any]) -> Verdict:
    steps = row.get("steps")
    return Verdict(
        score=row["score"],
        answer=row.get("answer"),
        status=row.get("status", "ok"),
        rule=row.get("rule", ""),
        reason=row.get("reason", ""),
        steps=None if steps is None else tuple(steps),
        scored_tokens=row.get("scored_tokens", 0),
        flops=row.get("flops", 0.0),
    )
