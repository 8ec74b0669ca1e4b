"""What the engine 'openai' is opened with, and what to do when a server refuses: options, keys, addresses, models.

A key comes from the environment alone; nothing here repeats one.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from reasoning.engines.openai_server import Failure, Server
from reasoning.engines.openai_wire import DIALECTS, FORMS, OWN_FIELDS, Dialect, Nonsense, read_json
from reasoning.errors import EngineError, UserError, unknown
from reasoning.flops import ModelShape
from verifiers.judging import shown

_CHOICES = {
    "form": FORMS,
    "server": ("auto", *DIALECTS),
    "logprobs": ("auto", "keep", "no"),
    "limit_field": ("", "max_tokens", "max_completion_tokens"),
}
_LEAST = {"parallel": 1, "chains_per_request": 1, "tries": 1, "timeout": 0.01, "patience": 0.01}
_SECRET = re.compile(r"key|secret|password|authorization|bearer", re.IGNORECASE)


def check_options(**options: Any) -> None:
    """Raises UserError for a value that is none of the known ones, or too low."""
    for name, value in options.items():
        if name in _CHOICES and value not in _CHOICES[name]:
            raise unknown(name, value, [c for c in _CHOICES[name] if c])
        if name not in _CHOICES and not value >= _LEAST.get(name, 0):
            raise UserError(f"{name}={value} is too low: it must be at least {_LEAST.get(name, 0)}.")


def is_loopback(url: str) -> bool:
    """Whether the address is one of this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_address(base_url: str) -> str:
    """``base_url`` without a slash at its end. Raises UserError for what is no address, or holds a password or key
    (without repeating it)."""
    try:
        parts = urlsplit(base_url)
        port_and_host = parts.port, parts.hostname
    except ValueError:
        port_and_host = None, None
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not port_and_host[1]:
        raise UserError(f"base_url={shown(base_url)!r} is no address: write base_url=http://HOST:PORT/v1.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError(
            "base_url holds more than http://HOST:PORT/PATH. A key belongs into an environment variable, whose "
            "name is given by key_env=NAME: what is in a spec is stored with the run."
        )
    return base_url.rstrip("/")


def key_from(key_env: str, base_url: str) -> str:
    """The key in the environment variable ``key_env``; "" where none is named and OPENAI_API_KEY is not set, or
    would go unencrypted to another machine.

    Raises UserError for a variable that is not set, or where OpenAI's own server would get no key.
    """
    if key_env:
        if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", key_env):
            raise UserError(
                "key_env takes the name of an environment variable in capitals, such as OPENAI_API_KEY, never a key."
            )
        if not os.environ.get(key_env):
            raise UserError(f"The environment variable {key_env} (key_env) is not set:  export {key_env}=...")
        return os.environ[key_env]
    key = os.environ.get("OPENAI_API_KEY", "")
    if not key and urlsplit(base_url).hostname == "api.openai.com":
        raise UserError(
            "OPENAI_API_KEY is not set:  export OPENAI_API_KEY=...  (or base_url=http://HOST:PORT/v1 for a server "
            "of your own)"
        )
    return key if base_url.startswith("https://") or is_loopback(base_url) else ""


def read_extra(path: str) -> dict[str, Any]:
    """The further fields of each request in a JSON file. Raises UserError for what is no JSON object, for a field
    that the engine sets itself, and for anything that looks like a key."""
    try:
        fields = read_json(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"extra={path}: cannot be read ({error.strerror}).") from None
    except Nonsense:
        raise UserError(f'extra={path}: not a JSON object such as {{"reasoning_effort": "low"}}.') from None
    for name in fields:
        if name in OWN_FIELDS:
            raise UserError(f"extra={path}: {name!r} is set by the engine; leave it out.")
        if _SECRET.search(name):
            raise UserError(f"extra={path}: {shown(name)!r} looks like a key; use key_env=NAME for keys.")
    return fields


def read_shape(folder: str) -> ModelShape:
    """The shape in ``folder/config.json``. Raises UserError."""
    path = Path(folder) / "config.json"
    try:
        return ModelShape.from_config(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"shape={folder}: {path} cannot be read ({type(error).__name__}).") from None


