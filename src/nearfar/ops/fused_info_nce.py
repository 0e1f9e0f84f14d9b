"""`info_nce`: each query must find its own key among all keys, and with `symmetric` each key its own query
(InfoNCE of CPC, arXiv 1807.03748; symmetric as in CLIP, arXiv 2103.00020)."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from nearfar.errors import UserError
from nearfar.ops.tiling import inputs
from nearfar.ops.tiling.dealing import deal, each
from nearfar.ops.tiling.half_products import half_pays
from nearfar.ops.tiling.kernels import finish_gradients, limit
from nearfar.ops.tiling.one_pass import one_pass
from nearfar.ops.tiling.one_tile import cross_entropy, is_one_tile
from nearfar.ops.tiling.operators import PAIRS, flat, operator, pairs_of
from nearfar.ops.tiling.partition import partition
from nearfar.ops.tiling.process_ranks import rank_mean
from nearfar.ops.tiling.tiles import LN2, Pairs, Tile, needs_gradient, own_logits, wide

STRIP = 4 << 20  # entries of a strip of whole rows: 16 MiB of float32
THINNEST, WIDEST = 128, 16 << 20  # rows a product needs to run at speed, and entries a strip may have for their sake


def info_nce(
    q: Tensor,
    k: Tensor,
    scale: float | Tensor,
    *,
    symmetric: bool = True,
    positive: Tensor | None = None,
    group: Tensor | None = None,
    reduction: str = "mean",
    backend: str = "auto",
    budget: int | None = None,
    tile: int | tuple[int, int] | None = None,
) -> Tensor:
    """Cross-entropy of each query's own key: `log sum_j exp(scale * <q_i, k_j>) - scale * <q_i, k_i>`, on average.

    The own pair is kept apart from the sum and joined by log1p, so that value and gradients keep their digits when
    the loss is close to zero. In products of N x M x D, forward and backward: 4 - f for two directions, where f is
    the fraction of tiles kept; 3 for one direction, in strips of whole rows, keeping none (2 where the keys want no
    gradient, as those of a queue).

    Args:
        q: queries [N, D]. The positive of `q[i]` is `k[i]`.
        k: keys [M, D], M >= N; rows beyond N are extra negatives of every query.
        scale: inverse temperature, a number, a scalar tensor or one number a row [N].
        symmetric: average with the other direction, in which each of the first N keys is matched with its query.
        positive: positives [N, D] that stand apart from the keys, all of which are then negatives of every query, as
            those in MoCo's queue are (arXiv 1911.05722). Only with `symmetric=False` and without `group`.
        group: integers [M] (or [N] when M = N). Entries of equal groups, but for the own pair, are left out: they
            would be false negatives (the same caption twice, two photos of one thing).
        reduction: "mean", or "none": losses [N], or [2, N] with `symmetric` (queries, then keys).
        backend, budget, tile: as in `log_partition`. One direction keeps nothing, whatever the budget, unless a `tile`
            narrower than M puts it on the general loop. With "ring", N and M count this rank's rows, keys of all
            ranks are negatives, and the mean over ranks of the returned losses (and of parameter gradients, as DDP
            does) is that of one process with all rows.

    Raises:
        UserError: shapes or options that do not fit together.

    >>> import torch
    >>> info_nce(torch.eye(2), torch.eye(2), 1.0)  # log(1 + 1/e)
    tensor(0.3133)
    """
    n, m = len(q), len(k)
    if positive is not None and (symmetric or group is not None or positive.shape != q.shape):
        raise UserError(
            f"positive holds one row a query, {list(q.shape)}, and goes with symmetric=False and without group"
        )
    if positive is None and m < n:
        raise UserError(f"k[i] is the positive of q[i], so k needs at least the {n} rows of q, not {m}")
    if reduction not in ("mean", "none"):
        raise UserError(f"reduction must be 'mean' or 'none', not {reduction!r}")
    groups: dict[str, Any] = {}
    if group is not None:
        group = inputs.group_ids(group, m, "group")
        groups = {"q_group": group[:n], "k_group": group, "admit": "different"}
    own = torch.arange(n, device=q.device) if positive is None else None
    pairs = inputs.pairs(q, k, scale, own=own, backend=backend, tile=tile, **groups)
    positive = None if positive is None else positive.to(pairs.q.dtype)
    in_one_pass = reduction == "mean" and backend in ("auto", "tiled") and needs_gradient(pairs)
    if positive is not None and positive.requires_grad:  # which gives no gradient to positives apart
        in_one_pass = False
    if in_one_pass and is_one_tile(pairs):
        return cross_entropy(pairs, positive, both=symmetric).to(pairs.q.dtype)
    if in_one_pass and not symmetric:
        rows, columns = pairs.tile if tile is not None else (strip_rows(m), m)
        if rows and columns >= m:
            pairs = replace(pairs, tile=(rows, max(m, 1)), half=half_pays(pairs.q, pairs.k))
            return _one_direction(*_arguments(pairs, positive), k.requires_grad).to(pairs.q.dtype)
    others, cols, logits = partition(pairs, both=symmetric, backend=backend, budget=budget)
    logits = logits if positive is None else _apart_logits(pairs, positive)
    losses = [-logsigmoid(logits - side).to(pairs.q.dtype) for side in (others, cols[:n])[: 1 + symmetric]]
    if reduction == "none":
        return torch.stack(losses) if symmetric else losses[0]
    if backend == "ring":
        return rank_mean(torch.stack(losses))
    return torch.stack([side.mean() for side in losses]).mean()


def strip_rows(m: int) -> int:
    """How many whole rows fit a strip; 0 where the keys are too many for a strip thick enough to be fast."""
    rows = STRIP // max(m, 1)
    if rows >= THINNEST:
        return min(rows, 1024)
    return THINNEST if THINNEST * m <= WIDEST else 0


def _arguments(pairs: Pairs, apart: Tensor | None) -> tuple[Any, ...]:
    """The pairs as the argument list of the operator, with the positives that are not among the keys."""
    tensors, rest = flat(pairs)[:6], flat(pairs)[6:]
    return *tensors, apart, *rest


def _apart_logits(pairs: Pairs, apart: Tensor) -> Tensor:
    """scale_i * <q_i, apart_i>, [N], summed in float64."""
    return (pairs.q * apart).sum(1, dtype=wide(pairs.q)) * pairs.scale


def _rows_shapes(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q, k, want_k, gradients = args[0], args[1], args[-2], args[-1]
    shapes = (q.shape, k.shape if want_k else (0,), q.shape[:1]) if gradients else ((0,),) * 3
    dq, dk, dscale = (q.new_empty(shape) for shape in shapes)
    return q.new_empty((), dtype=wide(q)), dq, dk, dscale


SCHEMA = PAIRS.replace("str admit", "Tensor? apart, str admit")


@operator(f"info_nce_rows({SCHEMA}, bool want_k, bool gradients) -> (Tensor, Tensor, Tensor, Tensor)", _rows_shapes)
def _rows_kernel(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The mean loss of the rows and its gradients to q, k and scale. Rows finish inside their strip, so the
    probabilities are known while the strip is still there."""
    *tensors, apart = args[:7]
    *rest, want_k, gradients = args[7:]
    pairs = pairs_of(*tensors, *rest)
    q, k, n = pairs.q, pairs.k, len(pairs.q)
    positive = own_logits(pairs) if apart is None else _apart_logits(pairs, apart)
    g_own = torch.empty_like(positive)
    keys = pairs.keys
    dq = torch.zeros_like(q) if gradients else q.new_empty(0)
    shares = deal(pairs)
    dks = [torch.zeros_like(k) if gradients and want_k else q.new_empty(0) for _ in shares]
    losses, scratches = [positive.new_zeros(()) for _ in shares], [pairs.scratch() for _ in shares]
    bounded = pairs.bound() <= limit(q.dtype)

    def compute(index: int, pairs: Pairs, tiles: list[Tile]) -> None:
        for tile, queries in pairs.walk(tiles):
            z = pairs.logits(tile, queries, out=tile.view(scratches[index]))
            top = z.new_zeros(()) if bounded else z.amax(1, keepdim=True).clamp_(min=torch.finfo(z.dtype).min)
            torch.exp2(z if bounded else z.sub_(top), out=z)
            total = z.sum(1).to(wide(z))
            gap = (total.log2() + top.reshape(-1)) * LN2 - positive[tile.rows]  # log of (all the others / own)
            losses[index] -= logsigmoid(-gap).sum()
            if gradients:
                wrong = gap.sigmoid() / n  # 1 - p of the own key, without forming the difference
                g_own[tile.rows] = -wrong
                share = (wrong / total.clamp_(min=torch.finfo(z.dtype).tiny)).to(z.dtype)[:, None]
                z = pairs.rounded(tile, z)
                pairs.add_product(dq[tile.rows], z, keys).mul_(share)
                if want_k:
                    pairs.add_product(dks[index], z.t(), queries.mul_(share), alpha=LN2)

    each(pairs, shares, compute)
    loss, dk = (reduce(Tensor.add_, sums) for sums in (losses, dks))
    if not gradients:
        return loss / n, dq, dk, q.new_empty(0)
    if apart is not None:
        dq.addcmul_(apart, g_own[:, None].to(q.dtype))
    return loss / n, *finish_gradients(pairs, dq, dk, g_own)


def _rows_reference(*args: Any) -> Tensor:
    *tensors, apart = args[:7]
    pairs = pairs_of(*tensors, *args[7:-1])
    rows, _, positive = partition(pairs, backend="dense")
    if apart is not None:
        positive = _apart_logits(pairs, apart)
    return -logsigmoid(positive - rows).mean()


_one_direction = one_pass(_rows_kernel, _rows_reference)
