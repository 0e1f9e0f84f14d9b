"""Boxes of things under a view: where they lie in it, and which of them it still shows."""

from __future__ import annotations

import torch
from torch import Tensor

from nearfar.errors import UserError


def boxes_in_view(boxes: Tensor, geometry: Tensor, view_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Where the boxes of a picture lie in a view of it, cut to what the view shows.

    Args:
        boxes: `[N, 4]` floating point, left, top, right, bottom in pixels of the picture: its left edge is 0 and its
            right one its width.
        geometry: `[3, 3]` floating point, of one view of it as the batch's `geometry` has it, `[V, B, 3, 3]`: from the
            centres of the picture's pixels to those of the view's.
        view_size: width and height of the view in pixels.

    Returns:
        The boxes `[K, 4]` that the view shows a part of, in its pixels, and which of the N these are, `[N]` bool:
        labels and texts of boxes are cut by it, too. Of a turned or sheared view a box is the upright one around it.

    Raises:
        UserError: other shapes.

    >>> boxes = torch.tensor([[1.0, 1, 3, 3], [6, 6, 9, 9], [4, 4, 7, 7]])
    >>> left_half, shown = boxes_in_view(boxes, torch.eye(3), (5, 10))
    >>> left_half.tolist(), shown.tolist()
    ([[1.0, 1.0, 3.0, 3.0], [4.0, 4.0, 5.0, 7.0]], [True, False, True])
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4 or geometry.shape != (3, 3):
        raise UserError(
            f"boxes are [N, 4] and the geometry of a view is [3, 3]; these are {list(boxes.shape)} and "
            f"{list(geometry.shape)}"
        )
    left, top, right, bottom = boxes.to(geometry.dtype).unbind(1)
    corners = torch.stack([torch.stack([x, y]) for x in (left, right) for y in (top, bottom)])  # [4, 2, N]
    # An edge at x lies half a pixel before the centre of pixel x.
    places = geometry[:2, :2] @ (corners - 0.5) + geometry[:2, 2:] + 0.5
    edge = torch.tensor(view_size, dtype=places.dtype, device=places.device)[:, None]
    first, last = (each.clamp(min=0).minimum(edge) for each in (places.amin(0), places.amax(0)))
    shown = (last > first).all(0)
    return torch.cat([first, last]).T[shown], shown
