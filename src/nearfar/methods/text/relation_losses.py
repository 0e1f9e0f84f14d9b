"""The losses of relations between things in pictures (VG-Bert, arXiv 2111.07180).

Over the labelled pairs (i, j) of a batch, whose relation is r_ij > 0,

    L_relation = 1/B  sum  CE(score(:; i, j) / tau, r_ij) ,
    L_pair     = 1/B  sum  -log softmax of score(r; i, j) / tau  over itself and  score(r; i', j') / tau  of all
                 labelled pairs of the batch whose relation is another than r = r_ij .

One asks which relation a pair has, the other which pairs a relation holds for. Both are sums divided by the number of
pictures, not of pairs, as in the released code: they grow with the density of annotation.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nearfar.errors import UserError
from nearfar.losses.groups import lifted


def relation_loss(scores: Tensor, target: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Which relation holds, over the labelled pairs: a scalar.

    Args:
        scores: `[B, R, N, N]`, floating point; computed in float32 at least.
        target: `[B, N, N]` int64, the relation from i to j, 0 where none is labelled.
        temperature: tau (paper: 1).

    Raises:
        UserError: shapes that do not fit together, or a label that no channel is for.

    >>> target = torch.zeros(2, 3, 3, dtype=torch.long)
    >>> target[0, 0, 1], target[0, 1, 0], target[1, 0, 1], target[1, 1, 0] = 1, 2, 1, 3
    >>> round(relation_loss(torch.zeros(2, 4, 3, 3), target).item(), 6)  # 4 log 4 / 2
    2.772589
    """
    rows, label = labelled(scores, target)
    return relation_of_rows(rows / temperature, label) / len(scores)


def relation_pair_loss(scores: Tensor, target: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Which pairs a relation holds for, over the labelled pairs of the whole batch: a scalar. Scores of pairs without a
    label do not matter.

    Args:
        scores: `[B, R, N, N]`, floating point; computed in float32 at least.
        target: `[B, N, N]` int64, as for `relation_loss`.
        temperature: tau (paper: 1).

    Raises:
        UserError: shapes that do not fit together, or a label that no channel is for.

    >>> target = torch.zeros(2, 3, 3, dtype=torch.long)
    >>> target[0, 0, 1], target[0, 1, 0], target[1, 0, 1], target[1, 1, 0] = 1, 2, 1, 3
    >>> round(relation_pair_loss(torch.zeros(2, 4, 3, 3), target).item(), 6)
    2.484907
    """
    rows, label = labelled(scores, target)
    return pair_of_rows(rows / temperature, label) / len(scores)


def labelled(scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Of `scores` `[B, R, N, N]`, floating point, those of the K pairs that `target` `[B, N, N]` int64 labels,
    `[K, R]`, and their labels `[K]` int64 (arXiv 2111.07180).

    Raises:
        UserError: shapes that do not fit together, or a label that no channel is for.
    """
    if scores.ndim != 4 or target.shape != (len(scores), *scores.shape[2:]):
        raise UserError(
            f"scores must be [B, R, N, N] and target [B, N, N]: {tuple(scores.shape)} and {tuple(target.shape)}"
        )
    b, i, j = (target > 0).nonzero(as_tuple=True)
    label = checked_labels(target[b, i, j], scores.shape[1], "relation")
    return scores[b, :, i, j], label


def checked_labels(label: Tensor, channels: int, what: str) -> Tensor:
    """The labels, `label` `[K]` int64, each below `channels`; `what` they are of, for the message (arXiv 2111.07180).

    Raises:
        UserError: one is not; it is named.
    """
    if len(label) and int(label.max()) >= channels:
        raise UserError(f"a {what} has the label {int(label.max())}, and the model has {channels}, from 0 on")
    return label


def relation_of_rows(rows: Tensor, label: Tensor) -> Tensor:
    """The sum of -log softmax of each row's own label: `rows` `[K, R]`, floating point, `label` `[K]` int64 (arXiv
    2111.07180)."""
    return F.cross_entropy(lifted(rows), label, reduction="sum")


def pair_of_rows(rows: Tensor, label: Tensor) -> Tensor:
    """The sum of the pair loss over labelled pairs: `rows` `[K, R]`, floating point, `label` `[K]` int64 (arXiv
    2111.07180).

    For each relation one log-sum over the pairs of the others, [R]: nothing of size K x K.
    """
    rows = lifted(rows)
    own = F.one_hot(label, rows.shape[1]).bool()
    # A relation that all pairs have has no negatives: the least number stands for minus infinity, without a NaN.
    least = torch.finfo(rows.dtype).min / 2
    negatives = rows.masked_fill(own, least).logsumexp(0)[label] if len(rows) else rows.new_zeros(0)
    return F.softplus(negatives - rows[own]).sum()
