"""One OpenAI-compatible server on the wire: requests in flight, waiting and trying again, and what went wrong.

The `openai` client sends; the loop of tries is here, since it must know which failures cost tokens, hold back every
request when the server says so, and end with one clear line. Knows nothing of chains or of what bodies mean.
"""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import math
import random
import re
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

from reasoning.engines.openai_wire import Nonsense, Usage, error_text
from reasoning.errors import MissingExtra
from verifiers.judging import shown

T = TypeVar("T")

BUSY = frozenset({409, 425, 429, 500, 502, 503, 520, 521, 522, 523, 529})
"""The server says that it gives nothing now: nothing was computed (nor billed), another try may help."""
LOST = frozenset({408, 504, 524})
"""Somebody on the way gave up waiting: the tokens may well have been computed."""
_LONGEST_BACKOFF = 30.0


class Failure(Exception):
    """A request without a usable answer.

    again: another try may help and cost nothing. lost: tokens may have been computed for nothing; ``usage`` then is
    the server's count where it gave one. wait: seconds that the server asks for. status: of the response, 0
    without one.
    """

    def __init__(
        self,
        said: str,
        *,
        again: bool = False,
        lost: bool = False,
        usage: Usage | None = None,
        wait: float = 0.0,
        status: int = 0,
    ):
        super().__init__(said)
        self.again, self.lost, self.usage, self.wait, self.status = again, lost, usage, wait, status


@dataclass(slots=True)
class Flight:
    """Where a request is. since: loop time when the present try was sent, None while it waits. seconds: that the
    answer took. stop: asked before another try; True makes the last failure final."""

    stop: Callable[[], bool]
    tries: int = 0
    since: float | None = None
    seconds: float = 0.0


