"""One chain as vLLM is asked for it, and as it comes back: whole, or with what it had cost when it was stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from reasoning.engines.base import WHOLE
from reasoning.errors import EngineError
from reasoning.flops import ModelShape
from reasoning.records import Chain, Cost, Draw, Sampling, chain_key, chain_seed


@dataclass(frozen=True)
class Request:
    """What a chain will say of itself, known before it is drawn. shown: (S,) the ids that it continues."""

    draw: Draw
    shown: tuple[int, ...]
    index: int
    key: str
    model: str
    shape: ModelShape | None

    @classmethod
    def of(
        cls, draw: Draw, shown: tuple[int, ...], index: int, model: str, shape: ModelShape | None
    ) -> Request:
        problem = draw.problem
        key = chain_key(model, draw.sampling, problem.id, problem.prompt, index, draw.parent)
        return cls(draw, shown, index, key, model, shape)

    def whole(self, output: Any, decode: Callable[[Sequence[int]], str]) -> Chain:
        """From a finished output of vLLM. Raises EngineError for one that vLLM itself gave up."""
        done = output.outputs[0]
        if done.finish_reason not in WHOLE:
            raise EngineError(
                f"vLLM gave up a chain of problem {self.draw.problem.id}: {done.finish_reason}."
            )
        ids = tuple(int(token) for token in done.token_ids)
        logprobs = (float(step[token].logprob) for token, step in zip(ids, done.logprobs, strict=True))
        cached = min(output.num_cached_tokens or 0, len(self.shown))
        return Chain(
            problem_id=self.draw.problem.id,
            index=self.index,
            text=decode(ids),
            token_ids=ids,
            logprobs=tuple(logprobs),
            prompt_token_ids=self.shown,
            finish_reason=done.finish_reason,
            model=self.model,
            sampling=self.draw.sampling,
            key=self.key,
            parent=self.draw.parent,
            cost=self._cost(cached, len(self.shown), len(ids)),
        )

    def begun(self, engine: Any, name: str, output: Any, reason: str) -> Chain | None:
        """What vLLM's ``engine`` has computed for it by now, or None for nothing; ``name`` is about to be aborted.

        output: its finished output, where that had arrived unread. Without vLLM's scheduler in this process the
        prompt is counted, and no more.
        """
        core = getattr(engine.engine_core, "engine_core", None)
        cached, prompt, new = 0, len(self.shown), 0
        if output is not None:
            cached, new = min(output.num_cached_tokens or 0, prompt), len(output.outputs[0].token_ids)
        elif core is not None:
            ids = engine.output_processor.external_req_ids.get(name, ())
            inside = next((i for i in ids if i in core.scheduler.requests), None)
            request = core.scheduler.requests[inside] if inside else None
            if request is None or not request.num_computed_tokens:
                return None
            state = engine.output_processor.request_states[inside]
            prompt, new = min(prompt, request.num_computed_tokens), request.num_output_tokens
            cached = min(state.num_cached_tokens or 0, prompt)
        return Chain(
            problem_id=self.draw.problem.id,
            index=self.index,
            text="",
            finish_reason=reason,
            model=self.model,
            sampling=self.draw.sampling,
            key=self.key,
            parent=self.draw.parent,
            cost=self._cost(cached, prompt, new),
        )

    def _cost(self, cached: int, prompt: int, new: int) -> Cost:
        """prompt: its tokens that were computed or found in the cache, ``cached`` of them found."""
        computed = prompt - cached
        flops = 0.0 if self.shape is None else self.shape.decode_flops(cached, computed + new)
        return Cost(prompt_tokens=computed, cached_tokens=cached, output_tokens=new, flops=flops)


def sampling_params(sampling: Sampling, limit: int, key: str, end_ids: Iterable[int]) -> Any:
    """``sampling`` in vLLM's terms for one chain of at most ``limit`` tokens, seeded by its key."""
    from vllm import SamplingParams  # type: ignore[reportMissingImports]
    from vllm.sampling_params import RequestOutputKind  # type: ignore[reportMissingImports]

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=1.0 if sampling.greedy else sampling.top_p,
        top_k=0 if sampling.greedy else sampling.top_k,
        max_tokens=limit,
        seed=chain_seed(key),
        stop=list(sampling.stop),
        stop_token_ids=sorted(end_ids),
        include_stop_str_in_output=True,
        logprobs=0,  # of the sampled token alone
        detokenize=bool(sampling.stop),
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
