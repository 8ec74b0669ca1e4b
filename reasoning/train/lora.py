"""Low-rank adapters (LoRA, arXiv 2106.09685) by `peft`: put into a model, read out of it, and what training them
costs. Knows nothing of learners or engines.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from reasoning.errors import MissingExtra, UserError
from reasoning.flops import ModelShape
from reasoning.train.distributed import whole

NAME = "default"


def add_adapter(model: Any, rank: int, alpha: float, targets: str, seed: int, source: str) -> Any:
    """Freeze ``model`` and put an adapter of ``rank`` beside each of its target matrices, in place; the peft model
    around it. It starts as nothing (B = 0).

    alpha: the adapter counts alpha / rank; 0 is 2 x rank. targets: names of modules between commas, such as
    q_proj,v_proj; "all" is every matrix in the layers. source: where the model was loaded from, for who loads the
    adapter. Raises UserError for names that the model does not have, MissingExtra without peft.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ModuleNotFoundError:
        raise MissingExtra("peft", "lora", "--lora-rank") from None
    names = [name.strip() for name in targets.split(",") if name.strip()]
    if not names:
        raise UserError("--lora-targets names no module: all, or names such as q_proj,v_proj.")
    there = {name.rpartition(".")[2] for name, m in model.named_modules() if type(m) in _matrices()}
    head = model.get_output_embeddings()
    ends = {name.rpartition(".")[2] for name, m in model.named_modules() if m is head}
    if names != ["all"] and (strange := [name for name in names if name not in there]):
        raise UserError(
            f"--lora-targets {strange[0]}: this model has no such matrix; it has {', '.join(sorted(there))}."
        )
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha or 2 * rank,  # pyright: ignore[reportArgumentType]
        target_modules=sorted(there - ends) if names == ["all"] else names,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        device = next(model.parameters()).device
        with warnings.catch_warnings():  # peft asks transformers by a name that is going away
            warnings.simplefilter("ignore", FutureWarning)
            made = get_peft_model(model.cpu(), config)  # drawn on the CPU: the same on every device
    made.peft_config[NAME].base_model_name_or_path = source
    made.to(device)
    return made


def _matrices() -> tuple[type, ...]:
    from transformers.pytorch_utils import Conv1D

    return (torch.nn.Linear, Conv1D)


def adapted(adapter: Any) -> dict[str, Any]:
    """Name of each adapted weight, as the model had it before, -> its layer."""
    from peft.tuners.lora import LoraLayer

    model = adapter.get_base_model()
    return {f"{name}.weight": m for name, m in model.named_modules() if isinstance(m, LoraLayer)}


@torch.no_grad()
def merged_weight(layer: Any) -> Tensor:
    """Base weight + alpha / rank x B A, in float32 or wider, from the untouched base: nothing adds up over steps."""
    base = whole(layer.get_base_layer().weight).detach()
    delta = whole(layer.get_delta_weight(NAME)).detach()
    kind = torch.promote_types(base.dtype, torch.float32)
    return base.to(kind) + delta.to(kind)


@contextlib.contextmanager
def adapter_off(adapter: Any) -> Iterator[None]:
    """The model as it was before the adapter."""
    with adapter.disable_adapter():
        yield


def save_adapter(folder: Path, adapter: Any, weights: dict[str, Tensor]) -> None:
    """Write ``folder`` as peft does. weights: the adapter's, whole, by the names of the model's parameters."""
    from peft.utils import get_peft_model_state_dict

    prefix = "base_model.model."
    state = get_peft_model_state_dict(adapter, state_dict={prefix + n: t for n, t in weights.items()})
    folder.mkdir(parents=True)
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(content, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = adapter.peft_config[NAME]
    before, config.inference_mode = config.inference_mode, True
    config.save_pretrained(str(folder))
    config.inference_mode = before
    path = folder / "adapter_config.json"
    body = json.loads(path.read_text())
    if isinstance(body["target_modules"], list):  # a set, whose order is another in every process
        body["target_modules"].sort()
    path.write_text(json.dumps(body, indent=2, sort_keys=True))


def adapter_training_flops(
    shape: ModelShape, lengths: Sequence[int], adapter_parameters: int, recompute: bool = False
) -> float:
    """Forward and backward over whole sequences where the model's own weights are frozen: each of its matrices is
    multiplied with twice (forward, and the gradient of what went in; that of the weight is not needed), attention
    and the adapter cost what they always cost, three times their forward."""
    tokens = np.asarray(lengths, dtype=np.float64)
    forward = float(np.sum(shape.prefill_flops(np.asarray(lengths))))
    matrices = 2.0 * shape.parameters * float(tokens.sum())
    beside = 2.0 * adapter_parameters * float(tokens.sum())
    again = forward + beside if recompute else 0.0
    return 2 * matrices + 3 * (forward - matrices) + 3 * beside + again
