"""The pool's tables: their columns, rows of the nouns, and the nouns again.

One schema serves the write-ahead files and the shards, so what was taken into the first always fits the second.
This module knows nothing of files.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa

from reasoning.budget import Charge
from reasoning.errors import PoolError
from reasoning.pool.admission import INT64_MAX, check_chain, check_problem
from reasoning.pool.rows import (
    COST_FIELDS,
    clean_text,
    cost_values,
    json_value,
    sampling_from_json,
    sampling_json,
)
from reasoning.records import Chain, Cost, Problem
from verifiers.base import Verdict

_NAME = pa.dictionary(pa.int32(), pa.string())
_IDS = pa.list_(pa.int32())
_FLOATS = pa.list_(pa.float64())
_FLOATING = ("flops", "seconds")
_COSTS = [(n, pa.float64() if n in _FLOATING else pa.int64()) for n in COST_FIELDS]

SCHEMAS = {
    "problems": pa.schema(
        [
            ("id", pa.string()),
            ("order", pa.int64()),
            ("prompt", pa.string()),
            ("reference", pa.string()),  # JSON
            ("task", pa.string()),
            ("metadata", pa.string()),  # JSON
        ]
    ),
    "models": pa.schema([("id", pa.string()), ("info", pa.string())]),
    "chains": pa.schema(
        [
            ("key", pa.string()),
            ("problem_id", _NAME),
            ("index", pa.int64()),
            ("model", _NAME),
            ("sampling", _NAME),  # JSON
            ("parent", pa.string()),
            ("finish_reason", _NAME),
            ("text", pa.string()),
            ("token_ids", _IDS),
            ("logprobs", _FLOATS),
            ("prompt_token_ids", _IDS),
            *_COSTS,
        ]
    ),
    "verdicts": pa.schema(
        [
            ("verifier", _NAME),
            ("key", pa.string()),
            ("score", pa.float64()),
            ("answer", pa.string()),
            ("status", _NAME),
            ("rule", _NAME),
            ("reason", pa.string()),
            ("steps", _FLOATS),
            ("scored_tokens", pa.int64()),
            ("flops", pa.float64()),
        ]
    ),
    "verifiers": pa.schema([("name", pa.string()), ("oracle", pa.bool_())]),
    "charges": pa.schema([("id", pa.string()), ("row", pa.string())]),
}
IDENTITY = {
    "problems": ("id",),
    "models": ("id",),
    "chains": ("key",),
    "verdicts": ("verifier", "key"),
    "verifiers": ("name",),
    "charges": ("id",),
}
"""Columns by which a later row of a table replaces an earlier one."""


def _batch(table: str, columns: Iterable[Any]) -> pa.RecordBatch:
    schema = SCHEMAS[table]
    arrays = [
        c if isinstance(c, pa.Array) else pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


# ---- chains

_HEX = re.compile(r"[0-9a-f]*")
_FIELDS = [attrgetter(name) for name in (
    "key", "problem_id", "index", "model", "sampling", "parent", "finish_reason", "text",
    "token_ids", "logprobs", "prompt_token_ids", "cost",
)]  # fmt: skip


def chain_batch(chains: Sequence[Chain]) -> pa.RecordBatch:
    """Chains as rows. Lone surrogates in texts become U+FFFD.

    Raises ValueError for a malformed key, PoolError for a value that no column takes.
    """
    try:
        return _chain_batch(chains)
    except (OverflowError, TypeError, ValueError, pa.ArrowException):
        pass  # something is odd: look at each chain
    for c in chains:
        for key in (c.key, c.parent or c.key):
            if not isinstance(key, str) or len(key) != 32 or not _HEX.fullmatch(key):
                raise ValueError(f"a chain's key has 32 hex digits (see chain_key), not {key!r}")
        check_chain(c)
    whole = []
    for c in chains:
        paid = zip(COST_FIELDS, cost_values(c.cost), strict=True)
        cost = Cost(**{n: float(v) if n in _FLOATING else int(v) for n, v in paid})  # type: ignore[arg-type]
        plain = replace(c, index=int(c.index), text=clean_text(c.text), cost=cost)
        try:
            _chain_batch([plain])
        except (OverflowError, TypeError, ValueError, pa.ArrowException) as e:
            raise PoolError(f"Chain {c.key} cannot be stored ({e}); nothing was stored.") from e
        whole.append(plain)
    return _chain_batch(whole)


def _chain_batch(chains: Sequence[Chain]) -> pa.RecordBatch:
    """Quick, and without words about what is wrong."""
    columns = [list(map(field, chains)) for field in _FIELDS]
    keys, problems, index, models, samplings, parents, finish, texts, ids, logprobs, prompts, costs = columns
    for text in (keys, problems, models, parents, finish, texts):
        if set(map(type, text)) - {str}:
            raise TypeError("not text")
    given = [*keys, *filter(None, parents)]
    if set(map(len, given)) - {32} or _digits(given) is None:
        raise ValueError("not a key")
    distinct = {id(s): s for s in samplings}
    names = {i: sampling_json(s) for i, s in distinct.items()}
    numbers = list(zip(*map(cost_values, costs), strict=True)) or [()] * len(_COSTS)
    arrays = [
        pa.array(keys, pa.string()),
        _names(problems),
        _counts(index),
        _names(models),
        _names([names[i] for i in map(id, samplings)]),
        pa.array(parents, pa.string()),
        _names(finish),
        pa.array(texts, pa.string()),
        _lists(ids, "i", _IDS),
        _lists(logprobs, "d", _FLOATS),
        _shared(prompts),
        *(
            (_floats if name in _FLOATING else _counts)(n)
            for name, n in zip(COST_FIELDS, numbers, strict=True)
        ),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMAS["chains"])


def _counts(values: Sequence[int]) -> pa.Array:
    """Raises ValueError or OverflowError for what is no count (see `admission.is_count`)."""
    if set(map(type, values)) - {int}:
        raise ValueError("not a whole number")
    numbers = np.array(values, np.int64)
    if numbers.size and numbers.min() < 0:
        raise ValueError("below 0")
    return pa.array(numbers)


def _floats(values: Sequence[float]) -> pa.Array:
    if set(map(type, values)) - {float}:
        raise ValueError("not a float")
    return pa.array(np.array(values, np.float64))


def _names(values: Sequence[str]) -> pa.Array:
    """A dictionary column, the names in order of first appearance."""
    place = {name: at for at, name in enumerate(dict.fromkeys(values))}
    if len(place) == 1:
        indices = np.zeros(len(values), np.int32)
    else:
        indices = np.fromiter(map(place.__getitem__, values), np.int32, len(values))
    return pa.DictionaryArray.from_arrays(pa.array(indices), pa.array(list(place), pa.string()))


def _lists(rows: Sequence[Sequence[Any]], code: str, type_: pa.ListType) -> pa.Array:
    """A list column from tuples of numbers; much faster than letting Arrow look at each value. Raises ValueError
    or OverflowError for what is no number of that kind."""
    return _list_array(list(map(len, rows)), _packed(rows, code), code, type_)


def _packed(rows: Sequence[Sequence[Any]], code: str) -> bytes:
    try:
        return b"".join([_packer(code, len(row))(*row) for row in rows])
    except struct.error as e:
        raise ValueError(str(e)) from None


def _list_array(lengths: list[int], packed: bytes, code: str, type_: pa.ListType) -> pa.Array:
    ends = np.cumsum(lengths, dtype=np.int64)
    if len(lengths) and ends[-1] > 2**31 - 1:
        raise OverflowError("more than 2^31 numbers in one call")
    offsets = np.zeros(len(lengths) + 1, np.int32)
    offsets[1:] = ends
    flat = np.frombuffer(packed, "<i4" if code == "i" else "<f8")
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat, type_.value_type), type=type_)


@lru_cache(maxsize=4096)
def _packer(code: str, n: int) -> Callable[..., bytes]:
    """Packs ``n`` numbers: half again as fast as `array`."""
    return struct.Struct(f"<{n}{code}").pack


def _shared(rows: Sequence[tuple[int, ...]]) -> pa.Array:
    """As `_lists`, of rows that are mostly the same few objects (siblings share their prompt)."""
    numbers = list(map(id, rows))
    first = {number: row for number, row in zip(numbers, rows, strict=True)}
    if 2 * len(first) > len(rows):
        return _lists(rows, "i", _IDS)
    packed = {number: _packed([row], "i") for number, row in first.items()}
    return _list_array(list(map(len, rows)), b"".join(map(packed.__getitem__, numbers)), "i", _IDS)


def _tuples(column: pa.ChunkedArray) -> Iterator[tuple[Any, ...] | None]:
    for chunk in column.chunks:
        offsets, values = chunk.offsets.to_pylist(), chunk.values.to_numpy(zero_copy_only=False).tolist()
        spans = (tuple(values[a:b]) for a, b in pairwise(offsets))
        if chunk.null_count:
            valid = chunk.is_valid().to_pylist()
            yield from (span if ok else None for span, ok in zip(spans, valid, strict=True))
        else:
            yield from spans


def chains_from(table: pa.Table) -> Iterator[Chain]:
    plain = {name: table[name].to_pylist() for name in SCHEMAS["chains"].names[:8]}
    known = [n if n in table.column_names else "" for n in COST_FIELDS]  # an older shard has fewer
    costs = zip(*(table[n].to_pylist() if n else [0] * table.num_rows for n in known), strict=True)
    prompts: dict[tuple[Any, ...], tuple[Any, ...]] = {}  # siblings share one tuple
    for key, problem, index, model, sampling, parent, finish, text, ids, logprobs, prompt, cost in zip(
        *plain.values(),
        _tuples(table["token_ids"]),
        _tuples(table["logprobs"]),
        _tuples(table["prompt_token_ids"]),
        costs,
        strict=True,
    ):
        yield Chain(
            problem_id=problem,
            index=index,
            text=text,
            token_ids=ids or (),
            logprobs=logprobs or (),
            prompt_token_ids=prompts.setdefault(prompt or (), prompt or ()),
            finish_reason=finish,
            model=model,
            sampling=sampling_from_json(sampling),
            key=key,
            parent=parent,
            cost=Cost(*cost),
        )


# ---- the other tables


def problem_batch(problems: Iterable[tuple[int, Problem]]) -> pa.RecordBatch:
    """(order, problem) as rows. Raises PoolError or UserError that names the problem."""
    rows = list(problems)
    for order, p in rows:
        if not 0 <= order <= INT64_MAX:
            raise PoolError(f"Problem {p.id}: its place in the order is {order}; nothing was stored.")
        check_problem(p)
    return _batch(
        "problems",
        [
            [p.id for _, p in rows],
            [order for order, _ in rows],
            [clean_text(p.prompt) for _, p in rows],
            [json_value(p.reference, f"problem {p.id}") for _, p in rows],
            [p.task for _, p in rows],
            [json_value(dict(p.metadata), f"problem {p.id}") for _, p in rows],
        ],
    )


def problems_from(table: pa.Table | pa.RecordBatch) -> Iterator[tuple[int, Problem]]:
    for row in table.to_pylist():
        reference, metadata = json.loads(row["reference"]), json.loads(row["metadata"])
        yield row["order"], Problem(row["id"], row["prompt"], reference, row["task"], metadata)


def model_batch(models: Mapping[str, Mapping[str, Any]]) -> pa.RecordBatch:
    info = [json_value(i, f"information on model {m}") for m, i in models.items()]
    return _batch("models", [list(models), info])


def models_from(table: pa.Table | pa.RecordBatch) -> Iterator[tuple[str, dict[str, Any]]]:
    for row in table.to_pylist():
        yield row["id"], json.loads(row["info"])


def verdict_batch(verdicts: Iterable[tuple[str, str, Verdict]]) -> pa.RecordBatch:
    """(verifier, chain key, verdict) as rows; the verdicts went through `admission.admit_verdict`."""
    rows = list(verdicts)
    given = [v for _, _, v in rows]
    return _batch(
        "verdicts",
        [
            [name for name, _, _ in rows],
            [key for _, key, _ in rows],
            [v.score for v in given],
            [None if v.answer is None else clean_text(v.answer) for v in given],
            [v.status for v in given],
            [v.rule for v in given],
            [clean_text(v.reason) for v in given],
            [v.steps for v in given],
            [v.scored_tokens for v in given],
            [v.flops for v in given],
        ],
    )


def verdicts_from(table: pa.Table) -> Iterator[tuple[str, Verdict]]:
    names = ("key", "score", "answer", "status", "rule", "reason", "scored_tokens", "flops")
    plain = (table[name].to_pylist() for name in names)
    for *row, steps in zip(*plain, _tuples(table["steps"]), strict=True):
        key, score, answer, status, rule, reason, scored_tokens, flops = row
        yield key, Verdict(score, answer, status, rule, reason, steps, scored_tokens, flops)


def verifier_batch(oracles: Mapping[str, bool]) -> pa.RecordBatch:
    return _batch("verifiers", [list(oracles), list(oracles.values())])


def charge_batch(charges: Iterable[Charge]) -> pa.RecordBatch:
    rows = list(charges)
    return _batch("charges", [[c.id for c in rows], [json_value(c.to_json(), "a charge") for c in rows]])


def charges_from(table: pa.Table | pa.RecordBatch) -> Iterator[Charge]:
    for row in table["row"].to_pylist():
        yield Charge.from_json(json.loads(row))


# ---- any table


def latest(name: str, table: pa.Table) -> pa.Table:
    """Of rows with one identity the last, the others in their order."""
    columns = [table[c].to_pylist() for c in IDENTITY[name]]
    ids = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
    last = {id: at for at, id in enumerate(ids)}
    if len(last) == table.num_rows:
        return table
    return table.take(pa.array(sorted(last.values()), pa.int64()))


def key_numbers(keys: Sequence[str]) -> np.ndarray:
    """Keys (32 hex digits each) as pairs of 64-bit numbers, (2, keys): the high halves, then the low ones.

    Raises ValueError that names the key when one has not 32 hex digits.
    """
    if not set(map(len, keys)) - {32} and (digits := _digits(keys)) is not None:
        pairs = np.frombuffer(digits, ">u8").reshape(-1, 2)
        return np.ascontiguousarray(pairs.T.astype(np.uint64))
    bad = next(k for k in keys if not is_key(k))
    raise ValueError(f"a chain's key has 32 hex digits (see chain_key), not {bad!r}")


def _digits(keys: Sequence[str]) -> bytes | None:
    """The bytes that the keys are in hex; None when there is anything but the digits 0-9 and a-f in them."""
    joined = "".join(keys)
    try:
        digits = bytes.fromhex(joined)
    except ValueError:
        return None
    return digits if digits.hex() == joined else None  # capitals and spaces are read too


def is_key(text: str) -> bool:
    return len(text) == 32 and _HEX.fullmatch(text) is not None
