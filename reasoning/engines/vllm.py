"""vLLM in this process: token ids in, token ids and the log-probabilities they were sampled with out.

One request for each chain, so that every chain has a seed of its own and arrives as it finishes; the prefix cache
shares the prompt among them. Needs the extra "vllm", imported only when an engine is opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

from reasoning.engines.tokens import Tokens, check_source, end_ids, folder_name, shape_of, weights_digest
from reasoning.errors import EngineError, MissingExtra, UserError
from reasoning.records import Chain, Cost, Draw, Sampling, chain_key, chain_seed

DTYPES = ("auto", "float32", "bfloat16", "float16")


class VLLMEngine:
    """An `Engine` around a live `vllm.LLM` (which must have been made with processed log-probabilities)."""

    def __init__(self, llm: Any, tokenizer: Any, *, name: str, version: str, chat: str = "auto"):
        self.vllm = import_module("vllm")
        self._final = import_module("vllm.sampling_params").RequestOutputKind.FINAL_ONLY
        self.llm: Any = llm
        self.tokenizer = tokenizer
        config = llm.llm_engine.model_config
        self.shape = shape_of(config.hf_config)
        self.name = name
        self.model = f"{name}@{version}"
        ends = end_ids(tokenizer, config.try_get_generation_config().get("eos_token_id"))
        self._tokens = Tokens(tokenizer, name=name, limit=config.max_model_len, end_ids=ends, chat=chat)

    @classmethod
    def open(
        cls,
        source: str,
        *,
        dtype: str = "auto",
        max_rows: int = 256,
        max_model_len: int = 0,
        tensor_parallel_size: int = 1,
        memory_gb: float = 0.0,
        chat: str = "auto",
    ) -> VLLMEngine:
        """Load a local folder or a hub id.

        max_rows: chains in flight at once. max_model_len: tokens of prompt and answer, 0 for the model's own limit.
        memory_gb: room for keys and values, 0 for vLLM's default. Raises MissingExtra without vLLM, UserError
        when vLLM cannot load the model.
        """
        if dtype not in DTYPES:
            raise UserError(f"dtype={dtype!r} is not one of {', '.join(DTYPES)}.")
        # In this process, quietly, and without reporting usage, unless the user says otherwise.
        for key, value in (
            ("VLLM_ENABLE_V1_MULTIPROCESSING", "0"),
            ("VLLM_LOGGING_LEVEL", "WARNING"),
            ("VLLM_NO_USAGE_STATS", "1"),
        ):
            os.environ.setdefault(key, value)
        try:
            vllm = import_module("vllm")
        except ModuleNotFoundError as error:
            if error.name != "vllm":
                raise
            raise MissingExtra("vLLM", "vllm", "the engine 'vllm'") from None
        local = check_source(source)
        options: dict[str, Any] = {"max_model_len": max_model_len} if max_model_len else {}
        if memory_gb:
            options["kv_cache_memory_bytes"] = int(memory_gb * 2**30)
        try:
            tokenizer = import_module("transformers").AutoTokenizer.from_pretrained(source)
            llm = vllm.LLM(
                str(source),
                dtype=dtype,
                max_num_seqs=max_rows,
                tensor_parallel_size=tensor_parallel_size,
                logprobs_mode="processed_logprobs",
                load_format="safetensors",
                trust_remote_code=False,
                **options,
            )
        except Exception as error:  # vLLM raises many kinds; to the user they mean the same
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"vLLM cannot load {str(source)!r}: {reason}") from error
        if local:
            return cls(llm, tokenizer, name=folder_name(source), version=weights_digest(source), chat=chat)
        version = getattr(llm.llm_engine.model_config.hf_config, "_commit_hash", None) or "main"
        return cls(llm, tokenizer, name=source, version=version[:12], chat=chat)

    def encode(self, prompt: str) -> tuple[int, ...]:
        """Token ids that the model is shown for ``prompt``, chat template and special tokens included."""
        return self._tokens.encode(prompt)

    def decode(self, token_ids: Sequence[int]) -> str:
        return self._tokens.decode(token_ids)

    def generate(self, draws: Sequence[Draw]) -> Iterator[Chain]:
        """Yield the chains of ``draws`` as they finish. A generator that is closed early cancels the rest.

        Raises UserError for a prompt that fills the context, EngineError when vLLM fails.
        """
        requests = [(draw, self._tokens.shown(draw)) for draw in draws]
        limits = [self._tokens.room(shown, draw) for draw, shown in requests]
        engine = self.llm.llm_engine
        pending: dict[str, tuple[Draw, tuple[int, ...], int, str]] = {}
        try:
            for (draw, shown), limit in zip(requests, limits, strict=True):
                for index in draw.indices:
                    problem = draw.problem
                    key = chain_key(self.model, draw.sampling, problem.id, problem.prompt, index, draw.parent)
                    params = self._params(draw.sampling, limit, chain_seed(key))
                    name = f"{len(pending)}-{key}"
                    pending[name] = (draw, shown, index, key)
                    engine.add_request(name, {"prompt_token_ids": list(shown)}, params)
            while pending:
                for output in self._step():
                    if output.finished:
                        yield self._chain(pending.pop(output.request_id), output)
        finally:
            if pending and self.llm is not None:
                engine.abort_request(list(pending))

    def worst_case(self, draw: Draw) -> Cost:
        """Every chain computing its whole prompt: what the prefix cache saves is known only afterwards."""
        shown = self._tokens.shown(draw)
        limit = self._tokens.room(shown, draw)
        count = len(draw.indices)
        return Cost(
            prompt_tokens=len(shown) * count,
            output_tokens=limit * count,
            flops=self._flops(0, len(shown) + limit) * count,
        )

    def close(self) -> None:
        """Shut vLLM down and free its memory."""
        if self.llm is not None:
            self.llm.llm_engine.engine_core.shutdown()
            self.llm = None

    def _step(self) -> list[Any]:
        try:
            return self.llm.llm_engine.step()
        except Exception as error:
            raise EngineError(f"vLLM failed while sampling: {type(error).__name__}: {error}") from error

    def _params(self, sampling: Sampling, limit: int, seed: int) -> Any:
        return self.vllm.SamplingParams(
            temperature=sampling.temperature,
            top_p=1.0 if sampling.greedy else sampling.top_p,
            top_k=0 if sampling.greedy else sampling.top_k,
            max_tokens=limit,
            seed=seed,
            stop=list(sampling.stop),
            stop_token_ids=sorted(self._tokens.end_ids),
            include_stop_str_in_output=True,
            logprobs=0,  # of the sampled token alone
            detokenize=bool(sampling.stop),
            output_kind=self._final,
        )

    def _chain(self, request: tuple[Draw, tuple[int, ...], int, str], output: Any) -> Chain:
        draw, shown, index, key = request
        done = output.outputs[0]
        ids = tuple(int(token) for token in done.token_ids)
        cached = min(output.num_cached_tokens or 0, len(shown))
        return Chain(
            problem_id=draw.problem.id,
            index=index,
            text=self.decode(ids),
            token_ids=ids,
            logprobs=tuple(
                float(step[token].logprob) for token, step in zip(ids, done.logprobs, strict=True)
            ),
            prompt_token_ids=shown,
            finish_reason="stop" if done.finish_reason == "stop" else "length",
            model=self.model,
            sampling=draw.sampling,
            key=key,
            parent=draw.parent,
            cost=Cost(
                prompt_tokens=len(shown) - cached,
                cached_tokens=cached,
                output_tokens=len(ids),
                flops=self._flops(cached, len(shown) - cached + len(ids)),
            ),
        )

    def _flops(self, context_tokens: int, new_tokens: int) -> float:
        return 0.0 if self.shape is None else self.shape.decode_flops(context_tokens, new_tokens)
