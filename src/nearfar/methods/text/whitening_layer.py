"""Shuffled group whitening as a layer (WhitenedCSE, arXiv 2305.17746)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nearfar.errors import UserError
from nearfar.ops.whitening import Kind, group_whitening


class ShuffledGroupWhitening(nn.Module):
    """Whitens groups of channels over the rows of a batch; which channels come together is drawn anew at each call.

    It has no parameters and keeps no statistics. Its output depends on the batch and on chance, so that it serves
    training alone: in evaluation mode it is an error, where the published layer goes on.

    Args:
        num_features: D.
        groups: how many groups; they divide D (paper: 128, six channels each, for 768).
        shuffle: draw the groups anew; False takes neighbouring channels.
        eps, kind, detach: as for `nearfar.ops.group_whitening`.

    Raises:
        UserError: groups that do not divide the features; in evaluation mode.

    >>> layer = ShuffledGroupWhitening(12, 3)
    >>> y = layer(torch.randn(64, 12, dtype=torch.float64))
    >>> round(y.square().sum(1).mean().item(), 6)
    12.0
    """

    def __init__(
        self,
        num_features: int,
        groups: int = 128,
        *,
        shuffle: bool = True,
        eps: float = 0.0,
        kind: Kind = "zca",
        detach: bool = False,
    ) -> None:
        super().__init__()
        if groups < 1 or num_features % groups:
            near = [str(g) for g in range(1, num_features + 1) if num_features % g == 0]
            raise UserError(f"groups={groups} do not divide {num_features} features: choose one of {', '.join(near)}")
        self.num_features, self.groups, self.shuffle = num_features, groups, shuffle
        self.eps, self.detach = eps, detach
        self.kind: Kind = kind

    def draw(self, generator: torch.Generator | None = None) -> Tensor | None:
        """A permutation `[D]` int64 of the channels, drawn on the CPU; None without `shuffle`."""
        return torch.randperm(self.num_features, generator=generator) if self.shuffle else None

    def forward(self, x: Tensor, permutation: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """`x` `[N, D]`, floating point, whitened by `permutation` `[D]` int64, or one drawn from `generator`."""
        if not self.training:
            raise UserError(
                "whitening depends on the batch and on chance, and is for training alone: leave it out of evaluation, "
                "or whiten embeddings with nearfar.models.WhiteningTransform"
            )
        permutation = self.draw(generator) if permutation is None else permutation
        return group_whitening(
            x, self.groups, permutation=permutation, eps=self.eps, kind=self.kind, detach=self.detach
        )
