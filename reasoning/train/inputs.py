"""What a run learns from, as short digests that its checkpoints keep: a file that changed between a kill and the next
start would make another run of it. Knows no steps and no weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from reasoning.errors import UserError
from reasoning.options import flag
from reasoning.records import digest
from reasoning.tasks.base import Demonstration
from reasoning.train.lineage import by_content
from reasoning.train.options import TrainOptions
from reasoning.train.preferences import Pair
from reasoning.train.stream import Weighted
from verifiers import Verifier


def digests_of(
    options: TrainOptions,
    tasks: Sequence[Weighted],
    judges: Sequence[Verifier],
    demonstrations: Sequence[Demonstration],
    pairs: Sequence[Pair],
) -> dict[str, str]:
    """A digest of what each option stands for: problems with their references, what gives the reward (its file, or
    the version that its name holds), demonstrations, pairs."""
    found = {
        "task": [(p.id, str(p.reference)) for task in tasks for p in task.problems],
        "verifier": [by_content(options.verifier), *(judge.name for judge in judges)] if judges else [],
        "demonstrations": [(problem.prompt, text) for problem, text in demonstrations],
        "preferences": [(pair.problem.prompt, pair.chosen, pair.rejected) for pair in pairs],
    }
    return {name: digest(content) for name, content in found.items() if content}


def check_inputs(run: Path, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raises UserError for an input that is not what it was when the checkpoint of ``run`` was written."""
    for name, known in before.items():
        if now.get(name, known) != known:
            raise UserError(
                f"What {flag(name)} stands for has changed since {run} was begun (its file, or the pool that it is "
                "made from): put it back, or give another folder to start anew."
            )
