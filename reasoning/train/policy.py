"""The model that is trained, in the form its settings give it: whole or with an adapter, in which precision, alone
or cut among ranks; what it started from; and the copy that samples, where that is another.

Knows nothing of objectives, optimizers or rows' credit.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reasoning.flops import ModelShape
from reasoning.records import Chain
from reasoning.train.distributed import ALONE, Ranks, fully_sharded, whole
from reasoning.train.fresh import plain_module, save_folder
from reasoning.train.logprobs import Scored, can_share, layers_of, recompute_activations, score_rows
from reasoning.train.lora import (
    adapted,
    adapter_off,
    adapter_training_flops,
    add_adapter,
    merged_weight,
    save_adapter,
)
from reasoning.train.rows import Row
from reasoning.train.straight import Straight, open_straight

MIXED = torch.bfloat16
"""What is computed in with --dtype mixed."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What is sampled from, tensor by tensor: iterating yields (name, tensor) by the names and in the order of the
    plain model's parameters, cut ones put together, an adapter merged, in ``kind``. Each tensor is made when it is
    asked for, so no second model exists; of a model cut among ranks every rank must go through all of them.

    shapes: of all of them, known beforehand.
    """

    policy: Policy
    kind: torch.dtype

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(p.shape) for name, p in self.policy.plain_parameters()}

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        adapter = self.policy.adapter
        layers = {} if adapter is None else adapted(adapter)
        for name, parameter in self.policy.plain_parameters():
            with torch.no_grad():
                own = merged_weight(layers[name]) if name in layers else whole(parameter)
                tensor = own.detach().to(self.kind)
            yield name, tensor


class Policy:
    """model: what is trained, in evaluation mode: dropout would make the trained distribution another than the one
    that was sampled from, and a step depend on a random state. With an adapter only that is trained.

    sampler: the module that an engine samples from; the model itself where nothing else is given, None where no
        engine reads a module (vLLM is given `weights`). `deliver` brings it up to date.
    sampled_in: type of what is sampled from; the model's own where none is given.
    reference: the frozen starting model, where one is needed; with an adapter it is the model without it, and no
        copy.
    value_head: hidden state -> value, float32; trained beside the model.
    autocast: type that products are computed in, where it is not that of the weights.
    sharded: cut all of it among the ranks (FSDP2); low is the type computed in then, where it is another.
    recompute: keep only what goes into each layer for the backward pass.
    apart: no sampler is kept.
    packed: rows go one behind another without padding. By default where the layers can be computed straight over
        their weights (`straight`), or attention is a kernel that skips what a row does not see; elsewhere it would be
        computed and masked. False goes through the model's own modules, padded.
    """

    def __init__(
        self,
        model: Any,
        *,
        sampler: Any | None = None,
        apart: bool = False,
        sampled_in: torch.dtype | None = None,
        reference: Any | None = None,
        value_head: nn.Module | None = None,
        adapter: Any | None = None,
        ranks: Ranks = ALONE,
        autocast: torch.dtype | None = None,
        sharded: bool = False,
        low: torch.dtype | None = None,
        recompute: bool = False,
        packed: bool | None = None,
    ):
        self.model = model.eval()
        self.sampler: Any = sampler.eval() if sampler is not None else None if apart else model
        self.sampled_in = sampled_in or next(model.parameters()).dtype
        self.reference = reference
        self.value_head = value_head
        self.adapter = adapter
        # Counted once: while the reference is read, peft marks an adapter as not trained, and roll-outs that are
        # drawn meanwhile ask what learning from them will take.
        self._adapter_numel = sum(p.numel() for p in model.parameters() if p.requires_grad) if adapter else 0
        self.ranks = ranks
        self.sharded = sharded
        self.recompute = recompute
        self.can_share = can_share(model)
        whole = packed is not False and adapter is None and not sharded
        self.straight = open_straight(model, recompute) if whole else None
        kind = str(getattr(model.config, "_attn_implementation", ""))
        flash = kind.startswith("flash") if packed is None else packed
        self.packed = flash or self.straight is not None
        self.device = next(model.parameters()).device
        self._autocast = autocast
        self._score: Any = _Scorer(model, value_head, self.straight)
        self._score_reference: Any = None
        if reference is not None:
            # By the same way as the model, so that where they are equal their figures are.
            own = None if self.straight is None else Straight(reference)
            self._score_reference = _Scorer(reference, None, own)
        if recompute:
            recompute_activations(model)
        if sharded:
            for part, inner in ((self._score, model), (self._score_reference, reference)):
                if part is not None:
                    fully_sharded(part, layers_of(inner), str(self.device), low)

    def score(self, rows: Sequence[Row], temperature: float, entropy: bool, shared: bool) -> Scored:
        """`Scored` of ``rows``, with gradient."""
        with self._precision():
            return Scored(*self._score(rows, temperature, entropy, shared, self.packed))

    @torch.no_grad()
    def score_reference(self, rows: Sequence[Row], temperature: float, shared: bool) -> Tensor:
        """Log-probabilities (N,) of ``rows`` under what training began with."""
        with self._precision():
            if self._score_reference is None:
                assert self.adapter is not None, "no reference was kept"
                with adapter_off(self.adapter):
                    return self._score(rows, temperature, False, shared, self.packed)[0]
            return self._score_reference(rows, temperature, False, shared, self.packed)[0]

    def _precision(self) -> Any:
        if self._autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self._autocast)

    def named_trained(self) -> dict[str, Tensor]:
        """What is trained, by name; a value head's names begin with value_head."""
        found: dict[str, Tensor] = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        if self.value_head is not None:
            found |= {f"value_head.{n}": p for n, p in self.value_head.named_parameters()}
        return found

    def plain_parameters(self) -> list[tuple[str, Tensor]]:
        """The model's parameters by the names that they have without an adapter; those of an adapter are left out."""
        named = self.model.named_parameters()
        return [(n.replace(".base_layer.", "."), p) for n, p in named if ".lora_" not in n]

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        """What is sampled from now, as (name, tensor)."""
        return Weights(self, self.sampled_in) if self.sampler is None else self.sampler.named_parameters()

    @torch.no_grad()
    def deliver(self) -> None:
        """Bring the sampler up to date. Every rank must call it."""
        if self.sampler is None or self.sampler is self.model:
            return
        layers = {} if self.adapter is None else adapted(self.adapter)
        trained = {} if self.adapter is not None else dict(self.model.named_parameters())
        for name, parameter in self.sampler.named_parameters():
            if name in layers:
                parameter.copy_(merged_weight(layers[name]))
            elif name in trained:
                parameter.copy_(whole(trained[name]))

    @torch.no_grad()
    def plain_logprobs(self, chains: Sequence[Chain]) -> list[NDArray[np.float64]]:
        """Log-probabilities (T,) of each chain's tokens, drawn at temperature 1, one chain a forward. Every rank
        must call it, with as many chains as it likes."""
        rows = [Row(c.prompt_token_ids, c.token_ids) for c in chains]
        most = max(self.ranks.gathered(len(rows)))
        rows += [Row((0,), (0,))] * (most - len(rows))  # a cut layer is put together by all ranks at once
        found = [self.score([row], 1.0, False, False).logprobs.double().cpu().numpy() for row in rows]
        return found[: len(chains)]

    def training_flops(self, shape: ModelShape, lengths: Sequence[int]) -> float:
        """Of one forward and backward over rows of these lengths."""
        if self.adapter is None:
            return shape.training_flops(list(lengths), self.recompute)
        return adapter_training_flops(shape, lengths, self._adapter_numel, self.recompute)

    def save(self, folder: Path, tokenizer: Any, write: bool = True) -> None:
        """Write ``folder`` as an ordinary Hugging Face checkpoint in the precision of training, an adapter merged,
        and the adapter itself in its folder ``adapter`` as peft writes it.
        write False: only help to put together what is cut among the ranks."""
        kind = next(self.model.parameters()).dtype
        if self.sampler is not None and next(self.sampler.parameters()).dtype == kind:
            if write:
                save_folder(folder, self.sampler, tokenizer)
        else:  # tensor by tensor, on the CPU: beside the learner a GPU has no room for another model
            content = {}
            for name, tensor in Weights(self, kind):
                if write:
                    content[name] = tensor.cpu()
            if write:
                save_folder(folder, plain_module(self.model, content), tokenizer)
        if self.adapter is not None:
            self._save_adapter(folder / "adapter", write)

    def _save_adapter(self, folder: Path, write: bool) -> None:
        weights = {n: whole(p) for n, p in self.named_trained().items() if not n.startswith("value_head.")}
        if write:
            save_adapter(folder, self.adapter, weights)


