"""Looks at a prompt before compute is spent on it: what the model is shown, token by token, and what is wrong there.

Needs the tokenizer, never the model. Every finding is one a person has lost a run to: a double beginning-of-sequence
token, a template without a generation prompt, a thinking tag that the template has opened already, ...
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from reasoning.engines import parse_engine
from reasoning.engines.tokens import Tokens, check_source, folder_name
from reasoning.errors import UserError
from reasoning.hub import hub_or_cache, reason
from reasoning.records import Problem, Sampling
from reasoning.spec import is_user_code
from reasoning.tasks.conversation import (
    Message,
    apply,
    chat_options_of,
    folded,
    messages_of,
    start_of_answer,
    takes_system,
)

LEVELS = ("error", "warning", "note")
MARKS = ("⟦", "⟧")
_INSTRUCT = re.compile(
    r"(?i)(?:^|[-_/. ])(?:instruct|chat|it|thinking|think|assistant|rlhf|dpo|r1)(?:$|[-_/. ])"
)
_QUESTION, _ANSWER = "PREFLIGHT-QUESTION", "PREFLIGHT-ANSWER"
_LOOKED_AT = 16


@dataclass(frozen=True, slots=True)
class Finding:
    """level: "error" (no chain can be drawn), "warning" (chains will be worse than they need be) or "note"."""

    level: str
    text: str


def open_tokens(spec: str, tokenizer: Any = None) -> Tokens | None:
    """How the engine of ``spec`` would turn prompts into tokens, without loading its model; None for an engine whose
    tokenizer is not known here (recorded chains, a server, user code).

    tokenizer: one that is loaded already. Raises UserError where there is none to load.
    """
    if is_user_code(spec):
        return None
    parsed = parse_engine(spec)
    source, chat = parsed.argument, parsed.options.get("chat", "auto")
    limit = 0
    if parsed.name == "openai":
        source = parsed.options.get("tokenizer", "")
        chat = "no" if parsed.options.get("form") == "completion" else "auto"
    elif parsed.name == "vllm":
        asked = parsed.options.get("max_model_len", "0")
        limit = int(asked) if asked.isdigit() else 0
    elif parsed.name != "transformers":
        return None
    if not source:
        return None
    transformers = import_module("transformers")
    local = _is_folder(source)
    with hub_or_cache(not local, source) as away:
        try:
            tokenizer = tokenizer or transformers.AutoTokenizer.from_pretrained(
                source, trust_remote_code=False
            )
            config = _config(transformers, source)
        except Exception as error:  # whatever the loaders raise, it means the same to the user
            raise UserError(
                f"Cannot load the tokenizer of {source!r}: {reason(source, away, error)}"
            ) from error
    if not limit and config is not None:
        limit = getattr(config.get_text_config(), "max_position_embeddings", None) or 0
    name = folder_name(source) if local else source
    return Tokens(tokenizer, name=name, limit=limit or 2**31, end_ids=(), chat=chat)


def _is_folder(source: str) -> bool:
    folder = Path(source)
    return True if (folder / "tokenizer_config.json").is_file() else check_source(source)


def _config(transformers: Any, source: str) -> Any:
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        return None  # a folder of a tokenizer alone
    return transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)


def visible(tokens: Tokens, ids: Sequence[int]) -> str:
    """The text of ``ids`` as the model is shown it: special tokens between ⟦ and ⟧, spaces at a line's end as ·."""
    special = special_ids(tokens.tokenizer)
    out: list[str] = []
    run: list[int] = []

    def flush() -> None:
        if run:
            out.append(
                tokens.tokenizer.decode(run, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            )
            run.clear()

    for token in ids:
        if token in special:
            flush()
            out.append(MARKS[0] + tokens.tokenizer.convert_ids_to_tokens(token) + MARKS[1])
        else:
            run.append(token)
    flush()
    return re.sub(r"[ \t]+(?=\n|$)", lambda m: "·" * len(m[0]), "".join(out))


def special_ids(tokenizer: Any) -> set[int]:
    """Ids that steer the model rather than write text."""
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    return set(tokenizer.all_special_ids) | {i for i, token in added.items() if token.special}


def look(tokens: Tokens, problems: Sequence[Problem], sampling: Sampling | None = None) -> list[Finding]:
    """What is worth knowing about the prompts of ``problems``: the first ones and the longest are looked at, each
    thing is said once, errors first."""
    longest = sorted(problems, key=lambda p: len(p.prompt))[-2:]
    found: dict[Finding, None] = {}
    most: tuple[int, ...] = ()
    for problem in {p.id: p for p in [*problems[:_LOOKED_AT], *longest]}.values():
        try:
            ids = tokens.ask(problem)
            found.update(dict.fromkeys(_on_prompt(tokens, problem, ids, sampling)))
        except UserError as error:
            found[Finding("error", str(error))] = None
        else:
            most = max(most, ids, key=len)
    found.update(dict.fromkeys(_on_room(tokens, most, sampling)))
    return sorted(found, key=lambda f: LEVELS.index(f.level))


def _on_prompt(
    tokens: Tokens, problem: Problem, ids: Sequence[int], sampling: Sampling | None
) -> Iterable[Finding]:
    yield from _on_ids(tokens, ids)
    yield from _on_content(tokens, problem)
    yield from _on_chat(tokens, problem) if tokens.chat else _on_text(tokens, problem, sampling)


def _on_ids(tokens: Tokens, ids: Sequence[int]) -> Iterable[Finding]:
    tokenizer = tokens.tokenizer
    if not ids:
        yield Finding("error", "The prompt has no tokens.")
        return
    begin = tokenizer.bos_token_id
    if begin is not None:
        usual = tokenizer("a")["input_ids"]
        if list(ids[:2]) == [begin, begin]:
            yield Finding(
                "warning",
                f"The prompt begins with {tokenizer.bos_token} twice: the text (or the template) holds one that the "
                "tokenizer adds as well. Take it out of the text.",
            )
        elif usual[:1] == [begin] and ids[0] != begin:
            yield Finding(
                "warning",
                f"The prompt does not begin with {tokenizer.bos_token}, with which the tokenizer begins every text: "
                "the chat template does not write it.",
            )
    unknown = sum(i == tokenizer.unk_token_id for i in ids) if tokenizer.unk_token_id is not None else 0
    if unknown and tokenizer.unk_token_id not in (begin, tokenizer.eos_token_id):
        yield Finding("warning", f"The tokenizer does not know parts of the prompt ({tokenizer.unk_token}).")


def _on_content(tokens: Tokens, problem: Problem) -> Iterable[Finding]:
    special = special_ids(tokens.tokenizer) - {tokens.tokenizer.unk_token_id}
    for message in messages_of(problem):
        inside = [
            i
            for i in tokens.tokenizer(message["content"], add_special_tokens=False)["input_ids"]
            if i in special
        ]
        if inside:
            name = tokens.tokenizer.convert_ids_to_tokens(inside[0])
            yield Finding(
                "warning", f"The {message['role']}'s text holds the special token {name}, and it acts as one."
            )
    start = start_of_answer(problem)
    if start.endswith(" ") or (not tokens.chat and problem.prompt.endswith((" ", "\t"))):
        yield Finding(
            "warning",
            "The prompt ends with a space: most tokenizers put a space at the start of a word, so the model is left "
            "with an unusual cut. Take it away.",
        )


def _on_room(tokens: Tokens, ids: Sequence[int], sampling: Sampling | None) -> Iterable[Finding]:
    left = tokens.limit - len(ids)
    wanted = sampling.max_new_tokens if sampling is not None else 1
    if left < 1:
        yield Finding(
            "error",
            f"A prompt has {len(ids)} tokens; {tokens.name} reads at most {tokens.limit}, answer included.",
        )
    elif left < wanted:
        yield Finding(
            "warning",
            f"A prompt of {len(ids)} tokens leaves {left} of {tokens.name}'s {tokens.limit} for the answer, fewer "
            f"than --max-new-tokens {wanted}: chains will be cut there.",
        )


def _on_text(tokens: Tokens, problem: Problem, sampling: Sampling | None) -> Iterable[Finding]:
    if getattr(tokens.tokenizer, "chat_template", None):
        yield Finding("note", "chat=no: the tokenizer has a chat template, which is not used.")
    elif _INSTRUCT.search(tokens.name):
        yield Finding(
            "warning",
            f"{tokens.name} looks like a chat model, but its tokenizer has no chat template: the prompt is shown as "
            "plain text.",
        )
    messages = messages_of(problem)
    if any(m["role"] == "assistant" for m in messages[:-1]) and not (sampling and sampling.stop):
        yield Finding(
            "note",
            "The examples are plain text here, and the model may go on with one more of them: give a --stop, such as "
            "the first words of a question.",
        )
    if chat_options_of(problem):
        yield Finding("warning", "There is no chat template to take the chat options.")


def _on_chat(tokens: Tokens, problem: Problem) -> Iterable[Finding]:
    tokenizer, options = tokens.tokenizer, chat_options_of(problem)
    messages = messages_of(problem)
    prefill = messages.pop()["content"] if messages[-1]["role"] == "assistant" else ""
    if messages[0]["role"] == "system" and not takes_system(tokenizer, messages, options):
        yield Finding(
            "warning",
            "The chat template has no place for a system prompt: it stands at the head of the first user turn.",
        )
        messages = folded(messages)
    text, without = apply(tokenizer, messages, options), apply(tokenizer, messages, options, False)
    if text == without and not _at_the_answer(tokenizer, messages, options, text):
        yield Finding(
            "warning",
            "The chat template adds no generation prompt: the model is not told that it is its turn, and may go on "
            "writing the user's.",
        )
    yield from _on_answer_start(text, without, prefill)
    yield from _on_shown(messages, text)
    yield from _on_template(tokenizer, messages, options, text)


def _at_the_answer(tokenizer: Any, messages: Sequence[Message], options: dict[str, Any], text: str) -> bool:
    """Whether a template that knows no generation prompt ends where an answer begins all the same: the end of the
    user's turn says it (Mistral's), or it always writes what begins the model's."""
    answered = [*messages, {"role": "assistant", "content": _ANSWER}]
    try:
        head, found, _ = apply(tokenizer, answered, options, False).partition(_ANSWER)
    except UserError:
        return False
    return bool(found) and text.startswith(head.rstrip())


def _on_answer_start(text: str, without: str, prefill: str) -> Iterable[Finding]:
    start = text[len(without) :] if text.startswith(without) and text != without else text[-200:]
    opened = re.search(r"<(think\w*|reasoning)>\s*$", start)
    if opened and re.match(rf"\s*<{opened[1]}>", prefill):
        yield Finding(
            "warning", f"The chat template opens <{opened[1]}> already, and the prefill opens it again."
        )
    elif opened:
        yield Finding(
            "note",
            f"The chat template has opened <{opened[1]}>: chains begin inside the thoughts and hold only the closing "
            "tag. The format verifier takes that as it is.",
        )
    elif re.search(r"</(think\w*|reasoning)>\s*$", start):
        yield Finding(
            "note", "The chat template closes the thoughts before they begin: the model is told not to think."
        )


def _on_shown(messages: Sequence[Message], text: str) -> Iterable[Finding]:
    lost = [m for m in messages if m["content"].strip() not in text]
    for message in lost:
        what = "the question" if message is messages[-1] else f"a text of the {message['role']}"
        yield Finding("warning", f"The chat template changes or leaves out {what}.")


def _on_template(
    tokenizer: Any, messages: Sequence[Message], options: dict[str, Any], text: str
) -> Iterable[Finding]:
    template = str(tokenizer.chat_template)
    if time.strftime("%d %b %Y") in text and "date_string" not in options:
        mend = " Fix it: --chat-option date_string='26 Jul 2024'." if "date_string" in template else ""
        yield Finding(
            "warning",
            "The chat template writes today's date into the prompt, so another day's chains answer another prompt "
            f"under the same key.{mend}",
        )
    for key in options:
        if not re.search(rf"\b{re.escape(key)}\b", template):
            yield Finding("warning", f"The chat template does not know the option {key!r}.")
    if messages[0]["role"] != "system":
        head = apply(tokenizer, [{"role": "user", "content": _QUESTION}], options).partition(_QUESTION)[0]
        names = {tokenizer.convert_ids_to_tokens(i) for i in special_ids(tokenizer)}
        for name in sorted(names, key=len, reverse=True):
            head = head.replace(name, " ")
        own = " ".join(head.split())
        if len(own.split()) > 3:
            short = own if len(own) <= 90 else own[:87] + "..."
            yield Finding(
                "note", f"The chat template puts a text of its own first: {short!r}. --system replaces it."
            )
