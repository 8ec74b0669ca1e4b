"""The nouns: `Problem`, `Sampling`, `Draw`, `Chain`, `Cost`. Frozen, plain, and free of any I/O.

Everything else in the project passes these around. Token ids are the truth; text is a view of them.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any


def digest(*parts: Any, length: int = 16) -> str:
    """Hex digest (BLAKE2b) of JSON-able parts, the same on every machine and in every process."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=length // 2).hexdigest()


@dataclass(frozen=True, slots=True)
class Problem:
    """A question with its answer key.

    id: derived from the content by `Problem.make`, so renumbering a file never mixes pools.
    prompt: the text given to the model (after the task's template, before a chat template).
    reference: what the task's verifier compares with (text, or any JSON value).
    task: name of the task it came from.
    metadata: JSON values: "question" (the bare question where ``prompt`` adds a template), "difficulty",
        and whatever the task's verifier needs.
    """

    id: str
    prompt: str
    reference: Any
    task: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def make(
        cls, prompt: str, reference: Any, task: str = "", metadata: Mapping[str, Any] | None = None
    ) -> Problem:
        return cls(digest(prompt, reference), prompt, reference, task, dict(metadata or {}))

    @property
    def question(self) -> str:
        return str(self.metadata.get("question", self.prompt))

    @property
    def fingerprint(self) -> str:
        """Digest of the question alone, letter case and spacing aside: equal for the same question under
        another template, split, order or answer. Guards training against evaluation problems."""
        return digest(re.sub(r"\s+", " ", self.question).strip().lower())


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen.

    temperature: 0 is greedy. top_p in (0, 1]; top_k 0 is off. max_new_tokens counts what is generated, the
    end-of-sequence token included. stop: strings that end a chain (kept in its text). seed: base seed; each
    chain's own seed is derived from it and the chain's key, so the same key gives the same chain.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be 0 (greedy) or a number above, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], not {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (off) or above, not {self.top_k}")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be 1 or above, not {self.max_new_tokens}")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"stop": list(self.stop)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sampling:
        return cls(**{**data, "stop": tuple(data.get("stop", ()))})


@dataclass(frozen=True, slots=True)
class Cost:
    """What work cost. Adds up with ``+``; every column is kept apart.

    prompt_tokens: prompt tokens computed. cached_tokens: prompt tokens reused from a sibling or a cache.
    output_tokens: tokens generated. scored_tokens: tokens read by a verifier model or a scoring pass.
    flops: of all of it. seconds: wall-clock, the one column that differs from run to run.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    scored_tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.output_tokens + other.output_tokens,
            self.scored_tokens + other.scored_tokens,
            self.flops + other.flops,
            self.seconds + other.seconds,
        )

    @property
    def tokens(self) -> int:
        """Tokens that a model computed: prompt + output + scored (cached ones are not computed again)."""
        return self.prompt_tokens + self.output_tokens + self.scored_tokens


def chain_key(
    model: str, sampling: Sampling, problem_id: str, prompt: str, index: int, parent: str = ""
) -> str:
    """Identity of a chain: (model + weight version, prompt, sampling parameters, problem, sample index), and
    for a continuation the key of the chain it continues. 32 hex digits."""
    return chain_keys(model, sampling, problem_id, prompt, (index,), parent)[0]


def chain_keys(
    model: str, sampling: Sampling, problem_id: str, prompt: str, indices: Sequence[int], parent: str = ""
) -> list[str]:
    """The keys of several chains of one prompt, one per index."""
    plain = type(model) is type(problem_id) is type(prompt) is type(parent) is str
    if not plain or set(map(type, indices)) - {int}:
        return [digest(model, sampling.to_json(), problem_id, prompt, i, parent, length=32) for i in indices]
    # The same bytes, put together by hand, and what the keys begin with hashed once: this runs several times for
    # every chain.
    head = f"[{_quote(model)},{_sampling_text(sampling)},{_quote(problem_id)},{_quote(prompt)},"
    begun = hashlib.blake2b(head.encode(), digest_size=16)
    tail = f",{_quote(parent)}]".encode()
    keys = []
    for index in indices:
        state = begun.copy()
        state.update(b"%d" % index + tail)
        keys.append(state.hexdigest())
    return keys


_quote = json.encoder.encode_basestring
"""A string as JSON, as ``digest`` writes it."""


def _sampling_text(s: Sampling) -> str:
    # Equal is not the same in JSON: 1 and 1.0, 0.0 and -0.0 are other bytes, so types and signs are in the key.
    return _sampling_json(
        s.temperature, s.top_p, s.top_k, s.max_new_tokens, tuple(s.stop), s.seed, repr(s.temperature)
    )


@lru_cache(maxsize=256, typed=True)
def _sampling_json(
    temperature: float,
    top_p: float,
    top_k: int,
    max_new_tokens: int,
    stop: tuple[str, ...],
    seed: int,
    _: str,
) -> str:
    sampling = Sampling(temperature, top_p, top_k, max_new_tokens, stop, seed).to_json()
    return json.dumps(sampling, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)


def chain_seed(key: str) -> int:
    """The 63-bit seed of a chain's own random stream."""
    return int(key[:16], 16) >> 1


@dataclass(frozen=True, slots=True)
class Draw:
    """A request for chains: the samples ``indices`` of one problem, sharing one prompt.

    prefix: token ids already generated, which each chain continues (`parent` is then the key of the chain
    they come from); the engine returns only the new tokens.
    """

    problem: Problem
    sampling: Sampling
    indices: tuple[int, ...] = (0,)
    prefix: tuple[int, ...] = ()
    parent: str = ""


@dataclass(frozen=True, slots=True)
class Chain:
    """One chain of thought as it was sampled.

    token_ids: the sampled ids, the end-of-sequence token included when it was sampled; (T,).
    logprobs: log-probability of each under the distribution it was sampled from (temperature, top-p and top-k
        applied; natural log); (T,), or empty when the source had none (recorded outputs).
    prompt_token_ids: the ids that the model was shown; empty for recorded outputs.
    text: the decoded ``token_ids``, special tokens left out.
    finish_reason: "stop" (end token or stop string) or "length" (cut at max_new_tokens). Only "stop" is a
        finished chain. Work that came to nothing is "cancelled" (stopped early) or "failed" (its call raised):
        charged, never stored.
    model: "name@weights" identity of what produced it.
    """

    problem_id: str
    index: int
    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    prompt_token_ids: tuple[int, ...] = ()
    finish_reason: str = "stop"
    model: str = ""
    sampling: Sampling = Sampling()
    key: str = ""
    parent: str = ""
    cost: Cost = Cost()

    @property
    def truncated(self) -> bool:
        return self.finish_reason != "stop"
