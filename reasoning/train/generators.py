"""What draws a run's roll-outs, and how it is given the weights of each step: the embedded engine, which reads the
learner's own module or a copy of it, or vLLM in this process. Knows nothing of sources or objectives.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from reasoning.engines import open_engine
from reasoning.engines.transformers import TransformersEngine
from reasoning.errors import UserError
from reasoning.spec import parse_spec
from reasoning.train.distributed import Ranks, read_environment

REFUSED = {
    "openai": "a server cannot take over new weights after every step",
    "replay": "recorded chains cannot follow the weights that are trained",
    "ray": "its actors load weights from folders, not from a learner after every step",
}


class Generator(Protocol):
    """engine: what to draw with. `load` gives it weights and their name, `rename` the name alone (of weights that are
    gone, to find in the pool what they drew)."""

    engine: Any

    def load(self, weights: Mapping[str, Tensor], version: str) -> None: ...

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
    def load(self, weights: Mapping[str, Tensor], version: str) -> None:
        if self.apart:
            for name, parameter in self.engine.module.named_parameters():
                parameter.copy_(weights[name])
        self.rename(version)
        self.engine.refresh()

    def rename(self, version: str) -> None:
        self.engine.set_version(version)

    def close(self) -> None:
        self.engine.close()


class InVLLM:
    """vLLM in this process. Every load is followed by vLLM's parity check, where that is on (see `VLLMEngine.open`).

    plain: the learner's module, to check against; None where it may have changed by then.
    """

    def __init__(self, spec: str, model: str, name: str, plain: Any = None):
        parsed = parse_spec(spec)
        options = ",".join(f"{key}={value}" for key, value in parsed.options.items())
        self.engine: Any = open_engine(f"vllm:{model}:{options}" if options else f"vllm:{model}")
        self.engine.name = name
        self.plain = plain

    def load(self, weights: Mapping[str, Tensor], version: str) -> None:
        if version != self.engine.version:
            self.engine.load_weights(
                ((name, tensor.detach()) for name, tensor in weights.items()),
                version=version,
                plain=self.plain,
            )

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
        raise UserError(
            "--engine vllm draws for one process: start without torchrun (vllm:tensor_parallel_size=N cuts it among "
            "GPUs), or leave --engine out."
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


def open_generator(
    spec: str, engine: TransformersEngine, model: str, name: str, *, apart: bool, max_rows: int
) -> Generator:
    """The generator of ``--engine spec`` for the module of ``engine``, which was loaded from ``model``."""
    if parse_spec(spec).name == "vllm":
        return InVLLM(spec, model, name, plain=None if apart else engine.module)
    return Embedded(engine, name, apart, max_rows)
