"""Fit a learned outcome verifier on verified chains of the training split.

Two kinds are fitted and compared on problems held out of the fit; the better one by AUC is kept. What they are
and how they judge is in `verifiers.learned`.
"""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reasoning.budget import Ledger
from reasoning.engines.transformers import TransformersEngine
from reasoning.errors import UserError
from reasoning.flops import ModelShape
from reasoning.options import option
from reasoning.pool import Pool
from reasoning.progress import Progress, Silent
from reasoning.records import Cost, digest
from reasoning.runfile import check_same, write_run
from reasoning.tasks import load_problems, refuse_overlap
from reasoning.train.calibration import measure
from reasoning.train.heads import Example, FineTuning, featurise, finetune, labels_of, logistic, states
from verifiers.learned import Card, Reader, probability, save_learned

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    run: str = option(..., "folder of the verifier", metavar="RUN")
    model: str = option(..., "model folder or hub id that reads the chains")
    pool: list[str] = option([], "run folders whose verified chains are learned from (repeat the flag)")
    task: str = option(..., "the problems whose chains are learned from, task:split[:key=value,...]")
    verifier: str = option("numeric", "verifier whose verdicts are the labels")
    kind: str = option(
        "best", "what to fit; best fits both and keeps the better", choices=("best", "features", "finetuned")
    )
    chains: int = option(6000, "chains learned from, at most", low=10)
    eval_task: str = option("", "problems that must not be among those learned from, task:split")
    epochs: int = option(1, "passes over the chains (finetuned)", low=1)
    lr: float = option(5e-4, "learning rate (finetuned)", low=1e-12)
    optimizer: str = option("muon", "optimizer (finetuned)", choices=("adamw", "muon"))
    batch: int = option(64, "chains per optimizer step (finetuned)", low=1)
    seed: int = option(0, "seed of the choice of chains and of their order")


def fit(options: FitOptions, progress: Progress | None = None, log: Any = None) -> dict[str, Any]:
    """Fit and save a verifier; returns its measured figures. A finished folder is left as it is.

    Raises UserError when the pools hold no verified chains, or chains of one label only.
    """
    progress = progress or Silent()
    say = log or (lambda line: None)
    run = Path(options.run)
    check_same(run, "fit", asdict(options), set(asdict(options)) - {"run"})
    if (run / "verifier.json").is_file():
        return json.loads((run / "verifier.json").read_text())["measured"]
    examples = gather(options)
    held, used = split(examples, options.seed)
    for what, part in (("to fit on", used), ("held out", held)):
        labels = {e.label for e in part}
        if len(labels) < 2:
            raise UserError(
                f"The chains {what} ({len(part)}) are all {'right' if 1.0 in labels else 'wrong'}: nothing can be "
                "learned from them. Give --pool runs with both kinds."
            )
    engine = TransformersEngine.open(options.model)
    assert engine.shape is not None
    flops = {"features": 0.0, "finetuned": 0.0}
    fitted: dict[str, tuple[Any, dict[str, Floats], dict[str, float]]] = {}
    tokens = 0
    if options.kind in ("best", "features"):
        reader = Reader(engine.module.eval(), engine.tokenizer)
        x_used, read = featurise(reader, used, engine.shape, progress, "fit features")
        x_held, read_held = featurise(reader, held, engine.shape, progress, "hold out")
        flops["features"] = read[1] + read_held[1]
        tokens += read[0] + read_held[0]
        head = logistic(x_used, labels_of(used))
        fitted["features"] = (engine.module, head, measure(probability(x_held, head), labels_of(held)))
    if options.kind in ("best", "finetuned"):
        model = copy.deepcopy(engine.module)
        tuning = FineTuning(options.epochs, options.lr, options.optimizer, options.batch, options.seed)
        head, spent = finetune(model, engine.tokenizer, used, tuning, engine.shape, progress)
        reader = Reader(model.eval(), engine.tokenizer)
        x_held, read_held = states(reader, held, engine.shape)
        flops["finetuned"] = spent[1] + read_held[1]
        tokens += spent[0] + read_held[0]
        fitted["finetuned"] = (model, head, measure(probability(x_held, head), labels_of(held)))
    for kind, (_, _, figures) in fitted.items():
        say(
            f"{kind}: AUC {figures['auc']:.3f}, calibration error {figures['ece']:.3f} on {len(held)} chains held out"
        )
    kept = max(fitted, key=lambda kind: fitted[kind][2]["auc"])
    model, head, _ = fitted[kept]
    measured = {
        "kept": kept,
        "fitted_on": len(used),
        "held_out": len(held),
        "compared": {kind: figures for kind, (_, _, figures) in fitted.items()},
        "flops": flops,
    }
    per_token, per_pair = reading_cost(engine.shape)
    write_run(run, "fit", asdict(options))
    card = Card(kept, engine.model, per_token, per_pair, measured)
    partial = run / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    save_learned(partial, card, head, model, engine.tokenizer)
    for path in sorted(partial.iterdir(), key=lambda p: p.name == "verifier.json"):
        os.replace(path, run / path.name)  # verifier.json last: its presence says that the folder is whole
    partial.rmdir()
    with Ledger(path=run) as ledger:
        ledger.charge(Cost(scored_tokens=tokens, flops=sum(flops.values())), phase="train", strategy="fit")
    return measured


