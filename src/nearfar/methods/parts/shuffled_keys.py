"""Shuffled batch norm (MoCo, arXiv 1911.05722, section 3.3): keys are normalised among other samples than queries."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nearfar import distributed


def shuffled(encode: Callable[[Tensor], Tensor], pixels: Tensor, seed: int) -> Tensor:
    """The keys `[B, D]` of pixels `[B, 3, H, W]`, floating point, without gradient, encoded in batches that are drawn
    anew over all processes, so that a query and its key do not share statistics. One process encodes them as they are.

    Args:
        encode: from pixels `[B, 3, H, W]` to keys `[B, D]`.
        pixels: of this process; the others may bring more or fewer.
        seed: of the draw, the same on every process.
    """
    if distributed.world_size() == 1:
        return encode(pixels)
    everyone, counts = distributed.gather_counted(pixels)
    order = torch.randperm(len(everyone), generator=torch.Generator().manual_seed(seed)).to(pixels.device)
    first = sum(counts[: distributed.rank()])
    mine = slice(first, first + len(pixels))
    keys = distributed.gather_rows(encode(everyone[order[mine]]))
    return keys[order.argsort()[mine]]
