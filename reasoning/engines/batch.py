"""The sampling loop: rows join as room frees up, take one token a step, and leave when they are done.

Drives a `Forward`. Knows token ids, limits and seeds; nothing of problems, prompts as text, costs or pools.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reasoning.engines.choose import Rules, choose, uniforms
from reasoning.engines.forward import MIN_ROWS, Forward, Prompt, padded
from reasoning.engines.threads import Threads
from reasoning.errors import EngineError
from reasoning.records import Sampling


@dataclass(slots=True)
class Request:
    """Chains of one prompt. names: what the caller calls each chain; seeds: the random stream of each."""

    prompt: tuple[int, ...]
    sampling: Sampling
    limit: int  # new tokens at most
    names: Sequence[Any]
    seeds: Sequence[int]
    taken: int = 0
    prefilled: Prompt | None = None


@dataclass(slots=True)
class Finished:
    name: Any
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    reason: str  # "stop" or "length", or what `stop` was given


@dataclass(slots=True)
class StopRule:
    """Stop strings, by way of the tokens. may_end (vocab,) bool: tokens that can complete one of the strings;
    ends(token_ids): whether the text of ``token_ids`` holds one."""

    may_end: NDArray[np.bool_]
    ends: Callable[[Sequence[int]], bool]


@dataclass(slots=True)
class _Slots:
    """State of each row, indexed by slot; all arrays of length ``rows``."""

    rows: int
    alive: NDArray[np.bool_] = field(init=False)
    length: NDArray[np.int64] = field(init=False)  # positions in the store
    count: NDArray[np.int64] = field(init=False)  # tokens generated
    limit: NDArray[np.int64] = field(init=False)
    seed: NDArray[np.uint64] = field(init=False)
    temperature: NDArray[np.float32] = field(init=False)
    top_k: NDArray[np.int64] = field(init=False)
    top_p: NDArray[np.float64] = field(init=False)
    greedy: NDArray[np.bool_] = field(init=False)
    watched: NDArray[np.bool_] = field(init=False)  # has stop strings
    name: NDArray[np.object_] = field(init=False)
    rule: NDArray[np.object_] = field(init=False)

    def __post_init__(self) -> None:
        rows = self.rows
        self.alive, self.greedy, self.watched = (np.zeros(rows, np.bool_) for _ in range(3))
        self.length, self.count, self.limit, self.top_k = (np.zeros(rows, np.int64) for _ in range(4))
        self.seed = np.zeros(rows, np.uint64)
        self.temperature, self.top_p = np.ones(rows, np.float32), np.ones(rows, np.float64)
        self.name, self.rule = np.empty(rows, np.object_), np.empty(rows, np.object_)

    def move(self, source: NDArray[np.int64], target: NDArray[np.int64]) -> None:
        for key in self.__slots__:
            if key != "rows":
                array = getattr(self, key)
                array[target] = array[source]


class Batch:
    """Chains for ``requests``, at most ``max_rows`` at once in at most ``memory_bytes`` of keys and values."""

    def __init__(
        self,
        forward: Forward,
        requests: Sequence[Request],
        end_ids: frozenset[int],
        stop_rule: Callable[[tuple[str, ...]], StopRule],
        max_rows: int,
        memory_bytes: int,
        threads: Threads,
    ):
        prompt_tokens = max((len(r.prompt) for r in requests), default=0)
        new_tokens = max((r.limit for r in requests), default=0)
        chains = sum(len(r.names) for r in requests)
        room = memory_bytes // max(1, forward.bytes_per_token() * (prompt_tokens + new_tokens))
        self.forward, self.threads = forward, threads
        self.waiting = deque(r for r in requests if r.names)
        self.capacity = max(1, min(max_rows, chains, room))
        self.stop_rule = stop_rule
        self.store = forward.store(self.capacity, prompt_tokens, new_tokens)
        self.slots = _Slots(self.capacity)
        self.rows = 0  # slots [0, rows) are stepped
        self.ended: list[Finished] = []  # not told yet
        self.tokens = np.zeros((self.capacity, new_tokens), np.int32)
        self.logprobs = np.zeros(self.tokens.shape, np.float32)
        self.logits = torch.empty(0, forward.vocab)
        self.rules = Rules()
        self.ends = np.zeros(forward.vocab, np.bool_)
        self.ends[[i for i in end_ids if i < forward.vocab]] = True

    @property
    def done(self) -> bool:
        return not self.waiting and not self.slots.alive.any()

    @torch.inference_mode()
    def advance(self) -> list[Finished]:
        """One step of every row; the chains that ended with it."""
        self._admit()
        with self.threads.working(self.rows) if self.forward.any_threads else nullcontext():
            return self._step()

    def _step(self) -> list[Finished]:
        slots, rows = self.slots, self.rows
        alive, at = slots.alive[:rows], np.arange(rows)
        u = torch.from_numpy(uniforms(slots.seed[:rows], slots.count[:rows])).to(self.forward.device)
        chosen, logprobs = choose(self.logits, self.rules, u)
        both = torch.stack([chosen.double(), logprobs.double()]).cpu().numpy()  # the step's only wait
        tokens = both[0].astype(np.int64)
        if not np.isfinite(both[1][alive]).all():
            raise EngineError(
                "The model's logits are not finite: its weights are damaged, its dtype is too narrow, or it was "
                "trained with too high a learning rate."
            )
        place = np.minimum(slots.count[:rows], self.tokens.shape[1] - 1)
        self.tokens[at, place] = tokens
        self.logprobs[at, place] = both[1]
        slots.count[:rows] += alive
        stopped = self.ends[tokens]
        for slot in np.flatnonzero(alive & slots.watched[:rows] & ~stopped):
            rule: StopRule = slots.rule[slot]
            if rule.may_end[tokens[slot]]:
                stopped[slot] = rule.ends(self.tokens[slot, : slots.count[slot]].tolist())
        over = np.flatnonzero(alive & (stopped | (slots.count[:rows] >= slots.limit[:rows])))
        self.ended += [self._finish(slot, bool(stopped[slot])) for slot in over.tolist()]
        if len(over):
            self.store.release(over)
        if not slots.alive.any():
            self.rows = 0
            return self._told()
        tokens = self._compact(tokens)
        rows = self.rows
        self.logits = self.forward.step(self.store, tokens, slots.length[:rows])
        slots.length[:rows] += slots.alive[:rows]
        return self._told()

    def _told(self) -> list[Finished]:
        told, self.ended = self.ended, []
        return told

    def stop(self, reason: str) -> list[Finished]:
        """Stop all chains that have begun; what they have so far, under ``reason``: those too that came to their end
        in a step that failed."""
        under_way = np.flatnonzero(self.slots.alive).tolist()
        left = self._told() + [self._finish(slot, False) for slot in under_way]
        return [replace(finished, reason=reason) for finished in left]

    def _finish(self, slot: int, stopped: bool) -> Finished:
        slots, count = self.slots, int(self.slots.count[slot])
        slots.alive[slot] = False
        slots.watched[slot] = False
        slots.length[slot] = 0
        ids, logprobs = self.tokens[slot, :count].tolist(), self.logprobs[slot, :count].tolist()
        return Finished(slots.name[slot], tuple(ids), tuple(logprobs), "stop" if stopped else "length")

    def _compact(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Move the last rows into the holes, once it pays: when nothing waits to fill them."""
        alive = self.slots.alive[: self.rows]
        kept = int(alive.sum())
        if self.waiting or padded(self.rows) - padded(kept) < max(MIN_ROWS, self.rows // 16):
            return tokens
        target = np.flatnonzero(~alive[:kept])
        source = kept + np.flatnonzero(alive[kept:])
        if len(source):
            self._move(source, target, tokens)
        self.slots.alive[kept:] = False
        self.rows = kept
        self._set_rules()
        return tokens[:kept]

    def _move(self, source: NDArray[np.int64], target: NDArray[np.int64], tokens: NDArray[np.int64]) -> None:
        self.store.move(source, target)
        self.slots.move(source, target)
        for array in (self.tokens, self.logprobs, tokens):
            array[target] = array[source]

    def _admit(self) -> None:
        """Fill free slots with waiting chains, a good number at a time so that prefills are shared."""
        alive = int(self.slots.alive.sum())
        free = self.capacity - alive
        if not self.waiting or (alive and free * 8 < self.capacity):
            return
        holes = np.flatnonzero(~self.slots.alive)
        taken: list[tuple[Request, int, int]] = []  # request, first chain, end
        for request in self.waiting:
            if free == 0:
                break
            end = min(len(request.names), request.taken + free)
            taken.append((request, request.taken, end))
            free -= end - request.taken
        new = [request for request, _, _ in taken if request.prefilled is None]
        for request, prompt in zip(new, self.forward.prefill([r.prompt for r in new]), strict=True):
            request.prefilled = prompt
        rows = max(self.rows, int(holes[sum(end - start for _, start, end in taken) - 1]) + 1)
        first = taken[0][0].prefilled
        assert first is not None
        grown = first.logits.new_zeros(rows, self.forward.vocab)
        if self.rows:
            grown[: self.rows] = self.logits
        for request, start, end in taken:
            assert request.prefilled is not None
            slots, holes = holes[: end - start], holes[end - start :]
            self.store.admit(slots, request.prefilled)
            grown[slots] = request.prefilled.logits
            self._seat(slots, request, start, end)
            request.taken = end
            if end == len(request.names):
                self._forget(self.waiting.popleft())
        self.logits, self.rows = grown, rows
        self._set_rules()

    def begin_no_more(self) -> None:
        """Leave out the chains that have not begun."""
        while self.waiting:
            self._forget(self.waiting.popleft())

    def _forget(self, request: Request) -> None:
        if request.prefilled is not None:
            request.prefilled.state.clear()  # the store has it, and may hold the object
            request.prefilled = None

    def _seat(self, where: NDArray[np.int64], request: Request, start: int, end: int) -> None:
        slots, sampling = self.slots, request.sampling
        # First, since it may refuse: no chain has begun then.
        rule = self.stop_rule(sampling.stop) if sampling.stop else None
        slots.length[where] = len(request.prompt)
        slots.count[where] = 0
        slots.limit[where] = request.limit
        slots.seed[where] = np.array(request.seeds[start:end], np.uint64)
        slots.temperature[where] = 1.0 if sampling.greedy else sampling.temperature
        slots.top_k[where] = self.forward.vocab if sampling.greedy else sampling.top_k or self.forward.vocab
        slots.top_p[where] = 1.0 if sampling.greedy else sampling.top_p
        slots.greedy[where] = sampling.greedy
        slots.watched[where] = bool(sampling.stop)
        for slot, name in zip(where, request.names[start:end], strict=True):
            slots.name[slot] = name
            slots.rule[slot] = rule
        slots.alive[where] = True

    def _set_rules(self) -> None:
        """Which steps of choosing the present rows need, and with what numbers."""
        slots, rows, rules = self.slots, self.rows, Rules()

        def put(array: NDArray[Any]) -> torch.Tensor:
            return torch.from_numpy(array[:rows].copy()).to(self.forward.device)

        if (slots.temperature[:rows] != 1).any():
            rules.temperature = put(slots.temperature)
        if (slots.top_k[:rows] < self.forward.vocab).any() or (slots.top_p[:rows] < 1).any():
            rules.top_k, rules.top_p = put(slots.top_k), put(slots.top_p)
        if slots.greedy[:rows].any():
            rules.greedy = put(slots.greedy)
        self.rules = rules
