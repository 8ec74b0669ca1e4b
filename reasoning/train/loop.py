"""The loop: a source of rows, a learner, evaluation, checkpoints. Supervised cold start, GRPO, expert iteration and
DPO are this one loop with another `Objective`.

    draw(step) -> update -> deliver the weights -> evaluate -> metrics -> checkpoint

Everything that happens is a function of the options, the weights and the stored rows, so a run that was killed at any
point and started again ends with the same bits.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from reasoning.budget import Budget
from reasoning.durable import AppendFile
from reasoning.errors import BudgetError, PoolError, UserError
from reasoning.progress import Progress, Silent, human
from reasoning.records import Cost, Problem, Sampling
from reasoning.runfile import write_run
from reasoning.tasks import refuse_overlap
from reasoning.train import opening
from reasoning.train.accepted import AcceptedSource, note_down
from reasoning.train.ahead import Ahead, InStep
from reasoning.train.assemble import open_learner
from reasoning.train.checkpoint import load_checkpoint, older_weights, save_checkpoint
from reasoning.train.checks import check, check_parent, check_unchanged
from reasoning.train.distributed import Ranks, joined
from reasoning.train.evaluate import affordable, evaluate
from reasoning.train.generators import devices_of, open_generator
from reasoning.train.inputs import check_inputs, digests_of
from reasoning.train.journal import Journal, headline
from reasoning.train.lineage import first_lineage
from reasoning.train.objective import Objective, objective
from reasoning.train.options import TrainOptions
from reasoning.train.peaks import peak_flops
from reasoning.train.preferences import PreferenceSource, pair_rows, say_pairs, signed
from reasoning.train.rates import odd_rate
from reasoning.train.rollouts import ModelSource
from reasoning.train.sources import BudgetSpent, DemonstrationSource, Source, StepData, refuse_longer
from reasoning.train.stream import Stream, parse_band
from reasoning.train.together import Shared
from reasoning.train.trackers import need_trackers, open_trackers
from reasoning.train.trained import (
    STOPPED,
    TrainResult,
    copy_trained,
    learned_before,
    read_training,
    save_trained,
    summary_of,
)
from reasoning.train.update import reading_cost, update, whole_cost
from reasoning.train.versions import after
from verifiers import Verifier


def train(
    options: TrainOptions, progress: Progress | None = None, log: Callable[[str], None] | None = None
) -> TrainResult:
    """Train as ``options`` say; run again after a kill, it goes on from the last checkpoint and ends with the
    same weights. log: called with one readable line a step.

    Raises UserError for settings that do not fit together, for training problems that are in the evaluation
    split, and for a run folder that holds another configuration; BudgetError when the budget does not pay for a step.
    """
    goal = objective(options.objective, **options.axes())
    check(options, goal)
    run = Path(options.run)
    check_unchanged(run, options)
    final = run / "model"
    if (final / "training.json").is_file():
        summary = read_training(final)
        spent = summary.get("stopped") == "budget"
        if not spent:  # killed after it had written the model
            shutil.rmtree(run / "checkpoints", ignore_errors=True)
        if not spent or summary.get("budget") == options.budget:
            return TrainResult(final, summary, finished_before=True)
    need_trackers(options.track)
    with joined(options.device) as (ranks, device):
        if options.budget and ranks.size > 1:
            raise UserError("--budget holds for one process: leave it out, or start without torchrun.")
        say = log if log and ranks.first else lambda line: None
        shown = progress if progress and ranks.first else Silent()
        return _Run(replace(options, device=device), goal, run, shown, say, ranks).finish()


_LEFT = {
    "known": "The next step takes {}; less than that is left.",
    "lately": "The largest of the last steps took {}; less than that is left.",
    "most": "A step may take up to {}, every chain at --max-new-tokens; less than that is left.",
    "begun": "One more problem of the next step may take up to {}, every chain at --max-new-tokens; less than that "
    "is left. The chains of it that are drawn are kept for a larger budget.",
    "short": "It ran out while the next step was drawn and judged. What is stored of it is kept for a larger budget.",
}
"""What is said when the budget ends a run, by `BudgetSpent.of`."""


class _Run:
    """One training run between two kills."""

    def __init__(
        self,
        options: TrainOptions,
        goal: Objective,
        run: Path,
        progress: Progress,
        say: Callable[[str], None],
        ranks: Ranks,
    ):
        self.options, self.goal, self.run, self.progress, self.say = options, goal, run, progress, say
        self.ranks = ranks
        demonstrates = goal.source == "demonstrations"
        self.demonstrations = opening.demonstrations_of(options, say) if demonstrates else []
        self.pairs = opening.pairs_of(options, options.preferences)
        self.held_pairs = opening.pairs_of(options, options.eval_preferences)
        engine = opening.open_model(options, goal.name, self.demonstrations, ranks)
        if engine.shape is None:
            raise UserError(f"The shape of {options.model} is not known, so its FLOPs cannot be counted.")
        self.shape = engine.shape
        self.parent = engine.model
        check_parent(run, self.parent)
        self.engine, self.learner = open_learner(options, goal, engine, ranks)
        self.policy = self.learner.policy
        if odd := odd_rate(options.lr, sum(p.numel() for p in self.learner.trained().values())):
            self.say(odd)
        peak = peak_flops(self.policy.device, self.policy.sampled_in)
        self.peak = peak and peak * devices_of(options.engine, ranks)
        self.lineage = first_lineage(options, self.parent.partition("@")[2])
        self.totals = {"sample": 0.0, "update": 0.0}
        self.tokens = {"sampled": 0, "learned": 0}
        self.start = 0
        self.resumed_at: int | None = None
        self.drawing: dict[str, Any] | None = None
        self.inputs_before: dict[str, str] = {}
        # Every step of a restarting objective begins from the weights that the run began with.
        self.first = (
            {n: p.detach().clone() for n, p in self.learner.trained().items()} if goal.restart else {}
        )
        loaded = load_checkpoint(run / "checkpoints", self.learner.trained(), self.learner.optimizers)
        if loaded:
            self.start, state = loaded
            self.resumed_at = self.start
            self.say(f"Resumed after step {self.start}.")
            self.lineage, self.totals, self.tokens = state["lineage"], state["flops"], state["tokens"]
            self.drawing = state["drawing"]
            self.inputs_before = state.get("inputs", {})
            self.learner.masters.deliver()
        self.policy.deliver()

    def finish(self) -> TrainResult:
        options = self.options
        self.held_out = opening.held_out_of(options, self.say)
        self.asked = [p for task in self.held_out for p in task.problems]
        self.accepted, lines = opening.accepted_of(options, self.asked) if options.source else ([], [])
        if options.demonstrations.endswith(".jsonl"):
            lines.append(f"Learning from {len(self.demonstrations):,} demonstrations.")
        if self.pairs:
            lines.append(f"Learning from {say_pairs(self.pairs)}.")
        refuse_longer(self.demonstrations, self.engine, "A demonstration")
        pairs = [*self.pairs, *self.held_pairs]
        refuse_longer(
            ((p.problem, text) for p in pairs for text in (p.chosen, p.rejected)), self.engine, "A response"
        )
        refuse_longer(((a.problem, a.chain.text) for a in self.accepted), self.engine, "An accepted chain")
        tasks, judges = opening.tasks_of(options, self.say) if self._draws else ([], [])
        self._refuse_overlap([p for task in tasks for p in task.problems])
        self.inputs = digests_of(options, tasks, judges, self.demonstrations, self.pairs)
        check_inputs(self.run, self.inputs_before, self.inputs)
        stream = Stream(tasks, options.seed, parse_band(options.curriculum)) if tasks else None
        self.generator = open_generator(
            options.engine,
            self.engine,
            options.model,
            self.goal.name,
            self.policy,
            apart=options.asynchronous,
            max_rows=options.max_rows,
        )
        ranks = self.ranks
        if ranks.first:
            write_run(self.run, "train", asdict(options))
            if options.source:
                note_down(self.run, self.accepted)
        ranks.wait()
        lock = AppendFile(self.run / ".lock")
        if ranks.first and not lock.lock():
            lock.close()
            raise PoolError(f"{self.run}: another process is training here; wait for it to end.")
        budget = Budget.parse(options.budget) if options.budget else None
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.closing(lock))
            stack.callback(self.generator.close)
            shared = stack.enter_context(Shared(self.run, ranks, budget))
            self.pool, self.ledger = shared.pool, shared.ledger
            track = options.track if ranks.first else []
            trackers = open_trackers(track, self.run, asdict(options), self.start)
            for tracker in trackers:
                stack.callback(tracker.close)
            self.journal = Journal(
                self.run, self.start, options.steps, options.log_every, self.say, trackers, ranks.first
            )
            for text in lines:
                self.say(text)
            source = self._source(stream, judges)
            self.steps = (
                Ahead(source, self.generator, self.policy.weights, options.max_staleness, options.steps)
                if options.asynchronous
                else InStep(source)
            )
            stack.callback(self.steps.close)
            if self.drawing:
                self.steps.restore(self.drawing, older_weights(self.run / "checkpoints"))
            done, why = self._loop(stream)
            self.pool.seal()
            return self._save(done, why)

    @property
    def _draws(self) -> bool:
        """Whether chains are drawn from the model that is trained."""
        return self.goal.source in ("model", "rationalised") and not self.options.source

    def _loop(self, stream: Stream | None) -> tuple[int, str]:
        """(steps that are done, why no more are)."""
        options = self.options
        pass_steps = -(-stream.size // options.problems_per_step) if stream else 0
        if not options.asynchronous:
            self.generator.load(self.policy.weights(), self.lineage)
        if self.start == 0 and not any(row["step"] == 0 for row in self.journal.rows):
            first, read = self._measured(0)
            if first:
                self.journal.write({"step": 0, **first}, read)
        # A kill may have come between the row and the weights. All ranks do as the first one sees it.
        if self.start == 0 and not self.ranks.gathered(self._best_is_kept)[0]:
            self._keep_best(0)
        for step in range(self.start, options.steps):
            if options.patience and self.journal.without_gain >= options.patience:
                return step, "patience"
            if pass_steps and self.goal.compares and self.journal.solved(pass_steps):
                return step, "solved"
            started = time.monotonic()
            try:
                metrics = self._step(step)
            except BudgetSpent as spent:
                needed = f"{human(spent.needed.tokens)} tokens and {human(spent.needed.flops)} FLOPs"
                if not step and spent.of == "short":
                    raise BudgetError(
                        f"The budget {options.budget} ran out while the first step was drawn and judged. Raise it, "
                        "or lower --problems-per-step, --chains-per-problem or --max-new-tokens."
                    ) from None
                if not step:
                    what = "one more problem" if spent.of == "begun" else "one step"
                    raise BudgetError(
                        f"The budget {options.budget} cannot pay for {what}, which may take up to {needed}. Raise "
                        "it, or lower --problems-per-step, --chains-per-problem or --max-new-tokens."
                    ) from None
                self.say(_LEFT[spent.of].format(needed))
                self._checkpoint(step)
                return step, "budget"
            done = step + 1
            metrics |= self._speed(metrics, time.monotonic() - started)
            last = done == options.steps
            read: list[dict[str, Any]] = []
            if last or (options.eval_every and done % options.eval_every == 0):
                figures, read = self._measured(done)
                metrics |= figures
            self.journal.write({"step": done, **metrics}, read)
            self._keep_best(done)
            if done % options.checkpoint_every == 0 and not last:
                self._checkpoint(done)
            self.progress.update(done=done, total=options.steps, note=headline(metrics))
        return options.steps, "steps"

    def _step(self, step: int) -> dict[str, float]:
        """One step: rows, update, new weights; its figures. Raises BudgetSpent before anything of it is paid."""
        version = self.lineage
        data = self.steps.take(step, version)
        if self.ledger.budget is not None and not data.held and not self.ledger.fits(self._known_cost(data)):
            raise BudgetSpent(self._known_cost(data), "known")
        stale = min(step, self.steps.staleness) if self._draws else 0
        if not self.options.asynchronous:
            self.generator.rest()
        made = update(
            self.options,
            self.goal,
            self.learner,
            self._training_flops,
            data,
            step,
            first=self.first,
            fresh=self.goal.source == "model" and self._draws and not stale,
        )
        if self.ranks.first:
            self.ledger.charge(
                made.cost, phase="train", strategy=self.goal.name, model=version, instead_of=data.held
            )
        self.totals["sample"] += data.sample_flops
        self.totals["update"] += made.cost.flops
        self.tokens["sampled"] += data.output_tokens
        self.tokens["learned"] += made.tokens
        self.lineage = after(self.lineage, step)
        self.policy.deliver()
        if not self.options.asynchronous:
            self.generator.load(self.policy.weights(), self.lineage)
        metrics = data.metrics | made.metrics
        if data.output_tokens:
            metrics["wasted_token_fraction"] = 1 - made.teaching_tokens / data.output_tokens
        if self.steps.staleness:
            metrics["staleness"] = float(stale)
        metrics |= {f"flops/{phase}": value for phase, value in self.totals.items()}
        computed = data.sample_flops + made.cost.flops * made.computed
        self._of_step = (data.output_tokens + made.tokens, computed)
        return metrics

    def _known_cost(self, data: StepData) -> Cost:
        lengths = [len(row) for group in data.groups for row in group]
        return whole_cost(self.goal, self.options, self._training_flops, lengths)

    def _training_flops(self, lengths: Sequence[int]) -> float:
        return self.policy.training_flops(self.shape, lengths)

    def _speed(self, metrics: dict[str, float], seconds: float) -> dict[str, float]:
        """Figures of time: with the rest, all that differs between two runs of the same step."""
        tokens, flops = self._of_step
        found = {"step_time": seconds, "tokens_per_second": tokens / max(seconds, 1e-9)}
        if self.peak:
            found["mfu"] = flops / (max(seconds, 1e-9) * self.peak)
        return found

    def _measured(self, step: int) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """(figures of the held-out pairs and problems under the present weights, chains to read)."""
        options = self.options
        figures: dict[str, float] = {}
        if self.held_pairs:
            rows = signed([row for pair in self.held_pairs for row in pair_rows(pair, self.engine)])
            cost = reading_cost(self.goal, self._training_flops, [len(row) for row in rows])
            if not self.ledger.fits(cost):
                self.say(f"step {step}: held-out pairs not read, the budget has no room for it.")
            else:
                found = self.learner.preference_figures(rows)
                names = ("rewards/accuracies", "rewards/margins", "loss")
                figures = {f"eval/{name}": found[name] for name in names}
                if self.ranks.first:
                    self.ledger.charge(cost, phase="evaluate", strategy=self.goal.name, model=self.lineage)
        if not self.held_out:
            return figures, []
        self.steps.drain()
        self.generator.load(self.policy.weights(), self.lineage)
        engine, sampling = (
            self.generator.engine,
            Sampling(max_new_tokens=options.max_new_tokens, seed=options.seed + 1),
        )
        asked = self.held_out, engine, self.pool, self.ledger, options.eval_chains, sampling
        measured = evaluate(*asked, self.ranks) if affordable(*asked) else None
        if measured is None:
            self.say(f"step {step}: not evaluated, the budget has no room for it.")
            return figures, []
        return figures | measured[0], measured[1]

    def _keep_best(self, step: int) -> None:
        """Write RUN/best where the evaluation of ``step`` is better than all before."""
        best = self.journal.best
        if best is not None and best[0] == step:
            self._store(self.run / "best", self._summary(step, "best"))

    @property
    def _best_is_kept(self) -> bool:
        """Whether RUN/best holds the weights of the best evaluation."""
        best, folder = self.journal.best, self.run / "best"
        there = (folder / "training.json").is_file()
        return best is not None and there and read_training(folder)["steps"] == best[0]

    def _store(self, final: Path, summary: dict[str, Any]) -> None:
        if self.ranks.first:
            save_trained(final, self._write_model, summary, self._learned)
        else:
            self._write_model(final)  # only helps the first to put together what is cut among the ranks

    def _write_model(self, folder: Path) -> None:
        self.policy.save(folder, self.engine.tokenizer, self.ranks.first)

    @property
    def _learned(self) -> set[str]:
        """Keys of the stored chains that these weights have learned from."""
        return learned_before(self.options.model) | {one.chain.key for one in self.accepted}

    def _checkpoint(self, done: int) -> None:
        state = {
            "lineage": self.lineage,
            "parent": self.parent,
            "flops": self.totals,
            "tokens": self.tokens,
            "drawing": self.steps.state(),
            "inputs": self.inputs,
        }
        save_checkpoint(
            self.run / "checkpoints",
            done,
            self.learner.trained(),
            self.learner.optimizers,
            state,
            self.ranks.first,
            self.steps.older_weights(),
        )

    def _refuse_overlap(self, problems: list[Problem]) -> None:
        """Training problems must not be among those that are evaluated (accepted chains were looked through)."""
        pairs = [pair.problem for pair in self.pairs]
        refuse_overlap(problems + pairs + [p for p, _ in self.demonstrations], self.asked)
        refuse_overlap(pairs, [pair.problem for pair in self.held_pairs])

    def _source(self, stream: Stream | None, judges: Sequence[Verifier]) -> Source:
        options, engine = self.options, self.engine
        count, seed = options.problems_per_step, options.seed
        if self.accepted:
            return AcceptedSource(self.accepted, engine, count, seed)
        if self.goal.source == "demonstrations":
            return DemonstrationSource(self.demonstrations, engine, count, seed)
        if self.goal.source == "preferences":
            return PreferenceSource(self.pairs, engine, count, seed)
        assert stream is not None
        return ModelSource(
            options,
            self.goal,
            stream,
            judges,
            self.generator.engine,
            self.pool,
            self.ledger,
            self._training_flops,
            self.ranks,
        )

    def _summary(self, steps: int, stopped: str) -> dict[str, Any]:
        best = self.journal.best
        return summary_of(self.options, self.parent, steps, stopped, best, self.totals, self.tokens)

    def _save(self, done: int, why: str) -> TrainResult:
        """Write RUN/model; its training.json says what it cost and why the run ended."""
        summary, final, best = self._summary(done, why), self.run / "model", self.run / "best"
        self.ranks.wait()  # until the first has written the best
        if self.options.keep == "best" and not self._best_is_kept:
            what = "there was no evaluation" if self.journal.best is None else "those of the best are gone"
            self.say(f"RUN/model gets the last weights: {what}.")
        if self.options.keep == "best" and self._best_is_kept:
            if self.ranks.first:
                copy_trained(best, final, summary, self._learned)
        else:
            self._store(final, summary)
        if STOPPED[why]:
            self.say(f"Stopped after step {done}: {STOPPED[why]}.")
        if why != "budget" and self.ranks.first:
            shutil.rmtree(self.run / "checkpoints", ignore_errors=True)
        self.ranks.wait()
        return TrainResult(final, summary, self.resumed_at)
