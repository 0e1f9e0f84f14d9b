"""`sample_hard_negatives`: for each query one key of another group, the likelier the more alike they are.

One pass over blocks of keys, by the Gumbel-max trick on whole blocks: with L_b the log of a block's sum of exponentials
and E_b exponential noise, the block with the largest L_b - log E_b is drawn with probability exp(L_b) / sum exp(L).
Inside it one uniform number picks the key whose stretch of the cumulative sum it falls into. So a query needs two
random numbers a block instead of one a key, and the matrix of all pairs never exists.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nearfar.errors import UserError
from nearfar.ops.tiling import inputs
from nearfar.ops.tiling.tiles import LN2, Pairs, Tile, wide

BLOCK = 1024  # keys of a block. Part of what a seed means: another number gives other draws
ROWS = 512  # queries at a time, unless the caller says otherwise: a tile of 2 MiB stays in a near cache


@torch.no_grad()
def sample_hard_negatives(
    q: Tensor,
    k: Tensor,
    scale: float | Tensor,
    *,
    q_group: Tensor | None = None,
    k_group: Tensor | None = None,
    generator: torch.Generator | None = None,
    tile: int | None = None,
) -> Tensor:
    """For each query one key, drawn with probability `softmax_j(scale_i * <q_i, k_j>)` among the keys of other groups
    (ALBEF's hard negatives, arXiv 2107.07651; the weighting of arXiv 2010.04592).

    Keys of the query's own group leave before the softmax, not after it, so that however sharp the similarities are,
    the weights that are left do not all underflow. Costs one product of size N x M x D; memory is linear in N and M.

    Args:
        q: queries [N, D]; float32 or float64, half precision is computed in float32. Carries no gradient.
        k: keys [M, D].
        scale: inverse temperature, a number, a scalar tensor or one number a row [N]; 0 draws evenly.
        q_group, k_group: integers [N] and [M]. A key of the query's group is never drawn. Without them `k[i]` is the
            one positive of `q[i]`, and M >= N.
        generator: for draws that can be repeated, on the device of `q`.
        tile: queries at a time, 512 by default. The draws do not depend on it.

    Returns:
        [N] long: a row of k each, or -1 for a query that has no negative (a batch of one, or of duplicates only). Leave
        those rows out of the loss.

    Raises:
        UserError: shapes or options that do not fit together, embeddings or a scale that are not finite.

    >>> import torch
    >>> q = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    >>> sample_hard_negatives(q, q, 1000.0)  # so sharp that only the nearest of the others can be drawn
    tensor([1, 2, 1])
    >>> group = torch.tensor([0, 0, 1])
    >>> sample_hard_negatives(q, q, 1000.0, q_group=group, k_group=group)
    tensor([2, 2, 1])
    >>> sample_hard_negatives(q[:1], q[:1], 1.0)
    tensor([-1])
    """
    pairs = _pairs(q, k, scale, q_group, k_group, tile or ROWS)
    n, device = len(q), q.device
    drawn = torch.full((n,), -1, device=device)
    best = torch.full((n,), -math.inf, dtype=wide(pairs.q), device=device)
    scratch = pairs.scratch()
    for start in range(0, len(k), BLOCK):
        cols = slice(start, min(start + BLOCK, len(k)))
        where = torch.rand(n, dtype=best.dtype, device=device, generator=generator)
        noise = torch.empty_like(best).exponential_(generator=generator).clamp_(min=torch.finfo(best.dtype).tiny).log_()
        for first in range(0, n, pairs.tile[0]):
            rows = slice(first, min(first + pairs.tile[0], n))
            key, log_sum = _within(pairs, Tile(0, rows, cols, 0), where[rows], scratch)
            mark = log_sum - noise[rows]
            better = mark > best[rows]
            drawn[rows] = torch.where(better, key + start, drawn[rows])
            best[rows] = torch.where(better, mark, best[rows])
    return drawn


def _pairs(
    q: Tensor, k: Tensor, scale: float | Tensor, q_group: Tensor | None, k_group: Tensor | None, rows: int
) -> Pairs:
    if (q_group is None) != (k_group is None):
        raise UserError("pass both q_group [N] and k_group [M], or neither")
    if q_group is not None:
        pairs = inputs.pairs(q, k, scale, q_group=q_group, k_group=k_group, admit="different", tile=(rows, BLOCK))
    else:
        if len(k) < len(q):
            raise UserError(f"k[i] is the positive of q[i], so k needs at least the {len(q)} rows of q, not {len(k)}")
        pairs = inputs.pairs(q, k, scale, own=torch.arange(len(q), device=q.device), tile=(rows, BLOCK))
    if not math.isfinite(pairs.bound()):
        raise UserError("q, k or scale hold NaN or infinity: the embeddings or the temperature have diverged")
    return pairs


def _within(pairs: Pairs, tile: Tile, where: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor]:
    """For each query of a tile the key at which `where` (in [0, 1)) of the sum of exponentials is reached, and the log
    of that sum, minus infinity where no key counts."""
    queries = pairs.q[tile.rows] * pairs.scale[tile.rows, None]
    z = pairs.logits(tile, queries.mul_(1 / LN2), out=tile.view(scratch))
    top = z.amax(1, keepdim=True).clamp_(min=torch.finfo(z.dtype).min)
    reached = torch.exp2(z.sub_(top), out=z).cumsum_(1)
    total = reached[:, -1:].clone()
    # Below the total, so that there is a key beyond it, and that key's weight is not 0.
    target = torch.minimum((where[:, None] * total).to(z.dtype), total.nextafter(torch.zeros_like(total)))
    key = torch.searchsorted(reached, target, right=True).squeeze(1)
    return key, (total.squeeze(1).to(where.dtype).log2() + top.squeeze(1)) * LN2
