"""Heads that are worked out instead of trained: a kernel map, and several heads side by side in one embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class KernelMap(nn.Module):
    """A map of unit vectors by their nearness to known ones: `f(x) = k(x, C) A`, where `k(x, c) = exp(-|x - c|^2 / s)`
    (kernel ridge regression; `nearfar.adaptation.ridge` works `A` out). What it is given is scaled to unit length.

    Args:
        width: W, of what goes in.
        centres: M, how many known vectors C `[M, W]` float32 it holds.
        embed_dim: D, of what comes out.

    >>> KernelMap(width=8, centres=5, embed_dim=3)(torch.randn(2, 8)).shape
    torch.Size([2, 3])
    """

    centres: Tensor
    scale: Tensor

    def __init__(self, width: int, centres: int, embed_dim: int) -> None:
        super().__init__()
        self.register_buffer("centres", torch.zeros(centres, width))
        self.register_buffer("scale", torch.ones(()))
        self.weight = nn.Parameter(torch.zeros(centres, embed_dim))

    def forward(self, summary: Tensor) -> Tensor:
        return kernel(F.normalize(summary, dim=-1), self.centres, self.scale) @ self.weight


def kernel(x: Tensor, centres: Tensor, scale: Tensor | float) -> Tensor:
    """`exp(-|x - c|^2 / scale)` `[N, M]` of unit vectors `x` `[N, W]` and `centres` c `[M, W]`, in their dtype."""
    return ((2 * (x @ centres.T) - 2).clamp(max=0) / scale).exp()


class UnitLinear(nn.Linear):
    """A linear map of what it is given at unit length, as a ridge map learns it.

    >>> UnitLinear(8, 4)(torch.randn(2, 8)).shape
    torch.Size([2, 4])
    """

    def forward(self, summary: Tensor) -> Tensor:
        return super().forward(F.normalize(summary, dim=-1))


class Blend(nn.Module):
    """Several heads side by side: their embeddings, each of unit length about a centre of its own, in one vector. The
    cosine of two blends is the weighted mean of the parts' cosines, so that what a model knew and what a map has learnt
    both have their say.

    Args:
        parts: the heads, each `[B, W] -> [B, D_i]`.
        widths: the D_i.

    Attributes:
        weight: `[P]` float32, above 0: each part's share of the similarity.
        centre: for each part `[D_i]`, taken away from its unit vectors before they are scaled to unit length again:
            the mean over the data that it was adapted to.

    >>> Blend([nn.Linear(8, 4), nn.Linear(8, 2)], [4, 2])(torch.randn(3, 8)).shape
    torch.Size([3, 6])
    """

    weight: Tensor

    def __init__(self, parts: Sequence[nn.Module], widths: Sequence[int]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.register_buffer("weight", torch.full((len(self.parts),), 1 / len(self.parts)))
        self.centre = nn.ParameterList(nn.Parameter(torch.zeros(width), requires_grad=False) for width in widths)

    def centred(self, centre: Sequence[Tensor], weight: Sequence[float]) -> Self:
        """Set the centres `[D_i]` and the weights of the parts."""
        for mine, other in zip(self.centre, centre, strict=True):
            mine.data = other.float().clone()
        self.weight = torch.tensor(weight)
        return self

    def forward(self, summary: Tensor) -> Tensor:
        share = (self.weight / self.weight.sum()).sqrt()
        vectors = [about(part(summary), centre) for part, centre in zip(self.parts, self.centre, strict=True)]
        return torch.cat([s * vector for s, vector in zip(share, vectors, strict=True)], dim=-1)


def about(vectors: Tensor, centre: Tensor) -> Tensor:
    """Unit `vectors` `[..., D]` as they stand about `centre` `[D]`: of unit length again, in their dtype."""
    return F.normalize(F.normalize(vectors, dim=-1) - centre, dim=-1)
