"""What draws a run's roll-outs, and how it is given the weights of each step: the embedded engine, which reads the
learner's own module or a copy of it, or vLLM in this process. Knows nothing of sources or objectives.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

from reasoning.engines import open_engine
from reasoning.engines.transformers import TransformersEngine
from reasoning.errors import UserError
from reasoning.spec import parse_spec
from reasoning.train.distributed import Ranks, read_environment
from reasoning.train.policy import Policy

REFUSED = {
    "openai": "a server cannot take over new weights after every step",
    "replay": "recorded chains cannot follow the weights that are trained",
    "ray": "its actors load weights from folders, not from a learner after every step",
}


ONE_DEVICE = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "data_parallel_size",
    "expert_parallel",
    "executor",
)
"""Options that put one vLLM on several devices, where each rank has one."""


class Generator(Protocol):
    """engine: what to draw with. `load` gives it weights and their name, `rename` the name alone (of weights that are
    gone, to find in the pool what they drew); `rest` says that nothing is drawn until the next load. Where there are
    several ranks each has one, and all must load at once."""

    engine: Any

    def load(self, weights: Iterable[tuple[str, Tensor]], version: str) -> None: ...

    def rest(self) -> None: ...

    def rename(self, version: str) -> None: ...

    def close(self) -> None: ...


class Embedded:
    """apart: draw with a copy of the module, so that the learner may change its own meanwhile."""

    def __init__(self, engine: TransformersEngine, name: str, apart: bool = False, max_rows: int = 512):
        self.apart = apart
        if apart:
            module = copy.deepcopy(engine.module)
            version = engine.model.partition("@")[2]
            engine = TransformersEngine(
                module, engine.tokenizer, name=name, version=version, max_rows=max_rows
            )
        self.engine = engine
        self.engine.name = name  # not the folder's: another folder must draw the same chains

    @torch.no_grad()
    def load(self, weights: Iterable[tuple[str, Tensor]], version: str) -> None:
        if self.apart:
            given = dict(weights)
            for name, parameter in self.engine.module.named_parameters():
                parameter.copy_(given[name])
        self.rename(version)
        self.engine.refresh()

    def rest(self) -> None:
        pass

    def rename(self, version: str) -> None:
        self.engine.set_version(version)

    def close(self) -> None:
        self.engine.close()


class InVLLM:
    """vLLM in this process. Every load is followed by vLLM's parity check, where that is on (see `VLLMEngine.open`).

    plain: the learner's module, or what its forward says of chains, to check against: then that is the first check
    too, and no copy of the weights is made for it. None where the learner may have changed by then.
    beside: of several processes each has such an engine, on its own device (vLLM's "external launcher": it takes the
    place that torchrun gave this process, and its group of one for everything else).

    With sleep_mode it gives its memory to the learner between two draws, weights included: they are loaded anew
    anyway (level 2).
    """

    def __init__(self, spec: str, model: str, name: str, plain: Any = None, beside: bool = False):
        parsed = parse_spec(spec)
        given = dict(parsed.options)
        parity = "auto"
        if plain is not None:
            parity, given["parity"] = given.get("parity", "auto"), "off"
        options = ",".join(f"{key}={value}" for key, value in given.items())
        place = {"executor": "external_launcher"} if beside else {}
        self.engine: Any = open_engine(f"vllm:{model}:{options}" if options else f"vllm:{model}", **place)
        if plain is not None:
            self.engine.expect(parity)
        self.engine.name = name
        self.plain = plain
        self._sleeps = self.engine.sleep_mode
        self._resting = False

    def load(self, weights: Iterable[tuple[str, Tensor]], version: str) -> None:
        if self._resting:
            torch.cuda.empty_cache()  # what the learner had and needs no more
            self.engine.wake()
            self._resting = False
        elif version == self.engine.version:
            return
        self.engine.load_weights(weights, version=version, plain=self.plain)

    def rest(self) -> None:
        if self._sleeps:
            self.engine.sleep(2)
            self._resting = True

    def rename(self, version: str) -> None:
        self.engine.rename(version)

    def close(self) -> None:
        self.engine.close()


def check_engine(spec: str) -> None:
    """Raises UserError for an engine that cannot follow a learner, or a spec that names a model of its own."""
    parsed = parse_spec(spec)
    if parsed.name in REFUSED:
        raise UserError(
            f"--engine {parsed.name}: {REFUSED[parsed.name]}. Roll-outs are drawn by transformers or by vllm."
        )
    if parsed.name not in ("transformers", "vllm"):
        raise UserError(f"--engine {spec}: roll-outs are drawn by transformers or by vllm[:key=value,...].")
    if parsed.argument:
        raise UserError(
            f"--engine {spec}: leave {parsed.argument!r} out; --model says which model is trained and drawn from."
        )
    if parsed.name == "vllm" and read_environment()[0].size > 1:
        for name in ONE_DEVICE:
            if name in parsed.options:
                raise UserError(
                    f"--engine {spec}: under torchrun every process has a vLLM of its own on its own device. Leave "
                    f"{name} out, or start without torchrun (vllm:tensor_parallel_size=N cuts one among GPUs)."
                )
    if parsed.name == "transformers" and parsed.options:
        raise UserError(
            "--engine transformers takes no options here: --device, --dtype and --max-rows are the run's."
        )


def devices_of(spec: str, ranks: Ranks) -> int:
    """How many devices a run works on: one a rank, or those that vLLM is cut among."""
    given = parse_spec(spec).options
    cut = [int(given.get(name, 1)) for name in ("tensor_parallel_size", "data_parallel_size")]
    return max(ranks.size, cut[0] * cut[1])


def has_own_weights(spec: str) -> bool:
    """Whether ``--engine spec`` keeps weights of its own, and reads no module of this process."""
    return parse_spec(spec).name == "vllm"


def open_generator(
    spec: str,
    engine: TransformersEngine,
    model: str,
    name: str,
    policy: Policy,
    *,
    apart: bool,
    max_rows: int,
) -> Generator:
    """The generator of ``--engine spec`` for ``policy``, which was loaded from ``model`` and which ``engine`` asks
    and samples for. apart: the learner changes while chains are drawn."""
    if has_own_weights(spec):
        # A model cut among ranks has no module that one rank could ask alone.
        plain = policy.plain_logprobs if policy.sharded else policy.model
        return InVLLM(spec, model, name, plain=None if apart else plain, beside=policy.ranks.size > 1)
    return Embedded(engine, name, apart, max_rows)
