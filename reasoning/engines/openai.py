"""Chains from any OpenAI-compatible server (vLLM, SGLang, llama.cpp, a commercial API), by the `openai` client.

openai:MODEL:base_url=http://127.0.0.1:8000/v1,parallel=64

- One request for each chain, with a seed of its own (the lowest 31 bits of the chain's). A server need not honour a
  seed, and what a batch does to its arithmetic is its affair: "same key, same chain" holds by the pool, which never
  draws a key twice, not by the server.
- Tokens are charged as the server counts them (``usage``). Where it does not: token ids or log-probabilities are
  counted, else the tokenizer is asked, else bytes are (never fewer than tokens), at most max_new_tokens.
- A chain's text is the message's content. Reasoning that the server took apart is put before it, as
  ``<think>`` + reasoning + ``</think>`` + content. A stop string is part of the text only where the server can leave
  it in (vLLM, SGLang).
- Refusals that cost nothing (429, 500, 502, 503, 529, no connection) are repeated here. A try whose tokens may have
  been computed (no answer in time, a broken connection, an unreadable answer) is yielded as a "failed" chain at the
  cost that the server tells, else at its worst case, and the driver asks again; the third such try of a chain is an
  error. A request that is cancelled is closed and counted, since no server tells, as its prompt and as many tokens
  as the fastest chain so far would have had by then.

Needs the extra "openai", imported only when an engine is opened.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from reasoning.engines.openai_chains import Chains, Job
from reasoning.engines.openai_server import Failure, Flight, Server
from reasoning.engines.openai_settings import (
    advice,
    check_address,
    check_options,
    detect,
    is_loopback,
    key_from,
    models_at,
    read_extra,
    read_shape,
)
from reasoning.engines.openai_tokens import PromptTokens
from reasoning.engines.openai_wire import (
    DIALECTS,
    Answer,
    Dialect,
    Nonsense,
    chat_fields,
    read_answer,
    request_body,
)
from reasoning.errors import EngineError, ReasoningError, UserError, unknown
from reasoning.flops import ModelShape
from reasoning.records import Chain, Cost, Draw, chain_key, chain_seed, digest
from reasoning.tasks.conversation import chat_options_of, messages_of

LOST_TRIES = 3
"""The try of a chain after which lost ones are an error."""
_BYTES_PER_TOKEN = 4096


@dataclass(slots=True)
class _Call:
    """One `generate`: what is to do, under way, and went wrong. stop: begin nothing more, and repeat nothing; enough:
    begin nothing more, what is under way is to be finished."""

    jobs: deque[Job] = field(default_factory=deque)
    out: queue.SimpleQueue[Chain | None] = field(default_factory=queue.SimpleQueue)
    begun: threading.Event = field(default_factory=threading.Event)
    running: set[Job] = field(default_factory=set)
    left: list[Chain] = field(default_factory=list)
    errors: list[ReasoningError] = field(default_factory=list)
    stop: bool = False
    enough: bool = False

    def give_up(self, error: ReasoningError, stop: bool) -> None:
        self.errors.append(error)
        self.stop = self.stop or stop


class OpenAIEngine:
    """An `Engine` on a `Server`. model: "NAME@HOST:PORT", or "NAME@VERSION" where a version was given."""

    gives_way = True

    def __init__(
        self,
        server: Server,
        name: str,
        dialect: Dialect,
        *,
        tokens: PromptTokens,
        version: str,
        form: str = "chat",
        parallel: int = 32,
        chains_per_request: int = 1,
        logprobs: str = "auto",
        limit_field: str = "",
        extra: Mapping[str, Any] | None = None,
        shape: ModelShape | None = None,
        offered: Sequence[str] = (),
    ):
        self.server, self.name, self.dialect, self.tokens = server, name, dialect, tokens
        self.form, self.parallel, self.chains_per_request = form, parallel, chains_per_request
        self.limit_field, self.extra = limit_field, dict(extra or {})
        self.shape, self.offered = shape, tuple(offered)
        self.model = f"{name}@{version}" + "/completion" * (form == "completion")
        if self.extra:
            self.model += f"/{digest(self.extra, length=8)}"
        self._chains = Chains(self.model, tokens, shape, logprobs=logprobs, offered_logprobs=dialect.logprobs)
        self._left: list[Chain] = []
        self._lost: dict[str, int] = {}
        self._lost_in_a_row = 0

    @classmethod
    def open(
        cls,
        name: str,
        *,
        base_url: str = "",
        key_env: str = "",
        form: str = "chat",
        server: str = "auto",
        parallel: int = 32,
        chains_per_request: int = 1,
        timeout: float = 600.0,
        tries: int = 8,
        backoff: float = 0.5,
        patience: float = 300.0,
        logprobs: str = "auto",
        tokenizer: str = "",
        template_tokens: int = 1024,
        limit_field: str = "",
        extra: str = "",
        shape: str = "",
        version: str = "",
    ) -> OpenAIEngine:
        """Connect to the server at ``base_url`` (by default $OPENAI_BASE_URL, else OpenAI's own).

        key_env: the environment variable that holds the key. OPENAI_API_KEY is taken where none is named, but is
            not sent unencrypted to another machine.
        form: "chat" shows the problem's messages, "completion" its prompt as text.
        server: "openai", "vllm", "sglang", "llama.cpp" or "other"; "auto" finds out.
        parallel: requests in flight. chains_per_request: above 1 asks for several chains of a problem at once
            (``n``), which share one prompt, and one seed. timeout: seconds for one answer. tries, backoff, patience:
            see `Server`.
        logprobs: "auto" keeps log-probabilities where they are those of the distribution sampled from (temperature
            1 without top-p and top-k, or greedy), from servers known to give them; "keep" asks for them and keeps
            them whatever the sampling (vllm serve --logprobs-mode processed_logprobs); "no" does not ask.
        tokenizer: Hugging Face folder or id, to count prompts. template_tokens: what a chat template and the
            server's own instructions may add to a prompt, where nothing can count it.
        limit_field: "max_tokens" or "max_completion_tokens", where the server wants the other one.
        extra: JSON file with further fields of each request, e.g. {"reasoning_effort": "low"}.
        shape: Hugging Face model folder (its config.json) for FLOPs; without one they are 0.
        version: names the weights in place of the server's address, so that a pool outlives a change of address.

        Raises UserError for a wrong option, model name or key, EngineError for a server that does not answer,
        MissingExtra without the client.
        """
        check_options(form=form, server=server, logprobs=logprobs, limit_field=limit_field)
        check_options(parallel=parallel, chains_per_request=chains_per_request, tries=tries)
        check_options(timeout=timeout, patience=patience, backoff=backoff, template_tokens=template_tokens)
        base_url = check_address(base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1")
        fields = read_extra(extra) if extra else {}
        known_shape = read_shape(shape) if shape else None
        connection = Server(
            base_url,
            key_from(key_env, base_url),
            timeout=timeout,
            tries=tries,
            backoff=backoff,
            patience=patience,
            direct=is_loopback(base_url),
        )
        try:
            listed = models_at(connection)
            kind = DIALECTS[server] if server != "auto" else detect(base_url, name, listed)
            if kind.takes_ids and listed and name not in listed:
                raise unknown(f"model at {base_url}", name, listed)
            context = listed.get(name, {}).get("max_model_len")
            tokens = PromptTokens(
                connection,
                name,
                kind,
                form,
                context=context if isinstance(context, int) else 0,
                tokenizer=tokenizer,
                template_tokens=template_tokens,
                extra=fields,
            )
            return cls(
                connection,
                name,
                kind,
                tokens=tokens,
                version=version or urlsplit(base_url).netloc,
                form=form,
                parallel=parallel,
                chains_per_request=chains_per_request,
                logprobs=logprobs,
                limit_field=limit_field,
                extra=fields,
                shape=known_shape,
                offered=sorted(listed),
            )
        except BaseException:
            connection.close()
            raise

    @property
    def tokenizer(self) -> Any:
        """The local tokenizer, or None."""
        return self.tokens.local.tokenizer if self.tokens.local else None

    def encode(self, prompt: str) -> tuple[int, ...]:
        """Token ids that the model is shown for ``prompt``. Raises UserError where nobody can tell."""
        return self.server.run(self.tokens.ids_of_text(prompt))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Raises UserError without a local tokenizer."""
        if self.tokens.local is None:
            raise UserError("Token ids become text by a tokenizer: add tokenizer=FOLDER_OR_ID to the engine.")
        return self.tokens.local.decode(token_ids)

    def generate(self, draws: Sequence[Draw]) -> Generator[Chain, bool | None]:
        """Yield the chains of ``draws`` as they finish. A generator that is closed early cancels the rest.

        What is wrong with one draw is raised when the others are done, what is wrong with all at once: UserError
        for what the server refuses, EngineError for what it does not get done. Both name the draw.
        """
        call = _Call()
        for draw in draws:
            self._check(draw)
            size = 1 if draw.sampling.greedy else self.chains_per_request
            for start in range(0, len(draw.indices), size):
                call.jobs.append(self._job(call, draw, draw.indices[start : start + size]))
        future = self.server.start(self._work(call))
        over = False
        try:
            while (chain := call.out.get()) is not None:
                if (yield chain):
                    call.enough = True
            over = True
            future.result()
        finally:
            if not over:
                call.begun.wait()
                future.cancel()
                while (chain := call.out.get()) is not None:
                    done = chain.finish_reason in ("stop", "length")
                    call.left.append(replace(chain, finish_reason="cancelled") if done else chain)
            self._left += [
                *call.left,
                *(c for job in call.running for c in self._chains.cancelled(job, self.server.time())),
            ]
        if call.errors:
            more = len(call.errors) - 1
            error = call.errors[0]
            raise type(error)(f"{error}" + f"  ({more} more requests failed)" * bool(more))

    def unfinished(self) -> list[Chain]:
        """What `generate` began and did not yield, once."""
        left, self._left = self._left, []
        return left

    def worst_case(self, draw: Draw) -> Cost:
        """Every chain reading its whole prompt, as long as the prompt can be (see `PromptTokens`)."""
        self._check(draw)
        if not draw.indices:
            return Cost()
        shown = self.server.run(self.tokens.count(draw))
        limit = self.tokens.room(shown, draw)
        count = len(draw.indices)
        return Cost(
            prompt_tokens=shown.most * count,
            output_tokens=limit * count,
            flops=self._chains.flops(0, shown.most + limit) * count,
        )

    def close(self) -> None:
        self.server.close()

    def _check(self, draw: Draw) -> None:
        if draw.sampling.top_k and not draw.sampling.greedy and self.dialect.defaults:
            raise UserError("This server has no top-k: leave --top-k at 0.")
        if draw.prefix and not self.tokens.knows_ids:
            raise UserError(
                f"To continue a chain, {self.name} must be shown token ids: a vLLM, SGLang or llama.cpp server does "
                "that, with tokenizer=FOLDER_OR_ID where it does not count tokens itself."
            )
        if self.form == "chat" and not draw.prefix:
            chat_fields(self.dialect, messages_of(draw.problem), chat_options_of(draw.problem))

    def _job(self, call: _Call, draw: Draw, indices: tuple[int, ...]) -> Job:
        problem = draw.problem
        keys = tuple(
            chain_key(self.model, draw.sampling, problem.id, problem.prompt, i, draw.parent) for i in indices
        )
        return Job(draw, indices, keys, Flight(lambda: call.stop))

    async def _work(self, call: _Call) -> None:
        async def worker() -> None:
            while call.jobs and not call.stop and not call.enough:
                job = call.jobs.popleft()
                call.running.add(job)
                for chain in await self._do(job, call):
                    call.out.put(chain)
                call.running.discard(job)

        try:
            call.begun.set()
            workers = [asyncio.ensure_future(worker()) for _ in range(min(self.parallel, len(call.jobs)))]
            try:
                await asyncio.gather(*workers)
            finally:
                for task in workers:
                    task.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
        finally:
            call.out.put(None)

    async def _do(self, job: Job, call: _Call) -> list[Chain]:
        """The chains of one request, or what is to be charged for them."""
        job.answers_before = self.server.answers
        try:
            return await self._ask(job, call)
        except Failure as failure:
            return self._failed(job, call, failure)
        except ReasoningError as error:
            call.give_up(error, stop=isinstance(error, EngineError))
            return []

    async def _ask(self, job: Job, call: _Call) -> list[Chain]:
        draw, problem = job.draw, job.draw.problem
        await self.server.rest(max(self._lost.get(key, 0) for key in job.keys))
        shown = await self.tokens.count(draw)
        job.prompt_tokens, job.limit = shown.most, self.tokens.room(shown, draw)
        form, count = ("completion" if draw.prefix else self.form), len(job.indices)
        prompt: dict[str, Any] = {"prompt": problem.prompt}
        if draw.prefix:
            prompt = {"prompt": [*await self.tokens.ids(problem), *draw.prefix]}
        elif form == "chat":
            prompt = chat_fields(self.dialect, messages_of(problem), chat_options_of(problem))
        body = request_body(
            self.dialect,
            form,
            prompt,
            draw.sampling,
            job.limit,
            n=count,
            seed=chain_seed(job.keys[0]),
            logprobs=self._chains.wants_logprobs(draw.sampling),
            limit_field=self.limit_field if form == "chat" else "",
            extra=self.extra,
        )

        def read(raw: bytes) -> Answer:
            answer = read_answer(raw, form)
            if len(answer.choices) > count:
                said = f"it gave {len(answer.choices)} answers where {count} were asked for"
                raise Nonsense(said, answer.usage)
            return answer

        answer = await self.server.ask(
            form,
            self.name,
            body,
            read,
            flight=job.flight,
            most_tokens=shown.most + job.limit * count,
            most_bytes=(1 << 20) + _BYTES_PER_TOKEN * job.limit * count,
        )
        self._lost_in_a_row = 0
        given = len(answer.choices)
        if given < count:  # the server knows no ``n``
            self.chains_per_request = 1
            call.jobs.extend(self._job(call, draw, (index,)) for index in job.indices[given:])
        costs = self._chains.costs(job, answer)
        chains = [self._chains.chain(job, i, answer, costs[i]) for i in range(given)]
        if any(cost.output_tokens > job.limit for cost in costs):
            call.left += [replace(chain, finish_reason="failed") for chain in chains]
            raise EngineError(
                f"{self.server.base_url}, {job.name}: {max(c.output_tokens for c in costs)} tokens came where at "
                f"most {job.limit} were asked for. The server does not heed the limit: try limit_field="
                f"{'max_tokens' if 'max_completion_tokens' in body else 'max_completion_tokens'}."
            )
        return chains

    def _failed(self, job: Job, call: _Call, failure: Failure) -> list[Chain]:
        """What a failure costs, and whether it ends the call."""
        if not failure.lost:
            refused = 400 <= failure.status < 500 and failure.status != 429 and not failure.again
            heard = self.server.answers > (0 if refused else job.answers_before)
            everywhere = failure.status in (401, 402, 403, 404, 429) or not heard
            call.give_up(self._error(job, failure, UserError if refused else EngineError), everywhere)
            return []
        chains = self._chains.lost(job, failure.usage)
        self._lost_in_a_row += 1
        for key in job.keys:
            self._lost[key] = self._lost.get(key, 0) + 1
        job.flight.tries = max(self._lost[key] for key in job.keys)
        stuck = self._lost_in_a_row > self.parallel + 1
        if job.flight.tries < LOST_TRIES and not stuck:
            return chains
        call.left += chains
        call.give_up(self._error(job, failure, EngineError), stuck or self._lost_in_a_row >= LOST_TRIES)
        return []

    def _error(self, job: Job, failure: Failure, kind: type[ReasoningError]) -> ReasoningError:
        tried = f" ({job.flight.tries} tries)" if job.flight.tries > 1 else ""
        return kind(
            f"{self.server.base_url}, {job.name}: {failure}{tried}. {advice(failure, self.name, self.offered)}"
        )
