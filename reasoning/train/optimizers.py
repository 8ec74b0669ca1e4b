"""Optimizers by name. Knows parameters, nothing of what their gradient means."""

from __future__ import annotations

from typing import Any

import torch

from reasoning.errors import MissingExtra, UserError, unknown

OPTIMIZERS = ("adamw", "adamw_8bit", "muon")


def make_optimizers(model: torch.nn.Module, name: str, lr: float, weight_decay: float) -> list[Any]:
    """ "adamw"; "adamw_8bit", its states in 8 bits (arXiv 2110.02861; bitsandbytes, on a GPU); or "muon": Muon (arXiv
    2502.16982) on the matrices inside the layers with AdamW on the rest (embeddings, norms, head). Muon is scaled to
    match AdamW's update size, so one lr serves both.

    Raises UserError for an unknown name or a model without matrices, MissingExtra without bitsandbytes.
    """
    parameters = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    matrices = [p for n, p in parameters if p.ndim == 2 and ".layers." in f".{n}"]
    chosen = {id(p) for p in matrices}
    rest = [p for _, p in parameters if id(p) not in chosen]
    adamw = {"lr": lr, "betas": (0.9, 0.95), "weight_decay": weight_decay}
    if name == "adamw":
        return [torch.optim.AdamW([p for _, p in parameters], **adamw)]
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
        return [muon, torch.optim.AdamW(rest, **adamw)]
    raise unknown("optimizer", name, OPTIMIZERS)
