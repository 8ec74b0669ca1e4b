"""The loop: a source of rows, a learner, evaluation, checkpoints. Supervised cold start, GRPO and expert iteration
are this one loop with another `Objective`.

    source.draw(step) -> assign -> learner.step(rows) -> engine.refresh() -> metrics -> checkpoint
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import shutil
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from reasoning.budget import Ledger
from reasoning.durable import AppendFile
from reasoning.engines.transformers import TransformersEngine
from reasoning.errors import PoolError, UserError
from reasoning.pool import Pool
from reasoning.progress import Progress, Silent
from reasoning.records import Cost, Problem, Sampling, digest
from reasoning.runfile import check_same, write_run
from reasoning.spec import parse_spec
from reasoning.tasks import load_problems, parse_task, refuse_overlap, verifier_of
from reasoning.tasks.base import Demonstration
from reasoning.train.assign import assign
from reasoning.train.checkpoint import load_checkpoint, save_checkpoint
from reasoning.train.checks import HARMLESS, check
from reasoning.train.evaluate import evaluate
from reasoning.train.fresh import is_fresh, new_model, save_folder
from reasoning.train.heads import new_value_head
from reasoning.train.journal import headline, keep_metrics, line
from reasoning.train.learner import Learner
from reasoning.train.objective import Objective, objective
from reasoning.train.options import TrainOptions
from reasoning.train.preferences import Pair, PreferenceSource, load_preferences, pair_rows, signed
from reasoning.train.rollouts import ModelSource
from reasoning.train.sources import DemonstrationSource, Source, order_of, read_demonstrations
from verifiers import Verifier, open_verifier


@dataclass(frozen=True, slots=True)
class TrainResult:
    """folder: the trained model. summary: what its training.json says. resumed_at: the step a resumed run went
    on from; None for a run from the start. finished_before: nothing was left to do."""

    folder: Path
    summary: dict[str, Any]
    resumed_at: int | None = None
    finished_before: bool = False


def train(options: TrainOptions, progress: Progress | None = None, log: Any = None) -> TrainResult:
    """Train as ``options`` say; run again after a kill, it goes on from the last checkpoint and ends with the
    same weights. log: called with one readable line a step.

    Raises UserError for settings that do not fit together, for training problems that are in the evaluation
    split, and for a run folder that holds another configuration.
    """
    progress = progress or Silent()
    say = log or (lambda line: None)
    goal = objective(options.objective, **options.axes())
    check(options, goal)
    run = Path(options.run)
    settings = asdict(options)
    check_same(run, "train", settings, set(settings) - HARMLESS | {"model"})
    final = run / "model"
    if (final / "training.json").is_file():
        summary = read_training(final)
        return TrainResult(final, summary, finished_before=True)
    return _Run(options, goal, run, progress, say).finish()


def chosen_device(name: str) -> str:
    """The device that ``name`` means. Raises UserError for one that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(0, device=name)
    except (RuntimeError, AssertionError) as e:
        raise UserError(f"--device {name}: not a device here ({str(e).splitlines()[0]:.100}).") from None
    return name


