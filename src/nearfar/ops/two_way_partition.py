"""`two_way_partition`: every row on either side is an anchor with a scale of its own; its log-sum over the other side,
and the mean of its logits under its softmax (contrast with a temperature a sample, arXiv 2305.11965).

With S = q k^T in tiles, each tile serves the anchors of both sides,

    rows_i = log sum_j exp(s_i S_ij) ,  cols_j = log sum_i exp(t_j S_ij) ,  d rows_i / d log s_i = sum_j p_ij s_i S_ij ,

and the last, the softmax's mean of the logits, is summed beside the log-sum.
"""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nearfar.errors import UserError
from nearfar.ops.tiling import inputs
from nearfar.ops.tiling.dealing import deal, each
from nearfar.ops.tiling.dense import left_out, logsumexp
from nearfar.ops.tiling.float_products import add_mm
from nearfar.ops.tiling.kernels import limit
from nearfar.ops.tiling.operators import PAIRS, flat, operator, pairs_of
from nearfar.ops.tiling.products import product
from nearfar.ops.tiling.tiles import LN2, Pairs, Tile, tiles_to_keep, wide

HIDDEN = -1e30
"""What stands for minus infinity at pairs that do not count: times a weight of 0 it is 0, and not NaN."""


class Anchors(NamedTuple):
    """Of each anchor the log of its sum of exponentials, and the mean of its logits under its softmax, without
    gradient; each [N]."""

    log_sum: Tensor
    mean_logit: Tensor


def two_way_partition(
    q: Tensor,
    k: Tensor,
    q_scale: float | Tensor,
    k_scale: float | Tensor,
    *,
    q_group: Tensor | None = None,
    k_group: Tensor | None = None,
    one_set: bool = False,
    backend: str = "auto",
    budget: int | None = None,
    tile: int | None = None,
) -> tuple[Anchors, Anchors]:
    """Of each row of `q` the log of the sum over rows of `k` of exp(q_scale_i * <q_i, k_j>), and of each row of `k`
    the same over rows of `q` with k_scale_j; over pairs that do not belong together.

    Exact, differentiable in `q`, `k` and the scales, from one product forward and two to three backward; the [N, M]
    matrix never exists. Any vectors and scales above 0 are safe from overflow and underflow. Second derivatives go
    through the dense matrix.

    Args:
        q: [N, D]; float32 or float64, half precision is computed in float32.
        k: [M, D].
        q_scale: inverse temperature of each anchor of `q`, above 0: a number, a scalar tensor or [N].
        k_scale: the same of each anchor of `k`, [M].
        q_group, k_group: integers [N] and [M]; rows of one group do not meet. Without them `q[i]` and `k[i]` do not.
        one_set: `k` is `q` and `k_scale` is `q_scale`. A row does not meet itself, each pair is computed once, and both
            results are the same.
        backend: "auto", "tiled", or "dense" (a reference).
        budget: bytes of tiles kept for the backward pass; see `log_partition`.
        tile: rows of a tile; about 1,024 by default.

    Returns:
        For either side log-sums and mean logits, each [N] or [M] in float64 where the device has it. An anchor that
        meets nothing has minus infinity and 0.

    Raises:
        UserError: shapes or options that do not fit together, or `backend="ring"`.

    >>> import torch
    >>> q, k = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    >>> of_q, of_k = two_way_partition(q, k, 1.0, torch.tensor([2.0, 3.0]))
    >>> torch.stack([of_q.log_sum, of_k.log_sum]).exp()  # each meets one other: of <q_0, k_1> = 1 and <q_1, k_0> = 0
    tensor([[ 2.7183,  1.0000],
            [ 1.0000, 20.0855]], dtype=torch.float64)
    """
    if backend == "ring":
        raise UserError("scales on both sides need all rows in one process: gather them, and use backend='auto'")
    if (q_group is None) != (k_group is None):
        raise UserError("pass both q_group [N] and k_group [M], or neither")
    if one_set and len(q) != len(k):
        raise UserError(f"in one set k is q: they have {len(q)} and {len(k)} rows")
    if q_group is None and len(q) != len(k):
        raise UserError(f"q[i] and k[i] belong together: q has {len(q)} rows, k {len(k)}; or pass q_group and k_group")
    ids: dict[str, Any] = {} if q_group is None else {"q_group": q_group, "k_group": k_group, "admit": "different"}
    own = torch.arange(len(q), device=q.device) if q_group is None and not one_set else None
    pairs = inputs.pairs(q, k, 1.0, own=own, one_set=one_set, backend=backend, tile=tile, **ids)
    of_rows = inputs.per_row(q_scale, pairs.q, "q_scale")
    # One tensor on both sides becomes two views of it, for torch.compile.
    scales = of_rows, of_rows.view_as(of_rows) if k_scale is q_scale else inputs.per_row(k_scale, pairs.k, "k_scale")
    if backend == "dense":
        rows, cols, *means = _dense(pairs, *scales)
    else:
        tensors = [t for t in (pairs.q, pairs.k, *scales) if t.requires_grad]
        keep = tiles_to_keep(pairs.tiles, budget, pairs.q.element_size()) if tensors and torch.is_grad_enabled() else 0
        rows, cols, *means = _TwoWay.apply(*flat(pairs), *scales, keep)
    of_q = Anchors(rows, means[0])
    return of_q, of_q if one_set else Anchors(cols, means[1])


