"""Sums over the pairs of cells of one picture's two maps, P x Q of them a picture: a strip of rows at a time.

At 7 x 7 cells that is 2,401 pairs a picture, at 56 x 56 nearly ten million, so that a batch's would fill a GPU. Which
pairs count, a mask says: a tensor `[N, P, Q]`, or anything with that `shape` and a method `strip(pictures, rows)` that
makes a part of it, `[n, r, Q]` bool, of two slices (:class:`nearfar.losses.near_cells.NearCells`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from nearfar.errors import UserError
from nearfar.ops.tiling.inputs import describe
from nearfar.ops.tiling.products import product

PAIRS = 1 << 22
"""Pairs in a strip: 16 MiB of float32."""


class CellMask(Protocol):
    """A mask that is made a strip at a time."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def strip(self, pictures: slice, rows: slice) -> Tensor:
        """The part `[n, r, Q]` bool of some pictures and some query cells."""
        ...


def near_sums(k: Tensor, mask: Tensor | CellMask) -> tuple[Tensor, Tensor]:
    """For each query cell, the sum and the number of the key cells that its mask names. Constants: without gradient.

    Args:
        k: key cells `[N, Q, C]`, floating point.
        mask: `[N, P, Q]`, see above; a tensor's numbers other than 0 count.

    Returns:
        sums `[N, P, C]` and counts `[N, P]`, in the dtype of `k`, float32 at least; 0 where the mask names none.

    Raises:
        UserError: shapes that do not fit together.

    >>> k = torch.tensor([[[1.0], [2.0], [4.0]]])
    >>> sums, counts = near_sums(k, torch.tensor([[[1, 0, 1], [0, 0, 0]]]))
    >>> sums.flatten().tolist(), counts.tolist()
    ([5.0, 0.0], [[2.0, 0.0]])
    """
    k, mask = _cells("k", k.detach()), _checked(mask, len(k), None, k.shape[1])
    n, p = mask.shape[:2]
    sums, counts = k.new_zeros(n, p, k.shape[2]), k.new_zeros(n, p)
    with torch.no_grad():
        for pictures, rows in strips(*mask.shape):
            near = _strip(mask, pictures, rows).to(k.dtype)
            sums[pictures, rows] = product(near, k[pictures].mT)
            counts[pictures, rows] = near.sum(-1)
    return sums, counts


def near_log_ratio(q: Tensor, k: Tensor, mask: Tensor | CellMask, scale: float | Tensor) -> tuple[Tensor, Tensor]:
    """Of each query cell, the log of the sum over all key cells of exp(scale <q, k>), less that over its near ones.

    Args:
        q: query cells `[N, P, C]`, floating point.
        k: key cells `[N, Q, C]`, floating point; constants.
        mask: `[N, P, Q]`, which keys are near.
        scale: 1 / temperature, a number or a scalar tensor.

    Returns:
        the difference `[N, P]`; 0, without gradient, for cells with no near key. It has a gradient in `q` and `scale`,
        of first order. And whether a cell has a near key, `[N, P]` bool.

    Raises:
        UserError: shapes that do not fit together.

    >>> eye = torch.eye(2)[None]
    >>> ratio, near = near_log_ratio(eye, eye, torch.tensor([[[1, 0], [0, 0]]]), 1.0)
    >>> ratio.round(decimals=4), near  # log(1 + 1 / e)
    (tensor([[0.3133, 0.0000]]), tensor([[ True, False]]))
    """
    q, k = _cells("q", q), _cells("k", k.detach())
    mask = _checked(mask, len(q), q.shape[1], k.shape[1])
    if len(k) != len(q) or k.shape[2] != q.shape[2]:
        raise UserError(f"q and k must be [N, P, C] and [N, Q, C], got {describe(q)} and {describe(k)}")
    k, logits = k.to(q.dtype), q * scale
    value, slope = q.new_zeros(q.shape[:2]), torch.zeros_like(q)
    some = torch.zeros(q.shape[:2], dtype=torch.bool, device=q.device)
    with torch.no_grad():
        for pictures, rows in strips(*mask.shape):
            s = product(logits[pictures, rows], k[pictures])
            near = _strip(mask, pictures, rows)
            some[pictures, rows] = has = near.any(-1)
            of_near = s.masked_fill(~near, -torch.inf)
            whole, part = s.logsumexp(-1), of_near.logsumexp(-1)
            value[pictures, rows] = torch.where(has, whole - part, whole * 0)  # a NaN shows, near keys or not
            pull = (s - whole[..., None]).exp() - (of_near - part[..., None]).exp()
            slope[pictures, rows] = product(pull.masked_fill(~has[..., None], 0), k[pictures].mT)
    # The gradient in the scaled queries is `slope`, at hand already: a term that is 0 carries it, so that no strip is
    # kept or computed again for the backward pass.
    carrier = (logits * slope).sum(-1)
    return value + (carrier - carrier.detach()), some


