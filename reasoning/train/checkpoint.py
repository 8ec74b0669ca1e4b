"""Checkpoints that a killed run goes on from, to the bit: what is trained, optimizer state and counters.

A checkpoint is a folder written under a temporary name, fsync'ed and renamed, so it is whole or it is not
there. Tensors are safetensors, the rest is JSON; nothing is pickled. It does not depend on how many processes train
or how the model is cut among them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from reasoning.errors import PoolError
from reasoning.train.distributed import like, whole
from reasoning.train.writing import writing

OLDER = "older-"


def save_checkpoint(
    folder: Path,
    step: int,
    weights: Mapping[str, torch.Tensor],
    optimizers: list[Any],
    state: dict[str, Any],
    write: bool = True,
    older: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
) -> None:
    """Write ``folder/step-N`` and remove older ones. weights: what is trained, by name. state: JSON values
    (counters, lineage). write False: only help to put together what is cut among the ranks. older: weights of
    earlier steps that are still needed, by version (see `older_weights`).

    Raises PoolError when the disk is full; the previous checkpoint is then still there.
    """
    parts: dict[str, torch.Tensor] = {}
    plain: list[Any] = []
    for i, optimizer in enumerate(optimizers):
        parts |= _optimizer_tensors(f"{i}", optimizer)
        plain.append(_optimizer_scalars(optimizer))
    trained, tensors = _contiguous(weights), _contiguous(parts)
    if not write:
        return
    final = folder / f"step-{step:06d}"
    partial = folder / f".step-{step:06d}.partial"
    with writing(final):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(trained, partial / "model.safetensors")
        save_file(tensors, partial / "optimizer.safetensors")
        for version, named in (older or {}).items():
            save_file(_contiguous(named), partial / f"{OLDER}{version}.safetensors")
        body = {"step": step, "state": state, "optimizers": plain, "checksums": _checksums(partial)}
        body["checksum"] = zlib.crc32(_canonical(body))
        (partial / "state.json").write_text(json.dumps(body, indent=1, sort_keys=True))
        for path in partial.iterdir():
            _fsync(path)
        _fsync(partial)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(partial, final)
        _fsync(folder)
    for old in checkpoints(folder)[:-1]:
        shutil.rmtree(old)


def older_weights(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The weights of earlier steps that the newest checkpoint keeps, by version. Raises PoolError if damaged."""
    found = {}
    for checkpoint in checkpoints(folder)[-1:]:
        for path in sorted(checkpoint.glob(f"{OLDER}*.safetensors")):
            with _readable(checkpoint):
                found[path.stem.removeprefix(OLDER)] = load_file(path)
    return found


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Inside, whatever a damaged file raises is a PoolError that says what to do."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, IndexError, SafetensorError) as e:
        raise PoolError(
            f"{path} is damaged ({type(e).__name__}: {str(e).partition(chr(10))[0]}). Delete it and run the same "
            "command again: what it held is computed again from the stored chains."
        ) from e


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def load_checkpoint(
    folder: Path, weights: Mapping[str, torch.Tensor], optimizers: list[Any]
) -> tuple[int, dict[str, Any]] | None:
    """Restore the newest checkpoint into what is given; (step, state), or None if there is none.

    Raises PoolError for one that is damaged, or of a model with other weights.
    """
    found = checkpoints(folder)
    if not found:
        return None
    path = found[-1]
    with _readable(path):
        body = json.loads((path / "state.json").read_text(encoding="utf-8"))
        _refuse_damaged(path, body)
        found_weights = load_file(path / "model.safetensors")
        tensors = load_file(path / "optimizer.safetensors")
        _check_same_model(path, found_weights, weights)
        with torch.no_grad():
            for name, parameter in weights.items():
                parameter.copy_(like(found_weights[name], parameter))
        for i, optimizer in enumerate(optimizers):
            _restore(f"{i}", optimizer, tensors, body["optimizers"][i])
        return int(body["step"]), body["state"]


def _checksums(folder: Path) -> dict[str, int]:
    return {path.name: _checksum_of(path) for path in sorted(folder.glob("*.safetensors"))}


def _checksum_of(path: Path) -> int:
    found = 0
    with path.open("rb") as file:
        while part := file.read(1 << 24):
            found = zlib.crc32(part, found)
    return found


def _canonical(body: Mapping[str, Any]) -> bytes:
    return json.dumps({k: v for k, v in body.items() if k != "checksum"}, sort_keys=True).encode()


def _refuse_damaged(path: Path, body: Mapping[str, Any]) -> None:
    """Raises ValueError for a flipped bit, which would train on unseen (CRC-32; older checkpoints have none)."""
    if "checksum" not in body:
        return
    if body["checksum"] != zlib.crc32(_canonical(body)):
        raise ValueError("state.json is not as it was written")
    now = _checksums(path)
    for name, known in body["checksums"].items():
        if now.get(name) != known:
            raise ValueError(f"{name} is not as it was written")


def _check_same_model(
    path: Path, found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]
) -> None:
    """Raises PoolError that names the first difference."""
    for name in sorted(found.keys() | wanted.keys()):
        there, here = (tuple(t[name].shape) if name in t else "none" for t in (found, wanted))
        if there != here:
            raise PoolError(
                f"{path} is a checkpoint of another model: {name} has the shape {there} in it and {here} in the "
                "model that is trained. Give the model and the adapter it was begun with, or another run folder."
            )


def _contiguous(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: whole(tensor.detach()).cpu().contiguous() for name, tensor in tensors.items()}


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
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {int(i): dict(values) for i, values in scalars.items()}
    for name, tensor in tensors.items():
        which, index, field = name.split(".", 2)
        if which == prefix:
            owner = parameters[int(index)]
            cut = like(tensor, owner) if tensor.shape == owner.shape else tensor
            state.setdefault(int(index), {})[field] = cut
    optimizer.load_state_dict(saved | {"state": state})


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