class _TwoWay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, ...]:
        rows, cols, row_means, col_means, kept = _forward(*args)
        ctx.save_for_backward(*args[:6], *args[11:13], rows, cols, row_means, col_means, kept)
        ctx.rest = args[6:11]
        ctx.mark_non_differentiable(row_means, col_means)
        return rows * LN2, cols * LN2, row_means, col_means

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        *tensors, q_scale, k_scale, rows, cols, row_means, col_means, kept = ctx.saved_tensors
        g_rows, g_cols = gradients[:2]
        pairs, needed = pairs_of(*tensors, *ctx.rest), ctx.needs_input_grad
        want = needed[0], needed[1], needed[11], needed[12]
        results: tuple[Tensor | None, ...]
        if torch.is_grad_enabled():
            results = _dense_gradients(pairs, q_scale, k_scale, (g_rows, g_cols), want)
        else:
            dq, dk = _backward(*flat(pairs), q_scale, k_scale, rows, cols, kept, g_rows, g_cols)
            dq_scale = (g_rows * row_means / q_scale).to(dq)
            if pairs.one_set:  # the columns are the rows, and q carries the whole gradient
                results = dq, None, dq_scale, None
            else:
                results = dq, dk, dq_scale, (g_cols * col_means / k_scale).to(dq)
        dq, dk, dq_scale, dk_scale = (g if w else None for g, w in zip(results, want, strict=True))
        return dq, dk, *(None,) * 9, dq_scale, dk_scale, None


def _shapes(*args: Any) -> tuple[Tensor, ...]:
    pairs = pairs_of(*args[:11])
    n, m = len(pairs.q), 0 if pairs.one_set else len(pairs.k)
    rows, cols, row_means, col_means = (pairs.q.new_empty(size, dtype=wide(pairs.q)) for size in (n, m, n, m))
    return rows, cols, row_means, col_means, pairs.q.new_empty(sum(tile.size for tile in pairs.tiles[: args[-1]]))


SCHEMA = f"{PAIRS}, Tensor q_scale, Tensor k_scale"


