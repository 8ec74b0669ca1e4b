"""Fit one kind of verifier on one part of the data, calibrate and measure it on the other. Knows nothing of pools,
files or folders: `reward` gathers the data and saves what comes out.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reasoning.engines.transformers import TransformersEngine
from reasoning.progress import Progress
from reasoning.records import digest
from reasoning.train.calibration import (
    auc,
    by_length,
    by_step,
    calibration_error,
    cross_calibrated,
    measure,
    platt,
)
from reasoning.train.heads import Example, Text, featurise, labels_of, logistic, states
from reasoning.train.preferences import Pair
from reasoning.train.process import Stepped
from reasoning.train.scorer import FineTuning, Item, Scorer, tune
from verifiers.learned import Floats, Reader, chain_logit, logits, sigmoid


@dataclass(slots=True)
class Fitted:
    """A fitted verifier. figures: AUC, calibration error and the like on what was held out; tables: the same by
    length (and step). tokens, flops: spent on fitting and measuring."""

    model: Any
    head: dict[str, Floats]
    figures: dict[str, Any]
    tables: dict[str, Any] = field(default_factory=dict)
    tokens: int = 0
    flops: float = 0.0

    @property
    def line(self) -> str:
        f = self.figures
        pairs = f", pairs told apart {f['pair_accuracy']:.1%}" if "pair_accuracy" in f else ""
        return f"AUC {f['auc']:.3f}{pairs}, calibration error {f['ece']:.3f} ({f['ece_before']:.3f} before scaling)"


def fit_features(
    engine: TransformersEngine, used: Sequence[Example], held: Sequence[Example], progress: Progress
) -> Fitted:
    """Logistic regression on `verifiers.learned.FEATURES`; the model is left as it is."""
    assert engine.shape is not None
    reader = Reader(engine.module.eval(), engine.tokenizer)
    x_used, read = featurise(reader, used, engine.shape, progress, "fit features")
    x_held, read_held = featurise(reader, held, engine.shape, progress, "hold out")
    head = logistic(x_used, labels_of(used))
    problems = [e.problem_id for e in held]
    z, labels = logits(x_held, head), labels_of(held)
    head, p, figures = calibrated(head, z, labels, problems)
    lengths = [len(reader.encode_response(e.response)) for e in held]
    return Fitted(
        engine.module,
        head,
        figures,
        {"by_length": by_length(p, labels, lengths)},
        read[0] + read_held[0],
        read[1] + read_held[1],
    )


def fit_chains(
    engine: TransformersEngine,
    used: Sequence[Example],
    held: Sequence[Example],
    tuning: FineTuning,
    progress: Progress,
) -> Fitted:
    """Backbone and head on right and wrong chains, by binary cross-entropy at the last token (arXiv 2110.14168,
    outcome supervision)."""
    reader, scorer = _copy(engine)

    def item(e: Example) -> Item:
        row = (*reader.encode_prompt(e.prompt), *reader.encode_response(e.response))
        return Item((row,), ((len(row) - 1,),), (e.label,))

    spent = tune(scorer, [item(e) for e in used], tuning, _shape(engine), progress)
    texts = [_whole(reader, e.prompt, e.response) for e in held]
    x, read = states(reader, texts, _shape(engine), progress, "hold out")
    head, labels = scorer.exported(), labels_of(held)
    z = logits(np.concatenate(x), head)
    head, p, figures = calibrated(head, z, labels, [e.problem_id for e in held])
    tables = {"by_length": by_length(p, labels, [len(t.ids) for t in texts])}
    return Fitted(scorer.model, head, figures, tables, spent[0] + read[0], spent[1] + read[1])


def fit_pairs(
    engine: TransformersEngine,
    used: Sequence[Pair],
    held: Sequence[Pair],
    tuning: FineTuning,
    progress: Progress,
) -> Fitted:
    """Backbone and head on pairs (Bradley-Terry). Its scores are known up to a shift only; scaling on the held-out
    responses makes them the probability that a response is the chosen one of its pair."""
    reader, scorer = _copy(engine)

    def item(pair: Pair) -> Item:
        prompt = reader.encode_prompt(pair.problem.prompt)
        rows = tuple((*prompt, *reader.encode_response(text)) for text in (pair.chosen, pair.rejected))
        return Item(rows, tuple((len(row) - 1,) for row in rows))

    spent = tune(scorer, [item(pair) for pair in used], tuning, _shape(engine), progress)
    texts = [_whole(reader, p.problem.prompt, text) for p in held for text in (p.chosen, p.rejected)]
    x, read = states(reader, texts, _shape(engine), progress, "hold out")
    head, labels = scorer.exported(), np.array([1.0, 0.0] * len(held))
    z = logits(np.concatenate(x), head)
    head, p, figures = calibrated(head, z, labels, [p.problem.id for p in held for _ in (0, 1)])
    figures["pair_accuracy"] = float(np.mean((z[0::2] > z[1::2]) + (z[0::2] == z[1::2]) / 2))
    tables = {"by_length": by_length(p, labels, [len(t.ids) for t in texts])}
    return Fitted(scorer.model, head, figures, tables, spent[0] + read[0], spent[1] + read[1])


def fit_steps(
    engine: TransformersEngine,
    used: Sequence[Stepped],
    held: Sequence[Stepped],
    how: tuple[str, str],
    tuning: FineTuning,
    progress: Progress,
) -> Fitted:
    """Backbone and head at the end of every step, by binary cross-entropy with its label. how: (steps, aggregate) of
    `verifiers.steps`. Steps are calibrated first, then the chains' scores that are made of them."""
    by, aggregate = how
    reader, scorer = _copy(engine)

    def text(one: Stepped) -> Text:
        ids, ends = reader.encode_steps(one.chain.text, by)
        return Text(one.problem.prompt, tuple(ids), tuple(ends))

    def item(one: Stepped) -> Item:
        prompt, read = reader.encode_prompt(one.problem.prompt), text(one)
        places = tuple(len(prompt) + end for end in read.places)
        return Item(((*prompt, *read.ids),), (places,), one.labels)

    spent = tune(scorer, [item(one) for one in used], tuning, _shape(engine), progress)
    texts = [text(one) for one in held]
    x, read = states(reader, texts, _shape(engine), progress, "hold out")
    head = scorer.exported()
    z = logits(np.concatenate(x), head)
    labels = np.array([y for one in held for y in one.labels])
    head, p, of_steps = calibrated(head, z, labels, [one.problem.id for one in held for _ in one.labels])
    ends = np.cumsum([len(one.labels) for one in held])[:-1]
    right = np.array([float(one.right) for one in held])
    problems = [one.problem.id for one in held]
    honest = np.array([chain_logit(steps, aggregate) for steps in np.split(p, ends)])
    chains, figures = scaled(honest, right, problems)
    final = np.split(sigmoid(logits(np.concatenate(x), head)), ends)
    head["chain"] = np.array(platt(np.array([chain_logit(steps, aggregate) for steps in final]), right))
    tables = {
        "by_length": by_length(chains, right, [len(t.ids) for t in texts]),
        "by_step": by_step(p, labels, [k + 1 for one in held for k in range(len(one.labels))]),
        "steps": of_steps,
        "completions_per_step": float(
            np.mean([n for one in (*used, *held) for n in one.completions[:-1]] or [0])
        ),
    }
    return Fitted(scorer.model, head, figures, tables, spent[0] + read[0], spent[1] + read[1])


