"""Next-token prediction with a weight for each token, and PRIOR's weights (arXiv 2505.08971)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nearfar.errors import UserError

Reduction = Literal["tokens", "captions"]


def prior_token_weights(
    log_likelihood: Tensor, mask: Tensor, *, alpha: float = 1.0, eps: float = 1e-6, normalize: bool = True
) -> Tensor:
    """PRIOR's weights: how badly a reference that sees no picture predicts each token of a caption,

        w_i = (1 - P_r(t_i | t_<i)) ** alpha          n_i = k w_i / sum_j w_j        over the k tokens of the caption

    so that the weights of a caption have mean 1, whatever the other captions of the batch are. Without gradient.

    Args:
        log_likelihood: log P_r of each token, `[B, T]`, floating point, at most 0. 1 - P_r is taken by `expm1`, in
            float32 or wider: it keeps its digits where P_r is nearly 1.
        mask: which of them are tokens of the caption, `[B, T]` bool; the others weigh 0.
        alpha: 0 is plain next-token prediction; the larger, the more the least predictable tokens count (paper: 1).
        eps: where no token of a caption has a 1 - P_r as large as this, all of its tokens weigh 1.
        normalize: False gives w.

    Returns:
        `[B, T]`, float32 or wider.

    Raises:
        UserError: `alpha` below 0, or not a number.

    >>> p = torch.tensor([[0.9, 0.5, 0.1]])
    >>> prior_token_weights(p.log(), torch.ones(1, 3, dtype=torch.bool))
    tensor([[0.2000, 1.0000, 1.8000]])
    """
    if not 0 <= alpha < float("inf"):
        raise UserError(f"alpha={alpha}: a number of at least 0; 1 is the paper's, 0 is plain next-token prediction")
    wide = log_likelihood.detach().to(torch.promote_types(log_likelihood.dtype, torch.float32))
    surprise = (-torch.expm1(wide)).clamp(0, 1).masked_fill(~mask, 0)
    if not normalize:
        return (surprise**alpha).masked_fill(~mask, 0)
    if not surprise.numel():
        return surprise
    largest = surprise.amax(1, keepdim=True)
    even = largest < eps
    # Divided by the largest first, so that no power of large alpha underflows.
    weight = (surprise / largest.masked_fill(even, 1)) ** alpha
    weight = torch.where(even, torch.ones_like(weight), weight).masked_fill(~mask, 0)
    return weight * (mask.sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny))


def weighted_next_token_loss(
    log_likelihood: Tensor, mask: Tensor, weights: Tensor | None = None, *, reduction: Reduction = "tokens"
) -> Tensor:
    """The mean of the weighted negative log-likelihoods of tokens: a scalar in their dtype.

    Args:
        log_likelihood: of each token, `[B, T]`, floating point; of logits it is made by
            `nearfar.models.vlm.token_likelihoods.token_log_likelihoods`, which holds no second array of their size.
        mask: which of them count, `[B, T]` bool.
        weights: `[B, T]`, floating point, such as `prior_token_weights`; None: all 1, the loss of transformers.
        reduction: "tokens" is the mean over all tokens of the batch; "captions" that of each caption's own mean.

    Raises:
        UserError: no such reduction.

    >>> p = torch.tensor([[0.8, 0.4, 0.5]])
    >>> mask = torch.ones(1, 3, dtype=torch.bool)
    >>> weighted_next_token_loss(p.log(), mask, torch.tensor([[0.2, 1.0, 1.8]]))
    tensor(0.7362)
    """
    if reduction not in ("tokens", "captions"):
        raise UserError(f"reduction={reduction!r}: choose 'tokens' or 'captions'")
    loss = -log_likelihood if weights is None else -log_likelihood * weights.detach().to(log_likelihood.dtype)
    loss = loss.masked_fill(~mask, 0)  # in their place NaN would stay NaN times 0
    if reduction == "tokens":
        return loss.sum() / mask.sum().clamp(min=1)
    count = mask.sum(1)
    return (loss.sum(1) / count.clamp(min=1)).sum() / (count > 0).sum().clamp(min=1)
