"""A trained model's folder: an ordinary Hugging Face folder with ``training.json`` beside the weights, which says
what it cost and where it comes from. Written under a temporary name and renamed. Knows nothing of steps or sources.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasoning.errors import UserError
from reasoning.train.options import TrainOptions
from reasoning.train.writing import readable_as, writing

LEARNED = "learned_chains.txt"
"""In a model's folder: the keys of stored chains that it, or a model it was trained from, has learned from."""

STOPPED = {
    "steps": "",
    "patience": "the evaluations no longer improve (--patience)",
    "solved": "every chain of the last steps was right: these problems have nothing left to teach",
    "budget": "the budget has no room for another step; a larger --budget goes on from here",
}
"""Why a run ended, and what is said of it."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """folder: the trained model. summary: what its training.json says. resumed_at: the step a resumed run went
    on from; None for a run from the start. finished_before: nothing was left to do."""

    folder: Path
    summary: dict[str, Any]
    resumed_at: int | None = None
    finished_before: bool = False


def save_trained(
    final: Path, save: Callable[[Path], None], summary: dict[str, Any], learned: Collection[str] = ()
) -> None:
    """Write ``final``, in place of one that is there. save: writes the model into a folder. Raises PoolError where
    the disk refuses."""
    partial = final.with_name(f".{final.name}.partial")
    with writing(final):
        shutil.rmtree(partial, ignore_errors=True)
        save(partial)
        _finish(partial, final, summary, learned)


def copy_trained(source: Path, final: Path, summary: dict[str, Any], learned: Collection[str] = ()) -> None:
    """As `save_trained`, with the weights of the folder ``source``."""
    partial = final.with_name(f".{final.name}.partial")
    with writing(final):
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial)
        _finish(partial, final, summary, learned)


def _finish(partial: Path, final: Path, summary: dict[str, Any], learned: Collection[str]) -> None:
    if learned:
        (partial / LEARNED).write_text("".join(f"{key}\n" for key in sorted(learned)))
    (partial / "training.json").write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n")
    readable_as(partial / "training.json")
    shutil.rmtree(final, ignore_errors=True)  # not before the new one is whole
    os.rename(partial, final)


def summary_of(
    options: TrainOptions,
    parent: str,
    steps: int,
    stopped: str,
    best: tuple[int, float] | None,
    flops: Mapping[str, float],
    tokens: Mapping[str, int],
) -> dict[str, Any]:
    """What training.json holds. stopped: a key of `STOPPED`, or "best" in RUN/best. best: (step, figure). flops: of
    each phase."""
    return {
        "objective": options.objective,
        "task": options.task or ", ".join(options.source),
        "parent": parent,
        "steps": steps,
        "stopped": stopped,
        "budget": options.budget,
        "best": None if best is None else {"step": best[0], "figure": best[1]},
        "kept": options.keep,
        "seed": options.seed,
        "flops": sum(flops.values()),
        "flops_by_phase": dict(flops),
        "shared_flops": flops_before(options.model),
        "tokens": dict(tokens),
    }


def read_training(folder: Path) -> dict[str, Any]:
    """``training.json`` of a trained model. Raises UserError when it is damaged."""
    try:
        content = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        return {**content, "flops": float(content["flops"]), "shared_flops": float(content["shared_flops"])}
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{folder}/training.json is damaged: delete {folder} and run the same training again."
        ) from None


def flops_before(model: str) -> float:
    """What training the model in the folder ``model``, and those before it, took; 0 where nothing says so."""
    if not (Path(model) / "training.json").is_file():
        return 0.0
    before = read_training(Path(model))
    return before["flops"] + before["shared_flops"]


def learned_before(model: str) -> set[str]:
    """Keys of the stored chains that the model in the folder ``model`` has learned from."""
    path = Path(model) / LEARNED
    return set(path.read_text().split()) if path.is_file() else set()