def calibrated(
    head: dict[str, Floats], z: Floats, labels: Floats, problems: Sequence[str]
) -> tuple[dict[str, Floats], Floats, dict[str, Any]]:
    """(``head`` with its scale and shift taken in, probabilities, figures) from held-out logits z (N,)."""
    p, figures = scaled(z, labels, problems)
    slope, shift = platt(z, labels)
    return head | {"weight": head["weight"] * slope, "bias": head["bias"] * slope + shift}, p, figures


def scaled(z: Floats, labels: Floats, problems: Sequence[str]) -> tuple[Floats, dict[str, Any]]:
    """Probabilities of logits z (N,), and their figures. Each half of the problems is scaled as the other half says,
    so the figures are of chains that the scaling has not seen; the scaling that is kept is fitted on both."""
    halves = np.array([int(digest("half", problem), 16) % 2 == 0 for problem in problems])
    p = cross_calibrated(z, labels, halves)
    before = calibration_error(sigmoid(z), labels)
    # AUC by the logits: scaling keeps the order within a half, and the two halves are scaled apart.
    return p, measure(p, labels) | {"auc": auc(z, labels), "ece_before": before}


def _copy(engine: TransformersEngine) -> tuple[Reader, Scorer]:
    model = copy.deepcopy(engine.module)
    return Reader(model, engine.tokenizer), Scorer(model)


def _shape(engine: TransformersEngine) -> Any:
    assert engine.shape is not None
    return engine.shape


def _whole(reader: Reader, prompt: str, response: str) -> Text:
    ids = tuple(reader.encode_response(response))
    return Text(prompt, ids, (len(ids) - 1,))
