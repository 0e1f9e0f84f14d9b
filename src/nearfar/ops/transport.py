"""Entropic optimal transport in the log domain: the cheapest plan that moves one set of masses onto another, and the
balanced assignment of samples to prototypes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nearfar.errors import UserError

TOLERANCE = 1e-9
"""Summed error of the row masses at which the iteration stops."""


@torch.no_grad()
def transport_plan(
    cost: Tensor, *, rows: Tensor | None = None, columns: Tensor | None = None, epsilon: float = 0.05, most: int = 1000
) -> Tensor:
    """The plan `[..., N, M]` of least cost + epsilon * negative entropy whose rows sum to `rows`, and whose columns to
    `columns` (Cuturi, arXiv 1306.0895).

    Sinkhorn's scaling alone needs thousands of iterations where the clusters are well apart. So each iteration also
    tries Newton's step on the N row potentials (the masses are the gradient of a concave function of them), and keeps
    the better of the two. What error is left is spread over the plan (arXiv 1705.09634, algorithm 2), so that the
    masses are met to rounding, however small epsilon is.

    Args:
        cost: `[..., N, M]`, floating point, finite; leading dimensions are problems of their own. Memory is that of a
            few plans, plus `[..., N, N]`: let the rows be the fewer.
        rows: `[..., N]`, the masses of the rows, brought to a sum of 1. Default: 1 / N each.
        columns: `[..., M]`, the masses of the columns, above 0. Default: 1 / M each.
        epsilon: how soft, in units of the cost; above 0.
        most: iterations at most.

    Returns:
        The plan, in the dtype of `cost`; computed in float64.

    Raises:
        UserError: a cost that is no matrix, holds integers or is not finite, masses that do not fit it, or an epsilon
            that is not above 0.

    >>> plan = transport_plan(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), epsilon=0.5)
    >>> plan.sum(0), plan.sum(1)
    (tensor([0.5000, 0.5000]), tensor([0.5000, 0.5000]))
    """
    if cost.ndim < 2 or not cost.numel() or not cost.is_floating_point() or not bool(cost.isfinite().all()):
        raise UserError(
            "transport takes finite costs [..., N, M], floating point, of at least one row and column: "
            f"{list(cost.shape)} of {cost.dtype}"
        )
    if not epsilon > 0:
        raise UserError(f"epsilon={epsilon}: must be above 0")
    r = masses(rows, cost.shape[:-1], cost, "rows")
    c = masses(columns, (*cost.shape[:-2], cost.shape[-1]), cost, "columns")
    log = -cost.double() / epsilon
    u = torch.zeros_like(r)
    plan, error = _plan(log, u, r, c)
    for _ in range(most):
        if error.max() < TOLERANCE:
            break
        mass = plan.sum(-1)
        scaled = u + r.log() - mass.clamp_min(1e-300).log()
        curvature = torch.diag_embed(mass + 1e-12) - (plan / c[..., None, :]) @ plan.mT
        newton = u + torch.linalg.solve_ex(curvature, (r - mass)[..., None])[0][..., 0]
        (plan, error), (other, its_error) = _plan(log, scaled, r, c), _plan(log, newton, r, c)
        better = its_error < error  # False where Newton's step is not finite
        u, error = newton.where(better, scaled), its_error.where(better, error)
        plan = other.where(better[..., None], plan)
    return _exact(plan, r, c).to(cost.dtype)


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
        UserError: scores that are no matrix, or integers, or a setting out of its range. NaN gives NaN.

    >>> sinkhorn(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), epsilon=0.5).round(decimals=4)
    tensor([[0.8022, 0.1978],
            [0.1978, 0.8022]])
    """
    if scores.ndim != 2 or not scores.is_floating_point():
        raise UserError(
            f"sinkhorn takes floating-point scores [B, P]; these are {list(scores.shape)} of {scores.dtype}"
        )
    if not epsilon > 0 or iterations < 1:
        raise UserError(f"sinkhorn: epsilon={epsilon} must be above 0, and iterations={iterations} at least 1")
    log = scores.double() / epsilon
    rows, columns = scores.shape
    for _ in range(iterations):
        log = log - log.logsumexp(0, keepdim=True) + math.log(max(rows, 1) / max(columns, 1))
        log = log - log.logsumexp(1, keepdim=True)
    return log.exp().to(scores.dtype)


def masses(values: Tensor | None, shape: tuple[int, ...], cost: Tensor, called: str) -> Tensor:
    """The `values` `[...]`, numbers, as float64 masses of the `shape` that sum to 1; even ones without values. `cost`
    `[...]` names the device, and `called` what they are of, for messages.

    Raises:
        UserError: another shape, or masses that are negative, not finite or all 0.
    """
    if values is None:
        return torch.full(shape, 1 / shape[-1], dtype=torch.float64, device=cost.device)
    mass = values.to(cost.device, torch.float64)
    fits = mass.shape in (shape, shape[-1:])
    if not fits or not bool((mass.isfinite() & (mass >= 0)).all() & (mass.sum(-1) > 0).all()):
        raise UserError(f"the masses of the {called} must be {shape[-1]} numbers, none below 0, and not all 0")
    return (mass / mass.sum(-1, keepdim=True)).expand(shape)


def _plan(log: Tensor, u: Tensor, r: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The plan of row potentials u, whose columns are right, and the error `[..., 1]` of its rows."""
    plan = (log + u[..., None]).softmax(-2) * c[..., None, :]
    return plan, (plan.sum(-1) - r).abs().sum(-1, keepdim=True)


def _exact(plan: Tensor, r: Tensor, c: Tensor) -> Tensor:
    """The plan with its masses met: too large rows and columns are scaled down, and what is missing is spread."""
    plan = plan * (r / plan.sum(-1).clamp_min(1e-300)).clamp_max(1)[..., None]
    plan = plan * (c / plan.sum(-2).clamp_min(1e-300)).clamp_max(1)[..., None, :]
    row, column = (r - plan.sum(-1)).clamp_min(0), (c - plan.sum(-2)).clamp_min(0)
    missing = row.sum(-1).clamp_min(1e-300)[..., None, None]
    return plan + row[..., None] * column[..., None, :] / missing
