"""Hard images (NegCLIP, arXiv 2210.01936, section 4): the records whose pictures are most alike to a model."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from nearfar import console
from nearfar.errors import UserError

TILE = 2048
"""Rows and columns of similarities held at a time."""


@torch.no_grad()
def mine_hard_images(embeddings: Tensor, *, k: int = 3, group: Tensor | None = None, tile: int = TILE) -> Tensor:
    """The `k` nearest other pictures of each picture by cosine, nearest first.

    Args:
        embeddings: `[N, D]` floats, of any length; the paper takes the starting model's, `k` = 3.
        k: how many. A picture with fewer candidates has them repeated.
        group: `[N]` integers; pictures of one group show the same and are never each other's hard images. By default
            each picture is alone.
        tile: similarities are taken in tiles of that side, so memory does not grow with N squared.

    Returns:
        `[N, k]` int64 places: the `neighbours` of a `nearfar.data.PairedOrder`.

    Raises:
        UserError: a picture without any candidate, as all others are of its group.

    >>> mine_hard_images(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), k=1).flatten().tolist()
    [1, 0, 1]
    """
    x = normalize(embeddings.float(), dim=1)
    n = len(x)
    group = torch.arange(n) if group is None else group
    group, k = group.to(x.device), min(k, max(n - 1, 1))
    hard_images = torch.empty(n, k, dtype=torch.long)
    for start in console.track(range(0, n, tile), "finding hard images, by block"):
        rows = slice(start, start + tile)
        best = x.new_empty(len(x[rows]), 0)
        place = torch.empty(len(x[rows]), 0, dtype=torch.long, device=x.device)
        for first in range(0, n, tile):
            columns = slice(first, first + tile)
            cosine = x[rows] @ x[columns].T
            cosine[group[rows, None] == group[columns]] = -torch.inf
            score, local = cosine.topk(min(k, cosine.shape[1]), dim=1)
            best, place = torch.cat([best, score], 1), torch.cat([place, local + first], 1)
            best, kept = best.topk(min(k, best.shape[1]), dim=1)
            place = place.gather(1, kept)
        count = best.isfinite().sum(1)
        if not count.all():
            alone = start + int((count == 0).nonzero()[0])
            raise UserError(f"picture {alone} has no hard image: all others are of its group")
        # Where there are fewer than k, those there are come again.
        hard_images[rows] = place.gather(1, torch.arange(k, device=x.device) % count[:, None]).cpu()
    return hard_images
