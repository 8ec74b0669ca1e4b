"""The embedded engine: any Hugging Face causal language model, on a CPU or a GPU, inside this process.

Turns problems into token ids and sampled ids into chains with their cost. The sampling loop is in batch.py, the
models' forward passes in forward.py and llama.py. Knows nothing of pools, budgets or verifiers.
"""

from __future__ import annotations

import functools
import sys
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from reasoning.engines.base import ended_by
from reasoning.engines.batch import Batch, Finished, Request, StopRule
from reasoning.engines.forward import open_forward
from reasoning.engines.memory import GIB, free_memory_bytes, out_of_memory, weights_bytes
from reasoning.engines.threads import Threads
from reasoning.engines.tokens import (
    Tokens,
    check_source,
    check_vocabulary,
    end_ids,
    folder_name,
    shape_of,
    weights_digest,
)
from reasoning.errors import EngineError, UserError
from reasoning.hub import commit_of, hub_or_cache, reason
from reasoning.progress import bytes_text
from reasoning.records import Chain, Cost, Draw, Problem, chain_keys, chain_seed

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TransformersEngine:
    """An `Engine` around a live module and its tokenizer.

    name, version: the identity "name@version"; change the version with `set_version` when the weights change,
    and call `refresh` then. chat: "yes" wraps a prompt in the tokenizer's chat template, "no" does not, "auto"
    does if there is one. max_rows: chains stepped at once. memory_bytes: limit on keys and values (default: a
    quarter of a CPU's free memory, four fifths of what is free on a GPU).

    On a CPU in float32 a chain's tokens and log-probabilities are the same, bit for bit, whatever else is drawn; for
    a model outside of the Llama family, with one or two threads (with more, activations may differ in a last bit).
    """

    gives_way = True

    def __init__(
        self,
        module: Any,
        tokenizer: Any,
        *,
        name: str,
        version: str,
        max_rows: int = 512,
        chat: str = "auto",
        memory_bytes: int | None = None,
    ):
        if max_rows < 1:
            raise UserError(f"max_rows must be 1 or above, not {max_rows}.")
        check_vocabulary(tokenizer, module.config.get_text_config().vocab_size, name)
        self.module = module
        self.tokenizer = tokenizer
        self.shape = shape_of(module.config)
        self.max_rows = max_rows
        self.name = name
        self.model = f"{name}@{version}"
        self._memory_bytes = memory_bytes
        self._threads = Threads()
        _ = self._forward  # a module that cannot be stepped is refused now
        limit = getattr(module.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize
        ends = end_ids(tokenizer, getattr(module.generation_config, "eos_token_id", None))
        self._tokens = Tokens(tokenizer, name=name, limit=limit, end_ids=ends, chat=chat)
        self._unfinished: list[Chain] = []
        self._stop_rules: dict[tuple[str, ...], StopRule] = {}
        self._token_texts: list[str] = []

    @classmethod
    def open(
        cls,
        source: str | Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        max_rows: int = 512,
        chat: str = "auto",
        memory_gb: float = 0.0,
    ) -> TransformersEngine:
        """Load a local folder or a hub id (safetensors only, no code from the repository).

        device: "auto" takes a GPU if there is one. dtype: "auto" is float32 on a CPU and the checkpoint's own on a
        GPU. memory_gb: limit on keys and values, 0 for the default. Raises UserError when there is no model there.
        """
        device = _device(device)
        if dtype not in ("auto", *DTYPES):
            raise UserError(f"dtype={dtype!r} is not one of auto, {', '.join(DTYPES)}.")
        wanted = DTYPES.get(dtype) or (torch.float32 if device == "cpu" else "auto")
        local = check_source(source)
        with hub_or_cache(not local, str(source)) as away:
            try:
                size = weights_bytes(source, str(wanted).removeprefix("torch.")) if local else 0
                check_memory(size, memory_gb, _free(torch.device(device)), device)
                tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
                module: Any = AutoModelForCausalLM.from_pretrained(
                    source, dtype=wanted, use_safetensors=True, trust_remote_code=False
                )
            except TooLittleMemory:
                raise
            except Exception as error:  # whatever the loaders raise, it means the same to the user
                raise UserError(
                    f"Cannot load a causal language model from {str(source)!r}: {reason(str(source), away, error)}"
                ) from error
        module.to(device)
        module.eval()
        if local:
            name, version = folder_name(source), weights_digest(source)
        else:
            name, version = str(source), commit_of(str(source))
        memory = int(memory_gb * GIB) or None
        return cls(
            module, tokenizer, name=name, version=version, max_rows=max_rows, chat=chat, memory_bytes=memory
        )

    def set_version(self, version: str) -> None:
        self.model = f"{self.name}@{version}"

    @functools.cached_property
    def _forward(self) -> Any:
        return _evaluating(self.module, lambda: open_forward(self.module))

    def refresh(self) -> None:
        """Take over the module's weights after they were changed in place (the trainer's job, each step)."""
        self._forward.refresh()

    def release(self) -> None:
        """Forget what was made of the module to sample from it; sampling makes it anew."""
        vars(self).pop("_forward", None)

    @property
    def limit(self) -> int:
        """Tokens that the model can read, prompt and answer together."""
        return self._tokens.limit

    def encode(self, prompt: str) -> tuple[int, ...]:
        """Token ids that the model is shown for ``prompt``, chat template and special tokens included."""
        return self._tokens.encode(prompt)

    def ask(self, problem: Problem) -> tuple[int, ...]:
        """Token ids that the model is shown for ``problem``, its whole conversation."""
        return self._tokens.ask(problem)

    def decode(self, token_ids: Sequence[int]) -> str:
        return self._tokens.decode(token_ids)

    def generate(self, draws: Sequence[Draw]) -> Generator[Chain, bool | None]:
        """Yield the chains of ``draws`` as they finish.

        A stop string counts when it appears in the new text (not across the end of ``prefix``). A chain that
        reaches the model's context ends with "length". Raises UserError for a prompt that fills the context,
        EngineError for a model whose numbers are not finite, and where memory does not suffice.
        """
        requests = [self._request(draw) for draw in draws]
        room = self._memory_bytes or _room(self._forward.device)
        for request in requests:
            self._check_room(request, room)
        batch = Batch(
            self._forward,
            requests,
            self._tokens.end_ids,
            self._stop_rule,
            self.max_rows,
            room,
            self._threads,
        )
        ready: deque[Finished] = deque()
        try:
            while not batch.done:
                # Nothing is switched while the caller holds the generator, only within a step.
                ready.extend(self._advanced(batch))
                while ready:
                    if (yield self._chain(ready.popleft())):
                        batch.begin_no_more()
        finally:
            reason = ended_by(sys.exception())
            left = [replace(finished, reason=reason) for finished in ready] + batch.stop(reason)
            self._unfinished += [self._chain(finished) for finished in left]

    def _advanced(self, batch: Batch) -> Any:
        try:
            return _evaluating(self.module, batch.advance)
        except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
            if not out_of_memory(error):
                raise
            raise EngineError(
                f"{self.model}: out of memory on {self._forward.device} while sampling, up to {self.max_rows} chains "
                "side by side. Lower max_rows (--max-rows in training), memory_gb or the longest chain, or take "
                "dtype=bfloat16."
            ) from error

    def unfinished(self) -> list[Chain]:
        """What `generate` had begun when it was closed or interrupted, or failed: known to the token."""
        begun, self._unfinished = self._unfinished, []
        return begun

    def worst_case(self, draw: Draw) -> Cost:
        prompt = self._tokens.shown(draw)
        limit = self._tokens.room(prompt, draw)
        count = len(draw.indices)
        if not count:
            return Cost()
        return self._cost(len(prompt), limit, True) + Cost(
            cached_tokens=len(prompt) * (count - 1),
            output_tokens=limit * (count - 1),
            flops=self._flops(len(prompt), limit) * (count - 1),
        )

    def close(self) -> None:
        if next(self.module.parameters()).device.type == "cuda":
            torch.cuda.empty_cache()

    def _request(self, draw: Draw) -> Request:
        prompt = self._tokens.shown(draw)
        problem = draw.problem
        keys = chain_keys(self.model, draw.sampling, problem.id, problem.prompt, draw.indices, draw.parent)
        names = [
            (draw, prompt, index, key, rank == 0)
            for rank, (index, key) in enumerate(zip(draw.indices, keys, strict=True))
        ]
        return Request(
            prompt, draw.sampling, self._tokens.room(prompt, draw), names, [chain_seed(key) for key in keys]
        )

    def _check_room(self, request: Request, room: int) -> None:
        """Raises UserError when the keys and values of one chain alone are more than ``room`` bytes."""
        wanted = self._forward.bytes_per_token() * (len(request.prompt) + request.limit)
        if wanted > room:
            raise TooLittleMemory(
                f"Too little memory: one chain of {len(request.prompt)} prompt and {request.limit} new tokens takes "
                f"{bytes_text(wanted)} of keys and values; there is room for {bytes_text(room)}. "
                "Lower --max-new-tokens, raise memory_gb if more is free, or use dtype=bfloat16 (half)."
            )

    def _chain(self, finished: Finished) -> Chain:
        draw, prompt, index, key, first = finished.name
        return Chain(
            problem_id=draw.problem.id,
            index=index,
            text=self.decode(finished.token_ids),
            token_ids=finished.token_ids,
            logprobs=finished.logprobs,
            prompt_token_ids=prompt,
            finish_reason=finished.reason,
            model=self.model,
            sampling=draw.sampling,
            key=key,
            parent=draw.parent,
            cost=self._cost(len(prompt), len(finished.token_ids), first),
        )

    def _cost(self, prompt_tokens: int, output_tokens: int, first: bool) -> Cost:
        """Of one chain; the first of a draw carries the prompt, its siblings reuse it."""
        flops = self._flops(prompt_tokens, output_tokens)
        if not first:
            return Cost(cached_tokens=prompt_tokens, output_tokens=output_tokens, flops=flops)
        if self.shape is not None:
            flops += self.shape.prefill_flops(prompt_tokens)
        return Cost(prompt_tokens=prompt_tokens, output_tokens=output_tokens, flops=flops)

    def _flops(self, prompt_tokens: int, output_tokens: int) -> float:
        return 0.0 if self.shape is None else self.shape.decode_flops(prompt_tokens, output_tokens)

    def _stop_rule(self, stop: tuple[str, ...]) -> StopRule:
        """A token can complete a stop string only if its text holds the string's last character. Tokens that are
        part of a character, and spaces (which tokenizers write in many ways), are always looked at."""
        if "" in stop:
            raise UserError("An empty stop string would end every chain at its first token; leave it out.")
        if stop not in self._stop_rules:
            if not self._token_texts:
                self._token_texts = [self.decode([i]) for i in range(self._forward.vocab)]
            last = {text[-1] for text in stop if text}
            spaces = any(character.isspace() for character in last)
            may_end = np.array(
                [spaces or "\ufffd" in text or not last.isdisjoint(text) for text in self._token_texts],
                np.bool_,
            )
            self._stop_rules[stop] = StopRule(may_end, lambda ids: any(s in self.decode(ids) for s in stop))
        return self._stop_rules[stop]


def _evaluating(module: Any, work: Any) -> Any:
    """``work()`` with dropout off; the module's mode is put back."""
    training = module.training
    if training:
        module.eval()
    try:
        return work()
    finally:
        if training:
            module.train()


class TooLittleMemory(UserError):
    """The machine cannot hold what was asked for; the message says how much is needed and what lowers it."""


def check_memory(weights: int, memory_gb: float, free: int, device: str) -> None:
    """Raises TooLittleMemory when ``weights`` bytes and ``memory_gb`` GiB for the cache exceed ``free`` bytes."""
    if memory_gb < 0:
        raise TooLittleMemory(f"memory_gb must be 0 (a default) or above, not {memory_gb:g}.")
    if weights + memory_gb * GIB <= free:
        return
    cache = f" and keys and values {bytes_text(memory_gb * GIB)} (memory_gb)" if memory_gb else ""
    lower = "Lower memory_gb, or the weights' size" if memory_gb else "Lower the weights' size"
    raise TooLittleMemory(
        f"Too little memory on {device}: the weights take {bytes_text(weights)}{cache}, and {bytes_text(free)} "
        f"are free. {lower} by dtype=bfloat16, or take a smaller model."
    )


def _device(device: str) -> str:
    """``device`` after a look at what there is. Raises UserError for one that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise UserError(f"device={device} is not one of auto, cpu, cuda, cuda:N.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device={device}, but no CUDA device is available; use device=cpu.")
    if kind == "cuda" and number and int(number) >= torch.cuda.device_count():
        raise UserError(f"device={device}, but there are only {torch.cuda.device_count()} CUDA devices.")
    return device


def _free(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory_bytes()


def _room(device: torch.device) -> int:
    """Bytes that keys and values may take on ``device`` unless memory_gb says so."""
    return _free(device) * 4 // 5 if device.type == "cuda" else _free(device) // 4
