"""vLLM in this process: token ids in, token ids and the log-probabilities they were sampled with out.

One request for each chain, so that every chain has a seed of its own and arrives as it finishes; the prefix cache
shares the prompt among them. Needs the extra "vllm", imported only when an engine is opened. Settings are checked in
vllm_options.py, weights in vllm_weights.py, agreement with a plain forward pass in parity.py.
"""

from __future__ import annotations

import math
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from reasoning.engines import parity as parity_check
from reasoning.engines.base import ended_by
from reasoning.engines.memory import free_memory_bytes, out_of_memory
from reasoning.engines.parity import Parity, PlainCopy
from reasoning.engines.tokens import Tokens, end_ids, shape_of, weights_digest
from reasoning.engines.vllm_chains import Request, sampling_params
from reasoning.engines.vllm_open import open_vllm
from reasoning.engines.vllm_options import in_our_words
from reasoning.engines.vllm_weights import Adapter, Layout, read_tensors
from reasoning.errors import EngineError, UserError
from reasoning.records import Chain, Cost, Draw, Problem

_ADVICE = (
    "Try enforce_eager=true, another attention_backend or dtype; parity=NUMBER sets another limit in nats, "
    "parity=off draws all the same."
)


class VLLMEngine:
    """An `Engine` around a live `vllm.LLM` (which must have been made with processed log-probabilities).

    parity: what the last check measured, or None where none was made. With an adapter, `shape` (and so the FLOPs)
    stays that of the base model: LoRA's own products, some 2 x rank / hidden of it, are not counted.
    """

    parity: Parity | None = None

    def __init__(
        self,
        llm: Any,
        tokenizer: Any,
        *,
        name: str,
        version: str,
        suffix: str = "",
        chat: str = "auto",
        layout: Layout | None = None,
        parity: tuple[str, float] = ("off", 0.0),
    ):
        self.llm: Any = llm
        self.tokenizer = tokenizer
        config = llm.llm_engine.model_config
        self.shape = shape_of(config.hf_config)
        self.name, self.version, self._suffix = name, version, suffix
        self._layout = layout
        self._parity = parity
        self._adapter: Adapter | None = None
        self._rename()
        self._adapter_request: Any = None
        self._plain: PlainCopy | None = None
        ends = end_ids(tokenizer, config.try_get_generation_config().get("eos_token_id"))
        self._tokens = Tokens(tokenizer, name=name, limit=config.max_model_len, end_ids=ends, chat=chat)
        self._vocab = config.get_vocab_size()
        self._lock = threading.Lock()
        self._finished: dict[str, Any] = {}  # outputs that another generator's step brought in
        self._started = 0  # requests so far: their names
        self._waiting = 0  # requests not yet yielded
        self._unfinished: list[Chain] = []
        self._refusal = ""  # why nothing may be drawn now

    @classmethod
    def open(
        cls,
        source: str,
        *,
        dtype: str = "auto",
        max_rows: int = 256,
        max_model_len: int = 0,
        max_batched_tokens: int = 0,
        memory_gb: float = 0.0,
        gpu_memory_utilization: float = 0.0,
        cpu_offload_gb: float = 0.0,
        tensor_parallel_size: int = 1,
        pipeline_parallel_size: int = 1,
        data_parallel_size: int = 1,
        expert_parallel: bool = False,
        executor: str = "",
        enforce_eager: bool = False,
        prefix_caching: bool = True,
        quantization: str = "",
        kv_cache_dtype: str = "auto",
        attention_backend: str = "",
        lora: str = "",
        sleep_mode: bool = False,
        parity: str = "auto",
        revision: str = "",
        tokenizer: str = "",
        chat: str = "auto",
    ) -> VLLMEngine:
        """Load a local folder or a hub id. 0 and "" leave a choice to vLLM; names are vLLM's unless said otherwise.

        max_rows: chains in flight at once (max_num_seqs). max_model_len: tokens of prompt and answer.
        max_batched_tokens: tokens computed in one step (max_num_batched_tokens). memory_gb: GiB for keys and values
        (kv_cache_memory_bytes), else gpu_memory_utilization in (0, 1], else vLLM's default on a GPU and a quarter of
        the free memory on a CPU. executor: "mp", "ray", or "external_launcher" for an engine in
        each process of torchrun (distributed_executor_backend). lora: folder of an adapter.
        data_parallel_size: above 1 is refused with the way to have it (one vLLM serves one process).
        sleep_mode: lets `sleep` free GPU memory. parity: compare a few chains with a plain float32 forward pass of
        transformers on the CPU, after loading and after each update: "on", "off" (or 0), a limit of its own in nats,
        or "auto", on where that copy of the weights takes at most 8 GiB and half of the free memory.

        Raises MissingExtra without vLLM, UserError when vLLM cannot load the model, EngineError when the check fails.
        """
        options = {key: value for key, value in locals().items() if key not in ("cls", "source")}
        found = open_vllm(source, options)
        loaded = str(found.llm.llm_engine.model_config.dtype).removeprefix("torch.")
        engine = cls(
            found.llm,
            found.tokenizer,
            name=found.name,
            version=found.version,
            suffix=f"-{quantization}" if quantization else "",
            chat=chat,
            layout=found.layout,
            parity=parity_check.parse_limit(parity, loaded),
        )
        try:
            if found.adapter:
                engine._wear(found.adapter)
            engine._check_loaded(source, revision)
        except BaseException:
            engine.close()
            raise
        return engine

    def encode(self, prompt: str) -> tuple[int, ...]:
        """Token ids that the model is shown for ``prompt``, chat template and special tokens included."""
        return self._tokens.encode(prompt)

    def ask(self, problem: Problem) -> tuple[int, ...]:
        """Token ids that the model is shown for ``problem``, its whole conversation."""
        return self._tokens.ask(problem)

    def decode(self, token_ids: Sequence[int]) -> str:
        return self._tokens.decode(token_ids)

    def rename(self, version: str) -> None:
        """Another version in the name `model`, for weights that are the caller's business."""
        self.version = version
        self._rename()

    def generate(self, draws: Sequence[Draw]) -> Iterator[Chain]:
        """Yield the chains of ``draws`` as they finish. A generator that is closed early cancels the rest.

        Several may be open at once, in one thread or in several: their chains share vLLM's batch, and whichever asks
        next moves all of them on. Raises UserError for a prompt that fills the context or that the vocabulary does
        not hold, and while the engine sleeps; EngineError when vLLM fails.
        """
        self._must_be_ready()
        prompts = [(draw, self._shown(draw)) for draw in draws]
        limits = [self._tokens.room(shown, draw) for draw, shown in prompts]
        engine = self.llm.llm_engine
        pending: dict[str, Request] = {}
        try:
            for (draw, shown), limit in zip(prompts, limits, strict=True):
                for index in draw.indices:
                    request = Request.of(draw, shown, index, self.model, self.shape)
                    params = sampling_params(draw.sampling, limit, request.key, self._tokens.end_ids)
                    with self._lock:
                        name = str(self._started)
                        self._started += 1
                        self._waiting += 1
                        pending[name] = request
                        engine.add_request(
                            name,
                            {"prompt_token_ids": list(shown)},
                            params,
                            lora_request=self._adapter_request,
                        )
            while pending:
                output = self._arrived(pending)
                if output is not None:
                    request = pending.pop(output.request_id)
                    self._waiting -= 1
                    yield request.whole(output, self.decode)
        finally:
            reason = ended_by(sys.exception())
            with self._lock:
                if pending and self.llm is not None:
                    self._unfinished += [
                        chain
                        for name, request in pending.items()
                        if (chain := request.begun(engine, name, self._finished.get(name), reason))
                    ]
                    engine.abort_request(list(pending))
                self._waiting -= len(pending)
                for name in pending:
                    self._finished.pop(name, None)

    def unfinished(self) -> list[Chain]:
        """What `generate` had begun when it ended early. Known to the token while vLLM's scheduler is in this process
        (it is, unless VLLM_ENABLE_V1_MULTIPROCESSING says otherwise); else each prompt is counted, and no more."""
        begun, self._unfinished = self._unfinished, []
        return begun

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

    def load_weights(
        self,
        weights: str | Path | Iterable[tuple[str, Any]],
        *,
        version: str = "",
        plain: Any = None,
    ) -> Parity | None:
        """Replace the weights in place, forget cached prompts, and check parity if that is on; returns what it found.

        weights: a folder of safetensors, or (name, tensor) pairs: all of the model's, named as in its checkpoint or
        as a module of transformers names them; pairs that tell their ``shapes`` (by name) are read one at a time.
        version: the new part of `model` behind the "@", which has to differ from the last (a folder's is the digest
        of its content). plain: a live module of transformers that has these weights (a trainer's) to check against,
        or a function that scores chains with them (`parity.Scores`); without it the check copies the weights into a
        module of its own.

        Raises UserError, with the old weights still in place, for weights that do not fit or while chains are being
        drawn; EngineError when vLLM fails midway or parity does: then nothing is drawn until a load succeeds.
        """
        self._must_be_idle("load_weights")
        if self._layout is None:
            raise UserError("load_weights: this engine was made around a vLLM whose checkpoint is not known.")
        if isinstance(weights, str | Path):
            version = version or weights_digest(weights)
            weights = read_tensors(weights)
        elif not version or version == self.version:
            raise UserError(
                f"load_weights: give a version other than {self.version!r}, or chains of old and new weights would "
                "have the same keys."
            )
        given: Iterable[tuple[str, Any]] = self._layout.complete(weights)
        copied = plain is None and self._plain is not None
        if copied:
            given = list(given)
        engine = self.llm.llm_engine
        if engine.vllm_config.parallel_config.world_size > 1:  # they travel to other processes
            given = [(name, tensor.cpu()) for name, tensor in given]
        self._refusal = "an update of its weights failed midway: load_weights again, or open it anew"
        try:
            engine.collective_rpc("reload_weights", kwargs={"weights_iterator": given})
            if not engine.reset_prefix_cache():
                raise RuntimeError("the prefix cache could not be reset")
        except Exception as error:
            raise EngineError(f"vLLM could not take over the weights: {in_our_words(error)}") from error
        self.version = version
        self._rename()
        if self._adapter:  # new base weights unload it
            self._wear(self._adapter)
        if copied and self._plain is not None:
            self._plain.take_over(dict(given))
        return self._confirm(plain)

    def expect(self, parity: str) -> None:
        """Hold later loads to ``parity``, as in `open`; "auto" leaves quantized weights unchecked."""
        config = self.llm.llm_engine.model_config
        mode, limit = parity_check.parse_limit(parity, str(config.dtype).removeprefix("torch."))
        self._parity = ("off", limit) if mode == "auto" and config.quantization else (mode, limit)

    def load_adapter(self, folder: str | Path) -> Parity | None:
        """Take another LoRA adapter in place of the one that the engine was opened with, and check parity if on.

        Raises UserError for one that does not fit, EngineError when vLLM refuses it or the check fails.
        """
        self._must_be_idle("load_adapter")
        if self._adapter is None or self._layout is None:
            raise UserError("load_adapter: this engine has no room for adapters; open it with lora=FOLDER.")
        adapter = Adapter.open(folder, self._layout.shapes)
        room = self.llm.llm_engine.vllm_config.lora_config.max_lora_rank
        if adapter.rank > room:
            raise UserError(
                f"load_adapter: {folder} has rank {adapter.rank}; the engine made room for {room} when it was opened."
            )
        self._refusal = "its adapter could not be replaced: load_adapter again, or open it anew"
        self._wear(adapter)
        if self._plain is not None:
            self._plain.wear(folder)
        return self._confirm()

    @property
    def sleep_mode(self) -> bool:
        """Whether it can `sleep`."""
        return bool(self.llm.llm_engine.model_config.enable_sleep_mode)

    def sleep(self, level: int = 1) -> None:
        """Give GPU memory back between phases: 1 keeps the weights in the machine's memory, 2 drops them (after
        `wake` they must then be loaded again). Raises UserError where the engine cannot sleep."""
        self._must_be_idle("sleep")
        if level not in (1, 2):
            raise UserError(
                f"sleep: level must be 1 (weights to the CPU) or 2 (weights dropped), not {level}."
            )
        engine = self.llm.llm_engine
        if not self.sleep_mode:
            raise UserError("This engine cannot sleep: that needs a GPU and the option sleep_mode=true.")
        engine.sleep(level)
        self._refusal = f"it sleeps (level {level}): call wake() first"

    def wake(self) -> None:
        """End `sleep`. After level 2, `load_weights` has to follow. Raises UserError for an engine that is awake."""
        if not self._refusal.startswith("it sleeps"):
            raise UserError("wake: the engine does not sleep.")
        self.llm.llm_engine.wake_up()
        dropped = "level 2" in self._refusal
        self._refusal = "sleep(2) dropped its weights: load_weights first" if dropped else ""

    def close(self) -> None:
        """Shut vLLM down and free its memory."""
        if self.llm is not None:
            self.llm.llm_engine.engine_core.shutdown()
            self.llm = self._plain = None

    def _must_be_ready(self) -> None:
        if self.llm is None:
            raise UserError("This engine is closed.")
        if self._refusal:
            raise UserError(f"{self.model} cannot draw: {self._refusal}.")

    def _must_be_idle(self, what: str) -> None:
        if self.llm is None:
            raise UserError("This engine is closed.")
        if self._refusal.startswith("it sleeps"):
            raise UserError(f"{what}: the engine sleeps; call wake() first.")
        if self._waiting:
            raise UserError(
                f"{what}: {self._waiting} chains are still being drawn; finish or close their generator first."
            )

    def _shown(self, draw: Draw) -> tuple[int, ...]:
        shown = self._tokens.shown(draw)
        if shown and not 0 <= min(shown) <= max(shown) < self._vocab:
            raise UserError(
                f"The prompt of problem {draw.problem.id} has token id {max(shown)}, and {self.name} has "
                f"{self._vocab} tokens: tokenizer and model do not fit."
            )
        return shown

    def _arrived(self, pending: dict[str, Request]) -> Any:
        """A finished output of ``pending``, or None; those of other generators are set aside for them."""
        with self._lock:
            if not (self._finished.keys() & pending.keys()):
                try:
                    outputs = self.llm.llm_engine.step()
                except Exception as error:
                    said = f"{type(error).__name__}: {error}"
                    if out_of_memory(error):
                        said = (
                            "out of memory. Lower max_rows, max_model_len, memory_gb or gpu_memory_utilization, or "
                            "leave it more of the device (in training: sleep_mode=true, smaller --micro-tokens)."
                        )
                    raise EngineError(f"vLLM failed while sampling: {said}") from error
                self._finished |= {output.request_id: output for output in outputs if output.finished}
            name = next(iter(self._finished.keys() & pending.keys()), None)
            return None if name is None else self._finished.pop(name)

    def _flops(self, context_tokens: int, new_tokens: int) -> float:
        return 0.0 if self.shape is None else self.shape.decode_flops(context_tokens, new_tokens)

    def _rename(self) -> None:
        adapter = f"+{self._adapter.digest}" if self._adapter else ""
        self.model = f"{self.name}@{self.version}{self._suffix}{adapter}"

    def _wear(self, adapter: Adapter) -> None:
        """Hand the adapter to vLLM, under an id and a name of its own so that no cached prompt is taken for its."""
        request = import_module("vllm.lora.request").LoRARequest
        last = self._adapter_request
        number = 1 + (last.lora_int_id if last else 0)
        engine = self.llm.llm_engine
        try:
            if last:
                engine.remove_lora(last.lora_int_id)
            new = request(f"{adapter.digest}-{number}", number, str(adapter.folder))
            engine.add_lora(new)
        except Exception as error:
            raise UserError(f"vLLM cannot use the adapter {adapter.folder}: {in_our_words(error)}") from error
        self._adapter, self._adapter_request = adapter, new
        self._rename()

    def _check_loaded(self, source: str, revision: str) -> None:
        """The check after loading, for which a plain copy is loaded too. Warns where "auto" makes none."""
        mode, limit = self._parity
        if mode == "off" or self._layout is None:
            return
        config = self.llm.llm_engine.model_config
        own = limit != parity_check.parse_limit("on", str(config.dtype).removeprefix("torch."))[1]
        size = 4 * sum(math.prod(shape) for shape in self._layout.shapes.values())
        reason = parity_check.why_not(mode, own, config.quantization or "", size, free_memory_bytes())
        if reason:
            warnings.warn(
                f"{self.model} was not checked against a plain forward pass: {reason} (parity=on checks).",
                stacklevel=3,
            )
            return
        folder = self._adapter.folder if self._adapter else ""
        self._plain = PlainCopy.open(source, revision=revision, adapter=folder)
        self._confirm()

    def _confirm(self, plain: Any = None) -> Parity | None:
        """Lift the refusal to draw, and check parity against ``plain`` or the plain copy; on failure refuse again."""
        self._refusal, self.parity = "", None
        if plain is None and self._plain is not None:
            plain = self._plain.module
        if self._parity[0] == "off" or plain is None:
            return None
        scores = parity_check.by_module(plain) if isinstance(plain, torch.nn.Module) else plain
        try:
            self.parity = parity_check.check(self, scores, limit=self._parity[1], advice=_ADVICE)
        except EngineError:
            self._refusal = "its weights failed the parity check"
            raise
        return self.parity
