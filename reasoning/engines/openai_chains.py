"""From a server's answers to chains, and what each of them cost: also of tries that came to nothing.

Knows what was asked for (`Job`) and what the wire said; knows nothing of connections or of when to try again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reasoning.engines.openai_server import Flight
from reasoning.engines.openai_tokens import PromptTokens
from reasoning.engines.openai_wire import Answer, Choice, Usage, share
from reasoning.flops import ModelShape
from reasoning.records import Chain, Cost, Draw, Sampling
from verifiers.judging import most_tokens


@dataclass(eq=False, slots=True)
class Job:
    """One request: the chains ``indices`` of a draw. limit: new tokens at most, prompt_tokens: at most; both known
    once it is under way."""

    draw: Draw
    indices: tuple[int, ...]
    keys: tuple[str, ...]
    flight: Flight
    answers_before: int = 0
    prompt_tokens: int = 0
    limit: int = 0

    @property
    def name(self) -> str:
        chains = ", ".join(map(str, self.indices))
        return f"problem {self.draw.problem.id}, chain {chains}"


class Chains:
    """Makes the chains of one model.

    logprobs: "auto", "keep" or "no" (see `OpenAIEngine.open`); offered_logprobs: the server is known to give them.
    """

    def __init__(
        self,
        model: str,
        tokens: PromptTokens,
        shape: ModelShape | None,
        *,
        logprobs: str = "auto",
        offered_logprobs: bool = False,
    ):
        self.model, self.tokens, self.shape = model, tokens, shape
        self.logprobs, self.offered_logprobs = logprobs, offered_logprobs
        self._fastest = 0.0  # output tokens per second of one chain

    def wants_logprobs(self, sampling: Sampling) -> bool:
        if self.logprobs != "auto":
            return self.logprobs == "keep"
        plain = sampling.greedy or (sampling.temperature == 1 and sampling.top_p == 1 and not sampling.top_k)
        return self.offered_logprobs and plain

    def costs(self, job: Job, answer: Answer) -> list[Cost]:
        """What each choice cost: the first pays the prompt, which the others share."""
        usage = answer.usage
        counts = [self._count(choice, job.limit) for choice in answer.choices]
        if usage.output_tokens is not None and sum(counts) != usage.output_tokens:
            counts = share(usage.output_tokens, counts)
        if job.flight.seconds > 0:
            self._fastest = max(self._fastest, max(counts) / job.flight.seconds)
        prompt = job.prompt_tokens if usage.prompt_tokens is None else usage.prompt_tokens
        self.tokens.learn(job.draw, prompt)
        costs = []
        for i, output in enumerate(counts):
            cached = prompt if i else usage.cached_tokens
            flops = self.flops(cached, prompt - cached + output)
            costs.append(Cost(prompt - cached, cached, output, flops=flops))
        return costs

    def _count(self, choice: Choice, limit: int) -> int:
        """Output tokens of a choice: by what the server told of them, else by the tokenizer, else its bytes; the
        last two with one for the end."""
        if told := len(choice.token_ids) or len(choice.logprobs):
            return told
        if choice.finish == "length":
            return limit
        if self.tokens.local is not None:
            encoded = self.tokens.local.tokenizer(choice.text, add_special_tokens=False)["input_ids"]
            return min(limit, len(encoded) + 1)
        return min(limit, most_tokens(choice.text) + 1)

    def chain(self, job: Job, i: int, answer: Answer, cost: Cost) -> Chain:
        choice, draw = answer.choices[i], job.draw
        cut = choice.finish == "length" or (not choice.finish and cost.output_tokens >= job.limit)
        text = choice.text
        if self.tokens.local is not None and choice.token_ids and not choice.parsed:
            text = self.tokens.local.decode(choice.token_ids)
        return Chain(
            problem_id=draw.problem.id,
            index=job.indices[i],
            text=text,
            token_ids=choice.token_ids,
            logprobs=choice.logprobs if self.wants_logprobs(draw.sampling) else (),
            prompt_token_ids=answer.prompt_ids,
            finish_reason="length" if cut else "stop",
            model=self.model,
            sampling=draw.sampling,
            key=job.keys[i],
            parent=draw.parent,
            cost=cost,
        )

    def lost(self, job: Job, usage: Usage | None) -> list[Chain]:
        """A lost try: by the server's count, else at its worst case."""
        count = len(job.indices)
        if usage is None or usage.prompt_tokens is None or usage.output_tokens is None:
            return self._nothing(job, "failed", [job.limit] * count, job.prompt_tokens)
        outputs = share(usage.output_tokens, [1] * count)
        return self._nothing(job, "failed", outputs, usage.prompt_tokens)

    def cancelled(self, job: Job, now: float) -> list[Chain]:
        if job.flight.since is None:
            return []  # it was waiting: nothing had been sent
        limit, seconds = job.limit, now - job.flight.since
        output = min(limit, math.ceil(seconds * self._fastest)) if self._fastest else limit
        return self._nothing(job, "cancelled", [output] * len(job.indices), job.prompt_tokens)

    def _nothing(self, job: Job, finish: str, outputs: Sequence[int], prompt_tokens: int) -> list[Chain]:
        """Chains that came to nothing, the prompt's tokens divided among them."""
        draw = job.draw
        prompts = share(prompt_tokens, [1] * len(outputs))
        return [
            Chain(
                problem_id=draw.problem.id,
                index=index,
                text="",
                finish_reason=finish,
                model=self.model,
                sampling=draw.sampling,
                key=key,
                parent=draw.parent,
                cost=Cost(prompt, output_tokens=output, flops=self.flops(0, prompt + output)),
            )
            for index, key, prompt, output in zip(job.indices, job.keys, prompts, outputs, strict=True)
        ]

    def flops(self, context_tokens: int, new_tokens: int) -> float:
        return 0.0 if self.shape is None else self.shape.decode_flops(context_tokens, new_tokens)
