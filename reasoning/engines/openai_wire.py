"""What is said to an OpenAI-compatible server and what its answers mean: bodies out, JSON read with suspicion.

Pure functions. Knows the differences between servers (`DIALECTS`); does no I/O and knows nothing of chains, budgets
or retries.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from reasoning.errors import UserError
from reasoning.records import Sampling
from verifiers.judging import shown

FORMS = ("chat", "completion")


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a kind of server differs.

    owner: how it signs its models ("owned_by" in /models). plain: fields that switch off what the server (or the
    model's generation_config.json) would otherwise do to the distribution. no_top_k: the value that switches top-k
    off; None where the field is unknown. limit: the field that limits a chat's new tokens. defaults: whether
    temperature 1 and top-p 1 are the server's defaults and better left out (some models refuse the fields).
    logprobs: asked for without being told to; the value goes with completions. tokenizes: it counts tokens.
    takes_ids: a prompt may be token ids, an answer that was begun is continued, and chat templates have variables.
    """

    owner: str = ""
    plain: Mapping[str, Any] = field(default_factory=dict)
    no_top_k: int | None = None
    limit: str = "max_tokens"
    defaults: bool = False
    logprobs: bool = False
    tokenizes: bool = False
    takes_ids: bool = False


_NO_PENALTY = {"presence_penalty": 0.0, "frequency_penalty": 0.0, "min_p": 0.0}
DIALECTS = {
    "openai": Dialect("openai", limit="max_completion_tokens", defaults=True),
    "vllm": Dialect(
        "vllm",
        _NO_PENALTY
        | {"repetition_penalty": 1.0, "include_stop_str_in_output": True, "return_token_ids": True},
        no_top_k=-1,
        logprobs=True,
        tokenizes=True,
        takes_ids=True,
    ),
    "sglang": Dialect(
        "sglang",
        _NO_PENALTY | {"repetition_penalty": 1.0, "no_stop_trim": True},
        no_top_k=-1,
        logprobs=True,
        takes_ids=True,
    ),
    "llama.cpp": Dialect(
        "llamacpp",
        _NO_PENALTY
        | {"typical_p": 1.0, "repeat_penalty": 1.0, "dry_multiplier": 0.0, "xtc_probability": 0.0},
        no_top_k=0,
        logprobs=True,
        tokenizes=True,
        takes_ids=True,
    ),
    "other": Dialect(),
}
OWN_FIELDS = {
    "model",
    "messages",
    "prompt",
    "n",
    "seed",
    "temperature",
    "top_p",
    "top_k",
    "stop",
    "stream",
    "echo",
}
OWN_FIELDS |= {"max_tokens", "max_completion_tokens", "logprobs", "top_logprobs", "best_of"}
"""Fields that the engine sets itself; a file of further fields may not."""


