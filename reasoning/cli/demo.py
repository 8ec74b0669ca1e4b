"""The whole idea in minutes: an empty model is taught, reinforced on what verifies, sampled and searched.

  reasoning demo runs/demo

Runs the commands of the recipe (``--show`` prints them); each can be typed by itself, and a demo that was
interrupted or killed goes on where it stopped.
"""

from __future__ import annotations

import shlex
import time
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from reasoning.cli.show import note
from reasoning.errors import UserError
from reasoning.options import option
from reasoning.progress import clock


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    run: str = option("runs/demo", "folder of the demo", metavar="RUN")
    seed: int = option(0, "seed of everything random")
    recipe: str = option("", "another recipe of steps (TOML), instead of the built-in one")
    show: bool = option(False, "print the commands and stop")


@dataclass(frozen=True, slots=True)
class Step:
    title: str
    command: tuple[str, ...]


def read_steps(options: DemoOptions) -> list[Step]:
    """The recipe's steps with RUN and the seed filled in."""
    if options.recipe:
        path = Path(options.recipe)
        if not path.is_file():
            raise UserError(f"{path}: no such recipe.")
        try:
            text, name = path.read_text(encoding="utf-8"), str(path)
        except UnicodeDecodeError as e:
            raise UserError(f"{path}: not a TOML file ({e}).") from None
    else:
        text, name = (
            (resources.files("reasoning") / "recipes" / "demo.toml").read_text(encoding="utf-8"),
            "demo.toml",
        )
    try:
        steps = tomllib.loads(text)["step"]
        return [
            Step(
                step.get("title", ""),
                tuple(
                    word.replace("{run}", options.run).replace("{seed}", str(options.seed))
                    for word in shlex.split(step["command"])
                ),
            )
            for step in steps
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise UserError(f"{name}: not a recipe of [[step]] tables with a command each ({e}).") from None


def run(options: DemoOptions) -> int:
    from reasoning.cli import dispatch

    steps = read_steps(options)
    if options.show:
        for step in steps:
            if step.title:
                print(f"# {step.title}")
            print("reasoning " + shlex.join(step.command))
        return 0
    started = time.monotonic()
    titles = [step for step in steps if step.title]
    for step in steps:
        if step.title:
            note(f"\n[{titles.index(step) + 1}/{len(titles)}] {step.title}")
        note("$ reasoning " + shlex.join(step.command))
        status = dispatch(list(step.command))
        if status:
            return status
    seconds = time.monotonic() - started
    note(f"\nThe demo took {clock(seconds)}. Run it again and only what is missing is done.")
    note("Next:")
    note(f"  open {options.run}/report.html")
    note(
        f"  reasoning search {options.run}/search --task word:test:n=50 "
        f"--engine transformers:{options.run}/grpo/model --strategy adaptive"
    )
    note(
        "  reasoning sample runs/gsm8k --task gsm8k:test --engine vllm:Qwen/Qwen2.5-1.5B-Instruct -n 16   (GPU, hub)"
    )
    return 0
