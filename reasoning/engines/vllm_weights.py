"""Weights for a running vLLM: which tensors a model has, and whether an update or an adapter fits it.

vLLM takes an incomplete or ill-shaped update without a word, so it is checked here first. Knows checkpoints and
configs; draws nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reasoning.engines.memory import stored_tensors
from reasoning.engines.tokens import weights_digest
from reasoning.errors import UserError


@dataclass(frozen=True)
class Layout:
    """The tensors of a model. shapes: by name, as a module of transformers names them. stored: as the checkpoint
    does. tied: (output head, embedding) where one tensor serves as both, else None."""

    shapes: Mapping[str, tuple[int, ...]]
    stored: Mapping[str, tuple[int, ...]]
    tied: tuple[str, str] | None

    @classmethod
    def of(cls, config: Any, folder: str | Path) -> Layout:
        """From a config of transformers and the folder of its safetensors."""
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            module: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        head, embedding = module.get_output_embeddings(), module.get_input_embeddings()
        names = {id(part): f"{name}.weight" for name, part in module.named_modules()}
        tied = None
        if head is not None and getattr(config.get_text_config(), "tie_word_embeddings", False):
            tied = (names[id(head)], names[id(embedding)])
        shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
        if tied:
            shapes.pop(tied[0], None)
            shapes[tied[1]] = tuple(embedding.weight.shape)
        return cls(shapes, {name: shape for name, shape, _ in stored_tensors(folder)}, tied)

    def complete(self, weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """``weights`` as vLLM has to be given them: all of them, and a tied head by its own name too, behind the
        embedding. Those that tell their ``shapes`` beforehand are read one at a time, others at once.

        Left out of the update, a tied head keeps the old weights in the copy that vLLM packs for its products (seen
        with 0.32 on a CPU: differences of 1 to 3 nats). Raises UserError for names or shapes that do not fit.
        """
        shapes: Mapping[str, tuple[int, ...]] | None = getattr(weights, "shapes", None)
        if shapes is None:
            weights = [(name, tensor.detach()) for name, tensor in weights]
            shapes = {name: tuple(tensor.shape) for name, tensor in weights}
        self._check(shapes)
        return self._with_head(weights, shapes)

    def _with_head(
        self, weights: Iterable[tuple[str, torch.Tensor]], shapes: Mapping[str, tuple[int, ...]]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in weights:
            yield name, tensor
            if self.tied and self.tied[0] not in shapes and self.tied[1].endswith(name):
                yield self.tied[0], tensor

    def _check(self, given: Mapping[str, tuple[int, ...]]) -> None:
        if not given:
            raise UserError("load_weights: there are no weights in it.")
        known = max((self.shapes, self.stored), key=lambda shapes: len(given.keys() & shapes.keys()))
        head = self.tied[0] if self.tied else None
        missing = sorted(known.keys() - given.keys() - {head})
        extra = sorted(given.keys() - known.keys() - {head})
        for names, what in ((missing, "are missing"), (extra, "are not of this model")):
            if names:
                raise UserError(
                    f"load_weights: {len(names)} of {len(known)} tensors {what}, e.g. {names[0]!r}. "
                    "Give every tensor of the model, named as in its checkpoint (adapters: load_adapter)."
                )
        for name, shape in known.items():
            if name in given and given[name] != shape:
                raise UserError(f"load_weights: {name!r} has shape {given[name]}; the model wants {shape}.")


def read_tensors(folder: str | Path) -> list[tuple[str, torch.Tensor]]:
    """The tensors in the safetensors files of ``folder``, mapped from disk. Raises UserError without any."""
    from safetensors.torch import load_file

    paths = sorted(Path(folder).glob("*.safetensors"))
    if not paths:
        raise UserError(f"{folder} holds no *.safetensors file to load weights from.")
    stored_tensors(folder)
    return [item for path in paths for item in load_file(path).items()]


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter as peft saves one. rank: the largest of its layers; digest: 12 hex digits of what it holds."""

    folder: Path
    rank: int
    digest: str

    @classmethod
    def open(cls, folder: str | Path, shapes: Mapping[str, tuple[int, ...]]) -> Adapter:
        """Read and check a folder against the tensors of its base model. Raises UserError if it does not fit."""
        folder = Path(folder)
        config_path, weights_path = folder / "adapter_config.json", folder / "adapter_model.safetensors"
        for path in (config_path, weights_path):
            if not path.is_file():
                raise UserError(f"{folder} is not a LoRA adapter: it has no {path.name}.")
        try:
            config = json.loads(config_path.read_text())
            ranks = [int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{config_path} is not a LoRA configuration: {error!r}.") from error
        for name, shape, _ in stored_tensors(folder):
            _fits(name, shape, shapes, folder, bool(config.get("fan_in_fan_out")))
        content = hashlib.blake2b(config_path.read_bytes(), digest_size=32)
        content.update(weights_digest(folder).encode())
        return cls(folder, max(ranks), content.hexdigest()[:12])

    def slot_rank(self, ranks: Iterable[int]) -> int:
        """The smallest of the ranks that vLLM can make room for. Raises UserError when none is large enough."""
        fitting = [rank for rank in ranks if rank >= self.rank]
        if not fitting:
            raise UserError(
                f"The adapter {self.folder} has rank {self.rank}; vLLM takes at most {max(ranks)}."
            )
        return min(fitting)


def _fits(
    name: str, shape: tuple[int, ...], shapes: Mapping[str, tuple[int, ...]], folder: Path, transposed: bool
) -> None:
    """vLLM copies factors of other widths into place as far as they go: refuse them by name."""
    path, _, kind = name.removeprefix("base_model.model.").rpartition(".lora_")
    if not path:
        raise UserError(
            f"{folder}: the adapter holds {name!r}, which is no LoRA factor; vLLM cannot apply it."
        )
    base = shapes.get(f"{path}.weight")
    if base is None:
        raise UserError(
            f"{folder} does not fit the model: it adapts {path!r}, which the model does not have."
        )
    inputs, outputs = base if transposed else reversed(base)
    width = {"A.": (shape[-1], inputs), "B.": (shape[0], outputs)}.get(kind[:2])
    if width and width[0] != width[1]:
        raise UserError(
            f"{folder} does not fit the model: {name!r} has width {width[0]}, and {path!r} wants {width[1]}."
        )
