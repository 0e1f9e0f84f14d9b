"""The tile loops of the log-partition, forward and backward, as operators that `torch.compile` need not open.

Each tile is turned into exp2(logit - shift) by one in-place pass with one shift for the whole tile. Unit vectors at a
scale up to 40 need no shift at all. Otherwise the shift follows the tile's maximum, and a tile whose rows or columns
peak so far apart that one shift would underflow some of them is reduced row by row and column by column instead; its
shift is recorded as NaN.
"""

import math
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from nearfar.ops.tiling.dealing import deal, each
from nearfar.ops.tiling.operators import PAIRS, operator, pairs_of
from nearfar.ops.tiling.tiles import LN2, Pairs, Tile, own_logits, runs, wide


def _forward_shapes(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    *pairs_args, both, keep = args
    pairs = pairs_of(*pairs_args)
    q, tiles = pairs.q, pairs.tiles
    n, m = len(q), len(pairs.k) if both and not pairs.one_set else 0
    rows, cols, own = (q.new_empty(size, dtype=wide(q)) for size in (n, m, 0 if pairs.own is None else n))
    kept = q.new_empty(sum(tile.size for tile in tiles[:keep]), dtype=pairs.product_type)
    return rows, cols, own, kept, torch.empty(len(tiles), dtype=torch.float64)


@operator(f"partition({PAIRS}, bool both, int keep) -> (Tensor, Tensor, Tensor, Tensor, Tensor)", _forward_shapes)
def partition_forward(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Log-partitions in base 2 of rows [N] and columns ([M] with `both`, else [0]), own logits [N] (else [0]), the
    first `keep` tiles as exponentials, and every tile's shift."""
    *pairs_args, both, keep = args
    pairs = pairs_of(*pairs_args)
    q, tiles = pairs.q, pairs.tiles
    shares = deal(pairs)
    # In one set the columns are rows of other shares, too.
    row_sums = [q.new_full((len(q),), -math.inf, dtype=wide(q)) for _ in (shares if pairs.one_set else [0])]
    columns = len(pairs.k) if both else 0
    col_sums = row_sums if pairs.one_set else [q.new_full((columns,), -math.inf, dtype=wide(q)) for _ in shares]
    kept = q.new_empty(sum(tile.size for tile in tiles[:keep]), dtype=pairs.product_type)
    shifts = torch.zeros(len(tiles), dtype=torch.float64)
    stored = kept.dtype == q.dtype  # a tile is then computed where it is kept
    scratches = [kept if stored and keep == len(tiles) else pairs.scratch() for _ in shares]
    bounded = pairs.bound() <= limit(q.dtype)

    def compute(index: int, pairs: Pairs, tiles: list[Tile]) -> None:
        rows, cols = row_sums[index % len(row_sums)], col_sums[index]
        for tile, queries in pairs.walk(tiles):
            z = tile.slot(kept) if stored and tile.index < keep else tile.view(scratches[index])
            down = not tile.diagonal if pairs.one_set else both
            shift, across, along = _reduce(pairs, tile, queries, z, bounded=bounded, down=down)
            shifts[tile.index] = shift
            if not stored and tile.index < keep:
                tile.slot(kept).copy_(z)
            rows[tile.rows] = torch.logaddexp2(rows[tile.rows], across)
            if along is not None:
                cols[tile.cols] = torch.logaddexp2(cols[tile.cols], along)

    each(pairs, shares, compute)
    rows = reduce(torch.logaddexp2, row_sums)
    cols = q.new_empty(0, dtype=wide(q)) if pairs.one_set else reduce(torch.logaddexp2, col_sums)
    own = q.new_empty(0, dtype=wide(q)) if pairs.own is None else own_logits(pairs)
    return rows, cols, own, kept, shifts


def _backward_shapes(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    q, k, scale, one_set, (want_q, want_k, finish) = args[0], args[1], args[2], args[7], args[-3:]
    dq = torch.empty_like(q) if want_q else q.new_empty(0)
    dk = torch.empty_like(k) if want_k and not one_set else q.new_empty(0)
    dscale = torch.empty_like(scale, memory_format=torch.contiguous_format)
    return dq, dk, dscale if finish else q.new_empty(0)


@operator(
    f"partition_backward({PAIRS}, Tensor rows, Tensor cols, Tensor kept, Tensor shifts, Tensor g_rows, Tensor g_cols, "
    "Tensor g_own, bool want_q, bool want_k, bool finish) -> (Tensor, Tensor, Tensor)",
    _backward_shapes,
)
def partition_backward(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to q [N, D], k [M, D] and scale [N], from the log-partitions and their upstream gradients. With one
    set the whole gradient is the first. Without `finish` the first two come as `finish_gradients` takes them."""
    *pairs_args, rows, cols, kept, shifts, g_rows, g_cols, g_own, want_q, want_k, finish = args
    pairs = pairs_of(*pairs_args)
    q, k, keys = pairs.q, pairs.k, pairs.keys
    rows, g_rows = _silence_empty(rows, g_rows)
    cols, g_cols = (rows, g_rows) if pairs.one_set else _silence_empty(cols, g_cols)
    shares = deal(pairs)
    dqs = [torch.zeros_like(q) if want_q else q.new_empty(0) for _ in (shares if pairs.one_set else [0])]
    dks = [torch.zeros_like(k) if want_k and not pairs.one_set else q.new_empty(0) for _ in shares]
    buffers = [(pairs.scratch(), pairs.scratch()) for _ in shares]

    def compute(index: int, pairs: Pairs, tiles: list[Tile]) -> None:
        dq, dk = dqs[index % len(dqs)], dks[index]
        z_buffer, weights_buffer = buffers[index]
        for tile, queries in pairs.walk(tiles):
            shift = float(shifts[tile.index])
            # Logits, which tiles without a shift are, lose too many digits in half precision.
            is_kept = tile.offset < len(kept) and not (pairs.half and math.isnan(shift))
            z = tile.slot(kept) if is_kept else tile.view(z_buffer)
            if is_kept and pairs.half:
                z = tile.view(z_buffer).copy_(z)
            elif not is_kept:
                pairs.logits(tile, queries, out=z)
                if not math.isnan(shift):
                    exponentials_(z, shift)
            sides = [(rows[tile.rows, None], g_rows[tile.rows, None])]
            if len(cols):
                sides.append((cols[None, tile.cols], g_cols[None, tile.cols]))
            weights = _weights(z, shift, sides, out=tile.view(weights_buffer))
            weights = pairs.rounded(tile, weights)
            if want_q:
                pairs.add_product(dq[tile.rows], weights, keys[tile.cols])
            if pairs.one_set and not tile.diagonal:
                pairs.add_product(dq[tile.cols], weights.t(), keys[tile.rows])
            elif len(dk):
                pairs.add_product(dk[tile.cols], weights.t(), queries, alpha=LN2)

    each(pairs, shares, compute)
    dq, dk = (reduce(Tensor.add_, sums) for sums in (dqs, dks))
    return finish_gradients(pairs, dq, dk, g_own) if finish else (dq, dk, q.new_empty(0))


def finish_gradients(pairs: Pairs, dq: Tensor, dk: Tensor, g_own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Add the gradient through the own pairs and apply the scale. `dq` comes as d/d(scale * q), `dk` complete but for
    the own pairs; an empty one is not wanted."""
    q, k, scale = pairs.q, pairs.k, pairs.scale[:, None]
    dscale = q.new_zeros(len(q))
    for rows in runs(q):
        own = pairs.own_of(rows)
        if own is None:
            continue
        g = g_own[rows, None].to(q.dtype)
        if len(dq):
            dq[rows].addcmul_(k[own], g)
        if pairs.one_set:
            _add(dq, own, q[rows], g)
        elif len(dk):
            _add(dk, own, q[rows], g * scale[rows])
    for rows in runs(q) if len(dq) else []:
        dscale[rows] = (dq[rows] * q[rows]).sum(1)
        dq[rows].mul_(scale[rows])
    # In one set each pair is met from both ends, and the product with the gradient counts it twice.
    return dq, dk, dscale.mul_(0.5) if pairs.one_set else dscale


def _add(total: Tensor, where: slice | Tensor, values: Tensor, weights: Tensor) -> None:
    if isinstance(where, slice):
        total[where].addcmul_(values, weights)
    else:
        total.index_add_(0, where, values * weights)


def exponentials_(z: Tensor, shift: float) -> Tensor:
    if shift:
        z.sub_(shift)
    return torch.exp2(z, out=z)


def _reduce(
    pairs: Pairs, tile: Tile, queries: Tensor, z: Tensor, *, bounded: bool, down: bool
) -> tuple[float, Tensor, Tensor | None]:
    """Fill `z` and return its shift and the tile's own log-partitions across rows and, with `down`, along columns."""
    pairs.logits(tile, queries, out=z)
    shift = 0.0
    if not bounded:
        top, most = float(z.amax()), limit(z.dtype)
        if top != -math.inf and not 0.0 <= top <= most:
            shift = top - most
    exponentials_(z, shift)
    sums = [z.sum(1), z.sum(0)] if down else [z.sum(1)]
    if not bounded and _underflows(pairs, tile, queries, sums):
        pairs.logits(tile, queries, out=z)
        return math.nan, *_spread(z, down)
    logs = [total.to(wide(z)).log2_().add_(shift) for total in sums]
    return shift, logs[0], logs[1] if down else None


def _underflows(pairs: Pairs, tile: Tile, queries: Tensor, sums: list[Tensor]) -> bool:
    """Whether some row or column with admitted entries sank so far below the tile's shift that it lost digits."""
    floor = 2.0 ** -limit(sums[0].dtype)
    low = [~(total >= floor) for total in sums]
    if not any(bool(side.any()) for side in low):
        return False
    z = pairs.logits(tile, torch.zeros_like(queries), sums[0].new_empty(tile.shape))
    occupied = z == 0
    return any(bool((side & occupied.any(dim)).any()) for side, dim in zip(low, (1, 0), strict=False))


def _spread(z: Tensor, down: bool) -> tuple[Tensor, Tensor | None]:
    """Row and column log-partitions of base-2 logits, each with its own maximum."""
    natural = z * LN2
    across = natural.logsumexp(1).to(wide(z)).div_(LN2)
    return across, natural.logsumexp(0).to(wide(z)).div_(LN2) if down else None


def _weights(z: Tensor, shift: float, sides: list[tuple[Tensor, Tensor]], *, out: Tensor) -> Tensor:
    """Sum over the sides of g * exp2(logit - log-partition), written to `out`."""
    if math.isnan(shift):
        out.zero_()
        for total, g in sides:
            out.addcmul_((z - total.to(z.dtype)).exp2_(), g.to(z.dtype))
        return out
    # Where a row counts, shift - total stays below the limit; the clamp is for rows that this tile leaves empty.
    factors = [((shift - total).clamp_(max=limit(z.dtype)).exp2_() * g).to(z.dtype) for total, g in sides]
    if len(factors) == 1:
        return torch.mul(z, factors[0], out=out)
    return torch.add(*factors, out=out).mul_(z)


def _silence_empty(totals: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """A row that admits no key has probability 0 everywhere and passes no gradient."""
    empty = totals == -math.inf
    return totals.masked_fill(empty, math.inf), g.masked_fill(empty, 0.0)


def limit(dtype: torch.dtype) -> float:
    """Exponentials stay within 2 to the power of plus and minus this: far from overflow, summed or multiplied."""
    return 0.45 * math.log2(torch.finfo(dtype).max)
