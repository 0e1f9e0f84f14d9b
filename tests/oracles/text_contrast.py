"""Slow, obvious formulas over a matrix of similarities and masks, in float64."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus


def similarities(q, k, similarity) -> Tensor:
    return normalize(q, dim=1) @ normalize(k, dim=1).T if similarity == "cosine" else q @ k.T


def binary_nce(
    q, k, mask, tau, *, bias=0.0, offset=0.0, left_out=None, similarity="cosine", reduction="mean"
) -> Tensor:
    """mask [N, M]: near pairs; left_out [N, M]: pairs that count for nothing; offset [M]: added to the keys' logits."""
    tau = tau[:, None] if isinstance(tau, Tensor) and tau.ndim else tau
    s = similarities(q, k, similarity) / tau + bias + offset
    terms = torch.where(mask, softplus(-s), softplus(s))
    counts = torch.ones_like(mask) if left_out is None else ~left_out
    total = (terms * counts).sum()
    return total / counts.sum() if reduction == "mean" else total / len(q)


def margin_ranking(q, k, mask, margin, *, left_out=None, against="hardest", similarity="cosine") -> Tensor:
    s = similarities(q, k, similarity)
    far = ~mask if left_out is None else ~mask & ~left_out
    losses = []
    for i in range(len(q)):
        near, wrong = s[i][mask[i]], s[i][far[i]]
        if len(near) and len(wrong):
            gaps = (margin - near[:, None] + wrong[None, :]).clamp(min=0)
            losses.append(gaps.amax(1).mean() if against == "hardest" else gaps.mean())
    return torch.stack(losses).mean()
