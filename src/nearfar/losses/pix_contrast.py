"""PixContrast (PixPro, arXiv 2011.10043, equation 2): a cell of one view finds the near cells of the other view of the
same picture among its far ones.

    ell_i = -log  sum_{j near i} exp(cos(q_i, k_j) / tau)  /  sum_j exp(cos(q_i, k_j) / tau) ,

the mean over the cells that have a near one, then over pictures; one direction.
"""

from __future__ import annotations

from torch import Tensor, nn

from nearfar.losses.pixel_consistency import cells_of
from nearfar.losses.temperature import Tau, as_scale, as_temperature
from nearfar.ops.cell_pairs import CellMask, near_log_ratio


def pix_contrast(q: Tensor, k: Tensor, mask: Tensor | CellMask, *, temperature: Tau = 0.3) -> Tensor:
    """PixContrast, one direction; see :class:`PixContrast`.

    Takes maps `q` `[N, C, H, W]` and `k` `[N, C, H', W']`, floating point, and `mask` `[N, H W, H' W']` (bool or
    numbers), or a `nearfar.losses.near_cells.NearCells`. Returns a scalar.

    Raises:
        UserError: shapes that do not fit together.

    Example (four orthogonal cells, each near its own: log(1 + 3 / exp(1 / 0.3))):
        >>> import torch
        >>> q = torch.eye(4, dtype=torch.float64).view(1, 4, 2, 2)
        >>> round(pix_contrast(q, q, torch.eye(4)[None]).item(), 6)
        0.101674
    """
    query, key = cells_of(q, k, names=("q", "k"))
    ell, near = near_log_ratio(query, key, mask, as_scale(temperature))
    return (ell.sum(1) / near.sum(1).clamp(min=1)).mean()


class PixContrast(nn.Module):
    """PixContrast: InfoNCE between the cells of two views of one picture (PixPro, arXiv 2011.10043).

    Normalises the cells itself. One direction: add the loss of the other view, with `mask.mT`, and halve. Cells of
    other pictures are no negatives.

    Args:
        temperature: initial temperature (paper: 0.3): a number, a tensor of one element or a :class:`Temperature`,
            taken as it is.
        learnable: whether it is trained (paper: no).

    Inputs:
        | input | shape | what it is |
        |---|---|---|
        | `q` | `[N, C, H, W]`, floating point | the queries' map |
        | `k` | `[N, C, H', W']`, floating point | the keys' map; constants, no gradient reaches them |
        | `mask` | `[N, H W, H' W']`, bool or numbers | which cells are near, or a `NearCells`; see below |

    `nearfar.losses.near_cells` makes masks: `pixel_positive_mask` of boxes; `NearCells`, in strips, for large maps.

    Returns:
        A scalar, float32 (float64 from float64): the mean over pictures of the mean over their cells that have a near
        key. A picture without any counts as 0. The gradient is of first order.

    Raises:
        UserError: shapes that do not fit together.

    Relations:
        - Where each cell has one near key it is one direction of `InfoNCE` over the cells of a picture.
        - `PixelConsistency` has no negatives.

    Variants:
        - the paper's: `PixContrast(learnable=False)`

    Example:
        >>> import torch
        >>> from nearfar.losses.near_cells import pixel_positive_mask
        >>> full, half = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[0.5, 0.0, 1.0, 0.5]])
        >>> mask = pixel_positive_mask(full, half, (7, 7))
        >>> PixContrast()(torch.randn(1, 8, 7, 7), torch.randn(1, 8, 7, 7), mask).shape
        torch.Size([])
    """

    of_maps = True  # its embeddings lie along the second dimension

    def __init__(self, temperature: Tau = 0.3, *, learnable: bool = True) -> None:
        super().__init__()
        self.temperature = as_temperature(temperature, learnable=learnable)

    def forward(self, q: Tensor, k: Tensor, mask: Tensor | CellMask) -> Tensor:
        return pix_contrast(q, k, mask, temperature=self.temperature)
