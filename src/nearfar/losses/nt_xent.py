"""NT-Xent: the loss of SimCLR (arXiv 2002.05709). Two views of each sample; every other view of every other sample, in
either set, is a negative."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nearfar import ops
from nearfar.losses.groups import check_pair, unit
from nearfar.losses.temperature import Temperature, as_scale


def nt_xent(a: Tensor, b: Tensor, *, temperature: float | Tensor = 0.5, backend: str = "auto") -> Tensor:
    """NT-Xent of two views; see :class:`NTXent`.

    Example:
        >>> round(nt_xent(torch.eye(2), torch.eye(2), temperature=1.0).item(), 6)
        0.551445
    """
    check_pair(a, b)
    return ops.nt_xent(torch.cat([unit(a), unit(b)]), as_scale(temperature), backend=backend)


class NTXent(nn.Module):
    """NT-Xent of two views `a`, `b` `[N, D]` of the same samples.

    With z the 2N unit rows of both, the mean over all 2N anchors of `log sum_{j != i} exp(s_ij) - s_i,pair(i)`.
    Normalises the embeddings itself.

    Args:
        temperature: 0.5 in SimCLR's small runs, 0.1 at scale; fixed unless `learnable`.
        learnable: whether the temperature is trained.
        backend: handed to :mod:`nearfar.ops`.

    Returns a scalar. Raises ValueError on shapes that do not pair up.

    Example:
        >>> NTXent()(torch.randn(4, 8), torch.randn(4, 8)).shape
        torch.Size([])
    """

    def __init__(self, temperature: float = 0.5, *, learnable: bool = False, backend: str = "auto") -> None:
        super().__init__()
        self.temperature = Temperature(temperature, learnable=learnable)
        self.backend = backend

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return nt_xent(a, b, temperature=self.temperature(), backend=self.backend)
