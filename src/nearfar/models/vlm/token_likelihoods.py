"""How likely each token of a text is, without a second array of the size of the logits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from nearfar.errors import at_least
from nearfar.models.vlm.word_sequences import IGNORED

NUMBERS = 2**22
"""Logits that are worked on at a time."""


def token_log_likelihoods(logits: Tensor, targets: Tensor, *, numbers: int = NUMBERS) -> Tensor:
    """The log-likelihood of each target under the logits of its place.

    Log-probabilities of all tokens are made for some places at a time, forward and again backward, so that beside
    logits and their gradient no array of their size is held.

    Args:
        logits: `[B, T, V]`, floating point.
        targets: `[B, T]` int64; -100 where there is none.
        numbers: logits that are worked on at a time.

    Returns:
        `[B, T]`, float32 or wider; 0 where there is no target.

    >>> token_log_likelihoods(torch.zeros(1, 2, 4), torch.tensor([[3, -100]])).exp()
    tensor([[0.2500, 1.0000]])
    """
    at_least(1, numbers=numbers)
    rows, goals = logits.flatten(0, -2), targets.flatten()
    size = max(1, numbers // max(1, logits.shape[-1]))
    parts = []
    for some, of_them in zip(rows.split(size), goals.split(size), strict=True):
        if some.requires_grad:
            parts.append(checkpoint(_log_likelihoods, some, of_them, use_reentrant=False, preserve_rng_state=False))
        else:
            parts.append(_log_likelihoods(some, of_them))
    return torch.cat(parts).view(targets.shape) if parts else logits.new_zeros(targets.shape)


def _log_likelihoods(logits: Tensor, targets: Tensor) -> Tensor:
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return -F.cross_entropy(wide, targets, ignore_index=IGNORED, reduction="none")
