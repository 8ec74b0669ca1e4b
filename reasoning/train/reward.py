"""Fit a learned verifier: an outcome model on verified chains, a preference model on comparisons, a process model on
step labels. All are measured, and calibrated, on problems held out of the fit.

What the kinds are and how they judge is in `verifiers.learned`.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reasoning.budget import Budget, Ledger
from reasoning.engines import open_engine
from reasoning.engines.transformers import TransformersEngine
from reasoning.errors import UserError
from reasoning.flops import ModelShape
from reasoning.options import option
from reasoning.pool import Pool
from reasoning.pool.judges import verifier_in
from reasoning.progress import Progress, Silent
from reasoning.records import Cost, digest
from reasoning.runfile import check_same, write_run
from reasoning.tasks import load_problems, refuse_overlap
from reasoning.train.fitted import Fitted, fit_chains, fit_features, fit_pairs, fit_steps
from reasoning.train.heads import Example
from reasoning.train.parting import problems_in, refuse_one_kind, split
from reasoning.train.preferences import Pair, load_preferences, pairs_of_pool, say_pairs
from reasoning.train.process import ESTIMATIONS, Judged, Rollouts, Stepped, label
from reasoning.train.rates import odd_rate
from reasoning.train.scorer import FineTuning
from reasoning.train.writing import readable_as, writing
from verifiers import open_verifier
from verifiers.learned import Card, save_learned
from verifiers.steps import AGGREGATES, STEPS

OUTCOME = ("best", "features", "finetuned")


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    run: str = option(..., "folder of the verifier", metavar="RUN")
    model: str = option(..., "model folder or hub id that reads the chains")
    pool: list[str] = option([], "run folders whose verified chains are learned from (repeat the flag)")
    task: str = option(
        "", "the problems whose chains are learned from, task:split[:key=value,...] (not with --preferences)"
    )
    verifier: str = option("numeric", "verifier whose verdicts are the labels")
    kind: str = option(
        "best",
        "an outcome model (features, finetuned; best fits both and keeps the better), preference or process",
        choices=(*OUTCOME, "preference", "process"),
    )
    chains: int = option(6000, "chains (or pairs) learned from, at most", low=10)
    eval_task: str = option("", "problems that must not be among those learned from, task:split")
    preferences: str = option(
        "", "with preference: JSONL file of {prompt, chosen, rejected} (default: pairs of the pools' chains)"
    )
    pairs_per_problem: int = option(4, "with preference: at most so many pairs of a pool's problem", low=1)
    margin: float = option(0.25, "with preference: least difference of the two scores", low=0, high=1)
    steps: str = option("line", "with process: what a step is", choices=STEPS)
    rollouts: int = option(8, "with process: completions that a step is judged by", low=1)
    estimation: str = option(
        "hard", "with process: hard (a step is good if any completion is right) or soft", choices=ESTIMATIONS
    )
    aggregate: str = option("min", "with process: a chain's score from its steps'", choices=AGGREGATES)
    engine: str = option("", "with process: engine that draws the completions (default: --model)")
    temperature: float = option(1.0, "with process: sampling temperature of the completions", low=1e-6)
    max_new_tokens: int = option(
        0, "with process: longest completion, in tokens; 0 is what the chains had", low=0
    )
    budget: str = option("", "with process: limit on what the roll-outs spend, such as tokens=2e6,seconds=60")
    epochs: int = option(1, "passes over what is learned from (all but features)", low=1)
    lr: float = option(5e-4, "learning rate (all but features)", low=1e-12)
    optimizer: str = option("muon", "optimizer (all but features)", choices=("adamw", "muon"))
    batch: int = option(64, "chains or pairs per optimizer step (all but features)", low=1)
    seed: int = option(0, "seed of the choice of chains and of their order")

    @property
    def tuning(self) -> FineTuning:
        return FineTuning(self.epochs, self.lr, self.optimizer, self.batch, self.seed)


def fit(options: FitOptions, progress: Progress | None = None, log: Any = None) -> dict[str, Any]:
    """Fit and save a verifier; returns its measured figures. A finished folder is left as it is.

    Raises UserError when there is nothing to learn from: no verified chains, chains of one label only, no pairs.
    """
    progress = progress or Silent()
    say = log or (lambda line: None)
    run = Path(options.run)
    check(options)
    check_same(run, "fit", asdict(options), set(asdict(options)) - {"run", "budget"})
    if (run / "verifier.json").is_file():
        return json.loads((run / "verifier.json").read_text())["measured"]
    budget = Budget.parse(options.budget) if options.budget else None
    data = _data(options)
    if options.kind == "preference":
        say(f"Learning from {say_pairs(data)}.")
    engine = TransformersEngine.open(options.model)
    if engine.shape is None:
        raise UserError(f"The shape of {options.model} is not known, so its FLOPs cannot be counted.")
    odd = odd_rate(options.lr, sum(p.numel() for p in engine.module.parameters()))
    if odd and options.kind != "features":
        say(odd)
    held, used = split(data, options.seed)
    refuse_one_kind(held, used)
    if options.kind == "process":
        held, used = split(_with_steps(options, data, engine, budget, progress), options.seed)
        refuse_one_kind(held, used)
    fitted = _fitted(options, engine, used, held, progress)
    for kind, one in fitted.items():
        say(f"{kind}: {one.line}")
    kept = max(fitted, key=lambda kind: fitted[kind].figures["auc"])
    best = fitted[kept]
    measured = {
        "kept": kept,
        "fitted_on": len(used),
        "held_out": len(held),
        "held_out_problems": problems_in(held),
        "compared": {kind: one.figures for kind, one in fitted.items()},
        **best.tables,
        "flops": {kind: one.flops for kind, one in fitted.items()},
    }
    per_token, per_pair = reading_cost(engine.shape, kept)
    write_run(run, "fit", asdict(options))
    process = options.kind == "process"
    card = Card(
        kept,
        engine.model,
        per_token,
        per_pair,
        measured,
        options.steps if process else "",
        options.aggregate if process else "",
    )
    partial = run / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    with writing(run):
        save_learned(partial, card, best.head, best.model, engine.tokenizer)
        readable_as(partial / "verifier.json")
    with Ledger(
        path=run
    ) as ledger:  # before the folder is whole: after a kill behind that nothing is done any more
        tokens = sum(one.tokens for one in fitted.values())
        flops = sum(one.flops for one in fitted.values())
        ledger.charge(
            Cost(scored_tokens=tokens, flops=flops), phase="train", strategy="fit", model=engine.model
        )
    for path in sorted(partial.iterdir(), key=lambda p: p.name == "verifier.json"):
        os.replace(path, run / path.name)  # verifier.json last: its presence says that the folder is whole
    partial.rmdir()
    return measured


def check(options: FitOptions) -> None:
    """Raise UserError for options that do not go together."""
    if options.preferences and options.kind != "preference":
        raise UserError("--preferences goes with --kind preference.")
    if options.preferences and options.pool:
        raise UserError("Give --preferences FILE or --pool RUN, not both.")
    if options.preferences:
        return
    if not options.pool:
        other = ", or --preferences FILE" if options.kind == "preference" else ""
        raise UserError(f"Name at least one run whose chains are learned from:  --pool RUN{other}")
    if not options.task:
        raise UserError(
            "Name the problems whose chains are learned from:  --task word:train  (a run may hold others too)"
        )


def _data(options: FitOptions) -> list[Any]:
    if options.kind == "process":
        return judged_chains(options)
    if options.kind == "preference":
        return preference_pairs(options)
    return gather(options)


def _fitted(
    options: FitOptions, engine: TransformersEngine, used: list[Any], held: list[Any], progress: Progress
) -> dict[str, Fitted]:
    """What was fitted, by kind."""
    if options.kind == "preference":
        return {"preference": fit_pairs(engine, used, held, options.tuning, progress)}
    if options.kind == "process":
        how = options.steps, options.aggregate
        return {"process": fit_steps(engine, used, held, how, options.tuning, progress)}
    found = {}
    if options.kind in ("best", "features"):
        found["features"] = fit_features(engine, used, held, progress)
    if options.kind in ("best", "finetuned"):
        found["finetuned"] = fit_chains(engine, used, held, options.tuning, progress)
    return found


def gather(options: FitOptions) -> list[Example]:
    """Verified, finished chains of the pools, distinct texts only, a seeded choice of at most ``chains``."""
    return [
        Example(one.problem.id, one.problem.prompt, one.chain.text, float(one.right))
        for one in judged_chains(options)
    ]


def judged_chains(options: FitOptions) -> list[Judged]:
    """As `gather`, the chains themselves."""
    check(options)
    found: dict[tuple[str, str], Judged] = {}
    verifier, allowed = verifier_in(options.pool, options.verifier), _allowed(options)
    problems = []
    for folder in options.pool:
        with Pool.open(folder, create=False, read_only=True) as pool:
            known = pool.problems()
            verdicts = pool.verdicts(verifier)
            touched = set()
            for chain in pool.chains():
                verdict = verdicts.get(chain.key)
                if verdict is None or verdict.score is None or chain.truncated or not chain.text.strip():
                    continue
                if chain.problem_id not in allowed:
                    continue
                problem = known[chain.problem_id]
                touched.add(problem.id)
                found.setdefault((problem.id, chain.text), Judged(problem, chain, verdict.correct))
            problems += [known[id] for id in sorted(touched)]
    if not found:
        raise UserError(
            f"No chain of the problems of --task has a verdict of {verifier!r} in "
            f"{', '.join(options.pool)}: run 'reasoning verify' there first, or name a run that drew "
            "chains of these problems."
        )
    if options.eval_task:
        refuse_overlap(problems, load_problems(options.eval_task))
    return _whole_problems([found[key] for key in sorted(found)], options)


def preference_pairs(options: FitOptions) -> list[Pair]:
    """The pairs of --preferences or of the pools, a seeded choice of at most ``chains``, problems whole."""
    check(options)
    if options.preferences:
        pairs = load_preferences(
            options.preferences,
            options.verifier,
            per_problem=options.pairs_per_problem,
            margin=options.margin,
            seed=options.seed,
        )
    else:
        allowed = _allowed(options)
        pairs = pairs_of_pool(
            options.pool,
            options.verifier,
            per_problem=options.pairs_per_problem,
            margin=options.margin,
            seed=options.seed,
            allowed=lambda problem: problem.id in allowed,
        )
    if options.eval_task:
        refuse_overlap([pair.problem for pair in pairs], load_problems(options.eval_task))
    return _whole_problems(pairs, options)


def _allowed(options: FitOptions) -> set[str]:
    """A training run's pool also holds the chains of its held-out evaluations; those are not to be learned from."""
    return {p.id for p in load_problems(options.task)}