def gather(options: FitOptions) -> list[Example]:
    """Verified, finished chains of the pools, distinct texts only, a seeded choice of at most ``chains``."""
    if not options.pool:
        raise UserError("Name at least one run whose chains are learned from:  --pool RUN")
    found: dict[tuple[str, str], Example] = {}
    # A training run's pool also holds the chains of its held-out evaluations; those are not to be learned from.
    allowed = {p.id for p in load_problems(options.task)}
    problems = []
    for folder in options.pool:
        with Pool.open(folder, create=False, read_only=True) as pool:
            known = pool.problems()
            verdicts = pool.verdicts(options.verifier)
            touched = set()
            for chain in pool.chains():
                verdict = verdicts.get(chain.key)
                if verdict is None or verdict.score is None or chain.truncated or not chain.text.strip():
                    continue
                if chain.problem_id not in allowed:
                    continue
                problem = known[chain.problem_id]
                touched.add(problem.id)
                example = Example(problem.id, problem.prompt, chain.text, float(verdict.correct))
                found.setdefault((problem.id, chain.text), example)
            problems += [known[id] for id in sorted(touched)]
    if not found:
        raise UserError(
            f"No chain with a verdict of {options.verifier!r} in {', '.join(options.pool)}: run 'reasoning verify' "
            "there first."
        )
    if options.eval_task:
        refuse_overlap(problems, load_problems(options.eval_task))
    by_problem: dict[str, list[Example]] = {}
    for key in sorted(found):
        by_problem.setdefault(key[0], []).append(found[key])
    order = sorted(by_problem)
    random.Random(digest("fit", options.seed, length=32)).shuffle(order)
    examples: list[Example] = []
    for problem_id in order:  # whole problems: chains of one prompt are read together
        if len(examples) + len(by_problem[problem_id]) > options.chains:
            break
        examples += by_problem[problem_id]
    return examples


def split(examples: Sequence[Example], seed: int) -> tuple[list[Example], list[Example]]:
    """(held out, used): a fifth of the problems is held out whole."""
    held = [e for e in examples if int(digest("held", e.problem_id, seed), 16) % 5 == 0]
    used = [e for e in examples if int(digest("held", e.problem_id, seed), 16) % 5 != 0]
    return held, used


def reading_cost(shape: ModelShape) -> tuple[float, float]:
    """(per token, per pair of positions) so that reading T tokens costs a T + b T(T+1)/2 FLOPs."""
    one, two = float(shape.prefill_flops(1)), float(shape.prefill_flops(2))
    per_pair = two - 2 * one  # 3 pairs at two tokens, 1 at one: two - 2 one = (3 - 2) b
    return one - per_pair, per_pair