class Server:
    """A connection to ``base_url``, on an event loop in a thread of its own.

    key: "" sends none. timeout: seconds for one request from its first to its last byte. tries: of one request.
    backoff: seconds before the second try, doubled (up to 30 s) before each further one, less a random part.
    patience: the longest wait, in seconds, that a server may ask for. direct: past the proxies of the environment.
    Raises MissingExtra without the client.
    """

    def __init__(
        self,
        base_url: str,
        key: str,
        *,
        timeout: float,
        tries: int,
        backoff: float,
        patience: float,
        direct: bool = False,
    ):
        try:
            self._openai = import_module("openai")
        except ModuleNotFoundError as error:
            if error.name != "openai":
                raise
            raise MissingExtra("The openai client", "openai", "the engine 'openai'") from None
        self.base_url, self._key = base_url, key
        self.timeout, self.tries, self.backoff, self.patience = timeout, tries, backoff, patience
        options: dict[str, Any] = {}
        if direct:
            options["http_client"] = self._openai.DefaultAsyncHttpxClient(trust_env=False, timeout=timeout)
        self._client = self._openai.AsyncOpenAI(
            api_key=key or "none", base_url=base_url, max_retries=0, timeout=timeout, **options
        )
        self._not_before = 0.0
        self._left: dict[str, list[float]] = {}  # kind: [what is left, limit, time of the reset]
        self.answers = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="openai-engine", daemon=True)
        self._thread.start()

    @property
    def root(self) -> str:
        """The address without the version: where vLLM and llama.cpp keep what OpenAI does not have."""
        return re.sub(r"/v\d+/?$", "", self.base_url.rstrip("/"))

    def start(self, work: Coroutine[Any, Any, T]) -> Any:
        """Begin ``work`` on the loop; returns a concurrent future."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``; an interrupt cancels it."""
        future = self.start(work)
        try:
            return future.result()
        finally:
            future.cancel()

    def close(self) -> None:
        if self._loop.is_closed():
            return
        self.run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def time(self) -> float:
        """Seconds by the clock of `Flight.since`."""
        return self._loop.time()

    async def get(self, path: str) -> Any:
        """JSON (or text, where it is none) of a small answer; waits while the server says it is busy (a model that
        is being loaded). Raises Failure."""
        for tried in range(1, self.tries + 1):
            try:
                return await self._guard(self._client.get(path, cast_to=object))
            except Failure as failure:
                if failure.status not in BUSY or not failure.again or tried == self.tries:
                    raise
                if failure.wait > self.patience:
                    raise
                await self.rest(tried, failure.wait)
        raise AssertionError("tries is 1 or above")

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """As `get`, but tried once; ``path`` may be a whole address."""
        return await self._guard(self._client.post(path, cast_to=object, body=dict(body)))

    async def rest(self, tries: int, at_least: float = 0.0) -> None:
        """Wait before another try, after ``tries`` (0: not at all)."""
        if tries:
            backoff = min(_LONGEST_BACKOFF, self.backoff * 2 ** (tries - 1)) * random.uniform(0.5, 1)
            await asyncio.sleep(max(backoff, at_least))

    async def ask(
        self,
        form: str,
        model: str,
        body: Mapping[str, Any],
        read: Callable[[bytes], T],
        *,
        flight: Flight,
        most_tokens: int,
        most_bytes: int,
    ) -> T:
        """What ``read`` makes of the answer to one request, tried again as long as that costs nothing and may help.

        most_tokens: that it may use, for the server's rate limit. most_bytes: of an answer. Raises the last Failure.
        """
        while True:
            await self._turn(most_tokens)
            flight.tries += 1
            flight.since = self._loop.time()
            try:
                answer = read(await self._guard(self._exchange(form, model, body, most_bytes)))
                self.answers += 1
                flight.seconds = self._loop.time() - flight.since
                return answer
            except Nonsense as error:
                failure = Failure(str(error), lost=True, usage=error.usage)
            except Failure as error:
                failure = error
            flight.since = None
            if failure.wait > self.patience:
                said = f"{failure}; it asks to wait {failure.wait:.0f} s: run the same command again then"
                raise Failure(said, status=failure.status)
            if failure.lost or not failure.again or flight.tries >= self.tries or flight.stop():
                raise failure
            if failure.wait:
                self._not_before = max(self._not_before, self._loop.time() + failure.wait)
            await self.rest(flight.tries, failure.wait)

    async def _exchange(self, form: str, model: str, body: Mapping[str, Any], most_bytes: int) -> bytes:
        api = self._client.chat.completions if form == "chat" else self._client.completions
        prompt = "messages" if form == "chat" else "prompt"
        rest = {name: value for name, value in body.items() if name != prompt}
        request: dict[str, Any] = {"model": model, prompt: body[prompt], "extra_body": rest}
        async with api.with_streaming_response.create(**request) as response:
            self._heed(response.headers)
            raw = bytearray()
            async for part in response.iter_bytes():
                raw += part
                if len(raw) > most_bytes:
                    said = f"its answer is longer than {most_bytes >> 20} MiB"
                    raise Failure(said, lost=True)
            return bytes(raw)

    async def _guard(self, exchange: Coroutine[Any, Any, T]) -> T:
        """The result of an exchange; whatever goes wrong with it as a Failure, the key blotted out."""
        openai = self._openai
        try:
            async with asyncio.timeout(self.timeout):
                return await exchange
        except (TimeoutError, openai.APITimeoutError) as error:
            if _causes(error) & {"ConnectTimeout"}:
                raise Failure("nothing answers there", again=True) from None
            raise Failure(f"no whole answer within {self.timeout:g} s", lost=True) from None
        except openai.APIStatusError as error:
            self._heed(error.response.headers)
            raise self._refusal(error) from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            why = (
                shown(cause, 160) or type(cause).__name__
            )  # httpx says nothing of a connection that was reset
            if _causes(error) & {"ConnectError"}:
                raise Failure(f"nothing answers there ({why})", again=True) from None
            raise Failure(f"the connection broke off ({why})", lost=True) from None
        except Exception as error:
            # While a body is read, errors are those of the client's own transport, whose package changed its name.
            if not _causes(error) & {"HTTPError", "StreamError"}:
                raise
            said = f"the connection broke off ({self.blot(error, 160) or type(error).__name__})"
            raise Failure(said, lost=True) from None

    def _refusal(self, error: Any) -> Failure:
        status, headers = error.status_code, error.response.headers
        text = self.blot(error_text(error.body if error.body is not None else error.response.text))
        again = status in BUSY and headers.get("x-should-retry") != "false"
        body = error.body if isinstance(error.body, dict) else {}
        if "insufficient_quota" in (body.get("code"), body.get("type")):
            again = False
        wait = retry_after(headers) if again else 0.0
        return Failure(
            f"it answered {status}: {text}", again=again, lost=status in LOST, wait=wait, status=status
        )

    def blot(self, said: object, length: int = 400) -> str:
        """``said`` on one line, without the key."""
        text = str(said)
        return shown(text.replace(self._key, "***") if self._key else text, length)

    def _heed(self, headers: Mapping[str, str]) -> None:
        """Remember what the rate limit's headers say is left."""
        for kind in ("requests", "tokens"):
            left = as_number(headers.get(f"x-ratelimit-remaining-{kind}"))
            reset = seconds_until(headers.get(f"x-ratelimit-reset-{kind}"))
            if left is not None and reset is not None and reset <= self.patience:
                limit = as_number(headers.get(f"x-ratelimit-limit-{kind}"))
                self._left[kind] = [left, math.inf if limit is None else limit, self._loop.time() + reset]

    async def _turn(self, tokens: int) -> None:
        """Wait until the server takes another request of so many tokens, by what it last said."""
        need = {"requests": 1, "tokens": tokens}
        while True:
            until = self._not_before
            for kind, (left, limit, reset) in self._left.items():
                if left < min(need[kind], limit):
                    until = max(until, reset)
            if (wait := until - self._loop.time()) <= 0:
                break
            await asyncio.sleep(wait)
        for kind, known in list(self._left.items()):
            known[0] -= need[kind]
            if known[2] <= self._loop.time():
                del self._left[kind]


def _causes(error: BaseException) -> set[str]:
    """Names of the classes of an error and of what caused it."""
    names: set[str] = set()
    seen: BaseException | None = error
    while seen is not None:
        names |= {kind.__name__ for kind in type(seen).__mro__}
        seen = seen.__cause__ or seen.__context__
    return names


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the headers retry-after-ms or retry-after (seconds or a date) ask for; 0 without them."""
    ms = as_number(headers.get("retry-after-ms"))
    if ms is not None:
        return max(0.0, ms / 1000)
    text = headers.get("retry-after")
    seconds = as_number(text)
    if seconds is None and text:
        try:
            date = email.utils.parsedate_to_datetime(text)
        except ValueError:
            return 0.0
        seconds = (date - datetime.datetime.now(date.tzinfo)).total_seconds()
    return max(0.0, seconds or 0.0)


_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds_until(text: str | None) -> float | None:
    """A reset time as servers write it: "1s", "6m0s", "20ms", "12.5" (seconds), a time since 1970, or an ISO date;
    None where it is none of these.

    >>> seconds_until("1m2.5s"), seconds_until("20ms"), seconds_until("soon")
    (62.5, 0.02, None)
    """
    number = as_number(text)
    if number is not None:
        return max(0.0, number - time.time() if number > 1e9 else number)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text or "")
    if parts and "".join(a + b for a, b in parts) == text:
        return sum(float(amount) * _UNITS[unit] for amount, unit in parts)
    try:
        date = datetime.datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return max(0.0, (date - datetime.datetime.now(date.tzinfo)).total_seconds())


def as_number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
