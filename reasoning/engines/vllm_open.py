"""Opening vLLM for the engine: model, tokenizer and adapter found, checked against each other, and loaded."""

from __future__ import annotations

import os
import typing
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from reasoning.engines.memory import free_memory_bytes, weights_bytes
from reasoning.engines.parity import parse_limit
from reasoning.engines.tokens import check_source, check_vocabulary, folder_name, weights_digest
from reasoning.engines.vllm_options import (
    check_devices,
    check_quantization,
    fit_memory,
    in_our_words,
    unsplit,
    vllm_arguments,
)
from reasoning.engines.vllm_weights import Adapter, Layout
from reasoning.errors import MissingExtra, UserError
from reasoning.hub import commit_of, hub_or_cache, reason, refusal


@dataclass(frozen=True)
class Opened:
    """A live `vllm.LLM` and what belongs to it. adapter: read and found to fit, not yet in vLLM's hands."""

    llm: Any
    tokenizer: Any
    layout: Layout
    adapter: Adapter | None
    name: str
    version: str


def open_vllm(source: str, options: dict[str, Any]) -> Opened:
    """Load a local folder or a hub id with the options of `VLLMEngine.open`, and raise as it does."""
    arguments = vllm_arguments(options)
    parse_limit(options["parity"], "float32")
    vllm = import_vllm()
    platform = import_module("vllm.platforms").current_platform
    on_cpu = platform.is_cpu()
    check_devices(options, platform.device_type, 1 if on_cpu else platform.device_count())
    check_quantization(options["quantization"])
    local = check_source(source)
    revision = options["revision"] or None
    size = 0
    with hub_or_cache(not local, str(source), revision=revision) as away:
        try:
            transformers = import_module("transformers")
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                options["tokenizer"] or source,
                revision=None if options["tokenizer"] else revision,
                trust_remote_code=False,
            )
            config = transformers.AutoConfig.from_pretrained(
                source, revision=revision, trust_remote_code=False
            )
            if on_cpu:
                arguments = unsplit(arguments)
            if local and on_cpu:
                size = weights_bytes(source, options["dtype"])
                arguments = fit_memory(arguments, size, free_memory_bytes() // beside_us(options["executor"]))
            layout = Layout.of(config, source if local else _hub_folder(source, revision))
            check_vocabulary(tokenizer, config.get_text_config().vocab_size, source)
            adapter = Adapter.open(options["lora"], layout.shapes) if options["lora"] else None
            if adapter:
                ranks = typing.get_args(import_module("vllm.config.lora").MaxLoRARanks)
                arguments |= {"enable_lora": True, "max_lora_rank": adapter.slot_rank(ranks), "max_loras": 1}
            llm = vllm.LLM(str(source), **arguments)
        except UserError:
            raise
        except Exception as error:  # vLLM raises many kinds; to the user they mean the same
            hub = away or refusal(str(source), error)
            said = reason(str(source), away, error) if hub else in_our_words(error, size)
            raise UserError(f"vLLM cannot load {str(source)!r}: {said}") from error
    if local:
        name, version = folder_name(source), weights_digest(source)
    else:
        name, version = source, commit_of(source, revision)
    return Opened(llm, tokenizer, layout, adapter, name, version)


def import_vllm() -> Any:
    """vLLM, set to run in this process, quietly, without reporting usage, unless the environment says otherwise."""
    for key, value in (
        ("VLLM_ENABLE_V1_MULTIPROCESSING", "0"),
        ("VLLM_LOGGING_LEVEL", "WARNING"),
        ("VLLM_NO_USAGE_STATS", "1"),
    ):
        os.environ.setdefault(key, value)
    try:
        return import_module("vllm")
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            raise
        raise MissingExtra("vLLM", "vllm", "the engine 'vllm'") from None


def beside_us(executor: str) -> int:
    """Processes of torchrun on this machine, each with an engine of its own; 1 where it started none."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if executor == "external_launcher" else 1


def _hub_folder(source: str, revision: str | None) -> Path:
    """Where the hub's cache holds the model's files: names and shapes of its tensors are read there."""
    snapshot = import_module("huggingface_hub").snapshot_download
    return Path(snapshot(source, revision=revision, allow_patterns=["*.safetensors", "*.json"]))
