"""Proposals that know no classes: of each place how central it lies in a thing, and how far the thing's edges are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.models.detection.feature_pyramid import ChannelNorm
from nearfar.ops.regions import clip_boxes

ANCHOR = 8
"""The side of a level's usual box, in strides: one a place, square (DITO, arXiv 2310.00161)."""

AS_THE_ANCHOR = 0.5413
"""softplus of it is 1: all edges half an anchor away."""


class ProposalNetwork(nn.Module):
    """Two convolutions over each level's map, then centerness and distances to the four edges.

    Args:
        width: channels of the maps (paper: 256).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *(
                layer
                for _ in range(2)
                for layer in (nn.Conv2d(width, width, 3, padding=1, bias=False), ChannelNorm(width), nn.ReLU())
            )
        )
        self.centerness = nn.Conv2d(width, 1, 1)
        self.distances = nn.Conv2d(width, 4, 1)
        for layer, start in ((self.centerness, 0.0), (self.distances, AS_THE_ANCHOR)):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.constant_(layer.bias, start)

    def forward(self, maps: Mapping[int, Tensor], image_size: int) -> tuple[Tensor, Tensor]:
        """Centerness `[B, N]` before its sigmoid, and boxes `[B, N, 4]` in pixels, not cut to the picture, of all N
        places of the levels' maps `[B, width, H, W]`, floating point, in the order of `places`."""
        scores, boxes = [], []
        for (centres, anchors), grid in zip(places(maps, image_size).values(), maps.values(), strict=True):
            shared = self.convolutions(grid)
            scores.append(self.centerness(shared).flatten(1))
            distances = F.softplus(self.distances(shared).flatten(2).transpose(1, 2)) * anchors[:, None] / 2
            boxes.append(torch.cat([centres - distances[..., :2], centres + distances[..., 2:]], dim=-1))
        return torch.cat(scores, 1), torch.cat(boxes, 1)


def places(maps: Mapping[int, Tensor], image_size: int) -> dict[int, tuple[Tensor, Tensor]]:
    """By level the centres `[N, 2]` (x, y) of the cells of maps `[B, C, H, W]`, floating point, row by row, and the
    sides `[N]` of their anchors, both in pixels.

    >>> centres, anchors = places({4: torch.zeros(1, 1, 2, 2)}, 16)[4]
    >>> centres.tolist(), anchors.tolist()
    ([[4.0, 4.0], [12.0, 4.0], [4.0, 12.0], [12.0, 12.0]], [64.0, 64.0, 64.0, 64.0])
    """
    placed = {}
    for level, grid in maps.items():
        height, width = grid.shape[2:]
        stride = image_size / height
        rows, columns = (
            (torch.arange(n, device=grid.device, dtype=grid.dtype) + 0.5) * stride for n in (height, width)
        )
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        centres = torch.stack([x.flatten(), y.flatten()], dim=1)
        placed[level] = (centres, centres.new_full((len(centres),), ANCHOR * stride))
    return placed


def best_proposals(scores: Tensor, boxes: Tensor, count: int, image_size: int) -> tuple[Tensor, Tensor]:
    """The `count` boxes `[B, R, 4]` of the highest scores, cut to the picture, and their centerness `[B, R]`, from
    scores before the sigmoid `[B, N]` and boxes `[B, N, 4]`, floating point."""
    top = scores.topk(min(count, scores.shape[1]), dim=1)
    chosen = boxes.gather(1, top.indices[..., None].expand(-1, -1, 4))
    return clip_boxes(chosen, image_size, image_size), top.values.sigmoid()
