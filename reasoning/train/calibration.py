"""How good is a scorer of right and wrong? AUC and calibration, pure NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


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
