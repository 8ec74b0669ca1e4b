"""Metrics to TensorBoard, trackio or Weights & Biases beside metrics.jsonl. Each package is imported when it is asked
for; a missing one names its extra.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from reasoning.errors import MissingExtra
from reasoning.records import digest

PROJECT = "reasoning"


class Tracker(Protocol):
    def log(self, step: int, figures: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class _TensorBoard:
    """Event files in RUN/tensorboard."""

    def __init__(self, run: Path, config: Mapping[str, Any], start: int):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tensorboard's own dependencies
            writer = _need("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._writer = writer(str(run / "tensorboard"), purge_step=start + 1 if start else None)
        if not start:
            text = "\n".join(f"    {name} = {value}" for name, value in config.items())
            self._writer.add_text("options", text, 0)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Trackio:
    def __init__(self, run: Path, config: Mapping[str, Any], start: int):
        self._module = _need("trackio", "trackio")
        self._module.init(project=PROJECT, name=_name(run), config=dict(config), resume="allow")

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._module.log(dict(figures), step=step)

    def close(self) -> None:
        self._module.finish()


class _WandB:
    """A resumed run goes on in the same one; steps that are computed again are there already, and left out by W&B."""

    def __init__(self, run: Path, config: Mapping[str, Any], start: int):
        module = _need("wandb", "wandb")
        self._run = module.init(
            project=PROJECT,
            name=_name(run),
            id=digest("wandb", str(run.resolve())),
            config=dict(config),
            dir=str(run),
            resume="allow",
        )

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        self._run.finish()


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any], int], Tracker]] = {
    "tensorboard": _TensorBoard,
    "trackio": _Trackio,
    "wandb": _WandB,
}


def open_trackers(names: list[str], run: Path, config: Mapping[str, Any], start: int) -> list[Tracker]:
    """The trackers of ``names``. start: the step that the run goes on from. Raises MissingExtra."""
    return [TRACKERS[name](run, config, start) for name in dict.fromkeys(names)]


def need_trackers(names: list[str]) -> None:
    """Raises MissingExtra for a package that is not there, before anything is done."""
    for name in names:
        _need("tensorboard" if name == "tensorboard" else name, name)


def _need(module: str, package: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return import_module(module)
    except ModuleNotFoundError as e:
        raise MissingExtra(package, package, f"--track {package}") from e


def _name(run: Path) -> str:
    path = run.resolve()
    return f"{path.parent.name}/{path.name}"
