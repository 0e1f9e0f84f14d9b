"""A few labelled images of each class, drawn by a seed."""

from __future__ import annotations

import torch
from torch import Tensor

from nearfar.errors import at_least


def draw_shots(label: Tensor, shots: int, *, seed: int = 0) -> Tensor:
    """The rows of so many images of each class, or of all of them where a class has fewer.

    Args:
        label: `[N]` int64; below 0 where unknown.
        shots: of each class.
        seed: of the draw. Fewer shots are the first of more.

    Returns:
        Rows, sorted, int64.

    >>> draw_shots(torch.tensor([0, 1, 0, -1, 1, 1]), 1).shape
    torch.Size([2])
    """
    at_least(1, shots=shots)
    order = torch.randperm(len(label), generator=torch.Generator().manual_seed(seed))
    known = label[order]
    rows = [order[known == number][:shots] for number in label[label >= 0].unique().tolist()]
    return torch.cat(rows).sort().values if rows else torch.zeros(0, dtype=torch.long)
