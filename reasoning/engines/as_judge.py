"""A model behind any engine as what completes a judge's chats: ``Judge(EngineChats(open_engine(...)))``.

Knows engines and what a judge asks; knows nothing of ledgers. What a chat costs is told to the judge, whose verdicts
carry it.
"""

from __future__ import annotations

from collections.abc import Sequence

from reasoning.engines.base import WHOLE, Engine, unfinished
from reasoning.errors import ReasoningError
from reasoning.records import Chain, Draw, Problem, Sampling, chain_key
from reasoning.tasks.conversation import with_messages
from verifiers.judge import Messages, NoReply, Reply


class EngineChats:
    """Completes chats by ``engine``, greedily unless ``sampling`` says otherwise; the same chat is asked once.

    Calls are not repeated: what failed is a missing judgement, at the tokens that it took.
    """

    def __init__(self, engine: Engine, sampling: Sampling | None = None):
        self.engine = engine
        self.sampling = sampling or Sampling(temperature=0, max_new_tokens=1_024)

    def __call__(self, chats: Sequence[Messages]) -> list[Reply | Exception]:
        draws = [self._draw(chat) for chat in chats]
        keys = [self._key(draw) for draw in draws]
        wanted = list(dict(zip(keys, draws, strict=True)).values())
        replies: dict[str, Reply | Exception] = {}
        trouble = ""
        try:
            for chain in self.engine.generate(wanted):
                replies[chain.key] = _reply(chain, trouble)
        except ReasoningError as error:
            trouble = str(error)
        for chain in unfinished(self.engine):
            replies[chain.key] = _reply(chain, trouble)
        given: list[Reply | Exception] = []
        for key in keys:
            reply = replies.get(key, NoReply(trouble or "the engine gave nothing"))
            given.append(reply)
            if isinstance(reply, Reply):  # asked once, so paid once
                replies[key] = Reply(reply.text)
            else:
                replies[key] = NoReply(str(reply))
        return given

    def worst_case(self, chats: Sequence[Messages]) -> int:
        """The most tokens that completing ``chats`` can take."""
        draws = {self._key(draw): draw for draw in map(self._draw, chats)}
        return sum(self.engine.worst_case(draw).tokens for draw in draws.values())

    def _draw(self, chat: Messages) -> Draw:
        return Draw(with_messages(Problem.make("", None), chat), self.sampling)

    def _key(self, draw: Draw) -> str:
        return chain_key(self.engine.model, draw.sampling, draw.problem.id, draw.problem.prompt, 0)


def _reply(chain: Chain, trouble: str) -> Reply | NoReply:
    if chain.finish_reason in WHOLE:
        return Reply(chain.text, chain.cost.prompt_tokens, chain.cost.output_tokens)
    return NoReply(trouble or f"the call was {chain.finish_reason}", chain.cost.tokens)
