"""Pictures of any shape as patches (NaFlex, arXiv 2502.14786): SigLIP 2 keeps a picture's aspect ratio and reads at
most N patches of it.

A picture is one row a patch: its P x P x 3 numbers, then the height and the width of the picture in patches. Rows of
zeros fill up to N. So pictures of different shapes stand in one tensor `[B, N, 3 * P * P + 2]`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def is_naflex(backbone: Any) -> bool:
    """Whether a backbone reads patches and their places in place of pictures."""
    return str(getattr(getattr(backbone, "config", None), "model_type", "")) == "siglip2_vision_model"


def patch_size(backbone: Any) -> int | None:
    """Side of the patches that a backbone reads in place of pictures; None for others."""
    return int(backbone.config.patch_size) if is_naflex(backbone) else None


def grid(height: int, width: int, patch: int, most: int) -> tuple[int, int]:
    """Rows and columns of patches of a picture `height` x `width`: the largest scale at which at most `most` patches
    cover it, by the search that the models were trained with.

    >>> grid(100, 100, 16, 256), grid(100, 400, 16, 256)
    ((16, 16), (8, 32))
    """

    def cells(scale: float, side: int) -> int:
        return max(1, math.ceil(side * scale / patch))

    low, high = 1e-6, 100.0
    while high - low >= 1e-5:
        scale = (low + high) / 2
        if cells(scale, height) * cells(scale, width) <= most:
            low = scale
        else:
            high = scale
    return cells(low, height), cells(low, width)


def packed(pixels: Tensor, patch: int, most: int) -> Tensor:
    """Pictures of one size, pixels `[B, 3, H, W]` float32 with sides that `patch` divides, as patches
    `[B, most, 3 * P * P + 2]` in their dtype."""
    batch, channels, height, width = pixels.shape
    rows, columns = height // patch, width // patch
    cut = pixels[:, :, : rows * patch, : columns * patch]
    cut = cut.reshape(batch, channels, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1)
    shape = pixels.new_tensor([rows, columns]).expand(batch, rows * columns, 2)
    patches = torch.cat([cut.reshape(batch, rows * columns, -1), shape], dim=-1)
    return F.pad(patches, (0, 0, 0, most - rows * columns))


def inputs(pixels: Tensor, patch: int) -> dict[str, Tensor]:
    """What transformers' model takes of pixels float32, packed patches `[B, N, 3 * P * P + 2]` or square pictures
    `[B, 3, S, S]`: `pixel_values` `[B, N, 3 * P * P]` float32, `pixel_attention_mask` `[B, N]` and `spatial_shapes`
    `[B, 2]` int64."""
    if pixels.ndim == 4:
        most = (pixels.shape[2] // patch) * (pixels.shape[3] // patch)
        pixels = packed(pixels, patch, most)
    shapes = pixels[..., -2:].float().amax(dim=1).round().long()
    mask = pixels[..., -1] > 0
    return {"pixel_values": pixels[..., :-2], "pixel_attention_mask": mask.long(), "spatial_shapes": shapes}
