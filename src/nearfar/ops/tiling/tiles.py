"""The pairs of queries and keys, cut into tiles: how large, in which order, which entries are left out.

Logits live in base 2: log2(e) is folded into the queries together with the scale, because `exp2` is several times
cheaper than `exp` on a CPU and never dearer elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from nearfar.ops.tiling.float_products import add_mm, mm
from nearfar.ops.tiling.half_products import add_product, centred_product

LOG2E = math.log2(math.e)
LN2 = math.log(2.0)
SIDE = 1024  # a tile of 1,024 x 1,024 floats is 4 MiB: the products run at full speed and its passes stay in cache
NARROW = 512  # columns of a tile on a CPU, of larger batches: the passes of each core then stay in its own cache
STEP = 256  # tiles on the diagonal of one set
RUN = 128 << 10  # numbers that a pass over whole vectors takes at a time: they stay in the nearest cache
FEW = 64  # keys that say about where a query's logits lie
BUDGET = 128 << 20  # bytes of tiles kept when none is named: all of a batch of 5,000, and little beside most towers


@dataclass(frozen=True)
class Tile:
    """One block of the matrix of logits; `offset` counts the entries of the tiles before it."""

    index: int
    rows: slice
    cols: slice
    offset: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.cols.stop - self.cols.start

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def diagonal(self) -> bool:
        return self.rows.start == self.cols.start

    def view(self, buffer: Tensor) -> Tensor:
        """The head of a flat buffer, shaped like this tile."""
        return buffer[: self.size].view(self.shape)

    def slot(self, kept: Tensor) -> Tensor:
        """This tile's place in the flat store of kept tiles."""
        return kept[self.offset : self.offset + self.size].view(self.shape)


def grid(n: int, m: int, tile: tuple[int, int], *, upper: bool = False) -> list[Tile]:
    """All tiles of an n x m matrix, row by row; with `upper` only those on and above the diagonal, where the blocks
    on the diagonal are cut finer: their tiles on it hold each pair twice."""
    blocks: list[tuple[slice, slice]] = []
    for rows in _cut(0, n, tile[0]):
        if upper:
            steps = _cut(rows.start, rows.stop, min(tile[0], STEP))
            blocks += [(a, b) for i, a in enumerate(steps) for b in steps[i:]]
        blocks += [(rows, cols) for cols in _cut(rows.stop if upper else 0, m, tile[1])]
    tiles: list[Tile] = []
    for index, (rows, cols) in enumerate(blocks):
        tiles.append(Tile(index, rows, cols, tiles[-1].offset + tiles[-1].size if tiles else 0))
    return tiles


def tile_shape(
    n: int, m: int, tile: int | tuple[int, int] | None, *, one_set: bool = False, narrow: bool = False
) -> tuple[int, int]:
    """Rows and columns of a tile: as given, else near `SIDE` and evenly cut, so that no sliver is left over; more
    columns than `SIDE` are cut near `NARROW` with `narrow`. One set is cut into squares."""
    if tile is not None:
        rows, cols = (tile, tile) if isinstance(tile, int) else tile
    else:
        rows = _even(n, SIDE, 2)  # an even number of bands, for two threads
        cols = _even(m, NARROW if narrow and m > SIDE else SIDE)
    return (rows, rows) if one_set else (rows, cols)


def tiles_to_keep(tiles: list[Tile], budget: int | None, bytes_per_entry: int) -> int:
    """How many leading tiles fit the budget, in bytes."""
    budget = BUDGET if budget is None else budget
    return sum((tile.offset + tile.size) * bytes_per_entry <= budget for tile in tiles)


