"""A problem as a conversation: system prompt, worked examples as turns, the question, the start of the answer.

A conversation is kept with its problem (``metadata["messages"]``, roles and contents as chat APIs have them), and
`Problem.prompt` is the same as plain text for models without a chat template. Both enter the problem's id, so
chains drawn with another system prompt or other examples never share a key. Knows chat templates only through a
tokenizer's ``apply_chat_template``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from reasoning.errors import UserError
from reasoning.records import Problem, digest

ROLES = ("system", "user", "assistant")

Message = dict[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}."""


def messages_of(problem: Problem) -> list[Message]:
    """What a chat model is shown for ``problem``. A last message of the assistant is the start of the answer, to be
    continued; otherwise the last one is the user's."""
    known = problem.metadata.get("messages")
    return [dict(m) for m in known] if known else [{"role": "user", "content": problem.prompt}]


def chat_options_of(problem: Problem) -> dict[str, Any]:
    """Variables for the chat template (``enable_thinking``, say)."""
    return dict(problem.metadata.get("chat_options") or {})


def start_of_answer(problem: Problem) -> str:
    """The text that the prompt has put at the start of the response (a prefill), "" without one. A verifier reads
    it before the chain's own text."""
    last = messages_of(problem)[-1]
    return last["content"] if last["role"] == "assistant" else ""


def converse(
    problem: Problem,
    *,
    system: str = "",
    shots: Sequence[tuple[str, str]] = (),
    prefill: str = "",
    options: Mapping[str, Any] | None = None,
) -> Problem:
    """``problem`` asked with a system prompt (it takes the place of one that the data set has), after ``shots``
    (prompt, answer), and with the answer's first words given. Without any of these the problem itself."""
    if not (system or shots or prefill or options):
        return problem
    own = messages_of(problem)
    if system:
        own = [{"role": "system", "content": system}, *(m for m in own if m["role"] != "system")]
    at = next((i for i, m in enumerate(own) if m["role"] != "system"), len(own))
    turns: list[Message] = []
    for asked, answered in shots:
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    if prefill:
        if own[-1]["role"] == "assistant":
            raise UserError(f"Problem {problem.id} starts the answer itself; it cannot be prefilled again.")
        own.append({"role": "assistant", "content": prefill})
    return with_messages(
        problem, own[:at] + turns + own[at:], {**chat_options_of(problem), **(options or {})}
    )


def with_messages(
    problem: Problem, messages: Sequence[Message], options: Mapping[str, Any] | None = None
) -> Problem:
    """``problem`` asked by ``messages``: another prompt and another id, the same question and reference."""
    kept = [dict(m) for m in messages]
    metadata = {**problem.metadata, "question": problem.question, "messages": kept}
    if options:
        metadata["chat_options"] = dict(options)
    key = digest(problem.id, [[m["role"], m["content"]] for m in kept], dict(options or {}))
    return replace(problem, id=key, prompt=as_text(kept), metadata=metadata)


def check_messages(value: Any, where: str) -> list[Message]:
    """A data set's own list of messages. Raises UserError where it is none."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise UserError(f"{where}: not a list of messages.") from None
    if not isinstance(value, list) or not value:
        raise UserError(f"{where}: not a list of messages.")
    for number, message in enumerate(value, 1):
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            raise UserError(f"{where}: message {number} is not an object with role and content as text.")
        if message.get("role") not in ROLES:
            raise UserError(
                f"{where}: message {number} has the role {message.get('role')!r}, not one of {ROLES}."
            )
    kept = [{"role": m["role"], "content": m["content"]} for m in value]
    if not any(m["role"] == "user" for m in kept) or kept[-1]["role"] == "system":
        raise UserError(f"{where}: the messages hold no question of a user at their end.")
    return kept


def as_text(messages: Sequence[Message]) -> str:
    """The conversation for a model without a chat template: examples one below the other, the question last.

    >>> as_text([{"role": "user", "content": "Q: 1+1?\\nA:"}, {"role": "assistant", "content": "2"},
    ...          {"role": "user", "content": "Q: 2+2?\\nA:"}])
    'Q: 1+1?\\nA: 2\\n\\nQ: 2+2?\\nA:'
    """
    text = ""
    before = ""
    for message in messages:
        content = message["content"]
        if before == "user" and message["role"] == "assistant":
            text += ("" if text[-1:].isspace() else " " if text.endswith(":") else "\n") + content
        else:
            text += ("\n\n" if text else "") + content
        before = message["role"]
    return text


def render(tokenizer: Any, problem: Problem) -> str:
    """The text that a chat model is shown for ``problem``: by the tokenizer's template, up to where the model goes
    on, special tokens included.

    A template that refuses system prompts or drops them (Gemma's refuses) gets the system prompt at the head of the
    first user turn. Raises UserError where the template fails.
    """
    messages, options = messages_of(problem), chat_options_of(problem)
    prefill = messages.pop()["content"] if messages[-1]["role"] == "assistant" else ""
    if messages[0]["role"] == "system" and not takes_system(tokenizer, messages, options):
        messages = folded(messages)
    return apply(tokenizer, messages, options) + prefill


def takes_system(tokenizer: Any, messages: Sequence[Message], options: Mapping[str, Any]) -> bool:
    """Whether the template shows the system prompt that ``messages`` begin with."""
    try:
        text = apply(tokenizer, messages, options)
    except UserError:
        return False
    return messages[0]["content"].strip() in text


def folded(messages: Sequence[Message]) -> list[Message]:
    """``messages`` with the system prompt at the head of the first user turn."""
    system, *rest = messages
    at = next(i for i, m in enumerate(rest) if m["role"] == "user")
    asked = {"role": "user", "content": f"{system['content']}\n\n{rest[at]['content']}"}
    return [*rest[:at], asked, *rest[at + 1 :]]


def apply(
    tokenizer: Any, messages: Sequence[Message], options: Mapping[str, Any], generation_prompt: bool = True
) -> str:
    """The template's text. Raises UserError, in one line, where the template fails or gives no text."""
    try:
        text = tokenizer.apply_chat_template(
            [dict(m) for m in messages], add_generation_prompt=generation_prompt, tokenize=False, **options
        )
    except Exception as error:  # a template is a program of the model's makers: it may raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        roles = ", ".join(m["role"] for m in messages)
        raise UserError(f"The chat template cannot show a conversation of {roles}: {reason}") from error
    if not isinstance(text, str):
        raise UserError("The chat template gave no text.")
    return text