def request_body(
    dialect: Dialect,
    form: str,
    prompt: Mapping[str, Any],
    sampling: Sampling,
    limit: int,
    *,
    n: int = 1,
    seed: int = 0,
    logprobs: bool = False,
    limit_field: str = "",
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The fields of a request, except the model's name.

    prompt: as from `chat_fields`, or {"prompt": text or token ids}. limit: new tokens at most. seed: any integer;
    the lowest 31 bits are sent. Raises UserError for top-k where the server has no such field.
    """
    body = dict(prompt)
    body[limit_field or (dialect.limit if form == "chat" else "max_tokens")] = limit
    top_p = 1.0 if sampling.greedy else sampling.top_p
    top_k = 0 if sampling.greedy else sampling.top_k
    if sampling.temperature != 1 or not dialect.defaults:
        body["temperature"] = sampling.temperature
    if top_p != 1 or not dialect.defaults:
        body["top_p"] = top_p
    if top_k and dialect.defaults:
        raise UserError("This server has no top-k: leave --top-k at 0.")
    if top_k:
        body["top_k"] = top_k
    elif dialect.no_top_k is not None:
        body["top_k"] = dialect.no_top_k
    body |= dialect.plain
    if n > 1:
        body["n"] = n
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if logprobs:
        body["logprobs"] = True if form == "chat" else int(dialect.owner != "vllm")
        if form == "chat" and dialect.owner == "llamacpp":
            body["top_logprobs"] = 1  # it lists 20 alternatives of every token otherwise
    return body | {"seed": seed & 0x7FFFFFFF} | dict(extra or {})


def chat_fields(
    dialect: Dialect, messages: list[dict[str, str]], options: Mapping[str, Any]
) -> dict[str, Any]:
    """The fields that show a conversation. A last message of the assistant is to be continued; options: variables
    for the chat template. Raises UserError for a server that is not known to take them."""
    fields: dict[str, Any] = {"messages": messages}
    if options:
        if not dialect.takes_ids:
            raise UserError(
                "This server takes no variables for the chat template (chat_options of the problem)."
            )
        fields["chat_template_kwargs"] = dict(options)
    if messages[-1]["role"] == "assistant":
        if not dialect.takes_ids:
            raise UserError("This server does not continue an answer that the prompt begins (prefill).")
        if dialect.owner != "llamacpp":  # which continues such a message without being told
            fields |= {"continue_final_message": True, "add_generation_prompt": False}
    return fields


class Nonsense(Exception):
    """An answer that cannot be used. ``usage``: what the server says it cost, where it says so."""

    def __init__(self, said: str, usage: Usage | None = None):
        super().__init__(said)
        self.usage = usage


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens by the server's count: cached ones are among the prompt's, reasoning ones in the output. None where it
    did not say."""

    prompt_tokens: int | None = None
    cached_tokens: int = 0
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer. finish: "stop", "length", or "" where the server does not say. parsed: the server had taken
    reasoning and content apart. token_ids, logprobs: empty where it gave none; of equal length where it gave both.
    """

    text: str
    finish: str
    parsed: bool = False
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    choices: tuple[Choice, ...]
    usage: Usage
    prompt_ids: tuple[int, ...] = ()


def read_answer(raw: bytes, form: str) -> Answer:
    """The answer in a response's body. Raises Nonsense, which says what is wrong with it in one line."""
    data = read_json(raw)
    usage = _usage(data.get("usage"))
    choices = data.get("choices")
    if not isinstance(choices, list) or not choices:
        error = data.get("error")
        if error:
            raise Nonsense(f"it answered with the error {error_text(data)!r}", usage)
        raise Nonsense(f"its answer has no choices (choices={shown(choices)})", usage)
    first = choices[0] if isinstance(choices[0], dict) else {}
    ids = data.get("prompt_token_ids") or first.get("prompt_token_ids")
    try:
        return Answer(tuple(_choice(choice, form) for choice in choices), usage, _ids(ids))
    except Nonsense as error:
        raise Nonsense(str(error), usage) from None


def read_json(raw: bytes) -> dict[str, Any]:
    """The JSON object in ``raw``. Raises Nonsense."""
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):
        start = shown(raw[:400].decode("utf-8", "replace"))
        kind = "HTML" if start.lstrip().lower().startswith(("<!doctype", "<html")) else "something"
        raise Nonsense(f"it answered with {kind} that is not JSON ({start!r})") from None
    if not isinstance(data, dict):
        raise Nonsense(f"its answer is a {type(data).__name__}, not a JSON object")
    return data


def error_text(body: Any) -> str:
    """What a server says went wrong, in one line: the forms in use are {"error": {"message": ..}}, {"error": ..},
    {"message": ..}, {"detail": ..}, plain text, and a page of HTML (of which the title is told)."""
    while isinstance(body, Mapping):
        found = next((body[k] for k in ("error", "message", "detail") if body.get(k)), None)
        if found is None:
            break
        body = found
    if isinstance(body, str) and re.match(r"\s*<(!doctype|html)", body, re.IGNORECASE):
        title = re.search(r"<title>([^<]{0,200})</title>", body, re.IGNORECASE)
        return f"an HTML page ({shown(title[1], 100)})" if title else "an HTML page"
    return shown(body, 400)


def _choice(choice: Any, form: str) -> Choice:
    if not isinstance(choice, dict):
        raise Nonsense(f"a choice is a {type(choice).__name__}, not an object")
    if form == "chat":
        message = choice.get("message")
        if not isinstance(message, dict):
            raise Nonsense("a choice has no message")
        text, parsed = _message_text(message, cut=choice.get("finish_reason") == "length")
    else:
        text, parsed = choice.get("text"), False
        if not isinstance(text, str):
            raise Nonsense("a choice has no text")
    ids, logprobs = _ids(choice.get("token_ids")), ()
    told = choice.get("logprobs")
    if isinstance(told, dict):
        named, logprobs = _logprobs(told)
        ids = ids or named
    if ids and len(ids) != len(logprobs):
        logprobs = ()  # counted over something else than the tokens: of no use
    return Choice(_whole(text), _finish(choice.get("finish_reason")), parsed, ids, logprobs)


