"""Sigmoid pairwise loss of SigLIP (arXiv 2303.15343): each pair is its own binary question; no partition is needed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nearfar import ops
from nearfar.errors import UserError
from nearfar.losses.groups import check_pair, unit
from nearfar.losses.temperature import Tau, as_scale, as_temperature
from nearfar.ops.tiling import inputs


def sigmoid_loss(
    a: Tensor,
    b: Tensor,
    *,
    temperature: Tau = 0.1,
    bias: float | Tensor = -10.0,
    group: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Sigmoid pairwise loss; see :class:`SigmoidLoss`.

    Takes `a`, `b` `[N, D]`, floating point, and `group` `[N]` int64. Temperature and `bias` may also be one a row of
    `a`, `[N]`. Returns a scalar.

    Raises:
        UserError: shapes that do not fit together.

    Example:
        >>> round(sigmoid_loss(torch.eye(2), torch.eye(2), temperature=1.0, bias=0.0).item(), 6)
        1.006409
    """
    check_pair(a, b)
    if group is not None:
        group = inputs.group_ids(group, len(a), "group")
    scale = as_scale(temperature, len(a))
    return ops.sigmoid(unit(a), unit(b), scale, bias, q_group=group, k_group=group, backend=backend)


class SigmoidLoss(nn.Module):
    """Sigmoid pairwise loss: each pair a yes-or-no question of its own (SigLIP, arXiv 2303.15343).

    `-1/N sum_ij log sigmoid(y_ij (<a_i, b_j> / tau + bias))`, where y_ij is +1 for i = j, and for samples of one
    `group`; -1 otherwise. Normalises the embeddings itself.

    Args:
        temperature: initial temperature (SigLIP: 0.1): a number, a tensor of one element or a :class:`Temperature`,
            taken as it is.
        bias: initial bias; -10 makes the first step see the true share of positives.
        learnable: whether temperature and bias are trained.
        backend: handed to :mod:`nearfar.ops`.

    Inputs:
        | input | shape | what it is |
        |---|---|---|
        | `a`, `b` | `[N, D]`, floating point | the two sides; any length |
        | `group` | `[N]`, integers | samples of one group are positives of each other |

    Returns:
        A scalar, float32 (float64 from float64).

    Raises:
        UserError: shapes that do not fit together.

    Relations:
        - `InfoNCE` compares each pair with all others; there `group` leaves pairs out instead of making them positive.
        - Its gradient to a pair does not depend on the other pairs, so a batch may be split over devices in any way.

    Variants:
        - SigLIP: `SigmoidLoss(0.1, -10.0)`
        - going on from a SigLIP checkpoint: `SigmoidLoss(1 / model.logit_scale.exp().item(), model.logit_bias.item())`

    Example:
        >>> SigmoidLoss()(torch.randn(4, 8), torch.randn(4, 8)).shape
        torch.Size([])
    """

    def __init__(
        self, temperature: Tau = 0.1, bias: float | Tensor = -10.0, *, learnable: bool = True, backend: str = "auto"
    ) -> None:
        super().__init__()
        if isinstance(bias, Tensor) and bias.numel() != 1:
            raise UserError(f"bias must be one number, got a tensor of shape {tuple(bias.shape)}")
        self.temperature = as_temperature(temperature, learnable=learnable)
        self.bias = nn.Parameter(torch.tensor(float(bias)), requires_grad=learnable)
        self.backend = backend

    def forward(self, a: Tensor, b: Tensor, *, group: Tensor | None = None) -> Tensor:
        return sigmoid_loss(a, b, temperature=self.temperature, bias=self.bias, group=group, backend=self.backend)
