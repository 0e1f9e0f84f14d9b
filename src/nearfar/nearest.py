"""The nearest of many vectors, streamed: the matrix of all scores is never held."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

TILE = 2048
"""Queries and candidates whose scores are held at a time."""


def nearest(query: Tensor, candidate: Tensor, k: int, *, tile: int = TILE) -> tuple[Tensor, Tensor]:
    """The `k` candidates of highest inner product for each query, best first, by exact search.

    Args:
        query: `[Q, D]` float32.
        candidate: `[N, D]` float32.
        k: how many; cut to the number of candidates.
        tile: queries and candidates at a time; memory does not depend on Q and N otherwise.

    Returns:
        `(scores [Q, k] float32, rows [Q, k] int64)`, on the CPU. Widths that differ raise torch's RuntimeError.

    >>> scores, rows = nearest(torch.eye(3), torch.eye(3), 1)
    >>> rows.flatten().tolist()
    [0, 1, 2]
    """
    k = min(k, len(candidate))
    scores, rows = torch.empty(len(query), k), torch.empty(len(query), k, dtype=torch.long)
    for start in range(0, len(query), tile):
        part = slice(start, start + tile)
        scores[part], rows[part] = best_of(query[part], blocks(candidate, tile), k)
    return scores, rows


def blocks(candidate: Tensor, size: int) -> Iterator[tuple[int, Tensor]]:
    """The candidates in blocks, each with the number of its first."""
    return ((start, candidate[start : start + size]) for start in range(0, len(candidate), size))


def best_of(query: Tensor, candidates: Iterable[tuple[int, Tensor]], k: int) -> tuple[Tensor, Tensor]:
    """The `k` best of candidates that come in blocks `(first row, [n, D])`, read from a disk, say.

    Equal scores come in the order of their rows within a block.
    """
    best, rows = query.new_empty(len(query), 0), torch.empty(len(query), 0, dtype=torch.long)
    for start, block in candidates:
        score, local = (query @ block.T).topk(min(k, len(block)), dim=1)
        best, rows = torch.cat([best, score], 1), torch.cat([rows, local + start], 1)
        best, kept = best.topk(min(k, best.shape[1]), dim=1)
        rows = rows.gather(1, kept)
    return best, rows