@operator(f"two_way_partition({SCHEMA}, int keep) -> (Tensor, Tensor, Tensor, Tensor, Tensor)", _shapes)
def _forward(*args: Any) -> tuple[Tensor, ...]:
    """Log-sums in base 2 and mean logits in base e, of rows and of columns ([0] for one set), and the first `keep`
    tiles of <q_i, k_j> in base 2."""
    *pairs_args, q_scale, k_scale, keep = args
    pairs = pairs_of(*pairs_args)
    q, tiles = pairs.q, pairs.tiles
    shares = deal(pairs)
    rows_of = [_Sums(q, len(q)) for _ in (shares if pairs.one_set else [0])]  # a column is a row of another share
    cols_of = rows_of if pairs.one_set else [_Sums(q, len(pairs.k)) for _ in shares]
    kept = q.new_empty(sum(tile.size for tile in tiles[:keep]))
    buffers = [(pairs.scratch(), pairs.scratch()) for _ in shares]
    bound = pairs.bound()
    bounded = [bound * float(s.max()) <= limit(q.dtype) if len(s) else True for s in (q_scale, k_scale)]

    def compute(index: int, pairs: Pairs, tiles: list[Tile]) -> None:
        of_rows, of_cols, (z_buffer, buffer) = rows_of[index % len(rows_of)], cols_of[index], buffers[index]
        for tile, queries in pairs.walk(tiles):
            z = tile.slot(kept) if tile.index < keep else tile.view(z_buffer)
            _products(pairs, tile, queries, z)
            of_rows.add(tile.rows, *_softmax(z, q_scale[tile.rows, None], 1, tile.view(buffer), bounded[0]))
            if not (pairs.one_set and tile.diagonal):  # which holds each pair twice, one a row
                of_cols.add(tile.cols, *_softmax(z, k_scale[None, tile.cols], 0, tile.view(buffer), bounded[1]))

    each(pairs, shares, compute)
    of_rows = _Sums.together(rows_of)
    cols = _Sums(q, 0) if pairs.one_set else _Sums.together(cols_of)
    return of_rows.logs, cols.logs, of_rows.means, cols.means, kept


class _Sums:
    """Log-sums in base 2 and softmax means, tile by tile."""

    def __init__(self, like: Tensor, size: int) -> None:
        self.logs = like.new_full((size,), -torch.inf, dtype=wide(like))
        self.means = torch.zeros_like(self.logs)

    @classmethod
    def together(cls, shares: list[_Sums]) -> _Sums:
        """Those of all shares, in the first."""
        for share in shares[1:]:
            shares[0].add(slice(None), share.logs, share.means)
        return shares[0]

    def add(self, where: slice, logs: Tensor, means: Tensor) -> None:
        before = self.logs[where]
        total = torch.logaddexp2(before, logs)
        reference = total.masked_fill(total == -torch.inf, 0.0)
        share = (before - reference).exp2_()
        self.means[where] = self.means[where] * share + means * (logs - reference).exp2_()
        self.logs[where] = total


def _products(pairs: Pairs, tile: Tile, queries: Tensor, out: Tensor) -> None:
    pairs.logits(tile, queries, out=out).clamp_(min=HIDDEN)


def _softmax(z: Tensor, scale: Tensor, dim: int, buffer: Tensor, bounded: bool) -> tuple[Tensor, Tensor]:
    """Of the tile's anchors along `dim` the log-sum in base 2, and the mean logit in base e."""
    x = torch.mul(z, scale, out=buffer)
    if bounded:
        top, nothing = x.new_zeros(()), None
    else:
        top = x.amax(dim, keepdim=True)
        nothing = (top < HIDDEN * scale / 2).squeeze(dim)
        x.sub_(top)
    total = torch.exp2(x, out=x).sum(dim).to(wide(x))
    mean = x.mul_(z).sum(dim).to(wide(x)) / total.clamp(min=torch.finfo(x.dtype).tiny) * scale.reshape(-1) * LN2
    logs = total.log2() + top.reshape(-1)
    if nothing is None:
        return logs, mean
    return logs.masked_fill(nothing, -torch.inf), mean.masked_fill(nothing, 0.0)


def _gradient_shapes(*args: Any) -> tuple[Tensor, Tensor]:
    q, k, one_set = args[0], args[1], args[7]
    return torch.empty_like(q), q.new_empty(0) if one_set else torch.empty_like(k)


