"""Balanced assignment of rows to columns by entropic optimal transport (Sinkhorn-Knopp), in the log domain."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nearfar.errors import UserError


@torch.no_grad()
def sinkhorn(scores: Tensor, *, epsilon: float = 0.05, iterations: int = 10) -> Tensor:
    """Shares `[B, P]` of each row's columns: exp(scores / epsilon), scaled in turn so that every column gets B / P rows
    in all, and every row is 1 in all. Rows come last, so they sum to 1; the columns' loads are even only as far as it
    has converged. As SwAV (arXiv 2006.09882) assigns samples to prototypes, and BECLR (arXiv 2402.02444).

    Args:
        scores: `[B, P]`, floating point; greater is nearer: similarities, or distances with a minus.
        epsilon: how soft; above 0. Nothing overflows, however small it is.
        iterations: pairs of scalings, at least 1.

    Raises:
        UserError: scores that are no matrix, or a setting out of its range.

    >>> sinkhorn(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), epsilon=0.5).round(decimals=4)
    tensor([[0.8022, 0.1978],
            [0.1978, 0.8022]])
    """
    if scores.ndim != 2:
        raise UserError(f"sinkhorn takes scores [B, P]; these are {list(scores.shape)}")
    if not epsilon > 0 or iterations < 1:
        raise UserError(f"sinkhorn: epsilon={epsilon} must be above 0, and iterations={iterations} at least 1")
    log = scores.double() / epsilon
    rows, columns = scores.shape
    for _ in range(iterations):
        log = log - log.logsumexp(0, keepdim=True) + math.log(max(rows, 1) / max(columns, 1))
        log = log - log.logsumexp(1, keepdim=True)
    return log.exp().to(scores.dtype)
