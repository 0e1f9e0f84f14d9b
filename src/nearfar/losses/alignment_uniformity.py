"""Alignment and uniformity on the sphere (arXiv 2005.10242): the two things a contrastive loss trades against each
other, as losses of their own."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nearfar import ops
from nearfar.losses.groups import check_pair, refuse_ring, unit


def alignment(a: Tensor, b: Tensor, *, alpha: float = 2.0) -> Tensor:
    """Mean of `|a_i - b_i|^alpha` over unit rows, alpha > 0: 0 when pairs coincide, 4 (alpha 2) when they are
    opposite.

    Example:
        >>> alignment(torch.eye(2), torch.eye(2).flip(0)).item()
        2.0
    """
    check_pair(a, b)
    if not alpha > 0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    squared = (unit(a) - unit(b)).square().sum(1)
    if alpha == 2:
        return squared.mean()
    # Where a pair coincides its loss and gradient are 0: the root's slope is infinite there, or undefined at alpha 1.
    apart = squared != 0  # NaN among them: it must show
    return torch.where(apart, squared, 1.0).pow(alpha / 2).mul(apart).mean()


def uniformity(z: Tensor, *, t: float = 2.0, backend: str = "auto") -> Tensor:
    """Log of the mean Gaussian potential `exp(-t |z_i - z_j|^2)` over pairs i != j of unit rows: 0 when all coincide,
    lower the more evenly they spread.

    Example:
        >>> uniformity(torch.eye(3)).item()
        -4.0
    """
    if z.ndim != 2 or len(z) < 2:
        raise ValueError(f"z must be [N, D] with N >= 2, got {tuple(z.shape)}")
    if not t > 0:
        raise ValueError(f"t must be positive, got {t}")
    refuse_ring(backend, "uniformity")
    z = unit(z)
    itself = torch.arange(len(z), device=z.device)
    # |x - y|^2 = 2 - 2 <x, y> on the sphere, so the potential is a log-partition at scale 2 t.
    lse = ops.log_partition(z, z, 2 * t, q_group=itself, k_group=itself, admit="different", backend=backend)
    return torch.logsumexp(lse, 0) - 2 * t - math.log(len(z) * (len(z) - 1))


class AlignmentUniformity(nn.Module):
    """`alignment(a, b) + weight * mean(uniformity(a), uniformity(b))` of two views `[N, D]`.

    Normalises the embeddings itself. The paper takes alpha 2, t 2 and a weight near 1.

    Example:
        >>> AlignmentUniformity()(torch.randn(4, 8), torch.randn(4, 8)).shape
        torch.Size([])
    """

    def __init__(self, alpha: float = 2.0, t: float = 2.0, weight: float = 1.0, *, backend: str = "auto") -> None:
        super().__init__()
        self.alpha, self.t, self.weight, self.backend = alpha, t, weight, backend

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        spread = uniformity(a, t=self.t, backend=self.backend) + uniformity(b, t=self.t, backend=self.backend)
        return alignment(a, b, alpha=self.alpha) + self.weight * spread / 2
