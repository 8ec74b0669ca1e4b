"""Engines: what turns a problem into sampled chains of thought. `open_engine` finds one by its spec.

transformers:PATH_OR_HUB_ID   embedded default; the bare path of an existing folder means the same
vllm:PATH_OR_HUB_ID           vLLM in this process (extra "vllm")
openai:MODEL:base_url=URL     any OpenAI-compatible server (extra "openai")
replay:PATH                   recorded chains
ray:ENGINE:OPTIONS            any of the others on many machines (extra "ray"), such as
                              ray:vllm:PATH:actors=8,address=HOST:6379
path/to/file.py:name          your own: an engine, or a function (**options) that returns one
"""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from reasoning.engines.base import Engine
from reasoning.errors import UserError, unknown
from reasoning.spec import Spec, is_user_code, load_user_code, parse_spec

# Each module is imported when its engine is opened, so that naming an engine costs nothing.
ENGINES = {
    "openai": ("reasoning.engines.openai", "OpenAIEngine"),
    "ray": ("reasoning.engines.ray", "RayEngine"),
    "replay": ("reasoning.engines.replay", "ReplayEngine"),
    "transformers": ("reasoning.engines.transformers", "TransformersEngine"),
    "vllm": ("reasoning.engines.vllm", "VLLMEngine"),
}

_SECRET = re.compile(r"(?i)(api_?)?(key|token|secret|password)$")

__all__ = ["ENGINES", "Engine", "open_engine", "parse_engine"]


def open_engine(spec: str, **options: Any) -> Engine:
    """The engine that ``spec`` names, e.g. "transformers:Qwen/Qwen3-0.6B:dtype=bfloat16,max_rows=64".

    options: the same keys as behind the spec's last colon, where one given in the spec wins. Raises UserError for
    an unknown engine, option or model, MissingExtra where an optional package is missing.
    """
    if is_user_code(spec):
        return _from_user_code(spec, options)
    parsed = parse_engine(spec)
    module, name = ENGINES[parsed.name]
    opener = getattr(import_module(module), name).open
    defaults = {
        key: parameter.default
        for key, parameter in inspect.signature(opener).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    for key in options:
        if key not in defaults:
            raise unknown(f"{parsed.name!r} option", key, defaults)
    return opener(parsed.argument, **parsed.take({**defaults, **options}))


def parse_engine(spec: str) -> Spec:
    """The spec of an engine that exists, with its model or file. Raises UserError for another one, and for a spec
    that holds a key."""
    parsed = Spec(spec, "transformers", spec) if Path(spec).is_dir() else parse_spec(spec)
    if any(_SECRET.match(key) for key in parsed.options):  # before anything repeats the spec
        raise UserError(
            "A spec is stored with the run, so it holds no key: put it into an environment variable and give the "
            "variable's name, key_env=NAME."
        )
    if parsed.name not in ENGINES:
        raise unknown("engine", parsed.name, ENGINES)
    if not parsed.argument:
        what = {"openai": "MODEL", "ray": "ENGINE:MODEL", "replay": "PATH"}.get(parsed.name, "PATH_OR_HUB_ID")
        raise UserError(f"{spec!r} does not say which model or file: write {parsed.name}:{what}.")
    return parsed


def _from_user_code(spec: str, options: dict[str, Any]) -> Engine:
    found = load_user_code(spec)
    if isinstance(found, type) or not isinstance(found, Engine):
        if not callable(found):
            raise UserError(f"{spec!r} is neither an engine nor a function that returns one.")
        found = found(**options)
    if not isinstance(found, Engine):
        raise UserError(
            f"{spec!r} is not an engine: it lacks one of model, shape, generate, worst_case, close."
        )
    return found
