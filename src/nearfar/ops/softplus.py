"""`pairwise_softplus`: the sibling of `log_partition` in which every pair is a yes-or-no question of its own,
as in SigLIP (arXiv 2303.15343)."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor

from nearfar.errors import UserError
from nearfar.ops.tiling import inputs
from nearfar.ops.tiling.dealing import deal, each
from nearfar.ops.tiling.dense import dense_softplus
from nearfar.ops.tiling.float_products import add_mm
from nearfar.ops.tiling.kernels import exponentials_, finish_gradients
from nearfar.ops.tiling.operators import PAIRS, flat, operator, pairs_of
from nearfar.ops.tiling.tiles import LN2, LOG2E, Pairs, Tile, needs_gradient, tiles_to_keep, wide

SAFE = 60.0  # exp2 of twice this does not overflow float32: two exponentials are multiplied
STRIP = 256  # rows of a tile that the passes take in turn: they stay in a near cache, and need little room


def pairwise_softplus(
    q: Tensor,
    k: Tensor,
    scale: float | Tensor,
    bias: float | Tensor = 0.0,
    *,
    q_group: Tensor | None = None,
    k_group: Tensor | None = None,
    admit: str = "all",
    backend: str = "auto",
    budget: int | None = None,
    tile: int | tuple[int, int] | None = None,
) -> Tensor:
    """`out[i] = sum_j log(1 + exp(scale_i * <q_i, k_j> + bias_i))` over the keys j that row i admits.

    The loss of calling pair (i, j) near when it is far; with scale and bias negated, of calling it far when it is
    near. Tile by tile, as `log_partition`, whose arguments these are; a row that admits no key gives 0.

    Args:
        q, k: queries [N, D] and keys [M, D].
        scale, bias: a number, a scalar tensor or one number a row [N].
        q_group, k_group, admit, budget, tile: as in `log_partition`.
        backend: "auto", "tiled" or "dense".

    Returns:
        [N] in the type of q (float32 for half precision).

    Raises:
        UserError: shapes or options that do not fit together, or the ring.

    >>> import torch
    >>> pairwise_softplus(torch.zeros(1, 2), torch.zeros(3, 2), 1.0)  # 3 log 2
    tensor([2.0794])
    """
    if backend == "ring":
        raise UserError("pairwise_softplus sees only this rank's keys: use sigmoid(..., backend='ring')")
    pairs = inputs.pairs(q, k, scale, q_group=q_group, k_group=k_group, admit=admit, backend=backend, tile=tile)
    return softplus_rows(pairs, inputs.per_row(bias, pairs.q, "bias"), backend, budget).to(pairs.q.dtype)


def softplus_rows(pairs: Pairs, bias: Tensor, backend: str = "auto", budget: int | None = None) -> Tensor:
    """Row sums [N], in float64 unless dense. With admit="sign", groups do not admit pairs but say which are near: their
    logits change sign."""
    if backend == "dense":
        return dense_softplus(pairs, bias)
    needs = needs_gradient(pairs) or (torch.is_grad_enabled() and bias.requires_grad)
    keep = tiles_to_keep(pairs.tiles, budget, pairs.q.element_size()) if needs else 0
    p = flat(pairs)
    return _Softplus.apply(*p[:3], bias, *p[3:], keep)


def softplus_tile(
    pairs: Pairs, tile: Tile, queries: Tensor, bias: Tensor, z: Tensor, *, safe: bool, value: bool = True
) -> Tensor:
    """Turn `z` into the derivative of the tile's softplus to its logits and return the row sums of its values (zeros
    without `value`)."""
    pairs.logits(tile, queries, out=z)
    signs, offset = pairs.signs(tile), bias[tile.rows, None] * LOG2E
    sums, spare = z.new_zeros(len(z)), z.new_empty(min(STRIP, len(z)), z.shape[1])
    for first in range(0, len(z), STRIP):
        rows = slice(first, min(first + STRIP, len(z)))
        x, room = z[rows].add_(offset[rows]), spare[: rows.stop - first]
        if signs is not None:
            x.mul_(signs[rows])
        if safe:
            exponentials_(x, 0.0)
            torch.add(x, 1.0, out=room)
            if value:
                sums[rows] = log1p_sums(x, room)
            x.div_(room)
        else:
            x.mul_(LN2)
            if value:
                sums[rows] = torch.nn.functional.softplus(x, threshold=40.0).sum(1)
            x.sigmoid_()
        if signs is not None:
            x.mul_(signs[rows])
    return sums


def log1p_sums(x: Tensor, more: Tensor) -> Tensor:
    """Row sums of log(1 + x) for x of at least 0, where `more` is 1 + x. The logarithm is dearer than all else, so two
    columns are joined before: (1 + a)(1 + b) = 1 + (a + b (1 + a)), which keeps the digits of small a and b."""
    half = x.shape[1] // 2
    joined = torch.addcmul(x[:, :half], x[:, half : 2 * half], more[:, :half])
    sums = joined.log1p_().sum(1)
    return sums.add_(x[:, -1].log1p()) if x.shape[1] % 2 else sums


def is_safe(pairs: Pairs, bias: Tensor) -> bool:
    """Whether exponentials of logits cannot overflow."""
    return not bias.numel() or pairs.bound() + float(bias.abs().max()) * LOG2E <= SAFE


BIASED_PAIRS = PAIRS.replace("Tensor scale,", "Tensor scale, Tensor bias,")


def _forward_shapes(*args: Any) -> tuple[Tensor, Tensor]:
    q, k, scale, _, *rest, keep = args
    tiles = pairs_of(q, k, scale, *rest).tiles
    return q.new_empty(len(q), dtype=wide(q)), q.new_empty(sum(tile.size for tile in tiles[:keep]))


@operator(f"pairwise_softplus({BIASED_PAIRS}, int keep) -> (Tensor, Tensor)", _forward_shapes)
def _forward(*args: Any) -> tuple[Tensor, Tensor]:
    q, k, scale, bias, *rest, keep = args
    pairs = pairs_of(q, k, scale, *rest)
    sums = q.new_zeros(len(q), dtype=wide(q))
    kept = q.new_empty(sum(tile.size for tile in pairs.tiles[:keep]))
    shares, safe = deal(pairs), is_safe(pairs, bias)
    scratches = [pairs.scratch() for _ in shares]

    def compute(index: int, pairs: Pairs, tiles: list[Tile]) -> None:
        for tile, queries in pairs.walk(tiles):
            z = tile.slot(kept) if tile.index < keep else tile.view(scratches[index])
            sums[tile.rows] += softplus_tile(pairs, tile, queries, bias, z, safe=safe)

    each(pairs, shares, compute)
    return sums, kept


def _backward_shapes(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q, k = args[0], args[1]
    return torch.empty_like(q), torch.empty_like(k), q.new_empty(len(q)), q.new_empty(len(q))


@operator(
    f"pairwise_softplus_backward({BIASED_PAIRS}, Tensor kept, Tensor g) -> (Tensor, Tensor, Tensor, Tensor)",
    _backward_shapes,
)
def _backward(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q, k, scale, bias, *rest, kept, g = args
    pairs = pairs_of(q, k, scale, *rest)
    shares, safe = deal(pairs), is_safe(pairs, bias)
    dq, dbias = torch.zeros_like(q), q.new_zeros(len(q), dtype=wide(q))
    dks, scratches = [torch.zeros_like(k) for _ in shares], [pairs.scratch() for _ in shares]

    def compute(index: int, pairs: Pairs, tiles: list[Tile]) -> None:
        for tile, queries in pairs.walk(tiles):
            z = tile.slot(kept) if tile.offset < len(kept) else tile.view(scratches[index])
            if tile.offset >= len(kept):
                softplus_tile(pairs, tile, queries, bias, z, safe=safe, value=False)
            weights = torch.mul(z, g[tile.rows, None].to(z.dtype), out=tile.view(scratches[index]))
            accumulate(tile, queries, weights, k, dq, dks[index], dbias)

    each(pairs, shares, compute)
    return *finish_gradients(pairs, dq, reduce(Tensor.add_, dks), g), dbias.to(q.dtype)


def accumulate(
    tile: Tile, queries: Tensor, weights: Tensor, k: Tensor, dq: Tensor, dk: Tensor, dbias: Tensor, share: float = 1.0
) -> None:
    """Add a tile's share of the gradients: to scale * q, to k and to the bias."""
    add_mm(dq[tile.rows], weights, k[tile.cols], alpha=share)
    add_mm(dk[tile.cols], weights.t(), queries, alpha=share * LN2)
    dbias[tile.rows].add_(weights.sum(1), alpha=share)


class _Softplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        sums, kept = _forward(*args)
        ctx.save_for_backward(*args[:7], kept)
        ctx.rest = args[7:12]
        return sums

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Any, ...]:
        *tensors, kept = ctx.saved_tensors
        needed = ctx.needs_input_grad[:4]
        if torch.is_grad_enabled():
            inputs_ = [t.view_as(t) for t in tensors[:4]]  # views: q and k may be one tensor
            q, k, scale, bias = inputs_
            sums = dense_softplus(pairs_of(q, k, scale, *tensors[4:], *ctx.rest), bias)
            chosen = [t for t, want in zip(inputs_, needed, strict=True) if want]
            g = upstream[0].to(sums.dtype)
            derivatives = iter(torch.autograd.grad(sums, chosen, g, create_graph=True, materialize_grads=True))
            out = [next(derivatives) if want else None for want in needed]
        else:
            gradients = _backward(*tensors, *ctx.rest, kept, upstream[0])
            out = [d if want else None for d, want in zip(gradients, needed, strict=True)]
        return *out, *(None,) * 9
