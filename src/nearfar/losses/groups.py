"""Sums and means over groups of embeddings, in O(N) memory: what a mask of N x M would do, without the mask."""

from __future__ import annotations

import torch
from torch import Tensor


def unit(x: Tensor) -> Tensor:
    """Rows of `x` on the unit sphere; a zero row stays zero."""
    return torch.nn.functional.normalize(x, dim=-1)


def group_sum(k: Tensor, q_group: Tensor, k_group: Tensor) -> tuple[Tensor, Tensor]:
    """For each query, the sum and the number of the keys of its group.

    Args:
        k: keys `[M, D]`.
        q_group: `[N]` long, the queries' groups.
        k_group: `[M]` long, the keys' groups.

    Returns:
        sums `[N, D]` and counts `[N]` (dtype of `k`); both zero where the group holds no key.

    Example:
        >>> sums, counts = group_sum(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([7, 9]), torch.tensor([7, 7, 8]))
        >>> sums.tolist(), counts.tolist()
        ([[3.0], [0.0]], [2.0, 0.0])
    """
    _, inverse = torch.unique(torch.cat([q_group, k_group]), return_inverse=True)
    q_id, k_id = inverse[: len(q_group)], inverse[len(q_group) :]
    groups = len(q_group) + len(k_group)
    sums = k.new_zeros(groups, k.shape[1]).index_add(0, k_id, k)
    counts = k.new_zeros(groups).index_add(0, k_id, k.new_ones(len(k_group)))
    return sums[q_id], counts[q_id]


def check_pair(a: Tensor, b: Tensor, names: tuple[str, str] = ("a", "b")) -> None:
    """Raise a ValueError that tells what is wrong unless `a` and `b` are `[N, D]` of one shape."""
    for name, x in zip(names, (a, b), strict=True):
        if x.ndim != 2:
            raise ValueError(f"{name} must be [N, D], got shape {tuple(x.shape)}")
    if a.shape != b.shape:
        raise ValueError(
            f"{names[0]} and {names[1]} must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}: "
            "row i of one is the positive of row i of the other"
        )
