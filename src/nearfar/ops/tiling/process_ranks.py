"""What passes between ranks: who holds how many rows, and a block of keys on its way round.

Every rank must make the same calls. The blocks may differ in length from rank to rank.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from nearfar.errors import UserError


def rank_mean(losses: Tensor) -> Tensor:
    """Mean over this rank's rows, weighted so that its mean over ranks is the mean over all rows."""
    sizes = block_sizes(losses.shape[-1], losses.device)
    return losses.sum() * (losses.shape[-1] * len(sizes) / (max(losses.numel(), 1) * sum(sizes)))


def sample_ids(rows: int, device: torch.device) -> Tensor:
    """Ids of the samples whose two views this rank holds, first views first; no other rank uses them."""
    require_ranks()
    return (torch.arange(rows, device=device) % (rows // 2)) + (dist.get_rank() << 40)


def require_ranks() -> None:
    if not (dist.is_available() and dist.is_initialized()):
        raise UserError(
            "backend='ring' needs a process group: start with torchrun or `accelerate launch`, and call "
            "torch.distributed.init_process_group; in one process use backend='auto'"
        )


def block_sizes(rows: int, device: torch.device) -> list[int]:
    """How many rows each rank holds."""
    require_ranks()
    mine = torch.tensor([rows], device=device)
    sizes = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, mine)
    return [int(size) for size in sizes]


def visitor(step: int) -> int:
    """The rank whose keys visit this rank at a step; step 0 is its own."""
    return (dist.get_rank() - step) % dist.get_world_size()


def pass_on(block: list[Tensor], rows: int) -> list[Tensor]:
    """Send the block to the next rank and receive the previous rank's, which has `rows` rows."""
    world, rank = dist.get_world_size(), dist.get_rank()
    if world == 1:
        return block
    received = [tensor.new_empty(rows, *tensor.shape[1:]) for tensor in block]
    transfers = []
    for tensor, arrival in zip(block, received, strict=True):
        transfers.append(dist.P2POp(dist.isend, tensor.contiguous(), (rank + 1) % world))
        transfers.append(dist.P2POp(dist.irecv, arrival, (rank - 1) % world))
    for work in dist.batch_isend_irecv(transfers):
        work.wait()
    return received


def next_block(
    sizes: list[int], step: int, keys: Tensor, groups: Tensor | None, extra: list[Tensor]
) -> tuple[Tensor, Tensor | None, list[Tensor]]:
    """Pass the block on. On the last hop only what it gathered goes home: the keys are there already."""
    rows = sizes[visitor(step + 1)]
    if step + 1 == len(sizes):
        return keys, groups, pass_on(extra, rows) if extra else []
    block = pass_on([keys, *([] if groups is None else [groups]), *extra], rows)
    return block[0], None if groups is None else block[1], block[len(block) - len(extra) :]


def second_derivatives() -> UserError:
    return UserError("second derivatives do not go round the ring: gather the keys and use backend='dense'")
