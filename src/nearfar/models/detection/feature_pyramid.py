"""The simple feature pyramid of ViTDet (arXiv 2203.16527): maps of several strides from one map of a transformer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from nearfar.errors import UserError

LEVELS = (2, 3, 4, 5)
"""Level 4 is as fine as the transformer's own map; one less has twice the cells a side, one more has half."""


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each cell of a map `[B, C, H, W]`, floating point; the same shape comes out."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, grid: Tensor) -> Tensor:
        return super().forward(grid.movedim(1, -1)).movedim(-1, 1)


class SimpleFeaturePyramid(nn.Module):
    """Maps by level, `[B, out, H * 2**(4 - level), W * 2**(4 - level)]`, of one map `[B, width, H, W]`, floating point.

    Args:
        width: channels of the transformer's map.
        out: channels of each level (paper: 256).
        levels: some of 2 to 5 (paper: all). With patches of 16 pixels their strides are 4, 8, 16 and 32.

    Raises:
        UserError: no levels, or others.

    >>> import torch
    >>> pyramid = SimpleFeaturePyramid(32, out=16)
    >>> {level: tuple(grid.shape[2:]) for level, grid in pyramid(torch.rand(1, 32, 8, 8)).items()}
    {2: (32, 32), 3: (16, 16), 4: (8, 8), 5: (4, 4)}
    """

    def __init__(self, width: int, *, out: int = 256, levels: Sequence[int] = LEVELS) -> None:
        super().__init__()
        if not levels or set(levels) - set(LEVELS) or len(set(levels)) < len(levels):
            raise UserError(f"levels={list(levels)}: some of 2, 3, 4 and 5")
        self.levels = tuple(sorted(levels))
        self.stages = nn.ModuleList(nn.Sequential(*_resampled(level, width, out)) for level in self.levels)

    def forward(self, grid: Tensor) -> dict[int, Tensor]:
        return {level: stage(grid) for level, stage in zip(self.levels, self.stages, strict=True)}


def _resampled(level: int, width: int, out: int) -> list[nn.Module]:
    """The layers of one level. Those before a norm have no bias, and neither have the others, as released."""
    if level == 2:
        sampled: list[nn.Module] = [
            nn.ConvTranspose2d(width, width // 2, 2, 2, bias=False),
            ChannelNorm(width // 2),
            nn.GELU(),
            nn.ConvTranspose2d(width // 2, width // 4, 2, 2, bias=False),
        ]
    elif level == 3:
        sampled = [nn.ConvTranspose2d(width, width // 2, 2, 2, bias=False)]
    else:
        sampled = [nn.MaxPool2d(2)] if level == 5 else []
    channels = {2: width // 4, 3: width // 2}.get(level, width)
    return [
        *sampled,
        nn.Conv2d(channels, out, 1, bias=False),
        ChannelNorm(out),
        nn.Conv2d(out, out, 3, padding=1, bias=False),
        ChannelNorm(out),
    ]
