"""Contrast within groups: each sample meets the samples of its own group alone (MCL, arXiv 2402.11816, on mixed
batches)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from nearfar.errors import UserError
from nearfar.ops.tiling import inputs


def within_groups(loss: Callable[..., Tensor], group: Tensor, *rows: Tensor) -> Tensor:
    """A loss whose negatives are samples of one's own group: the mean over all samples of what `loss` gives for each
    group by itself, a scalar. It is that of batches of one group each, weighed by their sizes; a sample that is alone
    in its group adds 0, and no gradient.

    Takes `group` `[N]` int64 and what `loss` takes, each `[N, D]` in floating point: `loss(a, b)` must be a mean over
    samples. One call a group: time and memory are those of the groups, never of N x N.

    Raises:
        UserError: rows that are not one a sample; whatever `loss` refuses.

    Example:
        >>> from nearfar.losses import NTXent
        >>> a, b, cluster = torch.randn(6, 8), torch.randn(6, 8), torch.tensor([0, 0, 1, 1, 1, 2])
        >>> within_groups(NTXent(0.2), cluster, a, b).shape
        torch.Size([])
    """
    for each in rows:
        if not len(rows) or each.ndim < 1 or len(each) != len(group):
            raise UserError(f"group has {len(group)} samples, and rows are {tuple(each.shape)}: one a sample, [N, D]")
    total = torch.stack([each.sum() * 0 for each in rows]).sum()  # a gradient of 0 where all are alone
    for members in groups_of(group):
        total = total + loss(*(each[members] for each in rows)) * (len(members) / len(group))
    return total


def groups_of(group: Tensor) -> Iterator[Tensor]:
    """The places `[n]` int64 of the samples of each group of at least two, of `group` `[N]` int64, groups by number.

    >>> [members.tolist() for members in groups_of(torch.tensor([5, 3, 5, 4, 3]))]
    [[1, 4], [0, 2]]
    """
    group = inputs.group_ids(group, len(group), "group")
    counts = group.unique(return_counts=True)[1]
    for members in group.argsort(stable=True).split(counts.tolist()):
        if len(members) > 1:
            yield members