@dataclass(frozen=True)
class Pairs:
    """Queries, keys and what decides which of their pairs count.

    q [N, D], k [M, D], scale [N]; `own` [N] names each query's own key (its positive), which is left out of every
    tile; `admit` compares q_group [N] with k_group [M], and "sign" says that equal groups are near pairs. `one_set`:
    the keys are the queries, a row does not meet itself, and only upper tiles are walked. `half`: tiles are multiplied
    in bfloat16 (`half_products`), and their logits are float32 as ever.
    """

    q: Tensor
    k: Tensor
    scale: Tensor
    own: Tensor | None = None
    q_group: Tensor | None = None
    k_group: Tensor | None = None
    admit: str = "all"
    one_set: bool = False
    tile: tuple[int, int] = (SIDE, SIDE)
    half: bool = False

    @property
    def tiles(self) -> list[Tile]:
        return grid(len(self.q), len(self.k), self.tile, upper=self.one_set)

    @property
    def whole(self) -> Tile:
        """All pairs as one tile."""
        return Tile(0, slice(0, len(self.q)), slice(0, len(self.k)), 0)

    def hand(self) -> Pairs:
        """The same pairs for another thread, with scratch of its own."""
        own = replace(self)
        own.__dict__["keys"] = self.keys
        if self.half:
            own.__dict__["centres"] = self.centres
        return own

    def walk(self, tiles: list[Tile] | None = None) -> Iterator[tuple[Tile, Tensor]]:
        """Each tile, or each of some, with its queries, which carry the scale and log2(e), in the type in which tiles
        are multiplied."""
        rows = None
        for tile in self.tiles if tiles is None else tiles:
            if tile.rows != rows:
                rows = tile.rows
                queries = self.queries(rows)
            yield tile, queries

    def queries(self, rows: slice) -> Tensor:
        """Some queries, which carry the scale and log2(e), in the type in which tiles are multiplied."""
        return (self.q[rows] * (self.scale[rows, None] * LOG2E)).to(self.product_type)

    @cached_property
    def keys(self) -> Tensor:
        """The keys in the type in which tiles are multiplied."""
        return self.k.to(self.product_type)

    @property
    def product_type(self) -> torch.dtype:
        """The type in which tiles are multiplied, and kept for the backward pass."""
        return torch.bfloat16 if self.half else self.q.dtype

    @cached_property
    def _half_scratch(self) -> Tensor:
        return self.scratch().bfloat16()

    @cached_property
    def centres(self) -> Tensor:
        """About where the logits lie that make up most of a row's sum, in base 2, [N]: the mean of a few logits under
        their softmax. Values are ones that bfloat16 holds."""
        few = _few(len(self.k)).to(self.k.device)
        k_group = None if self.k_group is None else self.k_group[few]
        sample, keys = replace(self, k=self.k[few], k_group=k_group), self.keys[few].t()
        centres = self.q.new_empty(len(self.q))
        for rows in _cut(0, len(self.q), self.tile[0]):
            z = (self.queries(rows) @ keys).to(centres.dtype)
            own = rows if self.one_set else self.own_of(rows)
            if own is not None:
                own = torch.arange(own.start, own.stop, device=z.device) if isinstance(own, slice) else own
                z.masked_fill_(own[:, None] == few, -math.inf)
            admitted = sample.admitted(Tile(0, rows, slice(0, len(few)), 0))
            if admitted is not None:
                z.masked_fill_(~admitted, -math.inf)
            centres[rows] = (torch.softmax(z * LN2, 1) * z).nansum(1)  # 0 where none of them counts
        return centres.bfloat16().to(centres.dtype)

    def rounded(self, tile: Tile, values: Tensor) -> Tensor:
        """A tile's values in the type in which tiles are multiplied; good until the next tile."""
        return tile.view(self._half_scratch).copy_(values) if self.half else values

    def add_product(self, total: Tensor, a: Tensor, b: Tensor, *, alpha: float = 1.0) -> Tensor:
        """`total` [R, D] plus `alpha * a @ b`, in place; `a` and `b` in the type in which tiles are multiplied."""
        if not self.half:
            return add_mm(total, a, b, alpha=alpha)
        rounded, widened = (part[: total.numel()].view(total.shape) for part in self._gradient_scratch)
        return add_product(total, a, b, rounded, widened, alpha=alpha)

    @cached_property
    def _gradient_scratch(self) -> tuple[Tensor, Tensor]:
        size = max(min(self.tile[0], len(self.q)), min(self.tile[1], len(self.k))) * self.q.shape[1]
        return self.keys.new_empty(size), self.q.new_empty(size)

    def scratch(self) -> Tensor:
        """A flat buffer for one tile."""
        size = min(self.tile[0], len(self.q)) * min(self.tile[1], len(self.k))
        return self.q.new_empty(size)

    def bound(self) -> float:
        """No logit (in base 2) exceeds this in size: Cauchy and Schwarz."""
        if not self.q.numel() or not self.k.numel():
            return 0.0
        queries = torch.linalg.vector_norm(self.q, dim=1)
        keys = queries if self.one_set else torch.linalg.vector_norm(self.k, dim=1)
        return float((queries * self.scale).abs_().max() * keys.max()) * LOG2E

    def logits(self, tile: Tile, queries: Tensor, out: Tensor) -> Tensor:
        """The tile's logits in base 2, minus infinity where a pair does not count."""
        keys = self.keys[tile.cols].t()
        if self.half:
            centred_product(queries, keys, self.centres[tile.rows], tile.view(self._half_scratch), out=out)
        else:
            mm(queries, keys, out=out)
        if self.one_set and tile.diagonal:
            out.fill_diagonal_(-math.inf)
        own = self.own_of(tile.rows)
        if isinstance(own, slice):
            diagonal = own.start - tile.cols.start
            if -tile.shape[0] < diagonal < tile.shape[1]:
                out.diagonal(diagonal).fill_(-math.inf)
        elif own is not None and tile.shape[1] == len(self.k):
            out.scatter_(1, own[:, None], -math.inf)
        elif own is not None:
            own = own - tile.cols.start
            here = ((own >= 0) & (own < tile.shape[1])).nonzero().squeeze(1)
            out[here, own[here]] = -math.inf
        admitted = self.admitted(tile)
        if admitted is not None:
            out.masked_fill_(admitted.logical_not_(), -math.inf)
        return out

    @cached_property
    def _own_run(self) -> slice | Tensor | None:
        return None if self.own is None else run_of(self.own)

    def own_of(self, rows: slice) -> slice | Tensor | None:
        """The own keys of some queries: a slice where they lie in a row, as positives do, so that none is gathered."""
        own = self._own_run
        if isinstance(own, slice):
            return slice(own.start + rows.start, own.start + rows.stop)
        return None if own is None else own[rows]

    def admitted(self, tile: Tile) -> Tensor | None:
        """Which entries of a tile the group ids admit; None where they admit all."""
        if self.admit not in ("same", "different", "others") or self.q_group is None or self.k_group is None:
            return None
        q_group, k_group = self.q_group[tile.rows, None], self.k_group[None, tile.cols]
        if self.admit == "same":
            return q_group == k_group
        different = q_group != k_group
        return different.logical_and_(k_group >= 0) if self.admit == "others" else different

    def signs(self, tile: Tile) -> Tensor | None:
        """With admit="sign": -1 where the groups are equal (a near pair), else 1; None where no groups are given."""
        if self.admit != "sign" or self.q_group is None or self.k_group is None:
            return None
        same = self.q_group[tile.rows, None] == self.k_group[None, tile.cols]
        return same.to(self.q.dtype).mul_(-2.0).add_(1.0)


