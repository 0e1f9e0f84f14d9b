"""The token-level contrastive loss of SimCTG (arXiv 2202.06417): within a sequence, hidden states of different tokens
are pushed below a cosine of 1 - margin, so that they spread out and contrastive search can separate candidates."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearfar.errors import UserError
from nearfar.ops.tiling.products import product

Reduction = Literal["pairs", "sequence"]

_TILE = 1 << 24  # elements of one tile of cosines: 64 MiB in float32


def simctg_loss(
    hidden: Tensor, mask: Tensor | None = None, *, margin: float = 0.5, reduction: Reduction = "pairs"
) -> Tensor:
    """The contrastive part of SimCTG's loss, of `hidden` `[B, T, D]`, floating point, and `mask` `[B, T]` (non-zero at
    real tokens), as a scalar; see :class:`SimCTGLoss`.

    Raises:
        UserError: shapes that do not match, or another reduction.

    Example:
        >>> round(simctg_loss(torch.ones(1, 4, 8)).item(), 6)
        0.5
    """
    if hidden.ndim != 3:
        raise UserError(f"hidden states must have shape [batch, length, dim], got {tuple(hidden.shape)}")
    if mask is not None and mask.shape != hidden.shape[:2]:
        raise UserError(f"mask has shape {tuple(mask.shape)}, hidden states {tuple(hidden.shape)}")
    if reduction not in ("pairs", "sequence"):
        raise UserError(f"reduction must be 'pairs' or 'sequence', not {reduction!r}")
    real = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device) if mask is None else mask.bool()
    states = F.normalize(hidden.to(torch.promote_types(hidden.dtype, torch.float32)), dim=-1)
    # Padded states may hold anything, NaN too: they take no part, in either direction.
    states = states.masked_fill(~real[..., None], 0)
    return _PairHinge.apply(states, real, margin, _weights(real, reduction, states.dtype))


class SimCTGLoss(nn.Module):
    """Hinge loss on the cosines of all ordered pairs of different tokens in a sequence (arXiv 2202.06417):
    `max(0, margin - s(h_i, h_i) + s(h_i, h_j))`, where `s(h_i, h_i) = 1`.

    Add it to the language-modelling loss with weight 1. There are no negatives from other sequences and no
    temperature; the gradient flows through both tokens of a pair. Memory is linear in the length: cosines are formed
    tile by tile, the gradient in the same pass.

    Args:
        margin: 0.5 in the paper. Cosines below 1 - margin cost nothing; 0 or less switches the loss off.
        reduction: "pairs" averages over all pairs of the batch (the released code), "sequence" over the pairs of each
            sequence and then over sequences (the paper's formula): there a short text counts as much as a long one.

    Inputs:
        | input | shape | what it is |
        |---|---|---|
        | `hidden` | `[B, T, D]`, floating point | last-layer states, of any length |
        | `mask` | `[B, T]` | non-zero at real tokens; by default all are |

    Returns:
        A scalar, float32 (float64 from float64); 0 where no sequence has two tokens.

    Raises:
        UserError: shapes that do not match, or another reduction.

    Relations:
        - `uniformity` spreads samples of a batch by a soft potential; this one spreads tokens of a text by a hinge.

    Variants:
        - the paper and the released code: `SimCTGLoss(0.5)`; by the paper's formula: `SimCTGLoss(0.5,
          reduction="sequence")`

    Example:
        >>> SimCTGLoss(margin=0.5)(torch.eye(4)[None])
        tensor(0.)
    """

    def __init__(self, margin: float = 0.5, *, reduction: Reduction = "pairs") -> None:
        super().__init__()
        self.margin = margin
        self.reduction: Reduction = reduction

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        return simctg_loss(hidden, mask, margin=self.margin, reduction=self.reduction)


class _PairHinge(torch.autograd.Function):
    """Weighted sum over i != j of `max(0, margin - 1 + u_i . u_j)` for unit states u `[B, T, D]`. The gradient
    `2 * sum_j [pair is active] u_j` (the matrix of pairs is symmetric) is formed beside the value."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, real: Tensor, margin: float, weights: Tensor) -> Tensor:
        batch, length, _ = states.shape
        value = states.new_zeros(batch)
        gradient = torch.empty_like(states) if states.requires_grad else None
        rows = max(1, _TILE // max(1, batch * length))
        for start in range(0, length, rows):
            stop = min(start + rows, length)
            # clamped, so that rounding above 1 cannot make a pair cost anything at margin 0
            excess = product(states[:, start:stop], states).clamp_(max=1).add_(margin - 1)
            active = (excess > 0) & real[:, start:stop, None] & real[:, None, :]
            active.diagonal(offset=start, dim1=1, dim2=2).fill_(False)
            value += (excess * active).sum(dim=(1, 2))
            if gradient is not None:
                gradient[:, start:stop] = product(active.to(states.dtype), states.mT)
        if gradient is not None:
            ctx.save_for_backward(gradient.mul_(2 * weights[:, None, None]), states, real, weights)
            ctx.margin = margin
        return (value * weights).sum()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,), (gradient, states, real, weights) = upstream, ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again: through all cosines of a sequence at once
            states = states.view_as(states)
            value = _all_at_once(states, real, ctx.margin, weights)
            (out,) = torch.autograd.grad(value, states, grad, create_graph=True)
            return out, None, None, None
        return grad * gradient, None, None, None


def _all_at_once(states: Tensor, real: Tensor, margin: float, weights: Tensor) -> Tensor:
    excess = product(states, states) + (margin - 1)
    pair = (real[:, :, None] & real[:, None, :]).logical_and(
        ~torch.eye(real.shape[1], dtype=torch.bool, device=real.device)
    )
    return (excess.relu() * pair).sum(dim=(1, 2)).mul(weights).sum()


def _weights(real: Tensor, reduction: Reduction, dtype: torch.dtype) -> Tensor:
    """What one pair of each sequence weighs, `[B]`."""
    count = real.sum(dim=1)
    pairs = count * (count - 1)
    if reduction == "pairs":
        return (pairs > 0).to(dtype) / pairs.sum().clamp(min=1)
    return (pairs > 0).to(dtype) / pairs.clamp(min=1) / (pairs > 0).sum().clamp(min=1)
