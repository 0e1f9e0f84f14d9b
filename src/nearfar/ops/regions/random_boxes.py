"""Random boxes, as DITO (arXiv 2310.00161) draws them in pretraining: no labels, no proposals."""

from __future__ import annotations

import torch
from torch import Tensor

from nearfar.errors import UserError


def sample_random_boxes(
    *shape: int,
    size: tuple[float, float] = (0.05, 0.5),
    aspect: tuple[float, float] = (0.5, 2.0),
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Boxes `[*shape, 4]` (x0, y0, x1, y1) of the default dtype, in shares of a picture's sides, cut to the picture.

    A box of side s and aspect a is s * sqrt(a) wide and s / sqrt(a) high; its centre lies anywhere in the picture.

    Args:
        shape: how many, such as pictures and boxes of each.
        size: the least and the largest side, drawn evenly (paper: about 0.05 to 0.5).
        aspect: the least and the largest width over height, drawn evenly (paper: 0.5 to 2).
        generator: where numbers come from; None: torch's own.
        device: where the boxes are to lie. They are drawn on the generator's own, by default the CPU.

    Raises:
        UserError: a range that is empty, or does not lie above 0; a size above 1.

    >>> boxes = sample_random_boxes(2, 5, generator=torch.Generator().manual_seed(0))
    >>> boxes.shape, bool((boxes >= 0).all() and (boxes <= 1).all() and (boxes[..., 2:] > boxes[..., :2]).all())
    (torch.Size([2, 5, 4]), True)
    """
    for name, (low, high) in (("size", size), ("aspect", aspect)):
        if not 0 < low <= high:
            raise UserError(f"{name} is {low} to {high}: two numbers above 0, the smaller first")
    if size[1] > 1:
        raise UserError(f"size is up to {size[1]}: a box is at most as large as the picture, 1")
    drawn = torch.rand(*shape, 4, generator=generator, device=generator.device if generator else None)
    side = size[0] + (size[1] - size[0]) * drawn[..., :1]
    root = (aspect[0] + (aspect[1] - aspect[0]) * drawn[..., 1:2]).sqrt()
    half = torch.cat([side * root, side / root], dim=-1) / 2
    centre = drawn[..., 2:]
    return torch.cat([centre - half, centre + half], dim=-1).clamp(0, 1).to(device)
