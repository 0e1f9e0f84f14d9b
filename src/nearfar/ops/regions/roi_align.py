"""RoIAlign (Mask R-CNN, arXiv 1703.06870): what a map shows within boxes, at a fixed size, by bilinear interpolation.

Sampling and averaging go along rows and columns apart, so a box is two small matrices that its map is multiplied by:
no kernel of its own, exact gradients of any order, of maps and of boxes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nearfar.errors import UserError


def roi_align(
    maps: Tensor,
    boxes: Tensor,
    size: int,
    *,
    stride: float = 1.0,
    sampling_ratio: int = 2,
    aligned: bool = True,
) -> Tensor:
    """Maps `[B, R, C, size, size]`, in the maps' dtype, of R boxes in each of B maps.

    The same as torchvision's operator of this name with `spatial_scale=1/stride`, but for boxes as `[B, R, 4]`.

    Args:
        maps: `[B, C, H, W]`, floating point.
        boxes: `[B, R, 4]` (x0, y0, x1, y1), floating point, in pixels of the pictures.
        size: bins a side.
        stride: pixels from one cell of the map to the next.
        sampling_ratio: samples a side of each bin, whose mean it is.
        aligned: cell centres lie at halves, as pixels' do; without it at whole numbers, and boxes are at least one cell
            large, as in the first Mask R-CNN: half a cell off.

    Raises:
        UserError: shapes that do not go together, or a number below 1.

    >>> maps = torch.arange(25.0).view(1, 1, 5, 5)
    >>> roi_align(maps, torch.tensor([[[1.0, 1.0, 3.0, 3.0]]]), 2)[0, 0, 0]
    tensor([[ 6.,  7.],
            [11., 12.]])
    """
    if maps.ndim != 4 or boxes.ndim != 3 or boxes.shape[-1] != 4 or len(maps) != len(boxes):
        raise UserError(
            f"maps are [B, C, H, W] and boxes [B, R, 4], of the same B; these are {list(maps.shape)} and "
            f"{list(boxes.shape)}"
        )
    if size < 1 or sampling_ratio < 1 or not stride > 0:
        raise UserError(f"size={size}, sampling_ratio={sampling_ratio}, stride={stride}: numbers from 1 on, above 0")
    height, width = maps.shape[2:]
    edges = boxes / stride - (0.5 if aligned else 0.0)
    columns = _weights(edges[..., 0], edges[..., 2], width, size, sampling_ratio, aligned).to(maps.dtype)
    rows = _weights(edges[..., 1], edges[..., 3], height, size, sampling_ratio, aligned).to(maps.dtype)
    # [B, R * size, H] x [B, H, C * W], then each box's columns: [B, R, size * C, W] x [B, R, W, size].
    cut = rows.flatten(1, 2) @ maps.transpose(1, 2).flatten(2)
    cut = cut.view(*rows.shape[:3], -1, width).flatten(2, 3) @ columns.transpose(2, 3)
    return cut.unflatten(2, (size, maps.shape[1])).transpose(2, 3)


def _weights(start: Tensor, end: Tensor, cells: int, bins: int, samples: int, aligned: bool) -> Tensor:
    """What each of `cells` along a side counts in each bin of a box: `[B, R, bins, cells]`.

    A sample counts for the two cells beside it by its distance. Up to one cell outside it counts for the cell at the
    border, farther out for none.
    """
    length = end - start if aligned else (end - start).clamp(min=1)
    steps = (torch.arange(bins * samples, device=start.device, dtype=start.dtype) + 0.5) / (bins * samples)
    place = start[..., None] + steps * length[..., None]
    inside = (place >= -1) & (place <= cells)
    near = place.clamp(0, cells - 1)[..., None] - torch.arange(cells, device=start.device, dtype=start.dtype)
    weights = (1 - near.abs()).clamp(min=0) * inside[..., None]
    return weights.unflatten(2, (bins, samples)).mean(3)
