"""From prompts to token ids and back, and how many new tokens fit: what the engines that load a model share.

Knows the tokenizer, not the model. Also here: the names and versions of local model folders.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from reasoning.errors import UserError
from reasoning.flops import ModelShape
from reasoning.records import Draw, Problem, Sampling
from reasoning.tasks.conversation import render

CHAT = ("auto", "yes", "no")
KEPT_IDS = 1 << 20
"""Of prompts, kept at once by `Tokens`: some tens of MB."""

_TOO_LONG = "sequence-length-is-longer-than-the-specified-maximum"


class Tokens:
    """A tokenizer as an engine uses it.

    chat: "yes" wraps a prompt in the chat template, "no" does not, "auto" does if there is one. limit: the tokens
    that the model can read, prompt and answer together. end_ids: ids that end a chain.
    """

    def __init__(self, tokenizer: Any, *, name: str, limit: int, end_ids: Iterable[int], chat: str = "auto"):
        if chat not in CHAT:
            raise UserError(f"chat={chat!r} is not one of {', '.join(CHAT)}.")
        template = getattr(tokenizer, "chat_template", None)
        if chat == "yes" and not template:
            raise UserError(f"chat=yes, but the tokenizer of {name} has no chat template.")
        self.tokenizer, self.name, self.limit = tokenizer, name, limit
        # A prompt that is too long is told by `look` and by the engine; transformers would warn of it as well.
        getattr(tokenizer, "deprecation_warnings", {})[_TOO_LONG] = True
        self.end_ids = frozenset(end_ids)
        self.chat = bool(template) and chat != "no"
        self._asked: dict[int, tuple[Problem, tuple[int, ...]]] = {}
        self._asked_ids = 0

    def encode(self, prompt: str) -> tuple[int, ...]:
        """Token ids that the model is shown for ``prompt``, chat template and special tokens included."""
        if self.chat:
            messages = [{"role": "user", "content": prompt}]
            text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        ids = self.tokenizer(prompt)["input_ids"]
        if ids and ids[-1] in self.end_ids:  # a tokenizer that closes every text would end the chain at once
            plain = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
            if not plain or plain[-1] != ids[-1]:
                ids = ids[:-1]
        return tuple(ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of ``token_ids``, special tokens left out."""
        return self.tokenizer.decode(
            list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def shown(self, draw: Draw) -> tuple[int, ...]:
        """The ids that chains of ``draw`` continue: its prompt's and its prefix."""
        return self.ask(draw.problem) + draw.prefix

    def ask(self, problem: Problem) -> tuple[int, ...]:
        """Token ids that the model is shown for ``problem``: its conversation by the chat template, or its text.

        Kept for the next time, since a problem is asked for a reservation, and again when its chains are drawn.
        """
        known = self._asked.get(id(problem))
        if known is not None:  # it holds the problem, so that no other one can have its place in memory
            return known[1]
        ids = self._ask(problem)
        self._asked_ids += len(ids)
        if self._asked_ids > KEPT_IDS:
            self._asked, self._asked_ids = {}, len(ids)
        self._asked[id(problem)] = problem, ids
        return ids

    def _ask(self, problem: Problem) -> tuple[int, ...]:
        if not self.chat:
            return self.encode(problem.prompt)
        return tuple(self.tokenizer(render(self.tokenizer, problem), add_special_tokens=False)["input_ids"])

    def room(self, shown: tuple[int, ...], draw: Draw) -> int:
        """New tokens at most behind ``shown``. Raises UserError for an empty prompt, one that fills the context, and
        contradictory sampling settings."""
        check_sampling(draw.sampling)
        if not shown:
            raise UserError(f"The prompt of problem {draw.problem.id} has no tokens.")
        room = self.limit - len(shown)
        if room < 1:
            raise UserError(
                f"The prompt of problem {draw.problem.id} has {len(shown)} tokens; "
                f"{self.name} reads at most {self.limit}, the answer included. "
                "Leave that problem out, or shorten its prompt (few-shot examples and system prompt count)."
            )
        return min(draw.sampling.max_new_tokens, room)


def check_sampling(sampling: Sampling) -> None:
    """Raises UserError for truncation at temperature 0, where it would do nothing."""
    if sampling.greedy and (sampling.top_p < 1 or sampling.top_k > 1):
        given = f"top_p={sampling.top_p:g}" if sampling.top_p < 1 else f"top_k={sampling.top_k}"
        raise UserError(
            f"temperature=0 always takes the likeliest token, so {given} would do nothing: leave it out, or set a "
            "temperature above 0."
        )


def end_ids(tokenizer: Any, eos_token_id: int | Sequence[int] | None) -> frozenset[int]:
    """Ids that end a chain, by the tokenizer and by the model's generation settings."""
    ids: set[int] = set()
    for value in (eos_token_id, tokenizer.eos_token_id):
        if value is not None:
            ids.update([value] if isinstance(value, int) else value)
    return frozenset(ids)


def shape_of(config: Any) -> ModelShape | None:
    """The shape for FLOPs, or None for an architecture whose FLOPs are not known (it can be sampled all the same)."""
    try:
        return ModelShape.from_config(config)
    except UserError:
        return None


def check_source(source: str | Path) -> bool:
    """True for a local model folder, False for something that has the form of a hub id.

    Raises UserError for anything else.
    """
    folder = Path(source)
    if not folder.exists():
        if str(source).count("/") != 1 or str(source).startswith((".", "/", "~")):
            raise UserError(
                f"No model folder {str(source)!r} (nor is that a hub id, which reads owner/name)."
            )
        return False
    if not (folder / "config.json").is_file():
        raise UserError(f"{source} is not a model folder: it has no config.json.")
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{source} is not a model folder: it has no *.safetensors file.")
    return True


def folder_name(folder: str | Path) -> str:
    """The folder's name; its parent's where it is just called "model"."""
    folder = Path(folder).resolve()
    return folder.parent.name if folder.name == "model" else folder.name


def weights_digest(folder: str | Path) -> str:
    """12 hex digits of the content of the safetensors files in ``folder``."""
    state = hashlib.blake2b(digest_size=6)
    for path in sorted(Path(folder).glob("*.safetensors")):
        with path.open("rb") as file:
            state.update(hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).digest())
    return state.hexdigest()


def check_vocabulary(tokenizer: Any, vocab: int, name: str | Path) -> None:
    """Raises UserError for a tokenizer that writes ids a model of ``vocab`` tokens does not have.

    A few added tokens past the end (image marks of a text-only model) are let pass: no text makes them. Nor for one
    that has no word at all, which is what transformers makes of a folder without a tokenizer.
    """
    if not tokenizer.get_vocab().keys() - tokenizer.get_added_vocab().keys():
        raise UserError(
            f"{name} has no tokenizer (no tokenizer.json or the like in it). Put that of the model it was trained "
            "from there: AutoTokenizer.from_pretrained(THAT_MODEL).save_pretrained(FOLDER)."
        )
    beyond = sum(index >= vocab for index in tokenizer.get_vocab().values())
    if beyond > 64 or (tokenizer.eos_token_id or 0) >= vocab:
        raise UserError(
            f"Tokenizer and model of {name} do not fit: {beyond} of {len(tokenizer)} token ids are not among "
            f"the model's {vocab}. Use the tokenizer that the model was trained with."
        )