def _few(size: int) -> Tensor:
    """At most `FEW` places in `size`, spread evenly, but in no step with classes that take turns: multiples of the
    golden ratio."""
    if size <= FEW:
        return torch.arange(size)
    return (torch.arange(FEW, dtype=torch.float64) * ((5**0.5 - 1) / 2) % 1 * size).long()


def wide(tensor: Tensor) -> torch.dtype:
    """The type of sums and logarithms of length N: float64 wherever the device has it."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def runs(vectors: Tensor) -> list[slice]:
    """The rows of [N, D] in runs of about `RUN` numbers."""
    return _cut(0, len(vectors), max(1, RUN // max(vectors.shape[1], 1)))


def needs_gradient(pairs: Pairs) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in (pairs.q, pairs.k, pairs.scale))


def own_logits(pairs: Pairs) -> Tensor:
    """scale_i * <q_i, k_own(i)> in natural units, [N], summed in float64: a loss near zero lives on its digits."""
    out = pairs.q.new_empty(len(pairs.q), dtype=wide(pairs.q))
    for rows in runs(pairs.q):
        products = pairs.q[rows] * pairs.k[pairs.own_of(rows)]
        out[rows] = products.sum(1, dtype=out.dtype) * pairs.scale[rows]
    return out


def run_of(indices: Tensor) -> slice | Tensor:
    """Consecutive indices as a slice, which copies nothing; others as they are."""
    if not len(indices):
        return indices
    first, last = int(indices[0]), int(indices[-1])
    if last - first != len(indices) - 1:
        return indices
    consecutive = torch.arange(first, first + len(indices), device=indices.device)
    return slice(first, first + len(indices)) if torch.equal(indices, consecutive) else indices


def _cut(start: int, stop: int, side: int) -> list[slice]:
    return [slice(i, min(i + side, stop)) for i in range(start, stop, side)]


def _even(size: int, side: int, multiple: int = 1) -> int:
    blocks = max(1, math.ceil(size / side))
    if blocks > 1:
        blocks = math.ceil(blocks / multiple) * multiple
    return max(1, math.ceil(size / blocks))
