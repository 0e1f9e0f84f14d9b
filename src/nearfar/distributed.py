"""The few collective operations that training needs. With one process each of them does nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar
from zlib import crc32

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nearfar.errors import UserError

T = TypeVar("T")

BUCKET = 32 * 2**20
"""Bytes of gradients averaged in one call: enough to fill a link, too little to be a second model in memory."""


def start(device: str | None = None) -> torch.device:
    """Join the other processes, if this one was launched with others (`accelerate launch`, `torchrun`), and return the
    device to use. Safe to call again.

    Raises:
        UserError: no such device on this machine.
    """
    from accelerate import PartialState

    # Without an accelerator Accelerate joins the others only with the setting for a run on CPUs.
    state = PartialState(cpu=device == "cpu" or (device is None and not torch.accelerator.is_available()))
    if not device:
        return state.device
    check_device(device)  # after Accelerate has given this process its own accelerator
    return torch.device(device)


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def is_main() -> bool:
    return rank() == 0


def barrier() -> None:
    if world_size() > 1:
        dist.barrier()


def is_split(tensor: Tensor) -> bool:
    """Whether each process holds only its part of a tensor (a `DTensor` of FSDP, whose import is slow)."""
    return hasattr(tensor, "full_tensor")


def gather_rows(rows: Tensor, axis: int = 0) -> Tensor:
    """Rows of all ranks in rank order, joined along `axis`, without a gradient. Ranks may bring different numbers of
    rows; every rank must call it.

    Raises:
        UserError: the ranks' tensors differ in their type or along another axis; on every rank.
    """
    return gather_counted(rows, axis)[0]


@torch.no_grad()
def gather_counted(rows: Tensor, axis: int = 0) -> tuple[Tensor, list[int]]:
    """As `gather_rows`, and how many rows each rank brought."""
    if world_size() == 1:
        return rows, [rows.shape[axis]]
    counts = _counts(rows, axis)
    most = max(counts)
    own = rows.detach().contiguous()
    if rows.shape[axis] < most:
        padded = rows.new_zeros([*rows.shape[:axis], most, *rows.shape[axis + 1 :]])
        padded.narrow(axis, 0, rows.shape[axis]).copy_(rows)
        own = padded
    everyone = [torch.empty_like(own) for _ in counts]
    dist.all_gather(everyone, own)
    parts = [part.narrow(axis, 0, count) for part, count in zip(everyone, counts, strict=True)]
    return torch.cat(parts, axis), counts


def _counts(rows: Tensor, axis: int) -> list[int]:
    """How many rows each rank brings. A gather of tensors that are not alike gives nonsense, or waits for ever."""
    kind = crc32(f"{rows.dtype} {rows.shape[:axis]} {rows.shape[axis + 1 :]}".encode())
    mine = torch.tensor([kind, rows.shape[axis]], device=rows.device)
    everyone = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(everyone, mine)
    kinds, counts = torch.stack(everyone).unbind(1)
    if len(set(kinds.tolist())) > 1:
        shapes = gather_objects(f"{str(rows.dtype).removeprefix('torch.')} {list(rows.shape)}")
        raise UserError(
            f"the processes bring tensors that cannot be joined along axis {axis}: {', '.join(shapes)}; make them "
            "alike but for their number of samples"
        )
    return counts.tolist()


@torch.no_grad()
def mean_weight(count: Tensor) -> Tensor | float:
    """What this rank's mean over `count` items weighs, so that the mean over ranks of the weighted means is the mean
    over the items of all ranks: its number of items over the ranks' average number. Every rank must call it."""
    if world_size() == 1:
        return 1.0
    total = count.float()
    dist.all_reduce(total)
    return count * (world_size() / total.clamp(min=1))


def gather_objects(value: T) -> list[T]:
    """A small Python value of every rank, in rank order."""
    if world_size() == 1:
        return [value]
    everyone: list[Any] = [None] * world_size()
    dist.all_gather_object(everyone, value)
    return everyone


def mean(scalars: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean over ranks of some scalars, in one call."""
    if world_size() == 1 or not scalars:
        return scalars
    exact = any(value.dtype == torch.float64 for value in scalars.values())
    vector = torch.stack([value.detach().to(torch.float64 if exact else torch.float32) for value in scalars.values()])
    dist.all_reduce(vector)
    return dict(zip(scalars, (vector / world_size()).unbind(), strict=True))


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over ranks. A parameter that one rank did not use counts as zero there; one
    that no rank used stays without a gradient. Sharded parameters (FSDP) are left alone: theirs arrive averaged."""
    if world_size() == 1:
        return
    trainable = [p for p in parameters if p.requires_grad and not is_split(p)]
    for bucket in _buckets(trainable):
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        used = grads[0].new_tensor([float(p.grad is not None) for p in bucket])
        flat = torch.cat([*(grad.reshape(-1) for grad in grads), used])
        dist.all_reduce(flat)
        *means, users = (flat / world_size()).split([*(grad.numel() for grad in grads), len(bucket)])
        for p, part, share in zip(bucket, means, users.tolist(), strict=True):
            p.grad = part.view_as(p).clone(memory_format=torch.contiguous_format) if share else None


@torch.no_grad()
def share_state(module: nn.Module) -> None:
    """Give every rank the parameters and buffers of rank 0, so that a difference in how they were made cannot last."""
    if world_size() == 1:
        return
    for tensor in [*module.parameters(), *module.buffers()]:
        if not is_split(tensor):
            dist.broadcast(tensor.data, src=0)


def check_device(name: str, setting: str = "training.device") -> None:
    """Raise a `UserError`, which names the setting, where a device is not here: torch says so when the first tensor is
    sent there."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, ImportError) as error:
        here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        there = f"cpu and {here.type}" if here else "cpu"
        why = str(error).splitlines()[0]
        raise UserError(
            f"{setting} {name!r} cannot be used ({why}): this machine has {there}; leave {setting} out to take "
            "the accelerator where there is one."
        ) from None


def _buckets(parameters: list[nn.Parameter]) -> Iterable[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    size = 0
    for p in parameters:
        same = not bucket or (p.dtype == bucket[0].dtype and p.device == bucket[0].device)
        if bucket and (size + p.nbytes > BUCKET or not same):
            yield bucket
            bucket, size = [], 0
        bucket.append(p)
        size += p.nbytes
    if bucket:
        yield bucket
