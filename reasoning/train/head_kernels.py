"""What follows an output head's product on a GPU, in one pass over the logits each way: Triton kernels, which torch's
own CUDA builds bring along. `logprobs` does the same in plain torch elsewhere.

Shapes: n positions, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

BLOCK = 4096


@triton.jit
def _statistics(
    logits,
    stride,
    targets,
    picked,
    total,
    spread,
    columns,
    scale,
    BLOCK: tl.constexpr,
):
    """One row each: the running maximum, mass and mean logit of a softmax in one pass (arXiv 1805.02867)."""
    row = tl.program_id(0).to(tl.int64)
    start_of_row = logits + row * stride
    top = -float("inf")
    mass = 0.0
    inner = 0.0
    for start in range(0, columns, BLOCK):
        at = start + tl.arange(0, BLOCK)
        z = tl.load(start_of_row + at, mask=at < columns, other=-float("inf")).to(tl.float32) * scale
        higher = tl.maximum(top, tl.max(z, axis=0))
        shrink = tl.exp(top - higher)
        share = tl.exp(z - higher)
        mass = mass * shrink + tl.sum(share, axis=0)
        inner = inner * shrink + tl.sum(tl.where(share > 0, share * z, 0.0), axis=0)
        top = higher
    whole = top + tl.log(mass)
    chosen = tl.load(start_of_row + tl.load(targets + row)).to(tl.float32) * scale
    tl.store(picked + row, chosen - whole)
    tl.store(total + row, whole)
    tl.store(spread + row, whole - inner / mass)


@triton.jit
def _probabilities(logits, stride, total, columns, scale, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < columns
    z = tl.load(logits + row * stride + at, mask=inside, other=0.0).to(tl.float32) * scale
    share = tl.exp(z - tl.load(total + row))
    tl.store(logits + row * stride + at, share.to(logits.dtype.element_ty), mask=inside)


def statistics(logits: Tensor, targets: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """(log-probability of ``targets`` (n,), log of the partition sum, entropy), each (n,) in float32, of
    softmax(scale x logits (n, V))."""
    picked, total, spread = (
        torch.empty(len(logits), dtype=torch.float32, device=logits.device) for _ in range(3)
    )
    launch: Any = _statistics
    launch[(len(logits),)](
        logits, logits.stride(0), targets, picked, total, spread, logits.shape[1], scale, BLOCK=BLOCK
    )
    return picked, total, spread


def probabilities_(logits: Tensor, total: Tensor, scale: float) -> Tensor:
    """exp(scale x logits - total) in the place and type of ``logits`` (n, V). total: (n,)."""
    blocks = triton.cdiv(logits.shape[1], BLOCK)
    launch: Any = _probabilities
    launch[(len(logits), blocks)](logits, logits.stride(0), total, logits.shape[1], scale, BLOCK=BLOCK)
    return logits
