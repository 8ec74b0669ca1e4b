"""Several processes that train one model: who they are, what they say to each other, and a model cut among them.

`torchrun` starts the processes and tells each its rank by the environment; without it there is one. Each rank runs
the whole loop, and the pool holds what they share: a rank draws and judges its part of a step's problems, then all
read the whole step from the pool. Knows nothing of objectives or pools.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor, distribute_tensor

from reasoning.errors import ReasoningError, UserError

T = TypeVar("T")

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells each process."""

PATIENCE = datetime.timedelta(hours=2)
"""How long a rank waits for the others: drawing long chains takes time, and torchrun ends all when one dies."""

MEETING = datetime.timedelta(minutes=10)
"""How long a rank waits for the others to be there at all."""

BUCKET_ELEMENTS = 1 << 26
"""Gradients are summed in pieces of so many numbers: one message for many small tensors."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among ``size`` of them; one alone says nothing to anybody."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes metrics, checkpoints and the model."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This rank's part: every size-th item."""
        return list(items[self.rank :: self.size])

    def wait(self) -> None:
        """Until every rank is here."""
        if self.size > 1:
            dist.barrier()

    def gathered(self, value: T) -> list[T]:
        """Every rank's ``value``, by rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace each gradient by its sum over the ranks; one that a rank does not have counts as 0."""
        if self.size == 1:
            return
        bucket: list[Tensor] = []
        room = BUCKET_ELEMENTS
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            grad = parameter.grad
            if bucket and (grad.numel() > room or grad.dtype != bucket[0].dtype):
                _sum(bucket)
                bucket, room = [], BUCKET_ELEMENTS
            bucket.append(grad)
            room -= grad.numel()
        if bucket:
            _sum(bucket)


ALONE = Ranks()


def _sum(bucket: Sequence[Tensor]) -> None:
    flat = torch.cat([g.flatten() for g in bucket])
    dist.all_reduce(flat)
    for grad, part in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
        grad.copy_(part.view_as(grad))


def read_environment(environment: Mapping[str, str] = os.environ) -> tuple[Ranks, int]:
    """(ranks, local rank) as torchrun says; one rank alone where it says nothing.

    Raises UserError when only a part of it is there, or it contradicts itself.
    """
    there = [name for name in NAMES if environment.get(name)]
    if not any(name in there for name in NAMES[:3]):
        return ALONE, 0
    missing = [name for name in NAMES if name not in there]
    start = (
        "start with  torchrun --nproc-per-node N -m reasoning train ...,  or unset them all for one process."
    )
    if missing:
        raise UserError(
            f"The environment of several processes is half set ({', '.join(there)}, but not "
            f"{', '.join(missing)}): {start}"
        )
    try:
        rank, size, local = (int(environment[name]) for name in NAMES[:3])
    except ValueError:
        rank, size, local = -1, 0, -1
    if not (0 <= rank < size and local >= 0):
        found = ", ".join(f"{name}={environment[name]}" for name in NAMES[:3])
        raise UserError(f"{found} is not a rank among several processes: {start}")
    return Ranks(rank, size), local


def join(device: str) -> tuple[Ranks, str]:
    """(ranks, device of this one): meet the others, if there are any. ``device`` "auto" or "cuda" is the GPU of
    this rank. `leave` parts again."""
    ranks, local = read_environment()
    if ranks.size == 1:
        return ALONE, device
    if device in ("auto", "cuda") and torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise UserError(
                f"{ranks.size} processes, but only {torch.cuda.device_count()} GPUs here: lower --nproc-per-node."
            )
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        try:
            store, _, _ = next(rendezvous("env://", ranks.rank, ranks.size, timeout=MEETING))
        except dist.DistError as error:
            raise ReasoningError(
                f"Rank {ranks.rank} of {ranks.size} stops: after {MEETING.seconds // 60} minutes the others were not "
                "there. Start all of them, with the same MASTER_ADDR and MASTER_PORT (torchrun does)."
            ) from error
        dist.init_process_group(
            backend, store=store, rank=ranks.rank, world_size=ranks.size, timeout=PATIENCE
        )
    return ranks, device


@contextlib.contextmanager
def joined(device: str) -> Iterator[tuple[Ranks, str]]:
    """`join`, and part again. Raises ReasoningError in place of the traceback of a message that never came, where
    another of the processes has ended."""
    ranks, device = join(device)
    try:
        yield ranks, device
    except RuntimeError as error:
        if ranks.size == 1 or not _left_alone(error):
            raise
        raise ReasoningError(
            f"Rank {ranks.rank} of {ranks.size} stops, because another process of this run has ended: that one says "
            "why (torchrun names it under Root Cause). The same command goes on from the last checkpoint."
        ) from error
    finally:
        leave(ranks)


def _left_alone(error: RuntimeError) -> bool:
    """Whether it says that another process did not answer: gloo's messages name its source file, the others are of a
    class of their own."""
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)


def leave(ranks: Ranks) -> None:
    if ranks.size > 1 and dist.is_initialized():
        dist.destroy_process_group()


# ---- a model cut among the ranks (FSDP2)


def fully_sharded(
    module: nn.Module, layers: Sequence[nn.Module], device: str, low: torch.dtype | None
) -> None:
    """Cut every parameter of ``module`` among all ranks; ``layers`` are put together one at a time when they are
    needed, the rest for the whole forward. Gradients are summed, not averaged.

    low: parameters are cast to this type for the computation; what each rank keeps of them stays as it is.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.partition(":")[0], (dist.get_world_size(),))
    policy = (
        MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32) if low else MixedPrecisionPolicy()
    )
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh, mp_policy=policy)
    for part in (*layers, module):
        part.set_gradient_divide_factor(1.0)  # pyright: ignore[reportCallIssue]
        part.set_force_sum_reduction_for_comms(True)  # pyright: ignore[reportCallIssue]


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be cut among the ranks, put together; every rank must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """What this rank has of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """``tensor``, whole on every rank, cut as ``other`` is."""
    if not isinstance(other, DTensor):
        return tensor
    tensor = tensor.to(other.device)
    return distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None)
