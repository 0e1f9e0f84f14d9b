"""The first of earlier vectors that is near: what near-duplicates are found by, tile by tile.

A vector goes where an earlier one is near it. So of what is nearly the same the first stays, each that goes has a chain
of near ones to one that stays, and what is remembered is one number a vector, however many are alike.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from nearfar.nearest.streamed import TILE

EXACT = 1e-6
"""A cosine counts as `near` from so much below on: copies are near at 1, whatever rounding did to their length."""


def first_near(
    query: Tensor, earlier: Iterable[tuple[Tensor, Tensor]], near: float, own: Tensor, *, tile: int = TILE
) -> Tensor:
    """For each vector, the number of the first earlier vector whose cosine with it is at least `near`.

    Scores are computed in float32 to find candidates, and those are scored again in float64, so that the same ones are
    near whatever the tiles and blocks are.

    Args:
        query: `[Q, D]` float32, unit vectors, in order.
        earlier: blocks that come before all queries, in order: vectors `[n, D]` float32, and their numbers `[n]` int64.
        near: the bound.
        own: `[Q]` int64, the queries' own numbers; each is compared with the queries before it, too.
        tile: vectors of each side whose scores are held at a time.

    Returns:
        `[Q]` int64, -1 where no earlier vector is near.

    >>> vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [1.0, 0.0]])
    >>> first_near(vectors, [], 0.75, torch.arange(4)).tolist()
    [-1, -1, 1, 0]
    """
    first = torch.full((len(query),), -1, dtype=torch.long)
    for vectors, numbers in earlier:
        for start in range(0, len(query), tile):
            rows = start + (first[start : start + tile] < 0).nonzero().flatten()
            for begin in range(0, len(vectors), tile):
                part, rows = slice(begin, begin + tile), rows[first[rows] < 0]
                if len(rows):
                    first[rows] = _first_in(query[rows], vectors[part], numbers[part], near)
    for start in range(0, len(query), tile):
        for begin in range(0, start + 1, tile):
            rows = torch.arange(start, min(start + tile, len(query)))
            rows = rows[first[rows] < 0]
            part = slice(begin, begin + tile)
            before = rows if begin == start else None
            first[rows] = _first_in(query[rows], query[part], own[part], near, before, begin)
    return first


def _first_in(
    query: Tensor, vectors: Tensor, numbers: Tensor, near: float, before: Tensor | None = None, begin: int = 0
) -> Tensor:
    """The numbers `[Q]` of the first near vectors of a tile, -1 where none is; of a tile of the queries themselves,
    whose first is `begin`, only those `before` each query's own place count."""
    slack = EXACT + 2.0 * query.shape[1] * 2.0**-24  # more than rounding can do to a product of unit vectors
    candidate = torch.mm(query, vectors.T) >= near - slack
    if before is not None:
        candidate &= (torch.arange(len(vectors)) + begin)[None] < before[:, None]
    first = torch.full((len(query),), -1, dtype=torch.long)
    while len(rows := candidate.any(1).nonzero().flatten()):
        column = candidate[rows].to(torch.uint8).argmax(1)
        exact = (query[rows].double() * vectors[column].double()).sum(1) >= near - EXACT
        first[rows[exact]] = numbers[column[exact]]
        candidate[rows[exact]] = False
        candidate[rows, column] = False
    return first
