"""An OpenAI-compatible server that completes chats for a `Judge`, by the standard library alone.

A server that is busy (429, 500, 502, 503, 529, no connection) is asked again, since that costs nothing. Whatever may
have cost tokens (no answer in time, a broken connection, an answer that cannot be read) is not repeated and counted
at its worst case, so that no more is spent than was foreseen. Where nobody listens after all tries, or the key, the
model or the address is refused, the rest of a call's chats is not sent. Follows no redirection: it would take the key
along.
"""

from __future__ import annotations

import ipaddress
import json
import os
import random
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from verifiers.errors import VerifierError
from verifiers.judge import Judge, Messages, NoReply, Reply, chat_tokens
from verifiers.judging import most_tokens, shown

_BUSY = {409, 425, 429, 500, 502, 503, 529}
_FOR_ALL = {401: "give the key in the environment (OPENAI_API_KEY, or key_env=NAME)", 403: "the key may not do this",
            404: "is model= one that the server offers, and does the address end in /v1?"}  # fmt: skip
"""Refusals that every chat would get, and what mends them."""
_MOST_BYTES = 16 << 20
_LONGEST_WAIT = 60.0


class Server:
    """Completes chats at ``<url>/chat/completions``, several at a time.

    key: "" sends none. max_tokens: of an answer. seconds: for an answer, to its last byte. tries: of one chat.
    limit_field: the field of a request that limits the answer. template_tokens: what the server adds to a chat.
    temperature: below 0 leaves the field out, for models that refuse it.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str = "",
        max_tokens: int = 1_024,
        seconds: float = 120.0,
        parallel: int = 8,
        tries: int = 6,
        backoff: float = 0.5,
        template_tokens: int = 1_024,
        limit_field: str = "max_tokens",
        temperature: float = 0.0,
    ):
        self.url = url.rstrip("/") + "/chat/completions"
        self.model, self._key = model, key
        self.max_tokens, self.seconds, self.parallel = max_tokens, seconds, parallel
        self.tries, self.backoff, self.template_tokens = tries, backoff, template_tokens
        self.limit_field, self.temperature = limit_field, temperature
        direct = [urllib.request.ProxyHandler({})] if is_loopback(url) else []
        self._opener = urllib.request.build_opener(_NoRedirection(), *direct)

    def __call__(self, chats: Sequence[Messages]) -> list[Reply | Exception]:
        final: list[NoReply] = []  # what every further chat of this call would be told, once that is known
        with ThreadPoolExecutor(self.parallel) as threads:
            return list(threads.map(lambda chat: self._one(chat, final), chats))

    def worst_case(self, chats: Sequence[Messages]) -> int:
        """The most tokens that completing ``chats`` can take."""
        return sum(self._most(chat) for chat in chats)

    def _most(self, chat: Messages) -> int:
        return chat_tokens(chat, self.template_tokens) + self.max_tokens

    def _one(self, messages: Messages, final: list[NoReply]) -> Reply | Exception:
        body: dict[str, Any] = {"model": self.model, "messages": messages, self.limit_field: self.max_tokens}
        if self.temperature >= 0:
            body["temperature"] = self.temperature
        headers = {"Content-Type": "application/json", "User-Agent": "reasoning-toolkit"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        refused = False
        for tried in range(1, self.tries + 1):
            if final:
                return NoReply(str(final[0]))
            try:
                raw = self._exchange(request)
                return self._reply(raw, messages)
            except urllib.error.HTTPError as error:
                with error:
                    mend = f" ({_FOR_ALL[error.code]})" if error.code in _FOR_ALL else ""
                    said = NoReply(f"{self.url} answered {error.code}: {self._said(error).rstrip('.')}{mend}")
                    wait, refused = _retry_after(error.headers.get("retry-after")), False
                if error.code not in _BUSY or wait > _LONGEST_WAIT:
                    if error.code in (408, 504, 524):
                        said.tokens = self._most(messages)
                    if error.code in _FOR_ALL:
                        final.append(said)
                    return said
            except (OSError, HTTPException) as error:
                reason = getattr(error, "reason", error)
                said, wait = NoReply(f"{self.url}: {shown(reason, 120) or type(reason).__name__}"), 0.0
                refused = isinstance(reason, ConnectionRefusedError | socket.gaierror)  # nothing was sent
                if not refused:
                    said.tokens = self._most(messages)
                    return said
            if tried < self.tries:
                time.sleep(max(wait, min(30.0, self.backoff * 2 ** (tried - 1)) * random.uniform(0.5, 1)))
        gone = NoReply(f"{said} ({self.tries} tries)")
        if refused:
            final.append(gone)
        return gone

    def _exchange(self, request: urllib.request.Request) -> bytes:
        until = time.monotonic() + self.seconds
        raw = bytearray()
        with self._opener.open(request, timeout=self.seconds) as answer:
            while part := answer.read1(1 << 16):
                raw += part
                if time.monotonic() > until:
                    raise TimeoutError(f"no whole answer within {self.seconds:g} s")
                if len(raw) > _MOST_BYTES:
                    raise OSError(f"an answer longer than {_MOST_BYTES >> 20} MiB")
            if answer.length:  # promised and never sent
                raise OSError("the answer broke off")
        return bytes(raw)

    def _reply(self, raw: bytes, messages: Messages) -> Reply | Exception:
        try:
            data = json.loads(raw)
            text = data["choices"][0]["message"]["content"] or ""
            if not isinstance(text, str):
                raise TypeError("content is not text")
            usage = data.get("usage") or {}
            prompt = _count(usage.get("prompt_tokens"), chat_tokens(messages, self.template_tokens))
            output = _count(usage.get("completion_tokens"), min(self.max_tokens, most_tokens(text) + 1))
            whole = _count(usage.get("total_tokens"), 0)  # some leave reasoning out of the completion only
            return Reply(text, prompt, max(output, whole - prompt))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
            start = shown(raw[:200].decode("utf-8", "replace"), 80)
            said = (
                f"{self.url} gave no answer that can be read ({type(error).__name__}): {self._blot(start)!r}"
            )
            return NoReply(said, self._most(messages))

    def _said(self, error: urllib.error.HTTPError) -> str:
        try:
            body: Any = error.read(4096).decode("utf-8", "replace")
        except (OSError, HTTPException):
            return error.reason
        try:
            data = json.loads(body)
            inner = data.get("error", data)
            body = inner.get("message", inner) if isinstance(inner, dict) else inner
        except (ValueError, AttributeError):
            pass  # plain text says it as well
        return self._blot(shown(body, 120)) or str(error.reason)

    def _blot(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _count(value: Any, otherwise: int) -> int:
    """A count, ``otherwise`` where the server gave none. Raises ValueError for what is none."""
    if value is None:
        return otherwise
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value != int(value):
        raise ValueError("usage is no count")
    return int(value)


def _retry_after(text: str | None) -> float:
    return float(text) if text and re.fullmatch(r"\d{1,6}(\.\d+)?", text) else 0.0


def is_loopback(url: str) -> bool:
    """Whether the address is one of this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def open_judge(
    url: str,
    model: str = "",
    key_env: str = "",
    reference: bool = False,
    mode: str = "pointwise",
    opponents: int = 2,
    flops_per_token: float = 0.0,
    max_tokens: int = 1_024,
    seconds: float = 120.0,
    parallel: int = 8,
    tries: int = 6,
    template_tokens: int = 1_024,
    limit_field: str = "max_tokens",
    temperature: float = 0.0,
) -> Judge:
    """``judge:http://localhost:8000/v1:model=NAME``; the key is in the environment variable ``key_env``, or in
    OPENAI_API_KEY, which is not sent unencrypted to another machine unless it is named. The rest: see `Judge` and
    `Server`. Raises VerifierError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise VerifierError(
            f"judge needs an address: judge:http://localhost:8000/v1:model=NAME, not {shown(url)!r}."
        )
    if parts.username or parts.password or parts.query:
        raise VerifierError(
            "judge: a key belongs into an environment variable (key_env=NAME), not the address."
        )
    if not model:
        raise VerifierError("judge needs the model's name: judge:<url>:model=NAME.")
    if min(max_tokens, parallel, tries) < 1 or seconds <= 0 or template_tokens < 0:
        raise VerifierError("judge: max_tokens, parallel and tries must be 1 or above, seconds above 0.")
    if limit_field not in ("max_tokens", "max_completion_tokens"):
        raise VerifierError("judge: limit_field is max_tokens or max_completion_tokens.")
    server = Server(
        url,
        model,
        key=_key(key_env, url),
        max_tokens=max_tokens,
        seconds=seconds,
        parallel=parallel,
        tries=tries,
        template_tokens=template_tokens,
        limit_field=limit_field,
        temperature=temperature,
    )
    options = f"model={model}" + ",reference=true" * reference + f",mode={mode}" * (mode != "pointwise")
    options += f",opponents={opponents}" * (opponents != 2)
    options += f",flops_per_token={flops_per_token:g}" * bool(flops_per_token)
    options += f",max_tokens={max_tokens}" * (max_tokens != 1_024)
    options += f",temperature={temperature:g}" * (temperature != 0)
    return Judge(
        server,
        reference=reference,
        mode=mode,
        opponents=opponents,
        flops_per_token=flops_per_token,
        max_tokens=max_tokens,
        template_tokens=template_tokens,
        name=f"judge:{url}:{options}",
    )


def _key(key_env: str, url: str) -> str:
    if not key_env:
        key = os.environ.get("OPENAI_API_KEY", "")
        return key if url.startswith("https://") or is_loopback(url) else ""
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", key_env):
        raise VerifierError(
            "judge: key_env takes the name of an environment variable in capitals, never a key."
        )
    if not os.environ.get(key_env):
        raise VerifierError(f"judge: the environment variable {key_env} (key_env) is not set.")
    return os.environ[key_env]
