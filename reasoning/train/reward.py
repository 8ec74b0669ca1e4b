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
import torch
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
from reasoning.train.learner import make_optimizers, micro_batches
from verifiers.learned import Card, Reader, features, probability, save_learned

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    run: str = option(..., "folder of the verifier", metavar="RUN")
    model: str = option(..., "model folder or hub id that reads the chains")
    pool: list[str] = option([], "run folders whose verified chains are learned from (repeat the flag)")
    verifier: str = option("numeric", "verifier whose verdicts are the labels")
    kind: str = option(
        "best", "what to fit; best fits both and keeps the better", choices=("best", "features", "finetuned")
    )
    chains: int = option(6000, "chains learned from, at most")
    eval_task: str = option("", "problems that must not be among those learned from, task:split")
    epochs: int = option(1, "passes over the chains (finetuned)")
    lr: float = option(5e-4, "learning rate (finetuned)")
    optimizer: str = option("muon", "optimizer (finetuned)", choices=("adamw", "muon"))
    batch: int = option(64, "chains per optimizer step (finetuned)")
    seed: int = option(0, "seed of the choice of chains and of their order")


@dataclass(frozen=True, slots=True)
class Example:
    """A verified chain: label 1.0 right, 0.0 wrong."""

    problem_id: str
    prompt: str
    response: str
    label: float


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
        head, spent = finetune(model, engine.tokenizer, used, options, engine.shape, progress)
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
        held_out = {p.fingerprint for p in load_problems(options.eval_task)}
        inside = {p.id for p in problems if p.fingerprint in held_out}
        found = {key: e for key, e in found.items() if e.problem_id not in inside}
        refuse_overlap([p for p in problems if p.id not in inside], load_problems(options.eval_task))
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


def labels_of(examples: Sequence[Example]) -> Floats:
    return np.array([e.label for e in examples])


def by_prompt(examples: Sequence[Example]) -> list[list[int]]:
    groups: dict[str, list[int]] = {}
    for i, example in enumerate(examples):
        groups.setdefault(example.prompt, []).append(i)
    return list(groups.values())


def _read_all(
    reader: Reader,
    examples: Sequence[Example],
    shape: ModelShape,
    hidden: bool,
    progress: Progress | None,
    what: str,
) -> tuple[list[Any], tuple[int, float]]:
    out: list[Any] = [None] * len(examples)
    tokens, flops, done = 0, 0.0, 0
    for group in by_prompt(examples):
        encoded = [reader.encode(examples[i].prompt, examples[i].response) for i in group]
        for i, read in zip(
            group, reader.read(encoded[0][0], [ids for _, ids in encoded], hidden), strict=True
        ):
            out[i] = read
        lengths = [len(prompt) + len(ids) for prompt, ids in encoded]
        tokens += sum(lengths)
        flops += float(np.sum(shape.score_flops(np.array(lengths))))
        done += len(group)
        if progress:
            progress.update(done=done, total=len(examples), note=what)
    return out, (tokens, flops)


def featurise(
    reader: Reader, examples: Sequence[Example], shape: ModelShape, progress: Progress | None, what: str
) -> tuple[Floats, tuple[int, float]]:
    """(N, features) and (tokens, FLOPs) of reading them."""
    read, spent = _read_all(reader, examples, shape, False, progress, what)
    return np.stack([features(*pair) for pair in read]), spent


def states(
    reader: Reader, examples: Sequence[Example], shape: ModelShape
) -> tuple[Floats, tuple[int, float]]:
    """(N, H) last hidden states and (tokens, FLOPs) of reading them."""
    read, spent = _read_all(reader, examples, shape, True, None, "")
    return np.stack([state.cpu().numpy() for state in read]).astype(np.float64), spent


def logistic(x: Floats, y: Floats, penalty: float = 1.0) -> dict[str, Floats]:
    """Logistic regression by Newton's method on standardised features, L2 ``penalty`` on the weights (not on
    the bias). x: (N, D), y: (N,) of 0 and 1."""
    mean, scale = x.mean(0), x.std(0) + 1e-9
    z = np.hstack([(x - mean) / scale, np.ones((len(x), 1))])
    w = np.zeros(z.shape[1])
    ridge = np.full(len(w), penalty)
    ridge[-1] = 1e-9
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(z @ w, -40, 40)))
        step = np.linalg.solve((z * (p * (1 - p))[:, None]).T @ z + np.diag(ridge), z.T @ (y - p) - ridge * w)
        w += step
        if np.abs(step).max() < 1e-10:
            break
    return {"mean": mean, "scale": scale, "weight": w[:-1], "bias": w[-1:]}


