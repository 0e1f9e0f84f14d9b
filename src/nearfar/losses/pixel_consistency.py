"""Pixel consistency: each cell of one view must agree with the cells of the other view that lie close to it in the
picture (PixPro, arXiv 2011.10043, equation 4).

    R(y, k) = - scale * mean over pictures of  sum_ij A_ij cos(y_i, k_j) / sum_ij A_ij ,

one direction, without negatives; A is the mask of near cells. The sum over pairs is sum_i <y_i, (A k)_i>: linear in y,
so that nothing of size P x Q is held.
"""

from __future__ import annotations

from torch import Tensor, nn

from nearfar.errors import UserError
from nearfar.losses.groups import lifted
from nearfar.ops.cell_pairs import CellMask, near_sums
from nearfar.ops.tiling.inputs import describe

EPSILON = 1e-6
"""Added to the number of pairs, as in the released code: a picture without any then counts as 0."""


def pixel_consistency(y: Tensor, k: Tensor, mask: Tensor | CellMask, *, scale: float = 1.0) -> Tensor:
    """Pixel consistency, one direction; see :class:`PixelConsistency`.

    Takes maps `y` `[N, C, H, W]` and `k` `[N, C, H', W']`, floating point, and `mask` `[N, H W, H' W']` (bool or
    numbers), or a `nearfar.losses.near_cells.NearCells`. Returns a scalar.

    Raises:
        UserError: shapes that do not fit together.

    Example (each cell agrees with itself):
        >>> import torch
        >>> y = torch.eye(4).view(1, 4, 2, 2)
        >>> round(pixel_consistency(y, y, torch.eye(4)[None]).item(), 5)
        -1.0
    """
    query, key = cells_of(y, k)
    sums, counts = near_sums(key, mask)
    if sums.shape[:2] != query.shape[:2]:
        raise UserError(f"mask must be [N, P, Q] = {(*query.shape[:2], key.shape[1])}, got {tuple(mask.shape)}")
    agreement = (query * sums).sum((1, 2)) / (counts.sum(1) + EPSILON)
    return -scale * agreement.mean()


def cells_of(y: Tensor, k: Tensor, *, names: tuple[str, str] = ("y", "k")) -> tuple[Tensor, Tensor]:
    """The cells `[N, P, C]` and `[N, Q, C]` of maps `y` `[N, C, H, W]` and `k` `[N, C, H', W']`, floating point (or
    flattened, `[N, C, P]`), unit vectors in float32 or float64. Messages call them by `names`.

    Raises:
        UserError: maps of other shapes.
    """
    for name, x in zip(names, (y, k), strict=True):
        if x.ndim not in (3, 4) or not x.is_floating_point():
            raise UserError(f"{name} must be a floating-point map [N, C, H, W], got {describe(x)}")
    if y.shape[:2] != k.shape[:2]:
        both = " and ".join(names)
        raise UserError(f"{both} must be maps [N, C, ...] of the same pictures, got {describe(y)} and {describe(k)}")
    query, key = (lifted(x).flatten(2).mT for x in (y, k))
    return nn.functional.normalize(query, dim=-1), nn.functional.normalize(key, dim=-1)


class PixelConsistency(nn.Module):
    """Pixel consistency: the cells of one view agree with the near cells of the other (PixPro, arXiv 2011.10043).

    Normalises the cells itself. One direction: add the loss of the other view, with `mask.mT`. There are no negatives,
    and constant maps reach the optimum: take `k` from a momentum encoder, and watch the spread of the features.

    Args:
        scale: what a perfect agreement gives, with a minus (paper: 1; the released code: 2, so that both directions
            end at -4).

    Inputs:
        | input | shape | what it is |
        |---|---|---|
        | `y` | `[N, C, H, W]`, floating point | the queries' map, of PixPro propagated |
        | `k` | `[N, C, H', W']`, floating point | the keys' map; constants, no gradient reaches them |
        | `mask` | `[N, H W, H' W']`, bool or numbers | which cells are near, or a `NearCells`; see below |

    `nearfar.losses.near_cells` makes masks: `pixel_positive_mask` of boxes; `NearCells`, in strips, for large maps.

    Returns:
        A scalar, float32 (float64 from float64), in [-scale, scale]: the mean over pictures. One without near cells
        counts as 0.

    Raises:
        UserError: shapes that do not fit together.

    Relations:
        - With maps of one cell and a mask of ones it is BYOL's loss without its constant.
        - `PixContrast` adds the far cells of the other view as negatives.

    Variants:
        - the released code: `PixelConsistency(scale=2.0)`
        - PixPro: `y = PixelPropagation(C)(y)` before, of `nearfar.models.image.pixel_propagation`

    Example:
        >>> import torch
        >>> from nearfar.losses.near_cells import pixel_positive_mask
        >>> first, second = torch.tensor([[0.0, 0.0, 0.6, 0.6]]), torch.tensor([[0.8, 0.2, 0.2, 0.8]])
        >>> mask = pixel_positive_mask(first, second, (7, 7))
        >>> PixelConsistency()(torch.randn(1, 8, 7, 7), torch.randn(1, 8, 7, 7), mask).shape
        torch.Size([])
    """

    of_maps = True  # its embeddings lie along the second dimension

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, y: Tensor, k: Tensor, mask: Tensor | CellMask) -> Tensor:
        return pixel_consistency(y, k, mask, scale=self.scale)