def _message_text(message: Mapping[str, Any], cut: bool) -> tuple[str, bool]:
    """A message as one text, and whether it had to be put together: what a server's reasoning parser took apart is
    ``<think>`` + reasoning + ``</think>`` + content; a chain that was cut while it was thinking stays open."""
    content, thoughts = message.get("content"), ""
    if isinstance(content, list):  # parts, as {"type": "text", "text": ..} or {"type": "thinking", ..}
        parts = [part for part in content if isinstance(part, dict)]
        thoughts = "".join(_part_text(p.get("thinking")) for p in parts if p.get("type") == "thinking")
        content = "".join(_part_text(p.get("text")) for p in parts if p.get("type") == "text")
    if content is None:
        content = message.get("refusal") or ""
    if not isinstance(content, str):
        raise Nonsense(f"a message's content is a {type(content).__name__}, not text")
    for name in ("reasoning_content", "reasoning"):
        if isinstance(message.get(name), str) and message[name]:
            thoughts = message[name]
            break
    if not thoughts:
        return content, False
    return (f"<think>{thoughts}" if cut and not content else f"<think>{thoughts}</think>{content}"), True


def _part_text(part: Any) -> str:
    if isinstance(part, list):
        return "".join(_part_text(p.get("text")) for p in part if isinstance(p, dict))
    return part if isinstance(part, str) else ""


_STOPS = {"stop", "eos", "eos_token", "end_turn", "stop_sequence", "tool_calls", "function_call"}
_LENGTHS = {"length", "max_tokens", "model_length"}


def _finish(reason: Any) -> str:
    """ "stop", "length", or "" where the server does not say. What a content filter cut is as finished as it will
    ever be. Raises Nonsense for any other reason (an aborted request, an error)."""
    word = reason.casefold() if isinstance(reason, str) else reason
    if word in _STOPS or word == "content_filter":
        return "stop"
    if word in _LENGTHS:
        return "length"
    if not word:
        return ""
    raise Nonsense(f"it ended an answer with finish_reason={shown(reason)!r}")


def _logprobs(told: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """(token ids where they are named, log-probabilities) of one choice; empty where they are not whole."""
    content = told.get("content")
    if isinstance(content, list):
        entries = [e if isinstance(e, dict) else {} for e in content]
        names: Any = [e.get("token") for e in entries]
        values: Any = [e.get("logprob") for e in entries]
        ids = _ids([e.get("id") for e in entries])
    else:
        names, values, ids = told.get("tokens"), told.get("token_logprobs"), ()
    if not isinstance(values, list) or not all(_is_number(v) and v <= 1e-3 for v in values):
        return (), ()
    if not ids and isinstance(names, list) and all(isinstance(t, str) for t in names):
        numbers = [t.removeprefix("token_id:") for t in names if t.startswith("token_id:")]
        ids = _ids([int(t) for t in numbers if t.isdecimal()])
    return (ids if len(ids) == len(values) else ()), tuple(min(0.0, float(v)) for v in values)


def _ids(value: Any) -> tuple[int, ...]:
    """Token ids, or () for anything else."""
    if not isinstance(value, list) or not all(type(v) is int and 0 <= v < 2**31 for v in value):
        return ()
    return tuple(value)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _usage(told: Any) -> Usage:
    """Raises Nonsense for counts that are none: a purse cannot be kept by them."""
    if not isinstance(told, dict):
        return Usage()
    counts: dict[str, int] = {}
    for name in ("prompt_tokens", "completion_tokens", "total_tokens", "prompt_cache_hit_tokens"):
        value = told.get(name)
        if value is None:
            continue
        if not _is_number(value) or value < 0 or value != int(value) or value > 2**53:
            raise Nonsense(f"its usage is no count: {name}={shown(value)}")
        counts[name] = int(value)
    prompt, output = counts.get("prompt_tokens"), counts.get("completion_tokens")
    if (
        prompt is not None and output is not None
    ):  # some leave reasoning out of the completion, not of the total
        output = max(output, counts.get("total_tokens", 0) - prompt)
    details = told.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    hit = int(cached) if _is_number(cached) and cached >= 0 else counts.get("prompt_cache_hit_tokens", 0)
    return Usage(prompt, min(hit, prompt or 0), output)


def share(total: int, parts: Sequence[int]) -> list[int]:
    """``total`` divided in proportion to ``parts``, in whole numbers that add up to it."""
    whole = sum(parts)
    weights = list(parts) if whole else [1] * len(parts)
    whole = whole or len(parts)
    out, seen, given = [], 0, 0
    for weight in weights:
        seen += weight
        upto = total * seen // whole
        out.append(upto - given)
        given = upto
    return out


def _whole(text: str) -> str:
    """``text`` without halves of surrogate pairs, which no file can hold."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