def finetune(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    options: FitOptions,
    shape: ModelShape,
    progress: Progress,
) -> tuple[dict[str, Floats], tuple[int, float]]:
    """Train ``model`` and a linear head on its last hidden state with binary cross-entropy (arXiv 2110.14168,
    outcome supervision). Returns the head and (tokens, FLOPs) spent."""
    device = next(model.parameters()).device
    reader = Reader(model, tokenizer)
    rows = []
    for example in examples:
        prompt, ids = reader.encode(example.prompt, example.response)
        rows.append(prompt + ids)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        head = torch.nn.Linear(model.config.hidden_size, 1).to(device)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    optimizers = make_optimizers(model, options.optimizer, options.lr, 0.0)
    optimizers.append(torch.optim.AdamW(head.parameters(), lr=options.lr * 10, weight_decay=0.0))
    steps = max(1, len(rows) // options.batch) * options.epochs
    order = [i for epoch in range(options.epochs) for i in shuffled(len(rows), options.seed, epoch)]
    tokens, flops = 0, 0.0
    model.train()
    for step in range(steps):
        batch = order[step * options.batch : (step + 1) * options.batch]
        lr_now = min(1.0, (step + 1) / 10) * (1 - step / steps)
        for optimizer, base in zip(
            optimizers, [options.lr] * (len(optimizers) - 1) + [options.lr * 10], strict=True
        ):
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = base * lr_now
        for part in micro_batches([rows[i] for i in batch], 16384):
            chosen = [batch[i] for i in part]
            lengths = [len(rows[i]) for i in chosen]
            ids = torch.zeros(len(chosen), max(lengths), dtype=torch.long)
            for r, i in enumerate(chosen):
                ids[r, : lengths[r]] = torch.tensor(rows[i])
            hidden = model.get_decoder()(input_ids=ids.to(device), use_cache=False).last_hidden_state
            last = hidden[torch.arange(len(chosen)), torch.tensor(lengths) - 1].float()
            labels = torch.tensor([examples[i].label for i in chosen], device=device, dtype=torch.float32)
            logits = head(last)[:, 0]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                logits, labels, reduction="sum"
            ) / len(batch)
            loss.backward()
            tokens += sum(lengths)
            flops += shape.training_flops(lengths)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        progress.update(done=step + 1, total=steps, note="fine-tune")
    weight = head.weight.detach().double().cpu().numpy()[0]
    bias = head.bias.detach().double().cpu().numpy()
    return {"mean": np.zeros_like(weight), "scale": np.ones_like(weight), "weight": weight, "bias": bias}, (
        tokens,
        flops,
    )


def shuffled(n: int, seed: int, epoch: int) -> list[int]:
    order = list(range(n))
    random.Random(digest("fit order", seed, epoch, length=32)).shuffle(order)
    return order


def measure(scores: Floats, labels: Floats) -> dict[str, float]:
    """AUC (ties count half), expected calibration error over ten equal bins, accuracy at 0.5, base rate."""
    return {
        "auc": auc(scores, labels),
        "ece": calibration_error(scores, labels),
        "accuracy": float(((scores >= 0.5) == (labels == 1)).mean()),
        "base_rate": float(labels.mean()),
    }


def auc(scores: Floats, labels: Floats) -> float:
    """Probability that a right chain scores above a wrong one (Mann-Whitney; ties count half)."""
    right, wrong = np.sort(scores[labels == 1]), np.sort(scores[labels == 0])
    below = np.searchsorted(wrong, right, "left") + np.searchsorted(wrong, right, "right")
    return float(below.sum() / (2 * len(right) * len(wrong)))


def calibration_error(scores: Floats, labels: Floats, bins: int = 10) -> float:
    """Mean |confidence - accuracy| over equal-width bins, weighted by their counts."""
    which = np.minimum((scores * bins).astype(int), bins - 1)
    gaps = [
        (which == b).mean() * abs(scores[which == b].mean() - labels[which == b].mean())
        for b in range(bins)
        if (which == b).any()
    ]
    return float(sum(gaps))


def reading_cost(shape: ModelShape) -> tuple[float, float]:
    """(per token, per pair of positions) so that reading T tokens costs a T + b T(T+1)/2 FLOPs."""
    one, two = float(shape.prefill_flops(1)), float(shape.prefill_flops(2))
    per_pair = two - 2 * one  # 3 pairs at two tokens, 1 at one: two - 2 one = (3 - 2) b
    return one - per_pair, per_pair
