"""What the engine `vllm` can be told, checked, and put in vLLM's own words; and vLLM's complaints put in ours.

Knows vLLM's settings, devices and error texts. Loads nothing and draws nothing.
"""

from __future__ import annotations

import os
import re
from typing import Any

from reasoning.engines.memory import GIB
from reasoning.errors import UserError, unknown
from reasoning.progress import bytes_text

DTYPES = ("auto", "float32", "bfloat16", "float16")

# name: (lowest, highest); 0 leaves the choice to vLLM where the lowest is 0
BOUNDS: dict[str, tuple[float, float]] = {
    "max_rows": (1, 65536),
    "max_model_len": (0, 2**24),
    "max_batched_tokens": (0, 2**24),
    "memory_gb": (0, 2**20),
    "gpu_memory_utilization": (0, 1),
    "cpu_offload_gb": (0, 2**20),
    "tensor_parallel_size": (1, 1024),
    "pipeline_parallel_size": (1, 1024),
}

# ours: vLLM's, where they differ
_VLLM_NAMES = {
    "max_rows": "max_num_seqs",
    "max_batched_tokens": "max_num_batched_tokens",
    "prefix_caching": "enable_prefix_caching",
    "sleep_mode": "enable_sleep_mode",
    "expert_parallel": "enable_expert_parallel",
    "executor": "distributed_executor_backend",
}
# Passed on only where the user chose something: vLLM has defaults of its own.
_OPTIONAL = (
    "max_model_len",
    "max_batched_tokens",
    "gpu_memory_utilization",
    "cpu_offload_gb",
    "quantization",
    "executor",
    "attention_backend",
    "revision",
    "tokenizer",
)


def vllm_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """``options`` of `VLLMEngine.open` as keyword arguments of vLLM. Raises UserError for one out of bounds."""
    if options["dtype"] not in DTYPES:
        raise UserError(f"dtype={options['dtype']!r} is not one of {', '.join(DTYPES)}.")
    for name, (low, high) in BOUNDS.items():
        if not low <= options[name] <= high:
            raise UserError(f"{name} must lie between {low:g} and {high:g}, not {options[name]}.")
    if options["data_parallel_size"] != 1:
        raise UserError(
            f"data_parallel_size={options['data_parallel_size']}: vLLM runs one copy of a model in a process. Use an "
            "engine for each copy, as --engine ray:vllm:... does, or a vLLM server and --engine openai:..."
        )
    if options["memory_gb"] and options["gpu_memory_utilization"]:
        raise UserError(
            "memory_gb and gpu_memory_utilization both set the room for keys and values: give one of them."
        )
    arguments: dict[str, Any] = {
        "logprobs_mode": "processed_logprobs",  # of the distribution that was sampled from
        "load_format": "safetensors",
        "trust_remote_code": False,
    }
    plain = (
        "dtype",
        "max_rows",
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "expert_parallel",
        "enforce_eager",
        "prefix_caching",
        "kv_cache_dtype",
        "sleep_mode",
    )
    for name in plain:
        arguments[_VLLM_NAMES.get(name, name)] = options[name]
    for name in _OPTIONAL:
        if options[name]:
            arguments[_VLLM_NAMES.get(name, name)] = options[name]
    if options["revision"] and not options["tokenizer"]:
        arguments["tokenizer_revision"] = options["revision"]
    if options["memory_gb"]:
        arguments["kv_cache_memory_bytes"] = int(options["memory_gb"] * GIB)
    return arguments


def check_quantization(method: str) -> None:
    """Raises UserError with the nearest name for a method that this vLLM does not have."""
    if method:
        from vllm.model_executor.layers.quantization import (  # type: ignore[reportMissingImports]
            QUANTIZATION_METHODS,
        )

        if method not in QUANTIZATION_METHODS:
            raise unknown("quantization", method, QUANTIZATION_METHODS)


