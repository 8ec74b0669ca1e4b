"""Does an engine draw from the model it names? A few of its chains, scored again by a plain forward pass.

Fast engines rewrite a model's arithmetic, pack its weights and cache its states; after loading or updating weights,
this is the check that nothing was lost on the way. Knows any engine by its protocol, and no engine by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reasoning.engines.base import Engine
from reasoning.errors import EngineError, MissingExtra, UserError
from reasoning.hub import hub_or_cache, reason
from reasoning.progress import bytes_text
from reasoning.records import Chain, Cost, Draw, Problem, Sampling

# Mean absolute difference in nats that a sound engine stays below, by the type it computes in. Rounding makes about
# 1e-6 in float32 and 0.005 to 0.02 in bfloat16; weights that were not taken over make 0.5 and more.
LIMITS = {"float32": 3e-4, "float16": 0.02, "bfloat16": 0.1}
AUTO_BYTES = 8 * 2**30  # "auto" loads plain copies up to this size
WORST_TO_MEAN = 20.0  # a single token may differ by this many times the limit on the mean

_PROMPTS = (
    "What is 17 + 25?",
    "A train leaves at 9:40 and arrives at 13:05. How long is the journey? Think step by step.",
    "Write the numbers from one to ten, then add them up: " + "one and two and three and four and so on " * 6,
)
_CHAINS, _NEW_TOKENS = 3, 24


@dataclass(frozen=True, slots=True)
class Parity:
    """What a check measured, over ``tokens`` tokens: absolute differences of log-probabilities in nats.

    cost: what drawing the chains cost (the plain passes are not counted); no purse has paid for it.
    """

    tokens: int
    mean: float
    worst: float
    limit: float
    cost: Cost = field(default_factory=Cost)

    @property
    def holds(self) -> bool:
        """False for differences past the limit, and for any that is not a number."""
        return self.mean <= self.limit and self.worst <= self.limit * WORST_TO_MEAN

    def __str__(self) -> str:
        return (
            f"mean {self.mean:.2g}, worst {self.worst:.2g} over {self.tokens} tokens (limit {self.limit:g})"
        )


Scores = Callable[[Sequence[Chain]], Sequence[NDArray[np.float64]]]
"""Chains -> log-probabilities (T,) of each one's tokens by a plain forward pass."""


def plain_logprobs(module: Any, chain: Chain) -> NDArray[np.float64]:
    """(T,) log-probabilities of ``chain``'s tokens by one forward pass without a cache, temperature applied.

    Raises UserError for chains drawn greedily or from a truncated distribution, which this does not rebuild.
    """
    sampling = chain.sampling
    if sampling.greedy or sampling.top_k or sampling.top_p < 1:
        raise UserError(
            "Parity is measured on chains drawn at a temperature above 0, without top_k and top_p."
        )
    device = next(module.parameters()).device
    ids = torch.tensor([[*chain.prompt_token_ids, *chain.token_ids]], device=device)  # (1, S + T)
    with torch.no_grad():
        logits = module(input_ids=ids, use_cache=False).logits[0, len(chain.prompt_token_ids) - 1 : -1]
        scores = (logits.double() / sampling.temperature).log_softmax(-1)  # (T, V)
        return scores.gather(-1, ids[0, len(chain.prompt_token_ids) :, None])[:, 0].cpu().numpy()


def measure(chains: Sequence[Chain], scores: Scores, limit: float) -> Parity:
    """The log-probabilities that ``chains`` came with against those that ``scores`` gives them."""
    own = (np.asarray(chain.logprobs, np.float64) for chain in chains)
    differences = np.concatenate([np.abs(a - b) for a, b in zip(own, scores(chains), strict=True)])
    return Parity(
        tokens=differences.size,
        mean=float(differences.mean()),
        worst=float(differences.max()),
        limit=limit,
        cost=sum((c.cost for c in chains), Cost()),
    )


def by_module(module: Any) -> Scores:
    """What ``module``, a Hugging Face model, says of chains; it is in evaluation mode meanwhile."""

    def scores(chains: Sequence[Chain]) -> list[NDArray[np.float64]]:
        training = module.training
        module.eval()
        try:
            return [plain_logprobs(module, chain) for chain in chains]
        finally:
            module.train(training)

    return scores


def check(engine: Engine, scores: Scores, *, limit: float, advice: str = "") -> Parity:
    """Draw a few chains from ``engine`` and compare with what a plain forward pass of the same weights says.

    limit: mean absolute difference in nats (see LIMITS). Raises EngineError past it; ``advice`` ends the message.
    """
    chains = [chain for chain in engine.generate(probes(engine)) if chain.token_ids]
    found = measure(chains, scores, limit)
    if not found.holds:
        raise EngineError(
            f"{engine.model} does not draw from its model: log-probabilities differ from a plain forward pass, "
            f"{found}. {advice}".rstrip()
        )
    return found