class _Run:
    """One training run between two kills."""

    def __init__(self, options: TrainOptions, goal: Objective, run: Path, progress: Progress, say: Any):
        self.options, self.goal, self.run, self.progress, self.say = options, goal, run, progress, say
        self.demonstrations = self._demonstrations() if goal.source == "demonstrations" else []
        self.pairs = self._pairs(options.preferences)
        self.held_pairs = self._pairs(options.eval_preferences)
        self.engine = self._engine()
        if self.engine.shape is None:
            raise UserError(f"The shape of {options.model} is not known, so its FLOPs cannot be counted.")
        self.shape = self.engine.shape
        model = self.engine.module
        reference = copy.deepcopy(model).eval() if goal.needs_reference else None
        head = new_value_head(model) if goal.critic else None
        self.learner = Learner(
            model,
            goal,
            lr=options.lr,
            optimizer=options.optimizer,
            weight_decay=options.weight_decay,
            max_grad_norm=options.max_grad_norm,
            temperature=options.temperature,
            max_new_tokens=options.max_new_tokens,
            micro_tokens=options.micro_tokens,
            reference=reference,
            value_head=head,
        )
        parent_version = self.engine.model.partition("@")[2]
        # Defaults are left out, so that a new option does not rename the chains of old runs.
        defaults = {f.name: f.default for f in fields(options)}
        given = asdict(options).items()
        inherited = {k: v for k, v in given if k not in HARMLESS and v != defaults[k]}
        self.lineage = digest("train", parent_version, inherited)
        self.parent = self.engine.model
        self.totals = {"sample": 0.0, "update": 0.0}
        self.tokens = {"sampled": 0, "learned": 0}
        self.start = 0
        self.resumed_at: int | None = None
        self.source_state: dict[str, int] = {}
        # Every step of a restarting objective begins from the weights that the run began with.
        self.first = {n: p.detach().clone() for n, p in model.named_parameters()} if goal.restart else {}
        loaded = load_checkpoint(run / "checkpoints", model, self.learner.optimizers, head)
        if loaded:
            self.start, state = loaded
            self.resumed_at = self.start
            self.lineage, self.totals, self.tokens = state["lineage"], state["flops"], state["tokens"]
            self.source_state = state["source"]
        self._stamp()

    def _demonstrations(self) -> list[Demonstration]:
        options = self.options
        given = options.demonstrations
        if given.endswith(".jsonl"):
            return read_demonstrations(Path(given))
        task, split, _ = parse_task(options.task)
        pairs = parse_spec(f"demonstrations:{given}").options if given else {}
        count = options.steps * options.problems_per_step
        return task.demonstrations(split, count, options.seed, **pairs)

    def _pairs(self, spec: str) -> list[Pair]:
        options = self.options
        if not spec:
            return []
        judge = options.verifier or verifier_of(options.task or options.eval_task or "word")
        return load_preferences(
            spec, judge, per_problem=options.pairs_per_problem, margin=options.margin, seed=options.seed
        )

    def _engine(self) -> TransformersEngine:
        options = self.options
        if is_fresh(options.model):
            texts = (p.prompt + completion for p, completion in self.demonstrations[:4000])
            model, tokenizer = new_model(options.model, texts, options.seed)
            model.to(chosen_device(options.device))
            version = digest(options.model, options.seed, len(tokenizer), tokenizer.get_vocab())
            return TransformersEngine(
                model, tokenizer, name=self.goal.name, version=version, max_rows=options.max_rows
            )
        return TransformersEngine.open(
            options.model, device=options.device, dtype=options.dtype, max_rows=options.max_rows
        )

    def _stamp(self) -> None:
        """Give the present weights their name: the run and the digest of everything that led to them."""
        self.engine.name = self.goal.name  # not the folder's: another folder must draw the same chains
        self.engine.set_version(self.lineage)
        self.engine.refresh()

    def finish(self) -> TrainResult:
        options = self.options
        evaluation = load_problems(options.eval_task) if options.eval_task else []
        verifier = open_verifier(options.verifier or verifier_of(options.task or options.eval_task or "word"))
        # A verifier that never sees the reference may give the reward; what was learned is measured by one that does.
        judge = (
            open_verifier(verifier_of(options.eval_task)) if evaluation and not verifier.oracle else verifier
        )
        if self.goal.source == "preferences":
            problems = []
            asked = [pair.problem for pair in self.pairs]
            refuse_overlap(asked, evaluation)
            refuse_overlap(asked, [pair.problem for pair in self.held_pairs])
        elif self.goal.source != "demonstrations":
            problems = load_problems(options.task)
            refuse_overlap(problems, evaluation)
        else:
            problems = []
            refuse_overlap([p for p, _ in self.demonstrations], evaluation)
        write_run(self.run, "train", asdict(options))
        rows = keep_metrics(self.run / "metrics.jsonl", self.start)
        lock = AppendFile(self.run / ".lock")
        if not lock.lock():
            lock.close()
            raise PoolError(f"{self.run}: another process is training here; wait for it to end.")
        with contextlib.closing(lock), Pool.open(self.run) as pool, Ledger(path=self.run) as ledger:
            self.pool, self.ledger = pool, ledger
            source = self._source(problems, verifier)
            source.state |= self.source_state

            def measured(step: int) -> dict[str, float]:
                found = self._held_out_pairs()
                if not evaluation:
                    return found
                sampling = Sampling(max_new_tokens=options.max_new_tokens, seed=options.seed + 1)
                return found | evaluate(
                    evaluation, self.engine, judge, pool, ledger, options.eval_chains, sampling
                )

            if self.start == 0 and not any(row["step"] == 0 for row in rows):
                first = measured(0)
                if first:
                    self._log({"step": 0, **first})
            for step in range(self.start, options.steps):
                started = time.monotonic()
                metrics = self._step(source, step)
                done = step + 1
                metrics["step_time"] = time.monotonic() - started
                last = done == options.steps
                if last or (options.eval_every and done % options.eval_every == 0):
                    metrics |= measured(done)
                self._log({"step": done, **metrics})
                if done % options.checkpoint_every == 0 and not last:
                    state = {
                        "lineage": self.lineage,
                        "flops": self.totals,
                        "tokens": self.tokens,
                        "source": source.state,
                    }
                    save_checkpoint(
                        self.run / "checkpoints",
                        done,
                        self.engine.module,
                        self.learner.optimizers,
                        state,
                        self.learner.value_head,
                    )
                self.progress.update(done=done, total=options.steps, note=headline(metrics))
            pool.seal()
        return self._save()

    def _held_out_pairs(self) -> dict[str, float]:
        """Figures of the held-out pairs under the present weights."""
        if not self.held_pairs:
            return {}
        rows = signed([row for pair in self.held_pairs for row in pair_rows(pair, self.engine)])
        figures = self.learner.preference_figures(rows)
        return {f"eval/{name}": figures[name] for name in ("rewards/accuracies", "rewards/margins", "loss")}

    def _source(self, problems: list[Problem], verifier: Verifier) -> Source:
        options = self.options
        if self.goal.source == "demonstrations":
            engine = self.engine
            return DemonstrationSource(
                self.demonstrations, engine.tokenizer, engine.encode, options.problems_per_step, options.seed
            )
        if self.goal.source == "preferences":
            return PreferenceSource(self.pairs, self.engine, options.problems_per_step, options.seed)
        return ModelSource(options, self.goal, problems, self.engine, verifier, self.pool, self.ledger)

    def _step(self, source: Source, step: int) -> dict[str, float]:
        options = self.options
        data = source.draw(step)
        learned_from = assign(self.goal, data.groups, self.learner, options.keep_correct)
        unit = self.goal.together  # rows that stay together: the two of a pair
        units = len(learned_from) // unit
        size = options.minibatch // unit or max(units, 1)
        per_epoch = math.ceil(units / size)
        sums: dict[str, list[float]] = {}
        learned = flops = 0.0
        if self.goal.restart:
            self.learner.restart(self.first)
        for epoch in range(options.epochs):
            order = order_of(units, options.seed, step * options.epochs + epoch)
            for i in range(per_epoch):
                part = order[i * size : (i + 1) * size]
                rows = [learned_from[j * unit + k] for j in part for k in range(unit)]
                within = (epoch + i / per_epoch) / options.epochs
                along = within if self.goal.restart else (step + within) / options.steps
                fresh = epoch == 0 and i == 0 and self.goal.source == "model" and not self.goal.restart
                result = self.learner.step(rows, options.lr * rate(options, along), fresh=fresh)
                for name, value in result.metrics.items():
                    sums.setdefault(name, []).append(value)
                learned += sum(result.lengths)
                if result.lengths:
                    update = self.shape.training_flops(list(result.lengths))
                    flops += update * (
                        4 / 3 if self.goal.needs_reference else 1
                    )  # the reference reads them too
        if data.output_tokens:
            used = sum(len(row.ids) for row in learned_from if row.teaches)
            data.metrics["wasted_token_fraction"] = 1 - used / max(data.output_tokens, 1)
        self.totals["sample"] += data.sample_flops
        self.totals["update"] += flops
        self.tokens["sampled"] += data.output_tokens
        self.tokens["learned"] += int(learned)
        self.ledger.charge(
            Cost(scored_tokens=int(learned), flops=flops), phase="train", strategy=self.goal.name
        )
        self.lineage = digest(self.lineage, step)
        self._stamp()
        means = {name: max(v) if name.endswith("/max") else sum(v) / len(v) for name, v in sums.items()}
        totals = {f"flops/{phase}": value for phase, value in self.totals.items()}
        return {**data.metrics, **means, **totals, "optimizer_steps": float(per_epoch * options.epochs)}

    def _log(self, row: dict[str, Any]) -> None:
        with (self.run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        every = self.options.log_every or max(1, self.options.steps // 25)
        if row["step"] % every == 0 or row["step"] == self.options.steps or "eval/pass@1" in row:
            self.say(line(row, self.options.steps))

    def _save(self) -> TrainResult:
        """Write RUN/model under a temporary name and rename it; its training.json says what it cost."""
        parent_training = Path(self.options.model) / "training.json"
        shared = 0.0
        if parent_training.is_file():
            before = read_training(parent_training.parent)
            shared = before["flops"] + before["shared_flops"]
        summary = {
            "objective": self.goal.name,
            "task": self.options.task,
            "parent": self.parent,
            "steps": self.options.steps,
            "seed": self.options.seed,
            "flops": self.totals["sample"] + self.totals["update"],
            "flops_by_phase": self.totals,
            "shared_flops": shared,
            "tokens": self.tokens,
        }
        partial, final = self.run / ".model.partial", self.run / "model"
        for unfinished in (partial, final):  # a model without its training.json is what a kill left behind
            shutil.rmtree(unfinished, ignore_errors=True)
        save_folder(partial, self.engine.module, self.engine.tokenizer)
        (partial / "training.json").write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n")
        os.rename(partial, final)
        shutil.rmtree(self.run / "checkpoints", ignore_errors=True)
        return TrainResult(final, summary, self.resumed_at)


def read_training(folder: Path) -> dict[str, Any]:
    """``training.json`` of a trained model. Raises UserError when it is damaged."""
    try:
        content = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        return {**content, "flops": float(content["flops"]), "shared_flops": float(content["shared_flops"])}
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{folder}/training.json is damaged: delete {folder} and run the same training again."
        ) from None


def rate(options: TrainOptions, along: float) -> float:
    """Factor on the learning rate at ``along`` in [0, 1) of the run."""
    warm = min(1.0, (along + 1 / options.steps) / options.warmup) if options.warmup else 1.0
    return warm * (0.5 * (1 + math.cos(math.pi * along)) if options.schedule == "cosine" else 1.0)
