"""NT-Xent: the loss of SimCLR (arXiv 2002.05709). Two views of each sample; every other view of every other sample, in
either set, is a negative."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nearfar import ops
from nearfar.losses.groups import check_pair, unit
from nearfar.losses.temperature import Tau, as_scale, as_temperature


def nt_xent(a: Tensor, b: Tensor, *, temperature: Tau = 0.5, backend: str = "auto") -> Tensor:
    """NT-Xent of two views `a`, `b` `[N, D]`, floating point, as a scalar; see :class:`NTXent`.

    Raises:
        UserError: shapes that do not pair up, or a temperature that is not one number.

    Example:
        >>> round(nt_xent(torch.eye(2), torch.eye(2), temperature=1.0).item(), 6)
        0.551445
    """
    check_pair(a, b)
    return ops.nt_xent(torch.cat([unit(a), unit(b)]), as_scale(temperature), backend=backend)


class NTXent(nn.Module):
    """NT-Xent of two views of the same samples (SimCLR, arXiv 2002.05709).

    With z the 2N unit rows of both, the mean over all 2N anchors of `log sum_{j != i} exp(s_ij) - s_i,pair(i)`.
    Normalises the embeddings itself.

    Args:
        temperature: 0.5 in SimCLR's small runs, 0.1 at scale; a number, a tensor of one element or a
            :class:`Temperature`, taken as it is.
        learnable: whether the temperature is trained; SimCLR's is fixed.
        backend: handed to :mod:`nearfar.ops`.

    Inputs:
        | input | shape | what it is |
        |---|---|---|
        | `a`, `b` | `[N, D]`, floating point | two views; row i of both is sample i |

    Returns:
        A scalar, float32 (float64 from float64).

    Raises:
        UserError: shapes that do not pair up.

    Relations:
        - `InfoNCE` leaves the views of one's own side out of the negatives.
        - `SupCon` over both views with one label a sample is the same loss.

    Variants:
        - SimCLR: `NTXent(0.5, learnable=False)`; on ImageNet `NTXent(0.1, learnable=False)`
        - SimCSE, two dropout views of a text, against both sides: `NTXent(0.05, learnable=False)`

    Example:
        >>> NTXent()(torch.randn(4, 8), torch.randn(4, 8)).shape
        torch.Size([])
    """

    def __init__(self, temperature: Tau = 0.5, *, learnable: bool = True, backend: str = "auto") -> None:
        super().__init__()
        self.temperature = as_temperature(temperature, learnable=learnable)
        self.backend = backend

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return nt_xent(a, b, temperature=self.temperature, backend=self.backend)
