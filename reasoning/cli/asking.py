"""How problems are asked: options that commands which draw chains share, and the look at the prompt before they do.

A system prompt, few-shot examples, a prefill and chat options are part of a problem's id, so chains drawn with others
never share a key.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Any, ClassVar

from reasoning.cli.show import note
from reasoning.engines.preflight import Finding, look, open_tokens
from reasoning.errors import UserError
from reasoning.options import option
from reasoning.records import Problem, Sampling
from reasoning.tasks import load_problems

CHAT_OPTION = "variable for the chat template, such as enable_thinking=false (repeat the flag)"


@dataclass(frozen=True, kw_only=True)
class Asking:
    HEADING: ClassVar[str] = "how problems are asked"

    limit: int = option(0, "at most so many problems; 0 is all", low=0)
    system: str = option("", "system prompt, or @FILE")
    few_shot: int = option(0, "worked examples before each problem", low=0, high=1000)
    prefill: str = option("", "first words of the answer, which the model goes on from")
    chat_option: list[str] = option([], CHAT_OPTION)


def problems_of(options: Any) -> list[Problem]:
    """The problems of ``options.task``, asked as the fields of `Asking` say."""
    parts = {key: getattr(options, key) for key in ("system", "few_shot", "prefill")}
    given = {key: value for key, value in parts.items() if value}
    asked = chat_options(options.chat_option)
    return load_problems(options.task, options.limit or None, chat_options=asked, say=note, **given)


def chat_options(pairs: list[str]) -> dict[str, Any]:
    """KEY=VALUE texts as variables; a value that is JSON (true, 3, "text") is read as such."""
    out: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UserError(f"--chat-option {pair!r}: write KEY=VALUE, such as enable_thinking=false.")
        try:
            out[key] = json.loads(value)
        except (ValueError, RecursionError):
            out[key] = value
    return out


def warnings(options: Any, tokenizer: Any, problems: list[Problem], sampling: Sampling) -> list[str]:
    """Lines to print before ``problems``, those of ``options.task``, are drawn with ``options.engine``: what its
    prompts suffer from. Notes are left to ``reasoning prompt``."""
    tokens = open_tokens(options.engine, tokenizer)
    if tokens is None:
        return []
    found: list[Finding] = [f for f in look(tokens, problems, sampling) if f.level != "note"]
    lines = [f"Prompt: {f.text}" for f in found]
    see = shlex.join(["reasoning", "prompt", options.task, "--engine", options.engine])
    return [*lines, f"See it:  {see}"] if lines else []
