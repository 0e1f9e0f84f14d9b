"""`margin_ranking`: each positive must lie a margin above the negatives (VSE++, arXiv 1707.05612), with gradients
formed in one pass over strips of whole rows.

The loss is piecewise linear in the similarities, so that its derivative by each of them is a count. All triplets of a
row are counted without going through them: for each negative, how many of the row's sorted positives it comes too close
to, and their sum.
"""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from nearfar.errors import UserError
from nearfar.ops.tiling import inputs
from nearfar.ops.tiling.dealing import deal, each
from nearfar.ops.tiling.float_products import add_mm, mm
from nearfar.ops.tiling.one_pass import one_pass
from nearfar.ops.tiling.operators import operator
from nearfar.ops.tiling.products import product
from nearfar.ops.tiling.tiles import Pairs, Tile, wide

STRIP, THINNEST, THICKEST = 1 << 20, 8, 1024  # similarities of a strip, and rows: masks and counts lie beside each


def margin_ranking(
    q: Tensor,
    k: Tensor,
    margin: float,
    *,
    positive: Tensor | None = None,
    q_group: Tensor | None = None,
    k_group: Tensor | None = None,
    against: str = "hardest",
    tile: int | None = None,
) -> Tensor:
    """The mean, over queries that have a positive and a negative, of
    `mean_p max(0, margin - <q_i, k_p> + max_n <q_i, k_n>)`, or of the mean over all its pairs p, n.

    Two products of size N x M x D beside the similarities' own; memory is linear in N and M.

    Args:
        q: queries [N, D].
        k: keys [M, D].
        margin: by how much a positive must be nearer, in the unit of the products.
        positive: integers [P, 2], the query and the key of each positive pair, any number of a query; or a mask [N, M],
            bool.
        q_group, k_group: integers [N] and [M]. Keys of a query's group are its positives; with `positive`, those of
            them that it does not name count for nothing. Without all three `k[i]` is the one positive of `q[i]`, and
            M >= N.
        against: the "hardest" negative, the nearest one, or the "mean" over all.
        tile: rows of a strip; by default a strip holds about a million similarities.

    Returns:
        A scalar in the type of q; 0 where no query has both.

    Raises:
        UserError: shapes or options that do not fit together.

    >>> import torch
    >>> q, k = torch.ones(1, 1), torch.tensor([[0.2], [0.5], [0.0]])
    >>> margin_ranking(q, k, 1.0)  # 1 - 0.2 + 0.5
    tensor(1.3000)
    >>> margin_ranking(q, k, 1.0, against="mean")  # (1.3 + 0.8) / 2
    tensor(1.0500)
    """
    if against not in ("hardest", "mean"):
        raise UserError(f"against must be 'hardest' or 'mean', not {against!r}")
    if not math.isfinite(margin):
        raise UserError(f"margin must be a number, not {margin}")
    checked = inputs.pairs(q, k, 1.0)
    q, k = checked.q, checked.k
    positive, q_group, k_group = inputs.near(positive, q_group, k_group, len(q), len(k), q.device)
    rows = tile or min(max(STRIP // max(len(k), 1), THINNEST), THICKEST)
    return _margin(q, k, positive, q_group, k_group, float(margin), against == "hardest", rows).to(q.dtype)


SCHEMA = "Tensor q, Tensor k, Tensor? positive, Tensor? q_group, Tensor? k_group, float margin, bool hardest, int rows"


def _shapes(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    q, k, gradients = args[0], args[1], args[-1]
    shapes = (q.shape, k.shape) if gradients else ((0,), (0,))
    return q.new_empty((), dtype=wide(q)), *(q.new_empty(shape) for shape in shapes)


@operator(f"margin_ranking({SCHEMA}, bool gradients) -> (Tensor, Tensor, Tensor)", _shapes)
def _kernel(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The mean loss of the queries that count, and its gradients to q and k."""
    q, k, positive, q_group, k_group, margin, hardest, rows, gradients = args
    pairs = Pairs(q, k, q.new_ones(1).expand(len(q)), tile=(rows, max(len(k), 1)))
    shares = deal(pairs)
    sums = [q.new_zeros(2, dtype=wide(q)) for _ in shares]  # of losses and of the rows that count
    dq, *dks = (torch.zeros_like(t) if gradients else t.new_empty(0) for t in (q, *[k] * len(shares)))

    def compute(index: int, pairs: Pairs, strips: list[Tile]) -> None:
        for strip in strips:
            at = strip.rows
            s = mm(q[at], k.t(), out=q.new_empty(strip.shape))
            near, far = _masks(at, positive, q_group, k_group, s)
            values, slopes, counts = _rows(s, near, far, margin, hardest)
            sums[index] += torch.stack([values.sum(dtype=wide(q)), counts.sum()])
            if gradients:
                mm(slopes, k, out=dq[at])
                add_mm(dks[index], slopes.t(), q[at])

    each(pairs, shares, compute)
    (loss, count), dk = reduce(Tensor.add_, sums), reduce(Tensor.add_, dks)
    count.clamp_(min=1)
    return loss / count, dq.div_(count), dk.div_(count)


def _masks(
    at: slice, positive: Tensor | None, q_group: Tensor | None, k_group: Tensor | None, s: Tensor
) -> tuple[Tensor, Tensor]:
    """Which keys are the positives and which the negatives of some rows, `[R, M]` bool."""
    same = None if q_group is None or k_group is None else q_group[at, None] == k_group
    if positive is None:
        assert same is not None
        return same, ~same
    near = torch.zeros_like(s, dtype=torch.bool)
    start, stop = torch.searchsorted(positive[:, 0].contiguous(), torch.tensor([at.start, at.stop], device=s.device))
    row, key = positive[start:stop].unbind(1)
    near[row - at.start, key] = True
    return near, ~near if same is None else ~(near | same)


def _rows(s: Tensor, near: Tensor, far: Tensor, margin: float, hardest: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Of similarities `[R, M]`: each row's loss `[R]`, its derivative by each similarity `[R, M]`, and whether the row
    counts `[R]` bool: others have a loss of 0. NaN stays NaN."""
    positives, negatives = near.sum(1), far.sum(1)
    counts = (positives > 0) & (negatives > 0)
    terms = positives if hardest else positives * negatives
    share = counts.to(s.dtype) / terms.clamp(min=1)
    values, slopes = (_hardest if hardest else _all)(s, near, far, margin)
    return values.masked_fill_(~counts, 0.0).mul_(share), slopes.mul_(share[:, None]), counts


def _hardest(s: Tensor, near: Tensor, far: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """The sum over a row's positives against its nearest negative, and how often each similarity counts in it."""
    top, place = s.masked_fill(~far, -math.inf).max(1, keepdim=True)
    gap = (margin - s).add_(top).masked_fill_(~near, 0.0).clamp_(min=0)
    slopes = (gap > 0).to(s.dtype).neg_()
    return gap.sum(1), slopes.scatter_add_(1, place, slopes.sum(1, keepdim=True).neg_())


def _all(s: Tensor, near: Tensor, far: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """The same over all pairs of a positive and a negative. With a row's positives in order, a negative n comes too
    close to the first c of them: its terms are c (s_n + margin) less their sum."""
    most = max(int(near.sum(1).max()), 1) if len(s) else 0
    ordered, key = s.masked_fill(~near, math.inf).topk(most, dim=1, largest=False, sorted=True)
    reach = s + margin
    close = torch.searchsorted(ordered.contiguous(), reach).mul_(far)
    sums = torch.nn.functional.pad(ordered.masked_fill(ordered.isposinf(), 0.0).cumsum(1), (1, 0))
    terms = (reach.mul_(close) - sums.gather(1, close)).mul_(far)
    slopes = close.to(s.dtype)
    # A positive of rank r is met by the negatives that come too close to more than r.
    met = torch.zeros_like(sums).scatter_add_(1, close, far.to(s.dtype))
    met = met[:, 1:].flip(1).cumsum(1).flip(1)
    return terms.sum(1), slopes.scatter_add_(1, key, met.neg_())


def _reference(q: Tensor, k: Tensor, *rest: Any) -> Tensor:
    """The same by autograd: between its bends the loss is linear in the similarities."""
    positive, q_group, k_group, margin, hardest, _ = rest
    s = product(q, k)
    with torch.no_grad():
        near, far = _masks(slice(0, len(q)), positive, q_group, k_group, s)
        values, slopes, counts = _rows(s, near, far, margin, hardest)
        offset = values.sum() - (slopes * s).sum()
    return (offset + (slopes * s).sum()) / counts.sum().clamp(min=1)


_margin = one_pass(_kernel, _reference)