class _Scorer(nn.Module):
    """`score_rows` as a module's forward, which is where a sharded model is put together."""

    def __init__(self, model: Any, value_head: nn.Module | None, straight: Straight | None):
        super().__init__()
        self.model = model
        self.value_head = value_head
        self.straight = straight

    def forward(
        self, rows: Sequence[Row], temperature: float, entropy: bool, shared: bool, packed: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        found = score_rows(
            self.model,
            rows,
            temperature=temperature,
            entropy=entropy,
            shared=shared,
            packed=packed,
            value_head=self.value_head,
            straight=self.straight,
        )
        # Copies, not views: FSDP hangs its work on what comes out.
        return tuple(None if t is None else t.clone() for t in (found.logprobs, found.entropy, found.values))  # type: ignore[return-value]


def new_value_head(model: Any) -> nn.Linear:
    """A linear map from the last hidden state to a value, float32 and 0 at the start, on the model's device."""
    head = nn.Linear(model.config.get_text_config().hidden_size, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head.to(next(model.parameters()).device)


def open_policy(
    model: Any,
    *,
    source: str = "",
    needs_reference: bool = False,
    value_head: nn.Module | None = None,
    lora_rank: int = 0,
    lora_alpha: float = 0.0,
    lora_targets: str = "all",
    seed: int = 0,
    dtype: str = "float32",
    recompute: bool = False,
    packed: bool | None = None,
    ranks: Ranks = ALONE,
    sharded: bool = False,
    apart: bool = False,
) -> Policy:
    """The policy around a plain ``model``, which is changed in place.

    dtype: "mixed" takes a float32 model, computes its products in bfloat16 and samples from a bfloat16 copy; else
    it is the type the model has. source: where the model came from. apart: what samples keeps weights of its own (see
    `Policy.weights`), so no module is kept for it. The rest as in `Policy` and `lora.add_adapter`.
    """
    reference = copy.deepcopy(model).eval() if needs_reference and not lora_rank else None
    kind = MIXED if dtype == "mixed" else next(model.parameters()).dtype
    sampler = None
    if apart:
        pass
    elif sharded or dtype == "mixed":
        sampler = copy.deepcopy(model).to(kind)
    elif lora_rank:
        # What has no adapter beside it is not copied: it never changes.
        sampler = copy.deepcopy(model, {id(p): p for p in model.parameters()})
    adapter = None
    if lora_rank:
        adapter = add_adapter(model, lora_rank, lora_alpha, lora_targets, seed, source)
        for name in adapted(adapter):
            if sampler is None:
                break
            path, _, last = name.rpartition(".")
            own = sampler.get_submodule(path)
            setattr(own, last, nn.Parameter(getattr(own, last).detach().clone(), requires_grad=False))
    return Policy(
        model,
        sampler=sampler,
        apart=apart,
        sampled_in=kind,
        reference=reference,
        value_head=value_head,
        adapter=adapter,
        ranks=ranks,
        autocast=MIXED if dtype == "mixed" and not sharded else None,
        sharded=sharded,
        low=MIXED if dtype == "mixed" and sharded else None,
        recompute=recompute,
        packed=packed,
    )
