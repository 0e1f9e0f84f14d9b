"""Ranks of queries that are true of several candidates, named one by one, with ties at their expectation or against the
model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from nearfar.errors import UserError
from nearfar.evaluation.measures.retrieval_ranks import Ranks

Ties = Literal["expected", "strict"]


def positive_ranks(scores: Tensor, positives: Tensor, *, ties: Ties = "expected") -> Ranks:
    """The rank of the best right candidate of each query. Only exactly equal scores are tied.

    Args:
        scores: `[Q, G]`, floating point.
        positives: `[Q, G]` bool: which candidates are right. A query without any counts in no figure.
        ties: "expected" over all orders of the tied, or "strict", in which every wrong candidate that is tied with the
            best right one stands before it.

    Raises:
        UserError: other shapes, another dtype, no such ties, or a score that is NaN.

    >>> right = torch.tensor([[True, False, True]])
    >>> positive_ranks(torch.tensor([[0.1, 0.5, 0.4]]), right).rank()
    array([2.])
    >>> positive_ranks(torch.zeros(1, 3), right, ties="strict").rank()
    array([2.])
    """
    if scores.ndim != 2 or scores.shape != positives.shape or positives.dtype != torch.bool:
        raise UserError(
            f"scores {list(scores.shape)} and positives {list(positives.shape)} ({positives.dtype}) must have one "
            "shape, [queries, candidates], and positives be true or false"
        )
    if ties not in ("expected", "strict"):
        raise UserError(f"ties={ties!r}: choose expected or strict")
    if scores.isnan().any():
        raise UserError("a score is NaN: the model is broken or was not trained")
    best = scores.masked_fill(~positives, -torch.inf).amax(dim=1, keepdim=True)

    def count(flags: Tensor) -> np.ndarray:
        return flags.sum(dim=1).cpu().numpy().astype(np.int64)

    ranks = Ranks(
        count((scores > best) & ~positives),
        count((scores == best) & ~positives),
        count((scores == best) & positives),
        count(positives),
        np.full(len(scores), scores.shape[1], np.int64),
    )
    if ties == "expected":
        return ranks
    return replace(ranks, better=ranks.better + ranks.tied_wrong, tied_wrong=np.zeros_like(ranks.better))


def recall_at_k(
    scores: Tensor, positives: Tensor, ks: Sequence[int] = (1, 5, 10), *, ties: Ties = "strict"
) -> dict[int, float]:
    """The share of queries with a right candidate among the first k, for each k. `scores` `[Q, G]`, floating point, of
    queries in rows: of texts for text-to-image; transposed, with `positives` `[Q, G]` bool, for image-to-text.

    Raises:
        UserError: as `positive_ranks`; a k below 1, or no query that has a right candidate.

    >>> recall_at_k(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.eye(2, dtype=torch.bool), (1, 2))
    {1: 0.5, 2: 1.0}
    """
    if not ks or min(ks) < 1:
        raise UserError(f"ks={list(ks)}: each k is 1 or more")
    ranks = positive_ranks(scores, positives, ties=ties)
    ranks = ranks[ranks.answerable()]
    if not len(ranks):
        raise UserError("no query has a right candidate, and nothing can be measured")
    return {k: float(ranks.hit(k).mean()) for k in ks}
