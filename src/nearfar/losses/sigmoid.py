"""Sigmoid pairwise loss of SigLIP (arXiv 2303.15343): each pair is its own binary question; no partition is needed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nearfar import ops
from nearfar.losses.groups import check_pair, unit
from nearfar.losses.temperature import Temperature, as_scale


def sigmoid_loss(
    a: Tensor,
    b: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    bias: float | Tensor = -10.0,
    group: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Sigmoid pairwise loss; see :class:`SigmoidLoss`.

    Example:
        >>> round(sigmoid_loss(torch.eye(2), torch.eye(2), temperature=1.0, bias=0.0).item(), 6)
        1.006409
    """
    check_pair(a, b)
    return ops.sigmoid(unit(a), unit(b), as_scale(temperature), bias, q_group=group, k_group=group, backend=backend)


class SigmoidLoss(nn.Module):
    """Sigmoid pairwise loss of `a`, `b` `[N, D]`: `-1/N sum_ij log sigmoid(y_ij (<a_i, b_j> / tau + bias))`.

    y_ij is +1 for i = j, and for samples of one `group`; -1 otherwise. Normalises the embeddings itself.

    Args:
        temperature: initial temperature; SigLIP starts at 0.1, learned.
        bias: initial bias, learned; -10 makes the first step see the true share of positives.
        learnable: whether both are trained.
        backend: handed to :mod:`nearfar.ops`.

    Returns a scalar. Raises ValueError on shapes that do not pair up.

    Example:
        >>> SigmoidLoss()(torch.randn(4, 8), torch.randn(4, 8)).shape
        torch.Size([])
    """

    def __init__(
        self, temperature: float = 0.1, bias: float = -10.0, *, learnable: bool = True, backend: str = "auto"
    ) -> None:
        super().__init__()
        self.temperature = Temperature(temperature, learnable=learnable)
        self.bias = nn.Parameter(torch.tensor(float(bias)), requires_grad=learnable)
        self.backend = backend

    def forward(self, a: Tensor, b: Tensor, *, group: Tensor | None = None) -> Tensor:
        return sigmoid_loss(a, b, temperature=self.temperature(), bias=self.bias, group=group, backend=self.backend)