def check_devices(options: dict[str, Any], device: str, count: int) -> None:
    """Raises UserError for settings that want devices this machine lacks.

    device: vLLM's name for what it runs on ("cuda", "cpu", "" for none it can find); count: how many there are.
    """
    if not device:
        raise UserError(
            "This vLLM is built for a GPU and finds none. Use --engine transformers:..., or vLLM's CPU build."
        )
    workers = options["tensor_parallel_size"] * options["pipeline_parallel_size"]
    if device == "cpu":
        if options["sleep_mode"]:
            raise UserError("sleep_mode=true needs a GPU: on a CPU vLLM has no memory to give back.")
        if workers > 1 and not os.environ.get("VLLM_CPU_OMP_THREADS_BIND"):
            raise UserError(
                f"tensor_parallel_size x pipeline_parallel_size = {workers} wants as many GPUs, and vLLM runs on the "
                "CPU here. Leave both at 1 (VLLM_CPU_OMP_THREADS_BIND='0-3|4-7' would split the cores among workers)."
            )
    elif workers > count and options["executor"] != "ray":
        raise UserError(
            f"tensor_parallel_size x pipeline_parallel_size = {workers} wants as many GPUs; {count} can be seen. "
            "Lower them, or give executor=ray where a Ray cluster has the others."
        )


def unsplit(arguments: dict[str, Any]) -> dict[str, Any]:
    """``arguments`` for a CPU: no prompt is read in parts.

    Where a step reads part of a prompt, vLLM throws away the token it sampled and sets the chain's generator back by
    an offset, which generators on a CPU do not have ("CPU Generator does not use offset").
    """
    return arguments | {"enable_chunked_prefill": False}


def fit_memory(arguments: dict[str, Any], weights_bytes: int, free_bytes: int) -> dict[str, Any]:
    """``arguments`` for a CPU: a quarter of the memory left by the weights for keys and values, if nothing was asked.

    vLLM's own default, nearly all of the machine's memory, fails wherever anything else runs. Raises UserError when
    weights and cache cannot fit.
    """
    out = dict(arguments)
    if "kv_cache_memory_bytes" not in out and "gpu_memory_utilization" not in out:
        out["kv_cache_memory_bytes"] = max(0, free_bytes - weights_bytes) // 4
    cache = out.get("kv_cache_memory_bytes", 0)
    if weights_bytes + cache > free_bytes or ("gpu_memory_utilization" not in out and not cache):
        raise UserError(
            f"Too little memory: the weights take {bytes_text(weights_bytes)} and keys and values "
            f"{bytes_text(cache)}, and {bytes_text(free_bytes)} are free. "
            "Lower memory_gb, or the weights' size by dtype=bfloat16, or take a smaller model."
        )
    return out


_OUR_WORDS = (
    (r"`?--?kv[-_]cache[-_]memory[-_]bytes`?|kv_cache_memory_bytes|VLLM_CPU_KVCACHE_SPACE", "memory_gb"),
    (r"`?--gpu-memory-utilization( [\d.]+)?`?|`gpu_memory_utilization`", "gpu_memory_utilization"),
    (r"`?--max-model-len`?|`max_model_len`", "max_model_len"),
    (r"`?--max-num-seqs`?|max_num_seqs", "max_rows"),
    (r"`?--max-num-batched-tokens`?|max_num_batched_tokens", "max_batched_tokens"),
)


def in_our_words(error: BaseException, weights_bytes: int = 0) -> str:
    """One line that says what a vLLM error means, with our names for the settings."""
    text = str(error).strip()
    if type(error).__name__ == "OutOfMemoryError" or "out of memory" in text:
        return (
            f"out of memory (the weights alone take {bytes_text(weights_bytes)}, shared among tensor_parallel_size "
            "devices). Lower memory_gb or gpu_memory_utilization, max_model_len or max_rows, or use quantization."
        )
    if found := re.search(r"Model architectures (\[.*?\]) are not supported", text):
        return f"it has no {found[1]}. --engine transformers:... draws from any causal language model."
    if found := re.search(r"Value error, (.*?)(?: \[type=|\n|$)", text, re.DOTALL):  # as pydantic writes
        text = found[1]
    text = re.sub(r"\s*(See|For further information visit) https?://\S+( for more details\.?)?", "", text)
    text = (text.splitlines() or [""])[0].strip() or type(error).__name__
    if "User-specified max_model_len" in text:
        return f"{text.split(' To allow')[0]} Lower max_model_len; 0 takes the model's own limit."
    for pattern, ours in _OUR_WORDS:
        text = re.sub(pattern, ours, text)
    return text
