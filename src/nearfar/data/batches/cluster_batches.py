"""The batches of an epoch, each of one group of samples: a function of the groups, the seed and nothing else."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nearfar import lookup
from nearfar.errors import UserError

SmallGroups = Literal["drop", "merge", "partial"]
BatchOrder = Literal["shuffle", "round_robin"]
SMALL, ORDERS = ("drop", "merge", "partial"), ("shuffle", "round_robin")
LEAST = 2
"""Samples of a smaller batch: one alone has no negatives."""


class EpochBatches(NamedTuple):
    """The batches of an epoch, in their order. `places` `[N]` int64 are all samples, group after group; batch i is
    `places[first[i]:stop[i]]`, of the group `places[group_first[i]:group_stop[i]]`."""

    places: Tensor
    first: Tensor
    stop: Tensor
    group_first: Tensor
    group_stop: Tensor

    def __len__(self) -> int:
        return len(self.first)

    def batch(self, number: int) -> Tensor:
        """The places `[B]` int64 of a batch."""
        return self.places[self.first[number] : self.stop[number]]

    def group_of(self, number: int) -> Tensor:
        """All places `[n]` int64 of a batch's group, in this epoch's order."""
        return self.places[self.group_first[number] : self.group_stop[number]]

    @property
    def covered(self) -> int:
        """Samples that are in a batch."""
        return int((self.stop - self.first).sum())


def check_choices(small: str, order: str) -> None:
    """Raise a `UserError` for a word that names no way."""
    lookup.check("small", [small], SMALL, where="clusters: ")
    lookup.check("order", [order], ORDERS, where="clusters: ")


def cluster_batches(
    labels: Tensor,
    batch_size: int,
    *,
    seed: int | None = 0,
    small: SmallGroups = "drop",
    order: BatchOrder = "shuffle",
    multiple: int = 1,
) -> EpochBatches:
    """The batches of an epoch, each of one label. No sample comes twice.

    Args:
        labels: `[N]` integers.
        batch_size: samples of a batch, over all processes.
        seed: of the epoch; None: no shuffling, labels and samples in their order.
        small: "drop", "merge" or "partial"; see `ClusterOrder`.
        order: "shuffle" or "round_robin" over the labels.
        multiple: a smaller batch has a multiple of so many samples, one share a process.

    Raises:
        UserError: labels that are no numbers, one a sample; a choice that is none.

    >>> made = cluster_batches(torch.tensor([0, 1, 0, 1, 0]), 2, seed=None, order="round_robin")
    >>> [made.batch(i).tolist() for i in range(len(made))]
    [[0, 2], [1, 3]]
    """
    check_choices(small, order)
    if labels.ndim != 1 or labels.is_floating_point():
        raise UserError(f"labels must be whole numbers, one a sample, [N], not {labels.dtype} {tuple(labels.shape)}")
    labels = labels.cpu().long()
    labels = merged(labels, batch_size) if small == "merge" else labels
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    drawn = torch.arange(len(labels)) if generator is None else torch.randperm(len(labels), generator=generator)
    places = drawn[labels[drawn].argsort(stable=True)]
    counts = labels.unique(return_counts=True)[1]
    group_first = counts.cumsum(0) - counts

    full, rest = counts // batch_size, counts % batch_size
    rest = rest - rest % multiple
    rest = rest * ((rest >= max(LEAST, multiple)) & (small == "partial"))
    batches = full + (rest > 0)
    group = torch.arange(len(counts)).repeat_interleave(batches)
    turn = torch.arange(len(group)) - (batches.cumsum(0) - batches)[group]
    first = group_first[group] + turn * batch_size
    stop = first + torch.where(turn < full[group], batch_size, rest[group])

    if order == "round_robin":
        arranged = turn.argsort(stable=True)  # the first batch of each group, then the second of each ...
    elif generator is not None:
        arranged = torch.randperm(len(group), generator=generator)
    else:
        arranged = torch.arange(len(group))
    group = group[arranged]
    return EpochBatches(places, first[arranged], stop[arranged], group_first[group], (group_first + counts)[group])


def merged(labels: Tensor, least: int) -> Tensor:
    """`labels` `[N]` int64 with those that have fewer than `least` samples joined, neighbours by number, until they
    have as many; what is left at the end joins the last of these, or the nearest large label where there is none. In
    `combine_codes`, neighbours by number share the clusters of the earlier stages.

    >>> merged(torch.tensor([0, 0, 0, 4, 5, 5, 6, 9]), 3).tolist()
    [0, 0, 0, 4, 4, 4, 4, 4]
    """
    values, inside, counts = labels.unique(return_inverse=True, return_counts=True)
    into = values.clone()
    bins: list[list[int]] = [[]]
    filled = 0
    for place in (counts < least).nonzero()[:, 0].tolist():
        bins[-1].append(place)
        filled += int(counts[place])
        if filled >= least:
            bins.append([])
            filled = 0
    left = bins.pop()
    if bins:
        bins[-1] += left
    elif len(large := values[counts >= least]) and left:
        for place in left:
            into[place] = large[(large - values[place]).abs().argmin()]
    else:
        bins = [left]
    for together in filter(None, bins):
        into[together] = values[together[0]]
    return into[inside]
