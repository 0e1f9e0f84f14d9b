"""The one quantity under the losses, differentiable: log-partitions of rows and columns, the own pair apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nearfar.ops.tiling.dense import dense_partition
from nearfar.ops.tiling.half_products import half_pays
from nearfar.ops.tiling.kernels import partition_backward, partition_forward
from nearfar.ops.tiling.operators import flat, pairs_of
from nearfar.ops.tiling.ring import ring_partition
from nearfar.ops.tiling.tiles import LN2, Pairs, needs_gradient, tiles_to_keep


def partition(
    pairs: Pairs, *, both: bool = False, backend: str = "auto", budget: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Row log-partitions [N], column log-partitions ([M] with `both`, else [0]) and own logits ([N], else [0]).

    They are float64 (where the device has it), so that a caller's difference of two of them loses nothing; the dense
    reference gives them in the type of q.
    """
    if backend == "dense":
        return dense_partition(pairs, both=both)
    pairs = replace(pairs, half=half_pays(pairs.q, pairs.k))
    if backend == "ring":
        return ring_partition(pairs, both=both, budget=budget)
    keep = tiles_to_keep(pairs.tiles, budget, pairs.product_type.itemsize) if needs_gradient(pairs) else 0
    return _Partition.apply(*flat(pairs), both, keep)


class _Partition(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        rows, cols, own, kept, shifts = partition_forward(*args)
        ctx.save_for_backward(*args[:6], rows, cols, kept, shifts)
        ctx.rest, ctx.both = args[6:11], args[11]
        return rows * LN2, cols * LN2, own

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        *tensors, rows, cols, kept, shifts = ctx.saved_tensors
        if torch.is_grad_enabled():
            grads = _dense_gradients(pairs_of(*tensors, *ctx.rest), ctx.both, gradients)
        else:
            want_q, want_k, want_scale = ctx.needs_input_grad[:3]
            want_k = want_k and not ctx.rest[1]  # with one set, q carries the whole gradient
            dq, dk, dscale = partition_backward(
                *tensors, *ctx.rest, rows, cols, kept, shifts, *gradients, want_q or want_scale, want_k, True
            )
            grads = dq if want_q else None, dk if want_k else None, dscale if want_scale else None
        return *grads, *(None,) * 10


def _dense_gradients(pairs: Pairs, both: bool, gradients: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    """Gradients that can be differentiated again: the dense way, at the dense price in memory."""
    inputs = [t.view_as(t) for t in (pairs.q, pairs.k, pairs.scale)]  # views: q and k may be one tensor
    q, k, scale = inputs
    outputs = dense_partition(replace(pairs, q=q, k=q if pairs.one_set else k, scale=scale), both=both)
    chosen = [(out, g) for out, g in zip(outputs, gradients, strict=True) if out.requires_grad]
    differentiable = [t for t in inputs if t.requires_grad]
    derivatives = iter(
        torch.autograd.grad(
            [out for out, _ in chosen],
            differentiable,
            [g.to(out.dtype) for out, g in chosen],
            create_graph=True,
            materialize_grads=True,
        )
    )
    return tuple(next(derivatives) if t.requires_grad else None for t in inputs)
