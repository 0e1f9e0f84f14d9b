"""A linear map of the cells of a frozen map to classes: a 1 x 1 convolution, fitted by logistic regression."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from nearfar.errors import UserError

AT_ONCE = 2**24
"""Numbers of a class of a pixel that are held at once: of hundreds of classes all pictures' take tens of gigabytes."""


class CellProbe:
    """Multinomial logistic regression on the cells of maps, whose targets are the classes' shares of each cell.

    Cells are standardised, channel by channel. The penalty is fixed, and the problem convex, so that there is no chance
    in it, and no learning rate.

    Args:
        penalty: weight of the mean squared weights beside the mean cross-entropy, at least 0.
        max_iter: iterations of L-BFGS, at least 1.

    Raises:
        UserError: a setting out of its range.

    >>> maps = torch.tensor([[1.0, 1.0], [-1.0, 1.0]])[None, None]  # one picture, one channel, 2 x 2 cells
    >>> shares = torch.stack([maps[:, 0] > 0, maps[:, 0] < 0], 1).float()
    >>> CellProbe().fit(maps, shares).logits(maps).argmax(1).tolist()
    [[[0, 0], [1, 0]]]
    """

    def __init__(self, *, penalty: float = 1e-4, max_iter: int = 100) -> None:
        if not penalty >= 0 or max_iter < 1:
            raise UserError(f"penalty={penalty} must be at least 0, and max_iter={max_iter} at least 1")
        self.penalty, self.max_iter = penalty, max_iter

    def fit(self, maps: Tensor, shares: Tensor) -> Self:
        """Fit maps `[N, C, H, W]`, floating point, to the shares `[N, K, H, W]` that each class has of each cell; where
        they add up to less than 1, the rest of the cell does not count.

        Raises:
            UserError: maps and shares of other pictures or cells, or fewer than two classes with a share.
        """
        if (
            maps.ndim != 4
            or shares.ndim != 4
            or maps.shape[::2] != shares.shape[::2]
            or maps.shape[3] != shares.shape[3]
        ):
            raise UserError(
                f"maps [N, C, H, W] and shares [N, K, H, W] must be of the same cells, got {list(maps.shape)} and "
                f"{list(shares.shape)}"
            )
        rows, target = (x.movedim(1, -1).flatten(0, 2).float() for x in (maps.detach(), shares))
        if int((target.sum(0) > 0).sum()) < 2:
            raise UserError("a probe of cells needs pictures that show at least two classes, the background counted")
        self.mean, self.scale = rows.mean(0), rows.std(0, correction=0).clamp_min(1e-6)
        rows = (rows - self.mean) / self.scale
        weight, bias = (
            rows.new_zeros(s, requires_grad=True) for s in ((rows.shape[1], target.shape[1]), target.shape[1])
        )
        total = target.sum()
        optimiser = torch.optim.LBFGS([weight, bias], max_iter=self.max_iter, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimiser.zero_grad()
            entropy = -(target * (rows @ weight + bias).log_softmax(1)).sum() / total
            loss = entropy + self.penalty * weight.square().sum()
            loss.backward()
            return loss

        with torch.enable_grad():
            optimiser.step(closure)
        self.weight, self.bias = weight.detach(), bias.detach()
        return self

    def logits(self, maps: Tensor) -> Tensor:
        """`[N, K, H, W]` of maps `[N, C, H, W]`, floating point."""
        rows = (maps.movedim(1, -1).float() - self.mean) / self.scale
        return (rows @ self.weight + self.bias).movedim(-1, 1)

    def masks(self, maps: Tensor, size: int) -> Tensor:
        """The class of each pixel, `[N, size, size]` long, of maps `[N, C, H, W]`: logits drawn out to pixels, linearly
        between the cells' centres."""
        return class_of_pixels(self.logits(maps), size)


def class_of_pixels(cells: Tensor, size: int) -> Tensor:
    """The class `[N, size, size]` long whose value is highest, of values of cells `[N, K, H, W]`, floating point, drawn
    out to pixels, linearly between the cells' centres."""
    few = max(1, AT_ONCE // (cells.shape[1] * size**2))
    drawn = (interpolate(part, size=(size, size), mode="bilinear", align_corners=False) for part in cells.split(few))
    return torch.cat([part.argmax(1) for part in drawn])


def class_shares(masks: Tensor, classes: int, grid: tuple[int, int]) -> Tensor:
    """The share `[N, classes, *grid]` that each class has of each cell, of masks `[N, S, S]` long; negative numbers
    are of no class.

    >>> class_shares(torch.tensor([[[0, 1], [1, -1]]]), 2, (1, 1)).flatten().tolist()
    [0.25, 0.5]
    """
    numbers = torch.arange(classes, device=masks.device).view(-1, 1, 1)
    few = max(1, AT_ONCE // (classes * masks.shape[1:].numel()))
    shares = [adaptive_avg_pool2d((part[:, None] == numbers).float(), grid) for part in masks.split(few)]
    return torch.cat(shares)
