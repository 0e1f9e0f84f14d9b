"""Phrases look for what they name among the cells of a picture (VG-Bert, arXiv 2111.07180)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.models.grounded.spatial_attention import heads_of


class CrossModalAttention(nn.Module):
    """Attention of phrases over cells: what it gives of each phrase is made of cells alone, without a residual and
    without a layer after it. Queries and keys have no bias, values have one.

    Args:
        width: of phrases and cells.
        heads: by default one for each 64 numbers (paper: 8 of 96).

    Raises:
        UserError: heads that do not divide the width.

    >>> CrossModalAttention(16, 2)(torch.randn(2, 3, 16), torch.randn(2, 12, 16)).shape
    torch.Size([2, 3, 16])
    """

    def __init__(self, width: int, heads: int | None = None) -> None:
        super().__init__()
        self.heads = heads_of(width, heads)
        self.query, self.key = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)

    def forward(self, phrases: Tensor, cells: Tensor) -> Tensor:
        """Grounded phrases `[B, N, W]` of phrases `[B, N, W]` and cells `[B, P, W]`, floating point."""
        q, k, v = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, phrases), (self.key, cells), (self.value, cells))
        )
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def weights(self, phrases: Tensor, cells: Tensor) -> Tensor:
        """Where each phrase looks: `[B, heads, N, P]`, of phrases `[B, N, W]` and cells `[B, P, W]`, floating point;
        over the cells they sum to 1."""
        q, k = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, phrases), (self.key, cells))
        )
        return torch.softmax(q @ k.mT / k.shape[-1] ** 0.5, dim=-1)
