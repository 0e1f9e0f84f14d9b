"""`view_partition`: many views of the same samples; each row's log-sum over the rows of other samples, in its own view,
in the other views, or in both (multi-view contrast, arXiv 2507.06979)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nearfar.errors import UserError
from nearfar.ops.tiling import inputs
from nearfar.ops.tiling.partition import partition
from nearfar.ops.tiling.tiles import BUDGET


def view_partition(
    views: Sequence[Tensor],
    scale: float | Tensor,
    *,
    group: Sequence[Tensor] | None = None,
    within: bool = True,
    across: bool = True,
    backend: str = "auto",
    budget: int | None = None,
    tile: int | None = None,
) -> list[Tensor]:
    """`out[l][i] = log sum_j exp(scale * <views[l][i], views[m][j]>)` over the rows j of other samples, m being l
    (`within`), all others (`across`), or all.

    The pairs of two views are symmetric, so each block of views is computed once and serves both: V (V + 1) / 2 blocks
    of N x N x D for `within` and `across`, of which those of one view cost half.

    Args:
        views: V tensors [N, D]. Row i of each is sample i, unless `group` says otherwise.
        scale: inverse temperature, a number or a scalar tensor.
        group: V tensors of integers [N], the sample (or group of samples that are alike) of each row; views may then
            have different numbers of rows.
        within, across: which blocks count; one of them at least.
        backend: "auto", "tiled", or "dense" (a reference).
        budget: bytes of tiles kept for the backward pass, of all blocks together; see `log_partition`.
        tile: rows of a tile; about 1,024 by default.

    Returns:
        V tensors [N] in float64 where the device has it, so that a difference of two loses nothing; minus infinity,
        with gradient 0, for a row that meets no other sample.

    Raises:
        UserError: no views, rows that do not pair up without `group`, a scale per row, or options that are none.

    >>> import torch
    >>> out = view_partition([torch.eye(2), torch.eye(2)], 1.0)  # log(exp 0 + exp 0)
    >>> [row.float() for row in out]
    [tensor([0.6931, 0.6931]), tensor([0.6931, 0.6931])]
    """
    if not views or not (within or across):
        raise UserError("views must hold one tensor at least, and one of within and across be true")
    if isinstance(scale, Tensor) and scale.numel() != 1:
        raise UserError(f"between views a pair has one scale: pass a number, not {inputs.describe(scale)}")
    if backend == "ring":
        raise UserError("views need all rows in one process: gather them, and use backend='auto'")
    if group is None and len({len(view) for view in views}) > 1:
        raise UserError(f"views must have as many rows each, or a group: they have {[len(view) for view in views]}")
    if group is not None and [len(ids) for ids in group] != [len(view) for view in views]:
        raise UserError("group must hold one integer for each row of each view")
    blocks = [
        (a, b)
        for a in range(len(views))
        for b in range(a, len(views))
        if len(views[a]) and len(views[b]) and (within if a == b else across)
    ]
    share = (BUDGET if budget is None else budget) // max(len(blocks), 1)
    sums: list[list[Tensor]] = [[] for _ in views]
    for a, b in blocks:
        ids = {} if group is None else {"q_group": group[a], "k_group": group[b], "admit": "different"}
        own = torch.arange(len(views[a]), device=views[a].device) if group is None and a != b else None
        pairs = inputs.pairs(
            views[a],
            views[b],
            scale,
            own=own,
            one_set=a == b,
            backend=backend,
            tile=tile,
            **ids,  # type: ignore[arg-type]
        )
        rows, columns, _ = partition(pairs, both=a != b, backend=backend, budget=share)
        sums[a].append(rows)
        if a != b:
            sums[b].append(columns)
    return [_together(parts, view) for parts, view in zip(sums, views, strict=True)]


def _together(parts: list[Tensor], view: Tensor) -> Tensor:
    """The log of the sum of what each block gave, [N]; rows that meet nothing have no gradient, in place of NaN."""
    if not parts:
        return view.new_full((len(view),), -math.inf)
    if len(parts) == 1:
        return parts[0]
    stacked = torch.stack(parts)
    empty = stacked.isneginf().all(0)
    return stacked.masked_fill(empty, 0.0).logsumexp(0).masked_fill(empty, -math.inf)
