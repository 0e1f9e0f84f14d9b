"""Pictures with blocks of patches hidden, as masked image models hide them (BEiT, arXiv 2106.08254)."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nearfar.errors import UserError

ASPECT = 0.3
"""The flattest block: blocks have aspects from 0.3 to 1 / 0.3."""


class BlockMasking(nn.Module):
    """Hides blocks of patches of each picture in training, as 0 (the mean colour of normalised pixels); in evaluation
    pictures stay whole. Chance is drawn from torch's own generator.

    Args:
        share: mean share of the patches hidden, below 1; 0 hides none.
        margin: each picture's share is drawn from `share` - `margin` to `share` + `margin`.
        patch: side of a patch in pixels.

    Raises:
        UserError: a share outside [0, 1), or a patch below 1.

    >>> hidden = BlockMasking(0.5, margin=0.0, patch=4)(torch.ones(2, 3, 16, 16)) == 0
    >>> hidden.float().mean(dim=(1, 2, 3))
    tensor([0.5000, 0.5000])
    """

    def __init__(self, share: float = 0.15, *, margin: float = 0.1, patch: int = 16) -> None:
        super().__init__()
        if not 0 <= share < 1 or patch < 1:
            raise UserError(f"masked={share} must be in [0, 1), and patch={patch} at least 1")
        self.share, self.margin, self.patch = share, margin, patch

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels `[B, C, H, W]`, floating point, with blocks of 0.

        Raises:
            UserError: pictures that patches do not tile.
        """
        if not self.training or not self.share:
            return pixels
        height, width = pixels.shape[-2:]
        if height % self.patch or width % self.patch:
            raise UserError(f"pictures of {height} x {width} do not split into patches of {self.patch}: set patch=...")
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        rows, columns = height // self.patch, width // self.patch
        shares = rng.uniform(max(0, self.share - self.margin), min(1, self.share + self.margin), len(pixels))
        hidden = np.stack([hidden_patches(rows, columns, share, rng) for share in shares])
        mask = torch.from_numpy(hidden).to(pixels.device)[:, None]
        mask = mask.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)
        return pixels.masked_fill(mask, 0)


def hidden_patches(rows: int, columns: int, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which patches `[rows, columns]` are hidden: blocks are put one over the other until a `share` of them is, the
    last one cut to the number."""
    hidden = np.zeros((rows, columns), dtype=bool)
    need = round(share * rows * columns)
    while (missing := need - int(hidden.sum())) > 0:
        area = rng.uniform(min(4, missing), missing)
        aspect = math.exp(rng.uniform(math.log(ASPECT), -math.log(ASPECT)))
        height = min(rows, max(1, round(math.sqrt(area * aspect))))
        width = min(columns, max(1, round(math.sqrt(area / aspect))))
        top, left = rng.integers(rows - height + 1), rng.integers(columns - width + 1)
        block = np.zeros_like(hidden)
        block[top : top + height, left : left + width] = True
        new = np.flatnonzero(block & ~hidden)[:missing]
        hidden.flat[new] = True
    return hidden
