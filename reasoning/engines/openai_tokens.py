"""How many tokens a prompt has at a server: by a tokenizer here, by the server's own counting, or at most.

The bound without either: a prompt's bytes (every token covers at least one) and an allowance for what the chat
template and the server's own instructions add. It is what the purse sets aside, never what is charged while the
server tells its usage.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from reasoning.engines.openai_server import Failure, Server
from reasoning.engines.openai_wire import Dialect, chat_fields
from reasoning.engines.tokens import Tokens
from reasoning.errors import UserError
from reasoning.hub import hub_or_cache, reason
from reasoning.records import Draw, Problem
from reasoning.tasks.conversation import chat_options_of, messages_of
from verifiers.judging import most_tokens

_MOST_KEPT = 4096
_TEMPLATE_FIELDS = ("chat_template", "chat_template_kwargs", "tools", "documents")


@dataclass(frozen=True, slots=True)
class Shown:
    """most: tokens of what the model is shown, at most. exact: or just as many."""

    most: int
    exact: bool


class PromptTokens:
    """Counts for one model at one server.

    context: tokens that the model reads, answer included; 0 where unknown. tokenizer: Hugging Face folder or id,
    "" for none; raises UserError where it cannot be loaded. extra: further fields of each request.
    """

    def __init__(
        self,
        server: Server,
        name: str,
        dialect: Dialect,
        form: str,
        *,
        context: int = 0,
        tokenizer: str = "",
        template_tokens: int = 1024,
        extra: Mapping[str, Any] | None = None,
    ):
        self.server, self.name, self.dialect, self.form = server, name, dialect, form
        self.context = context
        self.template_tokens = template_tokens if form == "chat" else 16
        self.local = _load(tokenizer, name, context, form) if tokenizer else None
        self._asks_server = dialect.tokenizes
        self._extra = {key: value for key, value in (extra or {}).items() if key in _TEMPLATE_FIELDS}
        self._known: OrderedDict[str, tuple[int, ...]] = OrderedDict()
        self._asking: dict[str, asyncio.Lock] = {}

    @property
    def knows_ids(self) -> bool:
        """Whether chains can be continued: token ids of prompts are known, and the server takes some."""
        return self.dialect.takes_ids and (self.local is not None or self._asks_server)

    async def ids(self, problem: Problem) -> tuple[int, ...]:
        """The ids of the prompt. Raises UserError where nobody can tell."""
        known = await self._ids(problem)
        if known is None:
            raise UserError(
                f"{self.server.base_url} does not tell the token ids of a prompt: add tokenizer=FOLDER_OR_ID."
            )
        return known

    async def ids_of_text(self, text: str) -> tuple[int, ...]:
        return await self.ids(Problem("", text, None))

    async def count(self, draw: Draw) -> Shown:
        """Tokens of the draw's prompt and prefix."""
        problem, prefix = draw.problem, len(draw.prefix)
        bound = self._bound(problem) + prefix
        known = await self._ids(problem)
        return Shown(bound, False) if known is None else Shown(len(known) + prefix, True)

    def room(self, shown: Shown, draw: Draw) -> int:
        """New tokens at most behind the prompt. Raises UserError for a prompt that fills the context."""
        most = draw.sampling.max_new_tokens
        if not (self.context and shown.exact):
            return most
        room = self.context - shown.most
        if room < 1:
            raise UserError(
                f"The prompt of problem {draw.problem.id} has {shown.most} tokens; {self.name} at "
                f"{self.server.base_url} reads at most {self.context}, the answer included. "
                "Leave that problem out, or shorten its prompt (few-shot examples and system prompt count)."
            )
        return min(most, room)

    def learn(self, draw: Draw, prompt_tokens: int) -> None:
        """Raise the allowance where a server counted more than was foreseen."""
        over = prompt_tokens - len(draw.prefix) - self._bound(draw.problem)
        if over > 0:
            self.template_tokens += over

    def _bound(self, problem: Problem) -> int:
        if self.form == "completion":
            return most_tokens(problem.prompt) + self.template_tokens
        messages = messages_of(problem)
        contents = sum(most_tokens(m["content"]) + 16 for m in messages)
        return contents + self.template_tokens

    async def _ids(self, problem: Problem) -> tuple[int, ...] | None:
        if self.local is not None:
            return self.local.ask(problem)
        if not self._asks_server:
            return None
        # A problem's id stands for its conversation; a bare text has none.
        key = problem.id or f" {problem.prompt}"
        if key not in self._known:
            # The chains of a problem start together: one of them asks, and the others have its answer.
            async with self._asking.setdefault(key, asyncio.Lock()):
                if key not in self._known:
                    await self._learn_ids(key, problem)
            self._asking.pop(key, None)
        else:
            self._known.move_to_end(key)
        return self._known.get(key)

    async def _learn_ids(self, key: str, problem: Problem) -> None:
        """Have the server tokenize, where it does."""
        if not self._asks_server:
            return
        try:
            found = await self._ask_server(problem)
        except Failure as failure:
            if failure.status in (404, 405, 501):
                self._asks_server = False
            return
        if found is not None:
            self._known[key] = found
            if len(self._known) > _MOST_KEPT:
                self._known.popitem(last=False)

    async def _ask_server(self, problem: Problem) -> tuple[int, ...] | None:
        address = f"{self.server.root}/tokenize"
        fields: dict[str, Any] = {"prompt": problem.prompt}
        if self.form == "chat":
            fields = chat_fields(self.dialect, messages_of(problem), chat_options_of(problem)) | self._extra
        if self.dialect.owner == "llamacpp":
            text = problem.prompt
            if self.form == "chat":
                shown = await self.server.post(f"{self.server.root}/apply-template", fields)
                text = shown.get("prompt") if isinstance(shown, Mapping) else None
            fields = {"content": text, "add_special": True, "parse_special": True}
        answer = await self.server.post(address, {"model": self.name, **fields})
        ids = answer.get("tokens") if isinstance(answer, Mapping) else None
        if not isinstance(ids, list) or not all(type(i) is int for i in ids):
            self._asks_server = False
            return None
        return tuple(ids)


def _load(source: str, name: str, context: int, form: str) -> Tokens:
    with hub_or_cache(not Path(source).exists(), source) as away:
        try:
            tokenizer = import_module("transformers").AutoTokenizer.from_pretrained(source)
        except Exception as error:  # transformers raises many kinds; to the user they mean the same
            raise UserError(
                f"tokenizer={source} cannot be loaded: {reason(source, away, error)[:400]}"
            ) from error
    return Tokens(tokenizer, name=name, limit=context, end_ids=(), chat="yes" if form == "chat" else "no")
