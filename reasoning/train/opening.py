"""What a run starts from: its model in the embedded engine, its tasks, demonstrations, pairs and accepted chains,
each refused in one line where it does not fit. Knows nothing of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from reasoning.engines.transformers import TransformersEngine
from reasoning.errors import UserError
from reasoning.records import Problem, digest
from reasoning.spec import parse_spec
from reasoning.tasks import load_problems, parse_task, text_or_file, verifier_of, without
from reasoning.tasks.base import Demonstration
from reasoning.tasks.conversation import converse
from reasoning.train.accepted import Accepted, settle
from reasoning.train.assemble import loaded_dtype
from reasoning.train.distributed import ALONE, Ranks
from reasoning.train.evaluate import HeldOut
from reasoning.train.fresh import is_fresh, new_model
from reasoning.train.options import TrainOptions
from reasoning.train.preferences import Pair, load_preferences
from reasoning.train.sources import read_demonstrations
from reasoning.train.stream import Weighted, labels, parse_mixture
from reasoning.train.trained import learned_before
from verifiers import Attempt, Verdict, Verifier, open_verifier


def chosen_device(name: str) -> str:
    """The device that ``name`` means. Raises UserError for one that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(0, device=name)
    except (RuntimeError, AssertionError) as e:
        raise UserError(f"--device {name}: not a device here ({str(e).splitlines()[0]:.100}).") from None
    return name


def open_model(
    options: TrainOptions, name: str, demonstrations: Sequence[Demonstration], ranks: Ranks = ALONE
) -> TransformersEngine:
    """The model to train, in the engine; an empty one has a tokenizer made from ``demonstrations``."""
    if not is_fresh(options.model):
        if (Path(options.model) / "verifier.json").is_file():
            raise UserError(
                f"{options.model} is a learned verifier, whose weights no longer speak: give the language model that "
                "it was fitted on, and the verifier by --verifier learned:FOLDER."
            )
        return TransformersEngine.open(
            options.model,
            device=options.device,
            dtype=loaded_dtype(options, ranks),
            max_rows=options.max_rows,
        )
    texts = (p.prompt + completion for p, completion in demonstrations[:4000])
    model, tokenizer = new_model(options.model, texts, options.seed)
    model.to(chosen_device(options.device))
    version = digest(options.model, options.seed, len(tokenizer), tokenizer.get_vocab())
    return TransformersEngine(model, tokenizer, name=name, version=version, max_rows=options.max_rows)


def demonstrations_of(options: TrainOptions, say: Callable[[str], None]) -> list[Demonstration]:
    """say: told what is begun, since it takes seconds."""
    given = options.demonstrations
    if given.endswith(".jsonl"):
        say(f"Reading demonstrations from {given}.")
        return read_demonstrations(Path(given))
    if len(parse_mixture(options.task)) > 1:
        raise UserError("Demonstrations come from one task: train on the tasks one after the other.")
    task, split, asked = parse_task(options.task)
    system = asked.pop("system", "") if "system" not in task.options else ""
    for key in asked:
        raise UserError(
            f"--task {options.task}: {key} says nothing of demonstrations (system=TEXT does); write it as "
            "--demonstrations key=value where the task has such demonstrations."
        )
    pairs = parse_spec(f"demonstrations:{given}").options if given else {}
    count = options.steps * options.problems_per_step
    if task.demonstrate is not None:
        say(f"Making {count:,} demonstrations of {options.task}, each of which is learned from once.")
    found = task.demonstrations(split, count, options.seed, **pairs)
    return [(converse(problem, system=text_or_file(system)), text) for problem, text in found]


def pairs_of(options: TrainOptions, spec: str) -> list[Pair]:
    if not spec:
        return []
    judge = options.verifier or verifier_of(options.task or options.eval_task or "word")
    return load_preferences(
        spec, judge, per_problem=options.pairs_per_problem, margin=options.margin, seed=options.seed
    )


def tasks_of(options: TrainOptions, say: Callable[[str], None]) -> tuple[list[Weighted], list[Verifier]]:
    """The tasks to train on and what judges each."""
    parts = parse_mixture(options.task)
    names = labels([spec for spec, _ in parts])
    tasks = [
        Weighted(name, weight, load_problems(spec, say=say))
        for name, (spec, weight) in zip(names, parts, strict=True)
    ]
    judges = [open_verifier(options.verifier or verifier_of(spec)) for spec, _ in parts]
    skip = options.on_verifier_error == "skip"
    return tasks, [Watched(judge, skip, say) for judge in judges]


