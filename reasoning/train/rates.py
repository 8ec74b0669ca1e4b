"""Which learning rates are out of the ordinary. Knows neither model nor optimizer: AdamW moves every weight by about
the rate a step, and Muon is scaled to do as AdamW does, so that one bound serves both.
"""

from __future__ import annotations

import math

FAR = 10.0
"""So many times the usual rate is most likely a slip."""
LOWEST = 1e-9
"""Weights are some hundredths: what is added to them has to be more than this to change a float32."""


def usual_rate(weights: int) -> float:
    """The largest rate in common use for a model of which so many weights are trained (all, or an adapter's): that of
    training from scratch, which fine-tuning stays below.

    0.003239 - 0.0001395 ln(weights) (arXiv 2001.08361, appendix D.6), which comes to nothing at 12 billion; no less
    than 1e-4, as of the large models of arXiv 2005.14165 (table 2.1).
    """
    return max(0.003239 - 0.0001395 * math.log(max(weights, 1)), 1e-4)


def odd_rate(lr: float, weights: int) -> str:
    """A warning of one line where ``lr`` is far above `usual_rate`, or too small to move a weight; else ""."""
    if lr > FAR * (usual := usual_rate(weights)):
        return (
            f"--lr {lr:g} is far more than what {weights:,} weights are usually trained with (at most about "
            f"{usual:.1g}, and less from a model that has learned): the model may be lost in a few steps."
        )
    if lr < LOWEST:
        return f"--lr {lr:g} is less than float32 weights resolve: next to nothing will be learned."
    return ""
