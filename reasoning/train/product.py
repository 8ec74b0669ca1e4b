"""A product with weights that has a gradient: by oneDNN where that is faster than PyTorch's own on a CPU.

See `engines.products` for why. Knows nothing of models.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reasoning.engines.products import linear, onednn


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x`` (N, in) times ``weight`` (out, in), plus ``bias`` (out,): (N, out). As `torch.nn.functional.linear`."""
    plain = x.dtype == weight.dtype and not torch.is_autocast_enabled(x.device.type)
    if plain and onednn(x.device, x.dtype):
        return _Product.apply(x, weight, bias)  # type: ignore[return-value]
    return F.linear(x, weight, bias)


def times(x: Tensor, matrix: Tensor) -> Tensor:
    """``x`` (N, in) @ ``matrix`` (in, out), without a gradient."""
    return linear(x, (matrix.t(), None))


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear(x, (weight, bias))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        return (
            times(grad, weight) if ctx.needs_input_grad[0] else None,
            times(grad.t(), x) if ctx.needs_input_grad[1] else None,
            grad.sum(0) if ctx.needs_input_grad[2] else None,
        )
