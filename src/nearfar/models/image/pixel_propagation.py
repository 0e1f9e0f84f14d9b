"""PixPro's parts over the cells of a map (arXiv 2011.10043): the projector, and the pixel propagation module, which
smooths each cell by those of its view that are like it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.errors import UserError
from nearfar.models.image.projector import MLP, Norm
from nearfar.ops.cell_pairs import propagated


def of_cells(network: Callable[[Tensor], Tensor], grid: Tensor) -> Tensor:
    """The map `[N, D, H, W]` that `network`, of rows `[M, C] -> [M, D]`, makes of each cell of `grid` `[N, C, H, W]`,
    floating point: a 1 x 1 convolution, where it is a linear layer."""
    rows = grid.movedim(1, -1)
    return network(rows.flatten(0, 2)).unflatten(0, rows.shape[:3]).movedim(-1, 1)


class CellProjector(nn.Module):
    """An MLP over each cell of a map, `[N, width, H, W] -> [N, out, H, W]`, floating point: 1 x 1 convolutions. Batch
    norm takes its statistics over all cells of the batch.

    Args:
        width: channels that go in.
        hidden, out: channels between, and those that come out (paper: 4096 and 256).
        layers, norm: see `nearfar.models.image.projector.MLP`. A layer that batch norm follows has no bias, which
            would change nothing; the released code has one.

    Raises:
        UserError: a size below 1.

    >>> import torch
    >>> CellProjector(8, hidden=16, out=4)(torch.randn(2, 8, 3, 5)).shape
    torch.Size([2, 4, 3, 5])
    """

    def __init__(self, width: int, *, hidden: int = 4096, out: int = 256, layers: int = 2, norm: Norm = "hidden"):
        super().__init__()
        self.mlp = MLP(width, layers=layers, hidden=hidden, out=out, norm=norm)

    def forward(self, grid: Tensor) -> Tensor:
        return of_cells(self.mlp, grid)


class PixelPropagation(nn.Module):
    """The pixel propagation module: `[N, dim, H, W]`, floating point, to unit cells of the same shape,

        y_i = sum_j max(cos(x_i, x_j), clamp) ** gamma  g(x_j) ,   j over all cells of the same view, i too.

    Args:
        dim: channels.
        gamma: sharpness (paper: 2). Below 1, where the slope at 0 is infinite, 1e-6 is added before the power.
        layers: of g: 0 the identity; 1 a linear layer (paper); 2 with batch norm, ReLU and another.
        clamp: the least similarity (paper: 0).
        unit_values: normalise g(x_j) before the sum, as the released code does; the paper's formula does not.

    Raises:
        UserError: a negative gamma, or layers other than 0, 1 and 2.

    >>> import torch
    >>> x = torch.tensor([[1.0, 0.5], [0.0, 0.75**0.5]]).view(1, 2, 1, 2)  # two cells, their cosine 0.5
    >>> y = PixelPropagation(2, layers=0)(x)
    >>> torch.nn.functional.cosine_similarity(x, y)[0, 0, 0].round(decimals=6)  # (1.125, 0.2165) beside (1, 0)
    tensor(0.9820)
    """

    def __init__(
        self, dim: int, *, gamma: float = 2.0, layers: int = 1, clamp: float = 0.0, unit_values: bool = False
    ) -> None:
        super().__init__()
        if layers not in (0, 1, 2) or not gamma >= 0:
            raise UserError(f"layers={layers} and gamma={gamma}: 0, 1 or 2 layers, and gamma at least 0")
        self.gamma, self.clamp, self.unit_values = gamma, clamp, unit_values
        norm: Norm = "hidden" if layers == 2 else "none"
        self.values = MLP(dim, layers=layers, hidden=dim, out=dim, norm=norm) if layers else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        cells = x.float() if x.dtype.itemsize < 4 else x  # powers and sums over many cells lose half precision
        values = of_cells(self.values, x).to(cells.dtype).flatten(2).mT
        values = F.normalize(values, dim=-1) if self.unit_values else values
        unit = F.normalize(cells.flatten(2).mT, dim=-1)
        y = propagated(unit, values, gamma=self.gamma, clamp=self.clamp)
        return F.normalize(y, dim=-1).mT.unflatten(2, x.shape[2:])
