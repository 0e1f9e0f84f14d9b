"""Frames into one video: a small transformer over time, of X-CLIP (arXiv 2208.02816, equation 8)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), as CLIP has it."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class TimeLayer(nn.Module):
    """A transformer layer that norms first: attention over time, then two dense layers, four times as wide."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), QuickGELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = x + self.attention(normed, normed, normed, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class FrameIntegration(nn.Module):
    """The embedding of a video from those of its frames: `v = mean_t(c + Layers(c + e_t))`.

    The released code adds c twice, once around the layers and once inside them, and so does this. `e`, the embedding of
    time, is what knows the order of frames.

    Args:
        width: of the embeddings.
        frames: how many frames `e` is made for; for another number it is interpolated linearly.
        layers: how many (paper: 1); 0 is the mean of the frames.
        heads: of each; by default one for each 64 of `width`.

    >>> FrameIntegration(8, 4)(torch.randn(2, 4, 8)).shape
    torch.Size([2, 8])
    """

    def __init__(self, width: int, frames: int, layers: int = 1, heads: int | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TimeLayer(width, heads or max(1, width // 64)) for _ in range(layers))
        self.time = nn.Parameter(torch.zeros(1, frames, width)) if layers else None
        if self.time is not None:
            nn.init.trunc_normal_(self.time, std=0.02)
        self.layers.apply(small_weights)

    def forward(self, frames: Tensor) -> Tensor:
        """Embeddings `[B, D]` of videos, floating point, of those of their frames `[B, T, D]`."""
        if self.time is None:
            return frames.mean(1)
        x = frames + self.time_of(frames.shape[1])
        for layer in self.layers:
            x = layer(x)
        return (frames + x).mean(1)

    def time_of(self, frames: int) -> Tensor:
        """The embedding of time `[1, T, D]` for so many frames."""
        assert self.time is not None
        if frames == self.time.shape[1]:
            return self.time
        return F.interpolate(self.time.transpose(1, 2), size=frames, mode="linear").transpose(1, 2)


def small_weights(module: Any) -> None:
    """The start of X-CLIP's added parts: weights with a deviation of 0.02, no bias."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
