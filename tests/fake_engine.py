"""A deterministic engine without a model, for tests of everything that talks to an engine.

Each chain is a function of its key alone, as the engine contract asks: an answer drawn from a small
distribution, written as "Let me think ... The answer is N." and as many token ids as it has words.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from reasoning.errors import EngineError
from reasoning.flops import ModelShape
from reasoning.records import Chain, Cost, Draw, Problem, chain_key, chain_seed

FLOPS_PER_TOKEN = 1000.0


def some_answer(problem: Problem, index: int, rng: random.Random) -> str:
    """Right six times out of ten, else one of three wrong answers."""
    right = str(problem.reference)
    return right if rng.random() < 0.6 else rng.choice(["7", "11", "13"])


class ScriptedEngine:
    """answer: (problem, index, rng) -> the answer a chain ends with. words: most filler words before it.

    shuffled: chains arrive in a scrambled order. seconds_per_chain: sleep before each. fail_after: raise
    EngineError after so many chains. calls: the draws of each `generate` call, for tests to look at.
    """

    shape: ModelShape | None = None

    def __init__(
        self,
        model: str = "scripted@1",
        answer: Callable[[Problem, int, random.Random], str] = some_answer,
        words: int = 12,
        shuffled: bool = True,
        seconds_per_chain: float = 0.0,
        fail_after: float = math.inf,
    ):
        self.model = model
        self.answer = answer
        self.words = words
        self.shuffled = shuffled
        self.seconds_per_chain = seconds_per_chain
        self.fail_after = fail_after
        self.calls: list[list[Draw]] = []
        self.drawn = 0
        self.closed = False

    def generate(self, draws: Sequence[Draw]) -> Iterator[Chain]:
        draws = list(draws)
        self.calls.append(draws)
        jobs = [(d, i, n == 0) for d in draws for n, i in enumerate(d.indices)]
        if self.shuffled:
            random.Random(len(jobs)).shuffle(jobs)
        for draw, index, pays_prompt in jobs:
            if self.drawn >= self.fail_after:
                raise EngineError(f"scripted to fail after {self.fail_after:g} chains")
            if self.seconds_per_chain:
                time.sleep(self.seconds_per_chain)
            self.drawn += 1
            yield self.chain(draw, index, pays_prompt)

    def chain(self, draw: Draw, index: int, pays_prompt: bool) -> Chain:
        problem, sampling = draw.problem, draw.sampling
        key = chain_key(self.model, sampling, problem.id, problem.prompt, index, draw.parent)
        rng = random.Random(chain_seed(key))
        filler = [rng.choice(["hm", "so", "then", "thus"]) for _ in range(rng.randrange(self.words))]
        tail = ["The", "answer", "is", self.answer(problem, index, rng) + "."]
        said = (filler + tail)[: sampling.max_new_tokens]
        prompt = len(problem.prompt.split()) + len(draw.prefix)
        computed = prompt if pays_prompt else 0
        logprobs = np.asarray([-rng.random() for _ in said], np.float32)
        return Chain(
            problem_id=problem.id,
            index=index,
            text=" ".join(said),
            token_ids=tuple(rng.randrange(1000) for _ in said),
            logprobs=tuple(logprobs.tolist()),
            prompt_token_ids=tuple(range(prompt)),
            finish_reason="stop" if len(said) == len(filler) + 4 else "length",
            model=self.model,
            sampling=sampling,
            key=key,
            parent=draw.parent,
            cost=Cost(computed, prompt - computed, len(said), 0, FLOPS_PER_TOKEN * (computed + len(said))),
        )

    def worst_case(self, draw: Draw) -> Cost:
        n, prompt = len(draw.indices), len(draw.problem.prompt.split()) + len(draw.prefix)
        output = n * min(draw.sampling.max_new_tokens, self.words + 3)
        return Cost(prompt, (n - 1) * prompt, output, 0, FLOPS_PER_TOKEN * (prompt + output))

    def close(self) -> None:
        self.closed = True
