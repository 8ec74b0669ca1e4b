"""Products with weights: PyTorch's own, or oneDNN's where that is the faster one.

In float32 on x86 PyTorch multiplies by MKL, which leaves AVX-512 unused on processors that are not Intel's; oneDNN,
in the same wheel, is 2.2 times as fast there, and adds what is to be added on the way. For at least 16 rows, a
multiple of 16, a row's bits depend neither on the other rows nor on whether the weights were packed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = tuple[Tensor, Tensor | None]
"""A matrix (out, in), packed or plain, and a bias (out,)."""


def onednn(device: torch.device, dtype: torch.dtype) -> bool:
    return (
        device.type == "cpu"
        and dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def packed(weights: Weights) -> Weights:
    """A copy in the order that oneDNN reads; for `linear` and `added` alone."""
    matrix, bias = weights
    return torch.ops.mkldnn._reorder_linear_weight(matrix.contiguous()), bias


def linear(x: Tensor, weights: Weights) -> Tensor:
    """``x`` (rows, in) times the weights: (rows, out)."""
    matrix, bias = weights
    if matrix.is_mkldnn or onednn(x.device, x.dtype):
        return torch.ops.mkldnn._linear_pointwise.default(x, matrix, bias, "none", [], "")
    return F.linear(x, matrix, bias)


def added(x: Tensor, y: Tensor, weights: Weights) -> Tensor:
    """``x`` (rows, out) plus ``y`` (rows, in) times the weights."""
    matrix, bias = weights
    if matrix.is_mkldnn or onednn(x.device, x.dtype):
        return torch.ops.mkldnn._linear_pointwise.binary(y, x, matrix, bias, "add")
    out = torch.addmm(x, y, matrix.t())
    return out if bias is None else out.add_(bias)
