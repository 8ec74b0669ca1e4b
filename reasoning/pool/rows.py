"""Rows of the pool as JSON: exact, compact, and fast to write.

Token ids and log-probabilities are base64 of little-endian int32 and float32 (float64 where a value does not
fit float32), so they come back bit for bit. This module knows nothing of files.
"""

from __future__ import annotations

import binascii
import json
import sys
from array import array
from collections.abc import Mapping, Sequence
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
to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
quote = json.encoder.encode_basestring
"""A string as JSON: what ``to_json`` comes to for one, without its overhead."""


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


def json_value(value: Any, where: str) -> str:
    """``value`` as JSON text. Raises UserError when it is none (a set, say), naming ``where``."""
    try:
        return json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    except (TypeError, ValueError) as e:
        raise UserError(f"{where} cannot be stored: {e}. Use plain JSON values.") from None


def _pack(values: array[Any]) -> str:
    if sys.byteorder == "big":
        values.byteswap()
    return binascii.b2a_base64(values, newline=False).decode()


def pack_ids(ids: Sequence[int]) -> str:
    return _pack(array("i", ids)) if ids else ""


def unpack_ids(text: str) -> tuple[int, ...]:
    return tuple(np.frombuffer(binascii.a2b_base64(text), "<i4").tolist()) if text else ()


def pack_floats(values: Sequence[float]) -> str:
    if not values:
        return ""
    single = array("f", values)
    if single.tolist() == list(values):
        return "f4:" + _pack(single)
    return "f8:" + _pack(array("d", values))


def unpack_floats(text: str) -> tuple[float, ...]:
    return tuple(np.frombuffer(binascii.a2b_base64(text[3:]), "<" + text[:2]).tolist()) if text else ()


def chain_body(chain: Chain) -> bytes:
    """The JSON bytes of a chain's row."""
    row = (
        f'{{"chain":{{"key":"{chain.key}","problem":{quote(chain.problem_id)},"index":{chain.index},'
        f'"model":{quote(chain.model)},"sampling":{sampling_json(chain.sampling)},'
        f'"parent":"{chain.parent}","finish":{quote(chain.finish_reason)},'
        f'"cost":{to_json(cost_values(chain.cost))},"prompt_ids":"{pack_ids(chain.prompt_token_ids)}",'
        f'"ids":"{pack_ids(chain.token_ids)}","logprobs":"{pack_floats(chain.logprobs)}",'
        f'"text":{quote(clean_text(chain.text))}}}}}'
    )
    return row.encode()


def chain_from_row(row: Mapping[str, Any]) -> Chain:
    return Chain(
        problem_id=row["problem"],
        index=row["index"],
        text=row["text"],
        token_ids=unpack_ids(row["ids"]),
        logprobs=unpack_floats(row["logprobs"]),
        prompt_token_ids=unpack_ids(row["prompt_ids"]),
        finish_reason=row["finish"],
        model=row["model"],
        sampling=sampling_from_json(json.dumps(row["sampling"], sort_keys=True, separators=(",", ":"))),
        key=row["key"],
        parent=row["parent"],
        cost=Cost(*row["cost"]),
    )


def problem_body(problem: Problem, order: int) -> bytes:
    where = f"problem {problem.id}"
    row = (
        f'{{"problem":{{"id":{json.dumps(problem.id)},"order":{order},"prompt":{json.dumps(problem.prompt)},'
        f'"reference":{json_value(problem.reference, where)},"task":{json.dumps(problem.task)},'
        f'"metadata":{json_value(dict(problem.metadata), where)}}}}}'
    )
    return row.encode()


def problem_from_row(row: Mapping[str, Any]) -> Problem:
    return Problem(row["id"], row["prompt"], row["reference"], row["task"], row["metadata"])


def verdict_body(verifier: str, key: str, verdict: Verdict) -> bytes:
    row: dict[str, Any] = {"verifier": verifier, "key": key, "score": verdict.score}
    for name in ("answer", "rule", "reason"):  # most are empty; what is at its default is left out
        if value := getattr(verdict, name):
            row[name] = clean_text(value)
    if verdict.answer == "":
        row["answer"] = ""
    if verdict.status != "ok":
        row["status"] = verdict.status
    if verdict.steps is not None:
        row["steps"] = verdict.steps
    if verdict.scored_tokens or verdict.flops:
        row |= {"scored_tokens": verdict.scored_tokens, "flops": verdict.flops}
    return f'{{"verdict":{to_json(row)}}}'.encode()


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