def _whole_problems(data: Sequence[Any], options: FitOptions) -> list[Any]:
    """At most ``chains`` of ``data``, in a seeded order of their problems: what is of one prompt is read together."""
    by_problem: dict[str, list[Any]] = {}
    for one in data:
        by_problem.setdefault(one.problem.id, []).append(one)
    order = sorted(by_problem)
    random.Random(digest("fit", options.seed, length=32)).shuffle(order)
    chosen: list[Any] = []
    for problem_id in order:
        if len(chosen) + len(by_problem[problem_id]) > options.chains:
            break
        chosen += by_problem[problem_id]
    return chosen


def _with_steps(
    options: FitOptions,
    judged: Sequence[Judged],
    engine: TransformersEngine,
    budget: Budget | None,
    progress: Progress,
) -> list[Stepped]:
    """Draw the roll-outs into the run's own pool, on its own purse."""
    run = Path(options.run)
    drawer = open_engine(options.engine) if options.engine else engine
    verifier = open_verifier(options.verifier)
    rollouts = Rollouts(
        options.steps,
        options.rollouts,
        options.estimation,
        options.temperature,
        options.max_new_tokens,
        options.seed,
    )
    write_run(run, "fit", asdict(options))
    with Pool.open(run) as pool, Ledger(budget, path=run) as ledger:
        try:
            stepped = label(judged, drawer, verifier, pool, ledger, rollouts, progress)
        finally:
            if drawer is not engine:
                drawer.close()
        pool.seal()
    return stepped


def reading_cost(shape: ModelShape, kind: str = "features") -> tuple[float, float]:
    """(per token, per pair of positions) so that reading T tokens costs a T + b T(T+1)/2 FLOPs. Only ``features``
    multiply with the output head."""
    one, two = float(shape.prefill_flops(1)), float(shape.prefill_flops(2))
    per_pair = two - 2 * one  # 3 pairs at two tokens, 1 at one: two - 2 one = (3 - 2) b
    output = 0 if kind == "features" else 2 * shape.vocab * shape.hidden
    return one - per_pair - output, per_pair
