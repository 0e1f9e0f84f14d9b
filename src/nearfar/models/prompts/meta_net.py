"""What a picture adds to the vectors of a prompt (CoCoOp, arXiv 2203.05557)."""

from __future__ import annotations

from torch import nn


class MetaNet(nn.Sequential):
    """CoCoOp's net from a picture's unit embedding `[N, D]`, floating point, to what is added to all context vectors
    `[N, W]`: two linear layers with a ReLU between them.

    >>> import torch
    >>> MetaNet(32, 8)(torch.ones(3, 32)).shape
    torch.Size([3, 8])
    """

    def __init__(self, embed_dim: int, width: int, hidden: int | None = None) -> None:
        narrow = hidden or max(1, embed_dim // 16)
        super().__init__(nn.Linear(embed_dim, narrow), nn.ReLU(), nn.Linear(narrow, width))
