"""Settings that do not go together, or not with the folder: each refused with one line that says what to do. Knows no
model and no data.
"""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from reasoning.budget import Budget
from reasoning.errors import UserError
from reasoning.options import flag
from reasoning.runfile import check_same, read_run
from reasoning.train.checkpoint import checkpoints
from reasoning.train.fresh import is_fresh
from reasoning.train.generators import check_engine
from reasoning.train.objective import Objective
from reasoning.train.options import TrainOptions
from reasoning.train.stream import parse_band, parse_mixture
from reasoning.train.trained import read_training

HARMLESS = frozenset({"run", "model", "eval_task", "eval_every", "eval_chains", "eval_verifier"})
HARMLESS |= {"micro_tokens", "packing", "gradient_checkpointing", "shard"}
HARMLESS |= {"checkpoint_every", "log_every", "device", "max_rows", "eval_preferences"}
HARMLESS |= {"patience", "keep", "budget", "track", "on_verifier_error"}
"""Settings that do not change what is learned; the others make the lineage that names a model's weights."""


def check(options: TrainOptions, goal: Objective) -> None:
    """Raises UserError for a value out of range, or settings that contradict each other."""
    for name in (
        "steps",
        "problems_per_step",
        "chains_per_problem",
        "epochs",
        "eval_chains",
        "checkpoint_every",
        "max_staleness",
    ):
        if getattr(options, name) < 1:
            raise UserError(f"{flag(name)} must be 1 or above, not {getattr(options, name)}.")
    for f in fields(options):
        value = getattr(options, f.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{flag(f.name)} must be a finite number, not {value}.")
    if not options.lr > 0:
        raise UserError(f"--lr must be above 0, not {options.lr}.")
    if not options.temperature > 0:
        raise UserError("--temperature must be above 0: greedy roll-outs are all alike and teach nothing.")
    _check_source(options, goal)
    _check_loop(options, goal)
    _check_idle(options, goal)
    if is_fresh(options.model) and goal.source in ("model", "rationalised") and not options.source:
        raise UserError(
            f"{options.model} is an empty model; {goal.name} can only reinforce what a model already does at "
            "times. Cold-start it first:  reasoning train RUN --objective sft ..."
        )
    if goal.advantage == "batch_mean_std" and options.problems_per_step * options.chains_per_problem < 2:
        raise UserError(
            f"{goal.name} compares the chains of a step, and this one has a single chain: raise --problems-per-step."
        )
    if goal.compares and options.chains_per_problem < 2:
        raise UserError(
            f"{goal.name} compares the chains of a group: --chains-per-problem must be 2 or above."
        )


def _check_source(options: TrainOptions, goal: Objective) -> None:
    """Where the rows come from."""
    if options.demonstrations and goal.source != "demonstrations":
        raise UserError(f"--demonstrations goes with --objective sft; {goal.name} samples its own chains.")
    for name in ("preferences", "eval_preferences"):
        if getattr(options, name) and goal.source != "preferences":
            raise UserError(f"{flag(name)} goes with --objective dpo, not with {goal.name}.")
    if options.source:
        if not goal.selects or goal.restart or goal.source != "model":
            raise UserError(
                f"--source pool:RUN holds chains that other weights drew: it goes with --objective expert_iteration, "
                f"not with {goal.name}."
            )
        if options.task:
            raise UserError(
                "--source pool:RUN says what is learned from: leave --task out (--eval-task may stay)."
            )
    elif goal.source == "preferences":
        if not options.preferences:
            raise UserError("dpo learns from pairs:  --preferences FILE.jsonl  (or pool:RUN)")
        if options.minibatch % 2:
            raise UserError(
                f"--minibatch counts chains and a pair has two: make it even, not {options.minibatch}."
            )
    elif not options.task and not options.demonstrations.endswith(".jsonl"):
        raise UserError(
            "Name the problems to train on:  --task word:train  (or jsonl:FILE:question=..,answer=..)"
        )
    if options.task:
        parse_mixture(options.task)


def _check_loop(options: TrainOptions, goal: Objective) -> None:
    """How the steps follow one another."""
    draws = goal.source in ("model", "rationalised") and not options.source
    for name in ("curriculum", "asynchronous", "engine"):
        given = getattr(options, name)
        if given and given != "transformers" and not draws:
            raise UserError(f"{flag(name)} is for roll-outs, and this run draws none: drop it.")
    parse_band(options.curriculum)
    check_engine(options.engine)
    if options.max_staleness != 1 and not options.asynchronous:
        raise UserError("--max-staleness goes with --asynchronous; a synchronous run has no older weights.")
    if options.asynchronous and goal.surrogate == "logp" and not (goal.selects or goal.corrects):
        raise UserError(
            f"{goal.name} weighs no chain by its importance ratio, so chains of older weights would bias it: add "
            "--mismatch token_truncate (or --surrogate clip), or drop --asynchronous."
        )
    if options.patience and not (options.eval_every and (options.eval_task or options.eval_preferences)):
        raise UserError("--patience counts evaluations: give --eval-task, and --eval-every above 0.")
    if options.keep == "best" and not (options.eval_task or options.eval_preferences):
        raise UserError("--keep best needs evaluations to choose by: give --eval-task.")
    if options.budget and Budget.parse(options.budget).price is not None:
        raise UserError("--budget price=: a training run has no price table; give tokens, flops or seconds.")


def _check_idle(options: TrainOptions, goal: Objective) -> None:
    """An option that would be read by nobody is refused, not ignored."""
    draws = goal.source in ("model", "rationalised") and not options.source
    wanted = {
        "chains_per_problem": (draws, "an objective that samples chains, and this run draws none"),
        "lora_alpha": (bool(options.lora_rank), "--lora-rank"),
        "lora_targets": (bool(options.lora_rank), "--lora-rank"),
        "keep_correct": (goal.selects, "--objective expert_iteration, rest_em or star"),
        "hint": (goal.source == "rationalised", "--objective star"),
        "max_refill": (goal.dynamic_sampling, "--dynamic-sampling (as in --objective dapo)"),
        "eval_verifier": (bool(options.eval_task), "--eval-task"),
        "pairs_per_problem": (goal.source == "preferences", "--objective dpo"),
        "margin": (goal.source == "preferences", "--objective dpo"),
    }
    for f in fields(options):
        fits, with_what = wanted.get(f.name, (True, ""))
        if not fits and getattr(options, f.name) != f.default:
            raise UserError(f"{flag(f.name)} goes with {with_what}: drop it.")
    buffer = goal.overlong_buffer
    if buffer > options.max_new_tokens:
        raise UserError(
            f"--overlong-buffer {buffer} is more than --max-new-tokens {options.max_new_tokens}: lower it."
        )


def check_unchanged(run: Path, options: TrainOptions) -> None:
    """Raises UserError where the run in the folder was begun with another value of a setting that matters."""
    settings = asdict(options)
    same = set(settings) - HARMLESS | {"model"}
    _refuse_lengthened(run, options)
    check_same(run, "train", settings, same)
    before = read_run(run).get("train", {})
    for f in fields(options) if before else ():
        default = f.default_factory() if f.default_factory is not MISSING else f.default
        if f.name in same and f.name not in before and settings[f.name] != default:
            raise UserError(
                f"{run} was begun without {flag(f.name)}, and now it is {settings[f.name]}. Leave it out to go on "
                "with that run, or give another folder to start anew."
            )


def _refuse_lengthened(run: Path, options: TrainOptions) -> None:
    """What the optimizer remembers is gone with the checkpoints of a finished run."""
    final, steps = run / "model", read_run(run).get("train", {}).get("steps", options.steps)
    if steps == options.steps or not (final / "training.json").is_file():
        return
    if read_training(final).get("stopped") != "budget":
        more = max(options.steps - steps, 1)
        raise UserError(
            f"{run} is finished with --steps {steps} and cannot be lengthened. To train on from its weights give "
            f"another folder and its model:  reasoning train RUN2 --model {final} --steps {more} ..."
        )


def check_parent(run: Path, parent: str) -> None:
    """Raises UserError where the newest checkpoint of ``run`` comes from another model than ``parent``."""
    for path in checkpoints(run / "checkpoints")[-1:]:
        try:
            body: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
            before = body["state"].get("parent", parent)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return  # `load_checkpoint` says what is wrong with it
        if before != parent:
            raise UserError(
                f"{path} comes from {before}, and --model is {parent} now: put that model back, or give another "
                "folder to start anew."
            )
