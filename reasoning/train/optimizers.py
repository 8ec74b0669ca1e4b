"""Optimizers by name, and float32 copies of what is trained in fewer bits. Knows parameters, nothing of what their
gradient means."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from reasoning.errors import MissingExtra, UserError, unknown

OPTIMIZERS = ("adamw", "adamw_8bit", "muon")


class Masters:
    """A float32 copy of every parameter that has fewer bits: the optimizer moves the copies, and the parameters are
    these, rounded. A bfloat16 weight has 8 significant bits, so a step of less than about 1/500 of it would be lost
    in the weight itself; the copies keep it. Gradients of several forwards add up in float32 too.
    """

    def __init__(self, parameters: Iterable[Tensor]):
        self.of: dict[int, Tensor] = {}
        self._pairs: list[tuple[Tensor, Tensor]] = []
        for parameter in parameters:
            if parameter.dtype in (torch.bfloat16, torch.float16):
                master = torch.nn.Parameter(parameter.detach().float())
                parameter.register_post_accumulate_grad_hook(partial(_move_gradient, master))
                self.of[id(parameter)] = master
                self._pairs.append((parameter, master))

    def get(self, parameter: Tensor) -> Tensor:
        """What the optimizer moves in the place of ``parameter``: its copy, or itself."""
        return self.of.get(id(parameter), parameter)

    @torch.no_grad()
    def deliver(self) -> None:
        """Round the copies into the parameters."""
        for parameter, master in self._pairs:
            parameter.copy_(master)


def _move_gradient(master: Tensor, parameter: Tensor) -> None:
    assert parameter.grad is not None
    grad = parameter.grad.float()
    master.grad = grad if master.grad is None else master.grad.add_(grad)
    parameter.grad = None


def make_optimizers(
    model: torch.nn.Module, name: str, lr: float, weight_decay: float, masters: Masters | None = None
) -> list[Any]:
    """ "adamw"; "adamw_8bit", its states in 8 bits (arXiv 2110.02861; bitsandbytes, on a GPU); or "muon": Muon (arXiv
    2502.16982) on the matrices inside the layers with AdamW on the rest (embeddings, norms, head). Muon is scaled to
    match AdamW's update size, so one lr serves both. masters: copies that are moved instead of the parameters.

    Raises UserError for an unknown name or a model without matrices, MissingExtra without bitsandbytes.
    """
    masters = masters or Masters([])
    parameters = [(n, masters.get(p)) for n, p in model.named_parameters() if p.requires_grad]
    matrices = [p for n, p in parameters if p.ndim == 2 and ".layers." in f".{n}"]
    chosen = {id(p) for p in matrices}
    rest = [p for _, p in parameters if id(p) not in chosen]
    adamw = {"lr": lr, "betas": (0.9, 0.95), "weight_decay": weight_decay}
    if name == "adamw":
        return [torch.optim.AdamW([p for _, p in parameters], fused=True, **adamw)]
    if name == "adamw_8bit":
        try:
            from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError:
            raise MissingExtra("bitsandbytes", "8bit", "the optimizer 'adamw_8bit'") from None
        if not parameters[0][1].is_cuda:
            raise UserError("optimizer adamw_8bit needs a GPU: use --optimizer adamw here.")
        return [AdamW8bit([p for _, p in parameters], **adamw)]
    if name == "muon":
        if not matrices:
            raise UserError("optimizer muon found no matrices in this model's layers: use --optimizer adamw.")
        muon = torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        # An adapter has nothing but matrices.
        return [muon, torch.optim.AdamW(rest, fused=True, **adamw)] if rest else [muon]
    raise unknown("optimizer", name, OPTIMIZERS)
