"""The rule of contrastive search over plain tensors (arXiv 2210.14140, equation 4): trade the model's confidence in a
candidate against the candidate's likeness to what has been said."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Ranking(NamedTuple):
    """The result of the rule. `choice` `[B]` int64: index of the best candidate. `score`, `penalty` `[B, k]`, floating
    point: every candidate's score, and its largest cosine to the context."""

    choice: Tensor
    score: Tensor
    penalty: Tensor


def contrastive_rerank(
    probs: Tensor, hidden: Tensor, context: Tensor, *, alpha: float, mask: Tensor | None = None
) -> Ranking:
    """Choose among k candidates: `argmax (1 - alpha) * p(v) - alpha * max_j cos(h_v, h_j)`.

    Args:
        probs: `[B, k]` probabilities of the candidates under the full vocabulary (not renormalised over the k). A
            candidate of probability 0 was ruled out by a logits processor and is never chosen.
        hidden: `[B, k, D]` last-layer states of the candidates, of any length.
        context: `[B, L, D]` last-layer states of all earlier tokens, prompt included, of any length.
        alpha: weight of the penalty, in [0, 1]; 0 is greedy search, 0.6 the usual value.
        mask: `[B, L]`, non-zero at real tokens; padding never enters the maximum. Default: all are real.

    Returns:
        A `Ranking`, in the dtype of `probs` and float32 at least. Nothing is checked here: shapes that do not fit raise
        torch's RuntimeError.

    >>> probs = torch.tensor([[0.5, 0.3, 0.2]])
    >>> hidden = torch.tensor([[[0.9, 0.19**0.5], [0.2, 0.96**0.5], [0.1, 0.99**0.5]]])
    >>> context = torch.tensor([[[1.0, 0.0]]])
    >>> [int(contrastive_rerank(probs, hidden, context, alpha=alpha).choice) for alpha in (0.1, 0.4, 0.6)]
    [0, 1, 2]
    """
    return rank(probs, degeneration_penalty(hidden, context, mask=mask), alpha)


def degeneration_penalty(hidden: Tensor, context: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Largest cosine of each candidate `[B, k, D]` to the context `[B, L, D]`: `[B, k]`, in float32 at least; the
    degeneration penalty of SimCTG (arXiv 2202.06417). `mask` `[B, L]` is non-zero at real tokens.

    >>> degeneration_penalty(torch.tensor([[[2.0, 0.0], [0.0, 1.0]]]), torch.tensor([[[3.0, 4.0]]]))
    tensor([[0.6000, 0.8000]])
    """
    return largest_cosine(unit(hidden), unit(context), mask)


def rank(probs: Tensor, penalty: Tensor, alpha: float) -> Ranking:
    """`contrastive_rerank` when the penalties `[B, k]` are known already."""
    score = (1 - alpha) * probs - alpha * penalty
    score = score.masked_fill(probs == 0, -torch.inf)
    return Ranking(score.argmax(dim=-1), score, penalty)


def largest_cosine(hidden: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
    """`degeneration_penalty` `[B, k]` of vectors that are unit length already."""
    cosine = torch.matmul(context, hidden.transpose(1, 2))  # [B, L, k]: the long side first reads the context in order
    if mask is not None:
        cosine = cosine.masked_fill(mask[..., None] == 0, -torch.inf)
    return cosine.amax(dim=1)


def unit(states: Tensor) -> Tensor:
    """States scaled to length 1, in float32 at least: in half precision near ties flip."""
    return F.normalize(states.to(torch.promote_types(states.dtype, torch.float32)), dim=-1)