def propagated(u: Tensor, v: Tensor, *, gamma: float = 2.0, clamp: float = 0.0) -> Tensor:
    """PixPro's propagation (arXiv 2011.10043): each cell becomes the sum of all cells' values `v`, weighted by
    max(<u_i, u_j>, clamp) ** gamma.

    Args:
        u: unit cells `[N, P, C]`, floating point.
        v: their values `[N, P, D]`, floating point.
        gamma: sharpness, at least 0. Below 1, where the slope at 0 is infinite, 1e-6 is added before the power.
        clamp: the least similarity.

    Returns:
        `[N, P, D]`, with gradients in both. Strips are computed again in the backward pass where there are several.

    Raises:
        UserError: shapes that do not fit together, or a negative gamma.

    >>> u = torch.tensor([[[1.0, 0.0], [0.5, 0.75**0.5]]])
    >>> propagated(u, u).round(decimals=4).tolist()[0][0]
    [1.125, 0.21649999916553497]
    """
    u, v = _cells("u", u), _cells("v", v)
    if u.shape[:2] != v.shape[:2]:
        raise UserError(f"u and v must be [N, P, C] and [N, P, D], got {describe(u)} and {describe(v)}")
    if not gamma >= 0:
        raise UserError(f"gamma={gamma}: at least 0")

    def strip(rows: Tensor, cells: Tensor, values: Tensor) -> Tensor:
        s = product(rows, cells).clamp_min(clamp)
        return product((s if gamma >= 1 else s + 1e-6) ** gamma, values.mT)

    cuts = list(strips(u.shape[0], u.shape[1], u.shape[1]))
    if len(cuts) == 1:
        return strip(u, u, v)
    parts: list[list[Tensor]] = []
    for pictures, rows in cuts:
        made = checkpoint(strip, u[pictures, rows], u[pictures], v[pictures], use_reentrant=False)
        parts += [[]] if rows.start == 0 else []
        parts[-1].append(made)
    return torch.cat([torch.cat(part, 1) for part in parts])


def strips(n: int, p: int, q: int) -> Iterator[tuple[slice, slice]]:
    """Slices of pictures and of rows that cover all `[n, p]` rows of `q` pairs: whole pictures, or parts of one."""
    pictures = max(1, PAIRS // max(p * q, 1))
    rows = max(1, min(p, PAIRS // max(q, 1)))
    for start in range(0, n, pictures):
        for row in range(0, p, rows):
            yield slice(start, min(start + pictures, n)), slice(row, min(row + rows, p))


def _strip(mask: Tensor | CellMask, pictures: slice, rows: slice) -> Tensor:
    return mask[pictures, rows] != 0 if isinstance(mask, Tensor) else mask.strip(pictures, rows)


def _cells(name: str, x: Tensor) -> Tensor:
    if x.ndim != 3 or not x.is_floating_point():
        raise UserError(f"{name} must be floating-point [N, cells, channels], got {describe(x)}")
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _checked(mask: Tensor | CellMask, n: int, p: int | None, q: int) -> Tensor | CellMask:
    shape = tuple(mask.shape)
    if len(shape) != 3 or shape[0] != n or shape[2] != q or (p is not None and shape[1] != p):
        raise UserError(f"mask must be [N, P, Q] = {(n, 'P' if p is None else p, q)}, got {shape}")
    return mask