@operator(
    f"two_way_partition_backward({SCHEMA}, Tensor rows, Tensor cols, Tensor kept, Tensor g_rows, Tensor g_cols) -> "
    "(Tensor, Tensor)",
    _gradient_shapes,
)
def _backward(*args: Any) -> tuple[Tensor, Tensor]:
    """Gradients to q [N, D] and k [M, D], from the log-sums and their upstream gradients."""
    *pairs_args, q_scale, k_scale, rows, cols, kept, g_rows, g_cols = args
    pairs = pairs_of(*pairs_args)
    q, k = pairs.q, pairs.k
    of_rows = _Factors(rows, g_rows, q_scale)
    of_cols = of_rows if pairs.one_set else _Factors(cols, g_cols, k_scale)
    shares = deal(pairs)
    dqs = [torch.zeros_like(q) for _ in (shares if pairs.one_set else [0])]
    dks = dqs if pairs.one_set else [torch.zeros_like(k) for _ in shares]
    buffers = [(pairs.scratch(), pairs.scratch(), pairs.scratch()) for _ in shares]

    def compute(index: int, pairs: Pairs, tiles: list[Tile]) -> None:
        z_buffer, one, other = buffers[index]
        for tile, queries in pairs.walk(tiles):
            z = tile.slot(kept) if tile.offset < len(kept) else tile.view(z_buffer)
            if tile.offset >= len(kept):
                _products(pairs, tile, queries, z)
            weights = of_rows.weights(z, tile.rows, 1, tile.view(one))
            if not (pairs.one_set and tile.diagonal):
                weights += of_cols.weights(z, tile.cols, 0, tile.view(other))
            add_mm(dqs[index % len(dqs)][tile.rows], weights, k[tile.cols])
            add_mm(dks[index][tile.cols], weights.t(), q[tile.rows])

    each(pairs, shares, compute)
    dq = reduce(Tensor.add_, dqs)
    return dq, q.new_zeros(0) if pairs.one_set else reduce(Tensor.add_, dks)


class _Factors:
    """What turns a tile of <q_i, k_j> into g_i * s_i * softmax, for the anchors of one side."""

    def __init__(self, logs: Tensor, g: Tensor, scale: Tensor) -> None:
        empty = logs == -torch.inf
        self.scale, self.logs = scale, logs.masked_fill(empty, torch.inf).to(scale.dtype)
        self.factor = (g.masked_fill(empty, 0.0) * scale).to(scale.dtype)

    def weights(self, z: Tensor, where: slice, dim: int, out: Tensor) -> Tensor:
        scale, logs, factor = (t[where].unsqueeze(dim) for t in (self.scale, self.logs, self.factor))
        return torch.mul(z, scale, out=out).sub_(logs).exp2_().mul_(factor)


def _dense(pairs: Pairs, q_scale: Tensor, k_scale: Tensor) -> tuple[Tensor, ...]:
    """The same by autograd, from the whole matrix."""
    z, hidden = product(pairs.q, pairs.k), left_out(pairs)
    logits = z * q_scale[:, None], z * k_scale[None, :]
    sums = [logsumexp(x, hidden, dim=dim) for x, dim in zip(logits, (1, 0), strict=True)]
    means = []
    for x, dim in zip(logits, (1, 0), strict=True):
        empty = hidden.all(dim, keepdim=True)
        p = x.detach().masked_fill(hidden & ~empty, -torch.inf).softmax(dim).masked_fill(hidden, 0.0)
        means.append((p * x.detach()).sum(dim))
    return *sums, *means


def _dense_gradients(
    pairs: Pairs, q_scale: Tensor, k_scale: Tensor, g: tuple[Tensor, Tensor], want: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Gradients that can be differentiated again."""
    copies = [t.view_as(t) for t in (pairs.q, pairs.k, q_scale, k_scale)]  # views: q and k may be one tensor
    if pairs.one_set:
        copies[1], copies[3], want = copies[0], copies[2], (want[0], False, want[2], False)
    rows, cols, *_ = _dense(replace(pairs, q=copies[0], k=copies[1]), copies[2], copies[3])
    outputs = [(rows, g[0])] if pairs.one_set else [(rows, g[0]), (cols, g[1])]
    derivatives = iter(
        torch.autograd.grad(
            [out for out, _ in outputs],
            [t for t, w in zip(copies, want, strict=True) if w],
            [upstream.to(out.dtype) for out, upstream in outputs],
            create_graph=True,
            materialize_grads=True,
        )
    )
    return tuple(next(derivatives) if w else None for w in want)