def probes(engine: Any) -> list[Draw]:
    """Draws for a check: prompts of several lengths that fit the engine's context, a few short chains each."""
    sampling = Sampling(max_new_tokens=_NEW_TOKENS)
    out = []
    for text in _PROMPTS:
        # A vocabulary without these words may leave nothing of them: any ids will do then.
        prefix = () if engine.encode(text) else (0, 1, 2)
        draw = Draw(Problem.make(text, None), sampling, tuple(range(_CHAINS)), prefix=prefix)
        try:
            engine.worst_case(draw)
        except UserError:  # does not fit
            continue
        out.append(draw)
    if not out:
        raise UserError("The context is too short for the parity check's prompts; turn it off: parity=off.")
    return out


class PlainCopy:
    """A model as transformers loads it, float32 on the CPU, kept beside an engine to check it against.

    module: what to score with; it wears the adapter where there is one.
    """

    def __init__(self, module: Any, adapter: str | Path = ""):
        self._base = self.module = module.eval()
        if adapter:
            self.wear(adapter)

    @classmethod
    def open(cls, source: str | Path, *, revision: str = "", adapter: str | Path = "") -> PlainCopy:
        """Of a folder or hub id. Raises UserError if transformers cannot load it, MissingExtra as `wear` does."""
        from transformers import AutoModelForCausalLM

        with hub_or_cache(not Path(source).exists(), str(source), revision=revision) as away:
            try:
                module: Any = AutoModelForCausalLM.from_pretrained(
                    source,
                    revision=revision or None,
                    dtype=torch.float32,
                    use_safetensors=True,
                    trust_remote_code=False,
                )
            except Exception as error:  # whatever the loaders raise, it means the same to the user
                raise UserError(
                    f"transformers cannot load {str(source)!r} for the parity check: "
                    f"{reason(str(source), away, error)} (parity=off goes without it)"
                ) from error
        return cls(module, adapter)

    def wear(self, adapter: str | Path) -> None:
        """Put a peft adapter in place of the last one, if any. Raises MissingExtra without peft."""
        try:
            from peft import PeftModel
        except ModuleNotFoundError as error:
            if error.name != "peft":
                raise
            raise MissingExtra("peft", "lora", "checking an adapter (parity=off goes without)") from None
        if self.module is not self._base:
            self._base = self.module.unload()
        self.module = PeftModel.from_pretrained(self._base, str(adapter), torch_device="cpu").eval()

    def take_over(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Copy the base model's ``weights`` in; names with or without the base model's own prefix."""
        prefix = f"{self._base.base_model_prefix}."
        with torch.no_grad():
            for name, parameter in self._base.named_parameters():
                if ".lora_" not in name:  # peft works inside of the module that it was given
                    name = name.replace(".base_layer.", ".")
                    parameter.copy_(weights[name] if name in weights else weights[name.removeprefix(prefix)])


def parse_limit(value: str | float, dtype: str) -> tuple[str, float]:
    """An engine's option ``parity`` as ("auto" | "on" | "off", limit in nats).

    "auto" and "on" take the limit of ``dtype``; a number is a limit of its own, and 0 is "off". Raises UserError.
    """
    text = str(value).lower()
    if text in ("auto", "on"):
        return text, LIMITS.get(dtype, LIMITS["bfloat16"])
    if text == "off":
        return "off", math.inf
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not 0 <= limit < math.inf:
        raise UserError(f"parity={value!r} is not auto, on, off, or a limit in nats such as 0.05 (0: off).")
    return ("on", limit) if limit else ("off", math.inf)


def why_not(mode: str, own_limit: bool, quantized: str, copy_bytes: int, free_bytes: int) -> str:
    """Why "auto" makes no check ("" where it makes one). Raises UserError for an "on" that cannot hold.

    copy_bytes: what a plain float32 copy of the weights takes; free_bytes: memory that is free.
    """
    if quantized and not own_limit:
        reason = f"its weights are quantized ({quantized}) and differ from a plain pass by what that costs"
        if mode == "on":
            raise UserError(f"parity=on: {reason}; give the limit that you accept, in nats: parity=0.3.")
        return reason
    if mode == "auto" and copy_bytes > min(AUTO_BYTES, free_bytes // 2):
        return f"a plain copy of its weights takes {bytes_text(copy_bytes)}"
    return ""
