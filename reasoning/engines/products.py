"""Products with weights, PyTorch's own or oneDNN's where that is the faster one, and the activation between them.

In float32 on x86 PyTorch multiplies by MKL, which leaves AVX-512 unused on processors that are not Intel's; oneDNN,
in the same wheel, is 2.2 times as fast there, and adds what is to be added on the way. For at least 16 rows, a
multiple of 16, a row's bits depend neither on the other rows nor on whether the weights were packed.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

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


GRAIN = 32768
"""Numbers that PyTorch gives one thread at least (`at::internal::GRAIN_SIZE`)."""
VECTORS = 64
"""Numbers that PyTorch's loops take at a time, or a divisor of this."""


def silu(x: Tensor) -> Tensor:
    """SiLU of ``x`` (rows, n), with the same bits of a row whatever other rows and threads there are.

    PyTorch shares the numbers out without regard to rows, and the last ones of a share, those that fill no vector,
    are computed by another exponential. So it is given as many rows at a time as its threads share evenly, and rows
    that do not fill vectors are kept apart.
    """
    rows, n = x.shape
    if x.device.type != "cpu":
        return F.silu(x)
    bounds = _even(rows, n, torch.get_num_threads())
    apart = n % VECTORS and x.is_contiguous()
    if len(bounds) == 2 and not apart:
        return F.silu(x)
    out = x.new_empty(rows, n + 1)[:, :n] if apart else x.new_empty(rows, n)
    for start, end in pairwise(bounds):
        torch.ops.aten.silu.out(x[start:end], out=out[start:end])
    return out.contiguous()


@lru_cache(maxsize=4096)
def _even(rows: int, n: int, threads: int) -> tuple[int, ...]:
    """Bounds of pieces of ``rows`` rows of ``n`` numbers, in each of which every share is whole rows."""
    bounds = [0]
    while bounds[-1] < rows:
        left = rows - bounds[-1]
        even = (c for c in range(left, 1, -1) if c % min(threads, -(-c * n // GRAIN)) == 0)
        bounds.append(bounds[-1] + next(even, 1))
    return tuple(bounds)
