"""The ring: each rank keeps its queries, the key blocks go round, and what they gather on the way comes home with them.

No rank ever holds another rank's keys for longer than one step. Forward, a block collects the log-partition of its
keys over everyone's queries; backward, it collects the gradient of its keys. With that, a rank's gradients are those
of the sum of all ranks' losses to its own rows; averaged over ranks, as DistributedDataParallel does with
parameters, they are the gradients of one process that holds all rows.

Every rank must make the same calls, backward included. The blocks may differ in length from rank to rank.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nearfar.errors import UserError
from nearfar.ops.kernels import partition_backward, partition_forward
from nearfar.ops.one_pass import one_pass
from nearfar.ops.partition import flat, needs_gradient
from nearfar.ops.sigmoid import sigmoid_kernel
from nearfar.ops.tiles import LN2, Pairs, grid, tiles_to_keep, usual_budget, wide


def ring_partition(pairs: Pairs, *, both: bool, budget: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """`partition` over the keys of all ranks: rows [N] and own logits [N] of this rank's queries, and with `both` the
    log-partitions [M] of this rank's keys over all ranks' queries."""
    sizes = block_sizes(len(pairs.k), pairs.q.device)
    if budget is None:
        budget = usual_budget(len(pairs.q) * sum(sizes) * pairs.q.element_size())
    p = flat(pairs)
    return _RingPartition.apply(*p[:7], p[8:], both, budget if needs_gradient(pairs) else 0, sizes)


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
            'backend="ring" needs a process group: start with torchrun or `accelerate launch`, and call '
            'torch.distributed.init_process_group; in one process use backend="auto"'
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


class _RingPartition(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        q, k, scale, own, q_group, k_group, admit, tile, both, budget, sizes = args
        rows = q.new_full((len(q),), -math.inf, dtype=wide(q))
        gathered = q.new_full((len(k) if both else 0,), -math.inf, dtype=wide(q))
        keys, groups = k, k_group
        positives, kept, shifts = rows.new_empty(0), [], []
        for step in range(len(sizes)):
            tiles = grid(len(q), len(keys), tile)
            keep = tiles_to_keep(tiles, budget, q.element_size())
            home = own if step == 0 else None
            found = partition_forward(q, keys, scale, home, q_group, groups, admit, False, *tile, both, keep)
            rows = torch.logaddexp2(rows, found[0])
            if both:
                gathered = torch.logaddexp2(gathered, found[1])
            positives = found[2] if step == 0 else positives
            kept.append(found[3])
            shifts.append(found[4])
            budget -= found[3].numel() * q.element_size()
            keys, groups, extra = _next(sizes, step, keys, groups, [gathered] if both else [])
            gathered = extra[0] if both else gathered
        ctx.save_for_backward(q, k, scale, own, q_group, k_group, rows, gathered, *kept, *shifts)
        ctx.admit, ctx.tile, ctx.both, ctx.sizes = admit, tile, both, sizes
        return rows * LN2, gathered * LN2, positives

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise _second_derivatives()
        q, k, scale, own, q_group, k_group, rows, cols, *stores = ctx.saved_tensors
        g_rows, g_cols, g_own = gradients
        world, both = len(ctx.sizes), ctx.both
        want_q, want_k, want_scale = ctx.needs_input_grad[:3]
        dq, dscale = torch.zeros_like(q) if want_q or want_scale else None, q.new_zeros(len(q))
        dk = torch.zeros_like(k)
        keys, groups = k, k_group
        for step in range(world):
            home = own if step == 0 else None
            pairs_args = (q, keys, scale, home, q_group, groups, ctx.admit, False, *ctx.tile)
            totals = (rows, cols, stores[step], stores[world + step], g_rows, g_cols, g_own)
            found = partition_backward(*pairs_args, *totals, dq is not None, want_k)
            if dq is not None:
                dq += found[0]
                dscale += found[2]
            if want_k:
                dk += found[1]
            keys, groups, extra = _next(ctx.sizes, step, keys, groups, [dk, *([cols, g_cols] if both else [])])
            dk = extra[0]
            if both:
                cols, g_cols = extra[1:]
        return dq if want_q else None, dk if want_k else None, dscale if want_scale else None, *(None,) * 8


def _next(
    sizes: list[int], step: int, keys: Tensor, groups: Tensor | None, extra: list[Tensor]
) -> tuple[Tensor, Tensor | None, list[Tensor]]:
    """Pass the block on. On the last hop only what it gathered goes home: the keys are there already."""
    rows = sizes[visitor(step + 1)]
    if step + 1 == len(sizes):
        return keys, groups, pass_on(extra, rows) if extra else []
    block = pass_on([keys, *([] if groups is None else [groups]), *extra], rows)
    return block[0], None if groups is None else block[1], block[len(block) - len(extra) :]


def _ring_sigmoid_kernel(*args: Any) -> tuple[Tensor, ...]:
    """`sigmoid_kernel` over the keys of all ranks; the gradients of a key block travel with it."""
    q, k, scale, bias, own, q_group, k_group, *rest, gradients = args
    sizes, rows = block_sizes(len(k), q.device), block_sizes(len(q), q.device)
    share = len(q) * len(rows) / sum(rows)
    keys, groups, dk = k, k_group, torch.zeros_like(k)
    totals: list[Tensor] = []
    for step in range(len(sizes)):
        home = own if step == 0 else None
        loss, dq, dkeys, *others = sigmoid_kernel(q, keys, scale, bias, home, q_group, groups, *rest, gradients)
        found = [loss, dq, *others]
        totals = found if not totals else [a.add_(b) for a, b in zip(totals, found, strict=True)]
        if gradients:
            dk = dk.add_(dkeys, alpha=share)
        keys, groups, (dk,) = _next(sizes, step, keys, groups, [dk])
    if not len(q):
        totals[0] = torch.zeros_like(totals[0])  # the mean of no rows is NaN, and weighs nothing
    loss, dq, *others = (total.mul_(share) for total in totals)
    return loss, dq, dk, *others


def _no_reference(*args: Any) -> Tensor:
    raise _second_derivatives()


def _second_derivatives() -> UserError:
    return UserError('second derivatives do not go round the ring: gather the keys and use backend="dense"')


ring_sigmoid = one_pass(_ring_sigmoid_kernel, _no_reference)
