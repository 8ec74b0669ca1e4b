"""Engines for actors to open by ``path/to/ray_engines.py:name``. They are told what to do by their sampling seed,
so that one cluster serves all tests, and by files, because an actor that dies remembers nothing."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fake_engine import ScriptedEngine

from reasoning.errors import EngineError, UserError

POISON = "poison"


class Scripted(ScriptedEngine):
    """Sleeps seed milliseconds for each chain. A problem whose prompt says "poison" ends the process; "raise",
    the call; "once FILE", the process, the first time."""

    def __init__(self, model: str = "scripted@1"):
        super().__init__(model)

    def chain(self, draw, index, pays_prompt):
        prompt = draw.problem.prompt
        if prompt.startswith(POISON):
            os._exit(3)
        if prompt.startswith("raise"):
            raise EngineError("scripted to raise")
        if prompt.startswith("mistake"):
            raise UserError("scripted mistake")
        if prompt.startswith("once"):
            try:
                Path(prompt.split()[1]).touch(exist_ok=False)
                os._exit(3)
            except FileExistsError:
                time.sleep(0)
        time.sleep(draw.sampling.seed / 1000)
        return super().chain(draw, index, pays_prompt)


def scripted() -> Scripted:
    return Scripted()


def stubborn() -> Scripted:
    """Computes everything before it gives anything, so that it cannot be stopped."""

    class Stubborn(Scripted):
        def generate(self, draws):
            return iter(list(super().generate(draws)))

    return Stubborn()


def unlike() -> Scripted:
    """Other weights in every process."""
    return Scripted(f"scripted@{os.getpid()}")


def broken() -> Scripted:
    raise UserError("no such model")


def dying() -> Scripted:
    os._exit(3)
