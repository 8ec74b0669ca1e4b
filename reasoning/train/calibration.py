"""How good is a scorer of right and wrong, and are its figures probabilities? AUC, calibration error, Platt scaling,
and accuracy by length and by step. Pure NumPy.

labels: (N,) in [0, 1]; one of 0.5 or above counts as right where only right and wrong matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from verifiers.learned import Floats, sigmoid

LENGTH_BINS = 4
STEPS_APART = 8


def measure(scores: Floats, labels: Floats) -> dict[str, float]:
    """AUC (ties count half), expected calibration error over ten equal bins, accuracy at 0.5, base rate."""
    right = labels >= 0.5
    return {
        "auc": auc(scores, labels),
        "ece": calibration_error(scores, labels),
        "accuracy": float(((scores >= 0.5) == right).mean()),
        "base_rate": float(labels.mean()),
    }


def auc(scores: Floats, labels: Floats) -> float:
    """Probability that a right chain scores above a wrong one (Mann-Whitney; ties count half); NaN without both."""
    right, wrong = np.sort(scores[labels >= 0.5]), np.sort(scores[labels < 0.5])
    if not len(right) or not len(wrong):
        return float("nan")
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


def platt(logits: Floats, labels: Floats) -> tuple[float, float]:
    """(slope, shift) so that sigmoid(slope x logit + shift) fits ``labels`` best (Platt 1999), by Newton's method.

    The labels are drawn in a little, (n+ + 1) / (n+ + 2) for 1, as Platt has it, so that separable scores get finite
    figures. The slope is never below 0.001: scaling may not turn the ranking round.
    """
    right = float(labels.sum())
    wrong = len(labels) - right
    targets = (1 - labels) / (wrong + 2) + labels * (right + 1) / (right + 2)
    spread = float(logits.std()) or 1.0
    z = np.stack([(logits - logits.mean()) / spread, np.ones(len(logits))], 1)
    w = np.zeros(2)

    def loss(w: Floats) -> float:
        return float((np.logaddexp(0, z @ w) - targets * (z @ w)).sum())

    for _ in range(100):
        p = sigmoid(z @ w)
        hessian = (z * (p * (1 - p))[:, None]).T @ z + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, z.T @ (targets - p))
        while loss(w + step) > loss(w) and np.abs(step).max() > 1e-12:
            step = step / 2
        w = w + step
        if np.abs(step).max() < 1e-10:
            break
    slope = float(w[0] / spread)
    if slope < 1e-3:
        base = float(targets.mean())
        return 1e-3, float(np.log(base) - np.log1p(-base) - 1e-3 * logits.mean())
    return slope, float(w[1] - slope * logits.mean())


def cross_calibrated(logits: Floats, labels: Floats, halves: np.ndarray) -> Floats:
    """Probabilities (N,) of ``logits``, each half scaled as the other half says: what scaling is worth on chains that
    it was not fitted on. halves: (N,) of bool. Where a half is empty, or has labels of one kind, all are scaled by
    what all say."""
    out = np.empty(len(logits))
    for half in (halves, ~halves):
        other = labels[~half]
        usable = len(other) and (other >= 0.5).any() and (other < 0.5).any()
        slope, shift = platt(logits[~half], other) if usable else platt(logits, labels)
        out[half] = sigmoid(slope * logits[half] + shift)
    return out


def by_length(scores: Floats, labels: Floats, tokens: Sequence[int]) -> list[dict[str, Any]]:
    """Figures in up to four bins of about as many chains, the shortest first; tokens: [fewest, most] in a bin."""
    lengths = np.asarray(tokens)
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, LENGTH_BINS + 1)[1:], method="higher"))
    which = np.searchsorted(edges, lengths, "left")
    rows = []
    for b in range(len(edges)):
        part = which == b
        if part.any():
            span = [int(lengths[part].min()), int(lengths[part].max())]
            rows.append({"tokens": span, **_part(scores[part], labels[part])})
    return rows


def by_step(scores: Floats, labels: Floats, steps: Sequence[int]) -> list[dict[str, Any]]:
    """Figures of the first step, the second, ...; those from the eighth on together. steps: (N,) from 1."""
    which = np.minimum(np.asarray(steps), STEPS_APART)
    return [
        {"step": int(s), **_part(scores[which == s], labels[which == s])} for s in np.unique(which).tolist()
    ]


def _part(scores: Floats, labels: Floats) -> dict[str, Any]:
    found = {"count": len(scores), **measure(scores, labels)}
    return {name: None if value != value else value for name, value in found.items()}  # JSON has no NaN
