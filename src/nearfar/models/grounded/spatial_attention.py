"""One transformer block over the cells of a map, as the visual stream of VG-Bert has it (arXiv 2111.07180)."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.errors import UserError

Position = Literal["learned", "sinusoid", "none"]


class SpatialSelfAttention(nn.Module):
    """Cells attend to one another, each sublayer followed by a layer norm.

    Where a cell lies is added to what goes into the attention, queries, keys and values, and nowhere else: the residual
    takes the cell as it is.

    Args:
        width: of the cells.
        grid: rows and columns of the map.
        heads: of the attention; by default one for each 64 numbers.
        hidden: width of the feed-forward layer; by default 4 * `width`, with ReLU, as in the paper.
        dropout: after both sublayers and on the attention's weights.
        position: "learned", "sinusoid" (fixed, half of the numbers for rows, half for columns) or "none".

    Raises:
        UserError: a setting that the width does not allow.

    >>> SpatialSelfAttention(16, (3, 4))(torch.randn(2, 12, 16)).shape
    torch.Size([2, 12, 16])
    """

    def __init__(
        self,
        width: int,
        grid: tuple[int, int],
        *,
        heads: int | None = None,
        hidden: int | None = None,
        dropout: float = 0.1,
        position: Position = "learned",
    ) -> None:
        super().__init__()
        self.heads = heads_of(width, heads)
        if position not in get_args(Position):
            raise UserError(f"position={position!r}: choose one of {', '.join(get_args(Position))}")
        self.position: Tensor
        self.width, self.grid, self.dropout, self.kind = width, grid, dropout, position
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.dense = nn.Linear(width, width)
        self.norm, self.out_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        hidden = hidden or 4 * width
        self.feed_forward = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))
        start = sinusoid(width, grid) if position == "sinusoid" else torch.randn(grid[0] * grid[1], width) * 0.02
        if position == "learned":
            self.position = nn.Parameter(start)
        else:
            self.register_buffer("position", start * (position != "none"), persistent=False)

    def forward(self, cells: Tensor) -> Tensor:
        """Cells `[B, P, W]`, floating point, after the block, P as in `grid`, row by row."""
        placed = cells + self.position
        q, k, v = (layer(placed).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in self._layers())
        drop = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=drop).transpose(1, 2).flatten(2)
        cells = self.norm(cells + F.dropout(self.dense(mixed), self.dropout, self.training))
        return self.out_norm(cells + F.dropout(self.feed_forward(cells), self.dropout, self.training))

    def _layers(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        return self.query, self.key, self.value

    def resize(self, grid: tuple[int, int]) -> None:
        """Take maps of another size from here on: learned places are interpolated, fixed ones made anew."""
        if grid == self.grid:
            return
        places = self.position.detach().mT.unflatten(1, self.grid)[None]
        other = F.interpolate(places.float(), grid, mode="bicubic", align_corners=False)[0].flatten(1).mT
        if self.kind == "sinusoid":
            other = sinusoid(self.width, grid)
        other = other.to(self.position).contiguous()
        if self.kind == "learned":
            self.position = nn.Parameter(other, requires_grad=self.position.requires_grad)
        else:
            self.position = other
        self.grid = grid


def heads_of(width: int, heads: int | None) -> int:
    """Heads of an attention of a width: those named, or one for each 64 numbers and at least one.

    Raises:
        UserError: heads that do not divide the width.
    """
    count = heads or next(h for h in range(max(1, width // 64), 0, -1) if width % h == 0)
    if count < 1 or width % count:
        raise UserError(f"heads={count} do not divide the width {width} of the attention")
    return count


def sinusoid(width: int, grid: tuple[int, int]) -> Tensor:
    """Fixed places `[H * W, width]` float32: sines and cosines of the row in the first half, of the column in the
    second.

    Raises:
        UserError: a width that is no multiple of four.

    >>> sinusoid(4, (1, 2)).round(decimals=3)
    tensor([[0.0000, 1.0000, 0.0000, 1.0000],
            [0.0000, 1.0000, 0.8410, 0.5400]])
    """
    if width % 4:
        raise UserError(f"position='sinusoid' needs a width that is a multiple of four, not {width}")
    quarter = width // 4
    rate = torch.exp(-math.log(10000.0) * torch.arange(quarter) / quarter)
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in grid), indexing="ij")
    angles = [place.flatten()[:, None] * rate for place in (rows, columns)]
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1)
