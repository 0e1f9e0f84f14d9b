"""Any number of views of the same samples: unit rows, which of them are there, and the sums over pairs of views that
multi-view losses are made of (arXiv 2507.06979)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nearfar import ops
from nearfar.errors import UserError
from nearfar.losses.groups import refuse_ring, unit
from nearfar.losses.temperature import Tau, as_scale
from nearfar.ops.tiling import inputs
from nearfar.ops.tiling.products import product

Views = Tensor | Sequence[Tensor]
"""`[V, N, D]`, or V tensors `[N, D]`."""


class ViewRows(NamedTuple):
    """Unit rows `[V, N, D]`, the inverse temperature, which rows are there `[V, N]`, the samples' groups `[N]`."""

    z: Tensor
    scale: float | Tensor
    real: Tensor
    group: Tensor | None
    masked: bool


def view_rows(
    views: Views, temperature: Tau, mask: Tensor | None, group: Tensor | None, backend: str, loss: str
) -> ViewRows:
    """The checked arguments of a loss of that name: `views` `[V, N, D]`, floating point, `temperature`, a scalar,
    `mask` `[V, N]` and `group` `[N]`, integers; rows on the unit sphere, float32 or float64.

    Raises:
        UserError: shapes that do not fit together, fewer than two views, a temperature that is not one number, or
            `backend="ring"`.
    """
    views = stack_views(views)
    refuse_ring(backend, loss)
    real = torch.ones(views.shape[:2], dtype=torch.bool, device=views.device) if mask is None else mask.bool()
    if real.shape != views.shape[:2]:
        raise UserError(f"mask must be [V, N] = {tuple(views.shape[:2])}, got {tuple(real.shape)}")
    if mask is not None:
        views = views.masked_fill(~real[..., None], 0)  # a view that is missing may hold anything, NaN too
    if group is not None:
        group = inputs.group_ids(group, views.shape[1], "group")
    return ViewRows(unit(views), as_scale(temperature), real, group, mask is not None)


def stack_views(views: Views) -> Tensor:
    """`[V, N, D]`, floating point.

    Raises:
        UserError: views of several shapes, or fewer than two.
    """
    if not isinstance(views, Tensor):
        if len({tuple(view.shape) for view in views}) != 1:
            raise UserError(f"views must have one shape [N, D], got {[tuple(view.shape) for view in views]}")
        views = torch.stack(list(views))
    if views.ndim != 3 or not views.is_floating_point():
        raise UserError(f"views must be floating-point [V, N, D], got shape {inputs.describe(views)}")
    if len(views) < 2:
        raise UserError(f"views must hold two views at least, got {len(views)}: one has no positive pair")
    return views


def other_samples(x: ViewRows, *, within: bool, across: bool, backend: str) -> Tensor:
    """Each row's log-sum over the rows of other samples, `[V, N]` float64; minus infinity where there are none, and for
    views that are missing."""
    if not x.masked:
        group = None if x.group is None else [x.group] * len(x.z)
        sums = ops.view_partition(x.z.unbind(), x.scale, group=group, within=within, across=across, backend=backend)
        return torch.stack(sums)
    ids = torch.arange(x.z.shape[1], device=x.z.device) if x.group is None else x.group
    rows = [z[here] for z, here in zip(x.z, x.real, strict=True)]
    group = [ids[here] for here in x.real]
    sums = ops.view_partition(rows, x.scale, group=group, within=within, across=across, backend=backend)
    out = [x.real.new_full(here.shape, -math.inf, dtype=s.dtype) for here, s in zip(x.real, sums, strict=True)]
    return torch.stack([o.masked_scatter(here, s) for o, here, s in zip(out, x.real, sums, strict=True)])


def similarities(x: ViewRows) -> Tensor:
    """s of a sample's own views, `[N, V, V]`, floating point."""
    z = x.z.transpose(0, 1)
    return product(z, z.view_as(z)) * x.scale  # torch.compile wants two arguments


def view_pairs(x: ViewRows) -> Tensor:
    """Which of a sample's pairs of views are there and differ, `[N, V, V]` bool."""
    real = x.real.t()
    return real[:, :, None] & real[:, None, :] & ~torch.eye(len(x.z), dtype=torch.bool, device=x.z.device)


def aligned(x: ViewRows) -> Tensor:
    """log A_i, `[N]`, floating point; 0 for a sample with one view or none."""
    counts = complete(x)
    s = similarities(x).masked_fill(~view_pairs(x), -math.inf).flatten(1)
    return torch.logsumexp(s.masked_fill(~counts[:, None], 0.0), 1).masked_fill(~counts, 0.0)


def complete(x: ViewRows) -> Tensor:
    """Samples with two views at least, `[N]` bool: the others are no positives, but their rows stay negatives."""
    return x.real.sum(0) > 1


def mean_over(loss: Tensor, counts: Tensor, z: Tensor) -> Tensor:
    """The mean of `loss` `[N]` over what `counts` `[N]`, bool, in the type of `z` `[V, N, D]`; 0 where nothing does."""
    return (loss.masked_fill(~counts, 0.0).sum() / counts.sum().clamp(min=1)).to(z.dtype)
