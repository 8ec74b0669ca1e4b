"""Checkpoints that a killed run goes on from, to the bit: weights, optimizer state and counters.

A checkpoint is a folder written under a temporary name, fsync'ed and renamed, so it is whole or it is not
there. Tensors are safetensors, the rest is JSON; nothing is pickled.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from reasoning.errors import PoolError


def save_checkpoint(
    folder: Path,
    step: int,
    model: Any,
    optimizers: list[Any],
    state: dict[str, Any],
    value_head: Any | None = None,
) -> None:
    """Write ``folder/step-N`` and remove older ones. state: JSON values (counters, lineage).

    Raises PoolError when the disk is full; the previous checkpoint is then still there.
    """
    final = folder / f"step-{step:06d}"
    partial = folder / f".step-{step:06d}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(_contiguous(dict(model.named_parameters())), partial / "model.safetensors")
        if value_head is not None:
            save_file(_contiguous(value_head.state_dict()), partial / "value_head.safetensors")
        tensors: dict[str, torch.Tensor] = {}
        plain: list[Any] = []
        for i, optimizer in enumerate(optimizers):
            tensors |= _optimizer_tensors(f"{i}", optimizer)
            plain.append(_optimizer_scalars(optimizer))
        save_file(_contiguous(tensors), partial / "optimizer.safetensors")
        body = json.dumps({"step": step, "state": state, "optimizers": plain}, indent=1, sort_keys=True)
        (partial / "state.json").write_text(body)
        for path in partial.iterdir():
            _fsync(path)
        _fsync(partial)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(partial, final)
        _fsync(folder)
    except OSError as e:
        raise PoolError(
            f"{final}: cannot be written ({e.strerror or e}). The previous checkpoint is kept; make room and run "
            "the same command again."
        ) from e
    for old in checkpoints(folder)[:-1]:
        shutil.rmtree(old)


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def load_checkpoint(
    folder: Path, model: Any, optimizers: list[Any], value_head: Any | None = None
) -> tuple[int, dict[str, Any]] | None:
    """Restore the newest checkpoint into what is given; (step, state), or None if there is none."""
    found = checkpoints(folder)
    if not found:
        return None
    path = found[-1]
    try:
        body = json.loads((path / "state.json").read_text(encoding="utf-8"))
        weights = load_file(path / "model.safetensors")
        tensors = load_file(path / "optimizer.safetensors")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(weights[name])
        if value_head is not None:
            value_head.load_state_dict(load_file(path / "value_head.safetensors"))
        for i, optimizer in enumerate(optimizers):
            _restore(f"{i}", optimizer, tensors, body["optimizers"][i])
        return int(body["step"]), body["state"]
    except (OSError, ValueError, KeyError, TypeError, IndexError, SafetensorError) as e:
        raise PoolError(
            f"{path} is damaged ({type(e).__name__}: {str(e).partition(chr(10))[0]}). Delete it and run the same "
            "command again: what it held is computed again from the stored chains."
        ) from e


def _contiguous(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _optimizer_tensors(prefix: str, optimizer: Any) -> dict[str, torch.Tensor]:
    state = optimizer.state_dict()["state"]
    return {
        f"{prefix}.{index}.{name}": value
        for index, values in state.items()
        for name, value in values.items()
        if isinstance(value, torch.Tensor)
    }


def _optimizer_scalars(optimizer: Any) -> dict[str, Any]:
    state = optimizer.state_dict()["state"]
    return {
        str(index): {name: value for name, value in values.items() if not isinstance(value, torch.Tensor)}
        for index, values in state.items()
    }


def _restore(prefix: str, optimizer: Any, tensors: dict[str, torch.Tensor], scalars: dict[str, Any]) -> None:
    saved = optimizer.state_dict()
    state: dict[int, dict[str, Any]] = {int(i): dict(values) for i, values in scalars.items()}
    for name, tensor in tensors.items():
        which, index, field = name.split(".", 2)
        if which == prefix:
            state.setdefault(int(index), {})[field] = tensor
    optimizer.load_state_dict(saved | {"state": state})


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
