"""Where the cells of two views' maps lie in their picture, and which of them lie close together (PixPro, arXiv
2011.10043, section 3.1).

A view is a crop, perhaps mirrored, of a picture; its box is (x0, y0, x1, y1) in shares of the picture's width and
height, with x0 > x1 where it is mirrored. Its map has H x W cells, row by row. Two cells are near when the distance of
their centres is below `threshold` times the larger of the two views' cell diagonals: 0.7 is just below the distance of
neighbours on one square grid, 1 / sqrt(2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nearfar.errors import UserError
from nearfar.ops.cell_pairs import strips
from nearfar.ops.tiling.inputs import describe

Grid = Sequence[int]
"""Rows and columns of a map."""


class Cells(NamedTuple):
    """Centres `[N, P, 2]` (x, y) of the cells of N views, row by row, and the length `[N]` of a cell's diagonal."""

    centers: Tensor
    diagonal: Tensor


def view_cell_centers(boxes: Tensor, grid: Grid) -> Cells:
    """The cells of views that are crops.

    Args:
        boxes: `[N, 4]`, x0, y0, x1, y1 in shares of the picture; floating point.
        grid: rows H and columns W of the views' maps.

    Raises:
        UserError: boxes that are not `[N, 4]`, or a grid that is not two numbers of at least 1.

    >>> cells = view_cell_centers(torch.tensor([[1.0, 0.0, 0.0, 1.0]]), (1, 2))  # mirrored
    >>> cells.centers.tolist(), round(cells.diagonal.item(), 4)
    ([[[0.75, 0.5], [0.25, 0.5]]], 1.118)
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        raise UserError(f"boxes must be floating-point [N, 4] (x0, y0, x1, y1), got {describe(boxes)}")
    rows, columns = _sides(grid)
    boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
    x0, y0, x1, y1 = boxes.unbind(1)
    across, down = (x1 - x0) / columns, (y1 - y0) / rows
    x = (torch.arange(columns).to(boxes) + 0.5) * across[:, None] + x0[:, None]
    y = (torch.arange(rows).to(boxes) + 0.5) * down[:, None] + y0[:, None]
    x, y = x[:, None].expand(-1, rows, -1), y[..., None].expand(-1, -1, columns)
    return Cells(torch.stack([x, y], -1).flatten(1, 2), torch.sqrt(across**2 + down**2))


def cells_of_views(geometry: Tensor, grid: Grid, *, view_size: Grid, picture_size: Tensor | None = None) -> Cells:
    """The cells of views that the data layer made: crops, mirror images, turns, shears and shifts alike.

    Args:
        geometry: `[N, 3, 3]`, floating point, from pixels of the picture to pixels of the view, whose centres are whole
            numbers (the batch's `geometry[v]`).
        grid: rows and columns of the views' maps.
        view_size: height and width of the views in pixels.
        picture_size: `[N, 2]`, width and height of the pictures (the batch's `picture_size`), by which distances are
            divided along each axis; None: distances are in pixels, which is the same for square pictures.

    Returns:
        `Cells`. The diagonal of a sheared cell is the root mean square of its two.

    Raises:
        UserError: shapes that do not fit together.

    >>> cells_of_views(torch.eye(3)[None], (1, 2), view_size=(2, 4)).centers.tolist()
    [[[0.5, 0.5], [2.5, 0.5]]]
    """
    if geometry.ndim != 3 or geometry.shape[1:] != (3, 3):
        raise UserError(f"geometry must be [N, 3, 3], got {describe(geometry)}")
    rows, columns = _sides(grid)
    height, width = view_size
    geometry = geometry.to(torch.promote_types(geometry.dtype, torch.float32))
    back = torch.linalg.inv(geometry)
    scale = back.new_ones(len(back), 2) if picture_size is None else picture_size.to(back)
    if scale.shape != (len(back), 2):
        raise UserError(f"picture_size must be [N, 2] = {(len(back), 2)}, got {describe(scale)}")
    x = (torch.arange(columns).to(back) + 0.5) * (width / columns) - 0.5
    y = (torch.arange(rows).to(back) + 0.5) * (height / rows) - 0.5
    places = torch.stack([x.expand(rows, -1), y[:, None].expand(-1, columns)], -1).flatten(0, 1)
    linear, shift = back[:, :2, :2], back[:, :2, 2]
    # Half a pixel: the picture's left edge, at -0.5, is 0 among the shares.
    half = 0.0 if picture_size is None else 0.5
    moved = (places[:, None] * linear[:, None]).sum(-1)  # no product of matrices, which autocast would round
    steps = linear * back.new_tensor([width / columns, height / rows]) / scale[..., None]
    return Cells((moved + (shift + half)[:, None]) / scale[:, None], steps.square().sum((1, 2)).sqrt())


def cells_of_map(coordinates: Tensor, grid: Grid) -> Cells:
    """The cells of views made by any warp: take a picture of coordinates through the very transforms of the pixels.

    Args:
        coordinates: `[N, 2, h, w]`, of each pixel of the view its x and y in the picture, in shares; floating point.
        grid: rows and columns of the views' maps.

    Returns:
        `Cells`. A cell's centre is the mean over its pixels. Cells of a warp differ in size: the diagonal is that of
        the whole view, from edge to edge, for a mean cell.

    Raises:
        UserError: coordinates of another shape, or with a single row or column.

    >>> x = (torch.arange(4) + 0.5) / 4
    >>> coordinates = torch.stack([x.expand(4, 4), x[:, None].expand(4, 4)])[None]
    >>> cells_of_map(coordinates, (2, 2)).centers[0, :2].tolist()
    [[0.25, 0.25], [0.75, 0.25]]
    """
    if coordinates.ndim != 4 or coordinates.shape[1] != 2 or min(coordinates.shape[2:]) < 2:
        raise UserError(f"coordinates must be [N, 2, h, w], h and w at least 2, got {describe(coordinates)}")
    rows, columns = _sides(grid)
    height, width = coordinates.shape[2:]
    centers = torch.nn.functional.adaptive_avg_pool2d(coordinates, (rows, columns)).flatten(2).mT
    across = coordinates.diff(dim=3).mean((2, 3)) * width / columns
    down = coordinates.diff(dim=2).mean((2, 3)) * height / rows
    return Cells(centers, torch.sqrt((across**2 + down**2).sum(1)))


def corner_boxes(geometry: Tensor, *, view_size: Grid, picture_size: Tensor) -> Tensor:
    """The boxes `[N, 4]` of views by the released code's convention: from the first pixel's centre to the last one's,
    divided by width - 1 and height - 1. `view_cell_centers` of them is off by up to half a pixel from the true centres.

    Args:
        geometry: `[N, 3, 3]`, floating point, as for `cells_of_views`.
        view_size: height and width of the views in pixels.
        picture_size: `[N, 2]`, width and height of the pictures.

    Raises:
        UserError: a view that is turned or sheared, which a box cannot say; a picture one pixel wide.

    >>> corner_boxes(torch.eye(3)[None], view_size=(5, 5), picture_size=torch.tensor([[5, 5]])).tolist()
    [[0.0, 0.0, 1.0, 1.0]]
    """
    back = torch.linalg.inv(geometry.to(torch.promote_types(geometry.dtype, torch.float32)))
    if bool((back[:, [0, 1], [1, 0]].abs() > 1e-5 * back[:, :2, :2].abs().amax((1, 2))[:, None]).any()):
        raise UserError("a view that is turned or sheared has no box: use cells_of_views")
    if bool((picture_size < 2).any()):
        raise UserError("this convention divides by the picture's width - 1: pictures need two pixels a side")
    height, width = view_size
    # A pixel of the view is `step` wide in the picture: half of that outwards is the crop's edge, and half a pixel of
    # the picture inwards the centre of the crop's outermost one.
    step, start = torch.diagonal(back[:, :2, :2], dim1=1, dim2=2), back[:, :2, 2]
    size = step.new_tensor([width, height])
    first = start - step / 2 + step.sign() / 2
    last = start + (size - 0.5) * step - step.sign() / 2
    return torch.cat([first, last], 1) / (picture_size.to(back) - 1).repeat(1, 2)


class NearCells:
    """Which cells of two views of the same pictures are near, a mask `[N, P, Q]` that is never held whole: what
    `PixelConsistency` and `PixContrast` take for `mask` where maps are large.

    Args:
        q: the query view's cells.
        k: the key view's, of the same pictures.
        threshold: T, in units of the larger cell diagonal (paper: 0.7). Of a pair just at it rounding decides.

    >>> boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    >>> near = NearCells(view_cell_centers(boxes, (2, 2)), view_cell_centers(boxes, (2, 2)))
    >>> near.shape, near.counts().tolist(), near.mT.whole().int().tolist()
    ((1, 4, 4), [[1, 1, 1, 1]], [[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]])
    """

    def __init__(self, q: Cells, k: Cells, threshold: float = 0.7) -> None:
        if not threshold > 0:
            raise UserError(f"threshold={threshold}: above 0, in units of a cell's diagonal")
        if len(q.centers) != len(k.centers):
            raise UserError(f"q has {len(q.centers)} views and k has {len(k.centers)}: they are of the same pictures")
        self.q, self.k, self.threshold = q, k, threshold

    @property
    def shape(self) -> tuple[int, int, int]:
        n, p = self.q.centers.shape[:2]
        return n, p, self.k.centers.shape[1]

    @property
    def mT(self) -> NearCells:
        """The same seen from the other view."""
        return NearCells(self.k, self.q, self.threshold)

    @torch.no_grad()
    def strip(self, pictures: slice, rows: slice) -> Tensor:
        """`[n, r, Q]` bool, of some pictures and some of the query's cells."""
        away = self.q.centers[pictures, rows, None] - self.k.centers[pictures, None]
        distance = torch.sqrt(away[..., 0] ** 2 + away[..., 1] ** 2)
        diagonal = torch.maximum(self.q.diagonal[pictures], self.k.diagonal[pictures])
        return distance / diagonal[:, None, None] < self.threshold

    def whole(self) -> Tensor:
        """All of it, `[N, P, Q]` bool: for small maps."""
        return self.strip(slice(None), slice(None))

    def counts(self) -> Tensor:
        """`[N, P]` long: near keys of each query cell."""
        made = torch.zeros(self.shape[:2], dtype=torch.long, device=self.q.centers.device)
        for pictures, rows in strips(*self.shape):
            made[pictures, rows] = self.strip(pictures, rows).sum(-1)
        return made


def pixel_positive_mask(boxes_q: Tensor, boxes_k: Tensor, grid: Grid, threshold: float = 0.7) -> Tensor:
    """Which cells of two crops of the same pictures are near: `[N, P, P]` bool, a mask for `PixelConsistency` and
    `PixContrast` (PixPro, arXiv 2011.10043).

    Args:
        boxes_q, boxes_k: `[N, 4]` each, floating point, as for `view_cell_centers`.
        grid: rows and columns of both maps.
        threshold: T, in units of the larger cell diagonal (paper: 0.7).

    Raises:
        UserError: boxes, a grid or a threshold that cannot be.

    >>> full, quarter = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[0.0, 0.0, 0.5, 0.5]])
    >>> pixel_positive_mask(full, quarter, (2, 2))[0].int().tolist()
    [[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 1, 1], [0, 0, 0, 0]]
    """
    return NearCells(view_cell_centers(boxes_q, grid), view_cell_centers(boxes_k, grid), threshold).whole()


def _sides(grid: Grid) -> tuple[int, int]:
    if len(grid) != 2 or min(grid) < 1:
        raise UserError(f"grid={tuple(grid)}: the rows and columns of a map, at least 1 each")
    return int(grid[0]), int(grid[1])