def held_out_of(options: TrainOptions, say: Callable[[str], None]) -> list[HeldOut]:
    """What is evaluated. A reward that never sees the reference is not what measures, unless it is asked to."""
    if not options.eval_task:
        return []
    parts = parse_mixture(options.eval_task)
    names = labels([spec for spec, _ in parts])
    given = open_verifier(options.verifier) if options.verifier else None
    found = []
    for name, (spec, weight) in zip(names, parts, strict=True):
        if options.eval_verifier:
            judge = open_verifier(options.eval_verifier)
        else:
            judge = given if given is not None and given.oracle else open_verifier(verifier_of(spec))
        watched = Watched(judge, options.on_verifier_error == "skip", say)
        found.append(HeldOut(name, weight, load_problems(spec, say=say), watched))
    return found


def accepted_of(options: TrainOptions, evaluation: Sequence[Problem]) -> tuple[list[Accepted], list[str]]:
    """(the accepted chains that this round learns from, lines to say). Chains of problems that are evaluated are left
    out. Raises UserError where nothing new was accepted."""
    found = settle(Path(options.run), options.source, learned_before(options.model))
    kept = {p.id for p in without([one.problem for one in found], evaluation)}
    allowed = [one for one in found if one.problem.id in kept]
    if not allowed:
        where = ", ".join(options.source)
        if found:
            raise UserError(
                f"{where}: all {len(found)} new accepted chains are of problems that are evaluated."
            )
        raise UserError(
            f"{where}: no accepted chain that {options.model} has not learned from before. Sample or search "
            "more first."
        )
    problems = len({one.problem.id for one in allowed})
    lines = [f"Learning from {len(allowed)} accepted chains of {problems} problems."]
    if len(allowed) < len(found):
        lines.append(f"{len(found) - len(allowed)} more are left out: their problems are evaluated.")
    return allowed, lines


FAILURES = ("error", "infrastructure", "protocol")
"""Statuses of a missing verdict that are the verifier's own failure, not the chain's or the reference's."""


class Watched:
    """A verifier whose failures stop the run before anything of them is stored, so that they are judged again when
    it goes on; or, with ``skip``, are missing verdicts, said once. Where a batch makes it raise, it is asked one by
    one."""

    def __init__(self, verifier: Verifier, skip: bool, say: Callable[[str], None]):
        self.verifier, self.skip, self.say = verifier, skip, say
        self.name, self.oracle = verifier.name, verifier.oracle

    def verify(self, attempts: Sequence[Attempt]) -> list[Verdict]:
        if not self.skip:
            verdicts = self.verifier.verify(attempts)
            failed = [v for v in verdicts if isinstance(v, Verdict) and v.missing and v.status in FAILURES]
            if failed:
                raise UserError(
                    f"Verifier {self.name!r} failed on {len(failed)} of {len(verdicts)} chains ({failed[0].status}: "
                    f"{failed[0].reason or 'no reason given'}). Mend it and run the same command again, or add "
                    "--on-verifier-error skip to leave such chains out."
                )
            return verdicts
        verdicts = self._one_by_one(attempts)
        for verdict in verdicts:
            if verdict.missing and verdict.status in FAILURES:
                self.say(
                    f"Verifier {self.name!r} failed ({verdict.status}: {verdict.reason}). Such chains are left out "
                    "(rewards_missing counts them)."
                )
                self.say = lambda text: None
        return verdicts

    def _one_by_one(self, attempts: Sequence[Attempt]) -> list[Verdict]:
        try:
            return self.verifier.verify(attempts)
        except Exception as error:  # whatever a reward function raises, its chain has no reward
            if len(attempts) == 1:
                said = " ".join(str(error).split())[:200]
                return [Verdict(None, status="error", reason=f"{type(error).__name__}: {said}")]
        return [self._one_by_one([attempt])[0] for attempt in attempts]

    def worst_case(self, attempts: Sequence[Attempt]) -> tuple[int, float]:
        tell = getattr(self.verifier, "worst_case", None)
        return tell(attempts) if tell is not None else (0, 0.0)
