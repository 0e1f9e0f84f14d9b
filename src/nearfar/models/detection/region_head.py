"""The box head over regions: what a region is called, as a vector beside texts, and how its box is off."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.models.detection.feature_pyramid import ChannelNorm


class RegionHead(nn.Module):
    """Vectors `[N, out]` for regions, and corrections `[N, 4]` of their boxes, of cut-out maps `[N, width, size,
    size]`, floating point (DITO, arXiv 2310.00161; Fast R-CNN's head with layer norm).

    Args:
        width: channels of the maps (paper: 256).
        out: numbers of a text's embedding.
        size: cells a side of what is cut out (paper: 7).
        convolutions: of 3 x 3, each with norm and ReLU (paper: 4).
        hidden: of the layer before both branches (paper: 1024).

    The branch of classes is a linear layer whose input and rows are of unit length, without bias: its numbers lie
    within [-1, 1]. The branch of boxes knows no classes.

    >>> import torch
    >>> head = RegionHead(16, 8, hidden=32)
    >>> embeddings, corrections = head(torch.rand(3, 16, 7, 7))
    >>> embeddings.shape, corrections.shape
    (torch.Size([3, 8]), torch.Size([3, 4]))
    """

    def __init__(self, width: int, out: int, *, size: int = 7, convolutions: int = 4, hidden: int = 1024) -> None:
        super().__init__()
        self.size = size
        self.convolutions = nn.Sequential(
            *(
                layer
                for _ in range(convolutions)
                for layer in (nn.Conv2d(width, width, 3, padding=1, bias=False), ChannelNorm(width), nn.ReLU())
            )
        )
        self.hidden = nn.Sequential(
            nn.Linear(width * size * size, hidden, bias=False), nn.LayerNorm(hidden, eps=1e-6), nn.ReLU()
        )
        self.classes = nn.Linear(hidden, out, bias=False)
        self.boxes = nn.Linear(hidden, 4)
        nn.init.normal_(self.boxes.weight, std=0.001)
        nn.init.zeros_(self.boxes.bias)

    def features(self, regions: Tensor) -> Tensor:
        """What both branches read, `[N, hidden]`, of cut-out maps `[N, width, size, size]`, floating point."""
        return self.hidden(self.convolutions(regions).flatten(1))

    def embeddings(self, features: Tensor) -> Tensor:
        """Vectors `[N, out]` beside texts, of `features` `[N, hidden]`, floating point; not of unit length."""
        return F.linear(F.normalize(features, dim=-1), F.normalize(self.classes.weight, dim=-1))

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(regions)
        return self.embeddings(features), self.boxes(features)


def text_logits(regions: Tensor, texts: Tensor, temperature: Tensor | float) -> Tensor:
    """Logits `[..., K]` of regions `[..., D]` for texts `[K, D]`, floating point: cosines over a temperature. By
    convention row 0 of the texts is the background, the embedding of an empty text.

    >>> import torch
    >>> text_logits(torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]]), 0.5)
    tensor([[2., 0.]])
    """
    return F.normalize(regions, dim=-1) @ F.normalize(texts, dim=-1).transpose(-1, -2) / temperature
