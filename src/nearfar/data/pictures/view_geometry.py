"""Where a view comes from: crop, flip, shear, shift and turn as one 3 x 3 matrix a picture, sampled once.

Matrices act on homogeneous columns `(x, y, 1)`. Inside, coordinates run from 0 to 1 over a picture's width and height;
outside, in `geometry`, they are pixels whose centres are whole numbers, as everywhere in image libraries.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

ATTEMPTS = 10
"""Boxes tried for a random crop before the largest central one is taken, as everybody does since Inception."""

AT_A_TIME = 1 << 20
"""Numbers of the pictures that a processor samples at a time: they stay in its cache and need no new memory."""


def random_box(draws: Tensor, sizes: Tensor, area: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """Boxes of a random area and aspect inside pictures: the random resized crop.

    Args:
        draws: `[B, 2 * ATTEMPTS + 2]` uniform numbers from 0 to 1.
        sizes: `[B, 2]` width and height of the pictures in pixels.
        area: smallest and largest share of the picture's area.
        ratio: smallest and largest width over height, in the picture's own pixels; drawn evenly in its logarithm.

    Returns:
        `[B, 4]`: left, top, width, height, as shares of the picture.
    """
    width, height = sizes[:, :1], sizes[:, 1:]
    share = area[0] + (area[1] - area[0]) * draws[:, :ATTEMPTS]
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * draws[:, ATTEMPTS : 2 * ATTEMPTS])
    w = torch.sqrt(share * aspect * height / width)  # as a share of the width: sqrt(share W H aspect) / W
    h = torch.sqrt(share / aspect * width / height)
    fits = (w <= 1) & (h <= 1)
    first = fits.to(torch.uint8).argmax(1, keepdim=True)
    w, h = w.gather(1, first), h.gather(1, first)
    none = ~fits.any(1, keepdim=True)
    own = width / height
    closest = own.clamp(ratio[0], ratio[1])
    w = torch.where(none, (closest / own).clamp(max=1), w)
    h = torch.where(none, (own / closest).clamp(max=1), h)
    place = torch.where(none, 0.5, draws[:, -2:])
    return torch.cat([place[:, :1] * (1 - w), place[:, 1:] * (1 - h), w, h], dim=1)


def window(draws: Tensor, canvas: int, size: int) -> Tensor:
    """Boxes `[B, 4]` of `size` out of `canvas` pixels at a random whole pixel, so that nothing is interpolated."""
    corner = (draws[:, :2] * (canvas - size + 1)).floor().clamp(max=canvas - size) / canvas
    return torch.cat([corner, torch.full_like(corner, size / canvas)], dim=1)


def from_box(box: Tensor, flip: Tensor) -> Tensor:
    """`[B, 3, 3]`: from a place in the view to the place in the picture; mirrored where `flip` `[B]` is true."""
    left, top, width, height = box.unbind(1)
    zero, one = torch.zeros_like(left), torch.ones_like(left)
    rows = [torch.where(flip, -width, width), zero, torch.where(flip, left + width, left)]
    rows += [zero, height, top, zero, zero, one]
    return torch.stack(rows, dim=1).view(-1, 3, 3)


def about_centre(linear: Tensor, shift: Tensor) -> Tensor:
    """`[B, 3, 3]` from `[B, 2, 2]` about the middle of the picture, then a shift `[B, 2]`."""
    matrix = torch.zeros(len(linear), 3, 3, dtype=linear.dtype, device=linear.device)
    centre = torch.full_like(shift, 0.5)
    matrix[:, :2, :2] = linear
    matrix[:, :2, 2] = centre - (linear @ centre[..., None])[..., 0] + shift
    matrix[:, 2, 2] = 1
    return matrix


def sample(images: Tensor, matrix: Tensor, size: int, *, ground: float | None = None) -> Tensor:
    """Views `[B, 3, size, size]`, floating point, of pictures `[B, 3, H, W]`, uint8 or floats from 0 to 1, where
    `matrix` takes a place in the view to one in the picture. Outside it, the `ground` colour, or else the picture's
    edge."""
    count = max(1, AT_A_TIME // max(images[:1].numel(), 1)) if images.device.type == "cpu" else len(images)
    if len(images) <= count:
        return _sampled(shares(images), matrix, size, ground)
    views = images.new_empty(len(images), 3, size, size, dtype=shares(images[:0]).dtype)
    for rows in (slice(start, start + count) for start in range(0, len(images), count)):
        views[rows] = _sampled(shares(images[rows]), matrix[rows], size, ground)
    return views


def shares(images: Tensor) -> Tensor:
    """Colours from 0 to 1, floating point, of pictures in uint8 or such colours."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images


def _sampled(images: Tensor, matrix: Tensor, size: int, ground: float | None) -> Tensor:
    grid = _grid(matrix.to(images), size)
    if ground is None:
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return F.grid_sample(images - ground, grid, padding_mode="zeros", align_corners=False) + ground


def _grid(matrix: Tensor, size: int) -> Tensor:
    """Where each pixel of the view is taken from, `[B, size, size, 2]`, in grid_sample's -1 to 1. Written out by rows
    and columns, as it takes a tenth of the time of `affine_grid`, which is longer than the sampling itself."""
    middles = (torch.arange(size, device=matrix.device, dtype=matrix.dtype) + 0.5) / size
    grid = matrix.new_empty(len(matrix), size, size, 2)
    for axis in range(2):
        along_x, along_y, start = (2 * matrix[:, axis]).unbind(1)
        rows = along_y[:, None] * middles + (start - 1)[:, None]
        torch.add(along_x[:, None, None] * middles, rows[..., None], out=grid[..., axis])
    return grid


def pixel_matrix(matrix: Tensor, sizes: Tensor, size: int, *, cropped: bool) -> Tensor:
    """`[B, 3, 3]` from pixels of the original picture to pixels of the view.

    Args:
        matrix: place in the view to place in the canvas.
        sizes: `[B, 2]` width and height of the original.
        size: side of the view.
        cropped: whether the canvas is the central square of the original (else all of it, squashed).
    """
    zero, one = torch.zeros_like(sizes[:, 0]), torch.ones_like(sizes[:, 0])
    span = sizes.amin(1, keepdim=True).expand(-1, 2) if cropped else sizes
    offset = (sizes - span) / 2
    x, y = (0.5 - offset).unbind(1)
    w, h = span.unbind(1)
    to_canvas = torch.stack([1 / w, zero, x / w, zero, 1 / h, y / h, zero, zero, one], dim=1).view(-1, 3, 3)
    to_pixels = matrix.new_tensor([[size, 0, -0.5], [0, size, -0.5], [0, 0, 1]])
    return to_pixels @ torch.linalg.inv(matrix) @ to_canvas
