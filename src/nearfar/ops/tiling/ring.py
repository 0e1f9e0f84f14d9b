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
from torch import Tensor

from nearfar.ops.tiling.kernels import finish_gradients, partition_backward, partition_forward
from nearfar.ops.tiling.operators import flat, pairs_of
from nearfar.ops.tiling.process_ranks import block_sizes, next_block, second_derivatives
from nearfar.ops.tiling.tiles import BUDGET, LN2, Pairs, grid, needs_gradient, tiles_to_keep, wide


def ring_partition(pairs: Pairs, *, both: bool, budget: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """`partition` over the keys of all ranks: rows [N] and own logits [N] of this rank's queries, and with `both` the
    log-partitions [M] of this rank's keys over all ranks' queries."""
    sizes = block_sizes(len(pairs.k), pairs.q.device)
    budget = BUDGET if budget is None else budget
    p = flat(pairs)
    return _RingPartition.apply(*p[:7], p[8:], both, budget if needs_gradient(pairs) else 0, sizes)


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
            block = partition_forward(q, keys, scale, home, q_group, groups, admit, False, *tile, both, keep)
            rows = torch.logaddexp2(rows, block[0])
            if both:
                gathered = torch.logaddexp2(gathered, block[1])
            positives = block[2] if step == 0 else positives
            kept.append(block[3])
            shifts.append(block[4])
            budget -= block[3].numel() * q.element_size()
            keys, groups, extra = next_block(sizes, step, keys, groups, [gathered] if both else [])
            gathered = extra[0] if both else gathered
        ctx.save_for_backward(q, k, scale, own, q_group, k_group, rows, gathered, *kept, *shifts)
        ctx.admit, ctx.tile, ctx.both, ctx.sizes = admit, tile, both, sizes
        return rows * LN2, gathered * LN2, positives

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise second_derivatives()
        q, k, scale, own, q_group, k_group, rows, cols, *stores = ctx.saved_tensors
        g_rows, g_cols, g_own = gradients
        world, both = len(ctx.sizes), ctx.both
        want_q, want_k, want_scale = ctx.needs_input_grad[:3]
        keys, groups = k, k_group
        dq, dk = q.new_empty(0), q.new_zeros((0,) if want_k else k.shape)  # what keys gather goes round in any case
        for step in range(world):
            home = own if step == 0 else None
            pairs_args = (q, keys, scale, home, q_group, groups, ctx.admit, False, *ctx.tile)
            totals = (rows, cols, stores[step], stores[world + step], g_rows, g_cols, g_own)
            part, of_keys, _ = partition_backward(*pairs_args, *totals, want_q or want_scale, want_k, False)
            dq = dq.add_(part) if step else part
            if want_k:
                dk = dk.add_(of_keys) if step else of_keys
            keys, groups, extra = next_block(ctx.sizes, step, keys, groups, [dk, *([cols, g_cols] if both else [])])
            dk = extra[0]
            if both:
                cols, g_cols = extra[1:]
        pairs = pairs_of(q, k, scale, own, q_group, k_group, ctx.admit, False, *ctx.tile)
        dq, dk, dscale = finish_gradients(pairs, dq, dk if want_k else k.new_empty(0), g_own)
        return dq if want_q else None, dk if want_k else None, dscale if want_scale else None, *(None,) * 8
