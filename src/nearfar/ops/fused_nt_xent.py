"""`nt_xent`: two views of each sample in one set; each row must find its other view among all the others
(SimCLR, arXiv 2002.05709)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from nearfar.errors import UserError
from nearfar.ops.tiling import inputs
from nearfar.ops.tiling.one_tile import cross_entropy, is_one_tile
from nearfar.ops.tiling.partition import partition
from nearfar.ops.tiling.process_ranks import rank_mean, sample_ids
from nearfar.ops.tiling.tiles import needs_gradient


def nt_xent(
    z: Tensor,
    scale: float | Tensor,
    *,
    group: Tensor | None = None,
    reduction: str = "mean",
    backend: str = "auto",
    budget: int | None = None,
    tile: int | None = None,
) -> Tensor:
    """Cross-entropy of each row's other view among all rows but itself (SimCLR's loss), on average.

    The logits are symmetric, so only upper tiles are computed: 2 products of size 2N x 2N x D forward and backward,
    1.5 when every tile is kept; the positive is joined by log1p, as in `info_nce`.

    Args:
        z: both views in one set [2N, D]. Without `group` the first N rows are one view and the last N the other.
        scale: inverse temperature, a number or a scalar tensor.
        group: integers [2N] that name each row's sample, each exactly twice (any order).
        reduction: "mean", or "none" for losses [2N].
        backend, budget, tile: as in `log_partition`. With "ring", z holds both views of this rank's samples, and the
            mean over ranks is the loss of all rows; `group`, if given, names samples across ranks.

    Raises:
        UserError: an odd number of rows, a group that does not come exactly twice, a scale per row.

    >>> import torch
    >>> nt_xent(torch.eye(2).repeat(2, 1), 1.0)  # log(1 + 2/e)
    tensor(0.5514)
    """
    if reduction not in ("mean", "none"):
        raise UserError(f"reduction must be 'mean' or 'none', not {reduction!r}")
    if isinstance(scale, Tensor) and scale.numel() != 1:
        raise UserError(f"in one set a pair has one scale: pass a number, not {inputs.describe(scale)}")
    partner = partners(z, group)
    if backend == "ring":
        sample = sample_ids(len(z), z.device) if group is None else group
        pairs = inputs.pairs(
            z, z, scale, own=partner, q_group=sample, k_group=sample, admit="different", backend=backend, tile=tile
        )
    else:
        pairs = inputs.pairs(z, z, scale, own=partner, one_set=True, backend=backend, tile=tile)
    if reduction == "mean" and backend in ("auto", "tiled") and needs_gradient(pairs) and is_one_tile(pairs):
        return cross_entropy(pairs).to(pairs.q.dtype)
    others, _, positive = partition(pairs, backend=backend, budget=budget)
    losses = -logsigmoid(positive - others).to(pairs.q.dtype)
    if reduction == "mean" and backend == "ring":
        return rank_mean(losses)
    return losses.mean() if reduction == "mean" else losses


def partners(z: Tensor, group: Tensor | None) -> Tensor:
    """Each row's other view, [2N]."""
    n = len(z)
    if n % 2:
        raise UserError(f"z must hold two views of each sample, an even number of rows, not {n}")
    if group is None:
        return torch.arange(n, device=z.device).roll(n // 2)
    group = inputs.group_ids(group, n, "group")
    order = group.argsort(stable=True).view(-1, 2)
    first, second = group[order].unbind(1)
    if not torch.compiler.is_compiling() and (bool((first != second).any()) or bool((first[1:] == first[:-1]).any())):
        raise UserError(
            "each id of group must name exactly two rows; for more views of a sample see the supervised loss"
        )
    return torch.empty_like(order).view(-1).scatter_(0, order.view(-1), order.flip(1).reshape(-1))
