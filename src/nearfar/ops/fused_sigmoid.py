"""`sigmoid`: every pair a yes-or-no question (SigLIP, arXiv 2303.15343), with gradients formed in the one pass over
the tiles."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from nearfar.errors import UserError
from nearfar.ops.softplus import BIASED_PAIRS, accumulate, is_safe, softplus_rows, softplus_tile
from nearfar.ops.tiling import inputs
from nearfar.ops.tiling.dealing import deal, each
from nearfar.ops.tiling.dense import dense_softplus
from nearfar.ops.tiling.kernels import finish_gradients
from nearfar.ops.tiling.one_pass import one_pass
from nearfar.ops.tiling.operators import flat, operator, pairs_of
from nearfar.ops.tiling.process_ranks import block_sizes, next_block, second_derivatives
from nearfar.ops.tiling.tiles import Pairs, Tile, own_logits, wide

LARGE, SIDE = 4096, 2048  # from so many rows and columns on, tiles of that side: keys are read half as often


def sigmoid(
    q: Tensor,
    k: Tensor,
    scale: float | Tensor,
    bias: float | Tensor,
    *,
    q_group: Tensor | None = None,
    k_group: Tensor | None = None,
    reduction: str = "mean",
    backend: str = "auto",
    tile: int | tuple[int, int] | None = None,
) -> Tensor:
    """`sum_ij -log sigmoid(y_ij * (scale * <q_i, k_j> + bias)) / N`, where y_ij is +1 for a pair and -1 otherwise.

    Three products of size N x M x D, forward and backward together: each tile is computed once.

    Args:
        q: queries [N, D].
        k: keys [M, D].
        scale, bias: a number, a scalar tensor or one number a row [N]. SigLIP starts at 10 and -10.
        q_group, k_group: integers [N] and [M]; pairs of equal groups are positive. Without them `k[i]` is the one
            positive of `q[i]`, and M >= N.
        reduction: "mean" over the rows, or "none": the row sums [N].
        backend: "auto", "tiled", "dense", or "ring" (as in `info_nce`; all ranks must scale their losses alike).
        tile: as in `log_partition`; by default 2,048 where N and M are at least 4,096.

    Raises:
        UserError: shapes or options that do not fit together.

    >>> import torch
    >>> sigmoid(torch.eye(2), torch.eye(2), 1.0, 0.0)  # log(1 + 1/e) + log 2
    tensor(1.0064)
    """
    if reduction not in ("mean", "none"):
        raise UserError(f"reduction must be 'mean' or 'none', not {reduction!r}")
    if (q_group is None) != (k_group is None):
        raise UserError("pass both q_group [N] and k_group [M], or neither")
    if tile is None and min(len(q), len(k)) >= LARGE:
        tile = SIDE
    own = None
    if q_group is None:
        if len(k) < len(q):
            raise UserError(f"k[i] is the positive of q[i], so k needs at least the {len(q)} rows of q, not {len(k)}")
        own = torch.arange(len(q), device=q.device)
    else:
        q_group, k_group = inputs.group_ids(q_group, len(q), "q_group"), inputs.group_ids(k_group, len(k), "k_group")
        k_group = k_group.view_as(k_group)  # torch.compile wants two arguments where one tensor serves both sides
    pairs = replace(
        inputs.pairs(q, k, scale, own=own, backend=backend, tile=tile), q_group=q_group, k_group=k_group, admit="sign"
    )
    bias = inputs.per_row(bias, pairs.q, "bias")
    p = flat(pairs)
    if backend == "ring":
        if reduction == "none":
            raise UserError("the ring forms gradients in the forward pass: it needs reduction='mean'")
        return _ring_sigmoid(*p[:3], bias, *p[3:]).to(pairs.q.dtype)
    if reduction == "mean" and backend != "dense":
        return _sigmoid(*p[:3], bias, *p[3:]).to(pairs.q.dtype)
    rows = softplus_rows(pairs, bias, backend)
    if own is not None:
        rows = rows - logsigmoid(((pairs.q * pairs.k[: len(pairs.q)]).sum(1) * pairs.scale + bias).to(rows.dtype))
    return (rows.mean() if reduction == "mean" else rows).to(pairs.q.dtype)


def _shapes(*args: Any) -> tuple[Tensor, ...]:
    q, k, gradients = args[0], args[1], args[-1]
    shapes = (q.shape, k.shape, q.shape[:1], q.shape[:1]) if gradients else ((0,),) * 4
    return q.new_empty((), dtype=wide(q)), *(q.new_empty(shape) for shape in shapes)


@operator(f"sigmoid({BIASED_PAIRS}, bool gradients) -> (Tensor, Tensor, Tensor, Tensor, Tensor)", _shapes)
def sigmoid_kernel(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The mean loss of the rows and its gradients to q, k, scale and bias."""
    q, k, scale, bias, *rest, gradients = args
    pairs = pairs_of(q, k, scale, *rest)
    shares = deal(pairs)
    losses, scratches = [q.new_zeros((), dtype=wide(q)) for _ in shares], [pairs.scratch() for _ in shares]
    dq, *dks = (torch.zeros_like(t) if gradients else t.new_empty(0) for t in (q, *[k] * len(shares)))
    dbias = q.new_zeros(len(q) if gradients else 0, dtype=wide(q))
    n, safe = len(q), is_safe(pairs, bias)

    def compute(index: int, pairs: Pairs, tiles: list[Tile]) -> None:
        for tile, queries in pairs.walk(tiles):
            z = tile.view(scratches[index])
            sums = softplus_tile(pairs, tile, queries, bias, z, safe=safe)
            losses[index] += sums.sum(dtype=wide(q))
            if gradients:
                accumulate(tile, queries, z, k, dq, dks[index], dbias, 1 / n)

    each(pairs, shares, compute)
    loss, dk = (reduce(Tensor.add_, sums) for sums in (losses, dks))
    positive = None if pairs.own is None else own_logits(pairs) + bias
    if positive is not None:
        loss -= logsigmoid(positive).sum()
    if not gradients:
        return loss / n, dq, dk, q.new_empty(0), q.new_empty(0)
    g_own = dbias.new_zeros(n) if positive is None else torch.sigmoid(-positive).div_(-n)
    dbias += g_own
    return loss / n, *finish_gradients(pairs, dq, dk, g_own), dbias.to(q.dtype)


def _reference(q: Tensor, k: Tensor, scale: Tensor, bias: Tensor, *rest: Any) -> Tensor:
    pairs: Pairs = pairs_of(q, k, scale, *rest)
    rows = dense_softplus(pairs, bias)
    if pairs.own is not None:
        rows = rows - logsigmoid((q * k[pairs.own]).sum(1) * scale + bias)
    return rows.mean()


_sigmoid = one_pass(sigmoid_kernel, _reference)


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
        block = [loss, dq, *others]
        totals = block if not totals else [a.add_(b) for a, b in zip(totals, block, strict=True)]
        if gradients:
            dk = dk.add_(dkeys, alpha=share)
        keys, groups, (dk,) = next_block(sizes, step, keys, groups, [dk])
    if not len(q):
        totals[0] = torch.zeros_like(totals[0])  # the mean of no rows is NaN, and weighs nothing
    loss, dq, *others = (total.mul_(share) for total in totals)
    return loss, dq, dk, *others


def _no_reference(*args: Any) -> Tensor:
    raise second_derivatives()


_ring_sigmoid = one_pass(_ring_sigmoid_kernel, _no_reference)