def models_at(server: Server) -> dict[str, dict[str, Any]]:
    """What the server offers, by name; empty where it does not list its models. Raises UserError, EngineError."""
    try:
        listing = server.run(server.get("/models"))
    except Failure as failure:
        if failure.status in (404, 405, 501):
            _check_version(server)
            return {}
        kind = UserError if 400 <= failure.status < 500 and not failure.again else EngineError
        raise kind(f"{server.base_url}: {failure}. {advice(failure)}") from None
    rows = listing.get("data") if isinstance(listing, Mapping) else None
    if not isinstance(listing, Mapping):
        raise UserError(
            f"{server.base_url}/models is not JSON but {shown(listing)!r}: base_url is not that of an "
            "OpenAI-compatible server. It mostly ends in /v1."
        )
    rows = rows if isinstance(rows, list) else []
    return {row["id"]: row for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)}


def _check_version(server: Server) -> None:
    """Raises UserError where the models are listed one step further down: the /v1 was left out."""
    if server.root != server.base_url:
        return
    try:
        listing = server.run(server.get(f"{server.root}/v1/models"))
    except Failure:
        return
    if isinstance(listing, Mapping) and "data" in listing:
        raise UserError(f"base_url={server.base_url} lacks the version: write base_url={server.base_url}/v1.")


def detect(base_url: str, name: str, listed: Mapping[str, Mapping[str, Any]]) -> Dialect:
    """The kind of server, by its address or by how it signs its models."""
    if urlsplit(base_url).hostname == "api.openai.com":
        return DIALECTS["openai"]
    signed = listed.get(name) or next(iter(listed.values()), {})
    known = {dialect.owner: dialect for kind, dialect in DIALECTS.items() if kind not in ("openai", "other")}
    return known.get(str(signed.get("owned_by", "")), DIALECTS["other"])


_FIELDS = {
    "max_completion_tokens": "limit_field=max_completion_tokens",
    "max_tokens": "limit_field=max_tokens",
    "logprobs": "logprobs=no",
    "temperature": "--temperature 1",
    "top_p": "--top-p 1",
    "stop": "no --stop",
}


def advice(failure: Failure, name: str = "", offered: Sequence[str] = ()) -> str:
    """What mends a failure, in one line."""
    said, status = str(failure), failure.status
    low = said.lower()
    if status in (401, 403):
        return "Give the key in the environment: OPENAI_API_KEY, or another variable by key_env=NAME."
    if status == 402 or "quota" in low:
        return "The account has no means left; the same command goes on once it has."
    if status == 404:
        near = difflib.get_close_matches(name, offered, n=1, cutoff=0.3)
        known = f" It offers: {', '.join(offered[:8])}." if offered else " base_url mostly ends in /v1."
        return f"The model or the address is not there.{known}" + (
            f" Did you mean {near[0]!r}?" if near else ""
        )
    if status in (400, 413, 422):
        if re.search(r"context|too (?:long|large)|max_model_len|maximum.*tokens|exceed", low):
            return "Prompt and --max-new-tokens do not fit the context: lower the limit, or leave the problem out."
        found = next((mend for field, mend in _FIELDS.items() if field in low), None)
        return f"Try {found}." if found else "The server does not take this request; a setting has to change."
    if status == 429:
        return "Lower parallel=, or come back later: the same command goes on from what is stored."
    if "nothing answers" in low:
        return "Start the server (such as  vllm serve MODEL --port 8000), or correct base_url."
    if "no whole answer" in low:
        return "Raise timeout=, lower --max-new-tokens or parallel=, or look at the server's log."
    if "not json" in low or "no choices" in low:
        return "Is base_url that of an OpenAI-compatible server? It mostly ends in /v1."
    if "an html page" in low:
        return (
            "Is base_url that of an OpenAI-compatible server (it mostly ends in /v1)? Else look at its log."
        )
    return "Look at the server's log; the same command goes on from what is stored."
