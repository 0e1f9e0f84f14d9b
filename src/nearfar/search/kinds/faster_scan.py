"""The faster of several scans that compare every vector. Which it is depends on the processor and on the libraries that
multiply matrices there: the first blocks of vectors are scanned by each in turn, and all others by the one that took
the least time a block. No block is scanned twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from nearfar.search.kinds.hit_order import ordered

BLOCK = 4096
"""Vectors that are scanned at a turn."""
TURNS = 2
"""Turns of each; the quicker one counts, since the first may begin threads, and read from a disk."""
LEAST = 8 * BLOCK
"""Of fewer vectors the turns would be most of a search."""

Scan = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""Queries `[Q, D]`, vectors `[N, D]` and a number k to scores and rows `[Q, k]`."""


def faster_scan(
    scans: Sequence[Scan], queries: np.ndarray, vectors: np.ndarray, top: int
) -> tuple[np.ndarray, np.ndarray]:
    """The `top` best vectors of each query, by the faster of the scans.

    Args:
        scans: each finds the best of some vectors; they differ by rounding alone.
        queries: `[Q, D]` float32.
        vectors: `[N, D]` float32, more than `BLOCK * TURNS` for each scan.
        top: how many, at most `BLOCK`.

    Returns:
        scores `[Q, top]` float32, descending, and rows `[Q, top]` int64; of equal scores the lower row comes first.

    >>> from nearfar.search.kinds.exact import exact_search
    >>> vectors = np.zeros((20_000, 2), "f4")
    >>> vectors[[3, 19_000], 0] = 1, 2
    >>> faster_scan([exact_search, exact_search], np.eye(2, dtype="f4")[:1], vectors, 2)[1].tolist()
    [[19000, 3]]
    """
    taken = [float("inf")] * len(scans)
    parts, start = [], 0
    for _ in range(TURNS):
        for number, scan in enumerate(scans):
            began = time.perf_counter()
            scores, rows = scan(queries, vectors[start : start + BLOCK], top)
            taken[number] = min(taken[number], time.perf_counter() - began)
            parts.append((scores, counted_from(start, rows)))
            start += BLOCK
    scores, rows = scans[taken.index(min(taken))](queries, vectors[start:], top)
    parts.append((scores, counted_from(start, rows)))
    return ordered(
        np.concatenate([scores for scores, _ in parts], 1), np.concatenate([rows for _, rows in parts], 1), top
    )


def counted_from(start: int, rows: np.ndarray) -> np.ndarray:
    """Rows of a part as rows of all vectors; -1, where a scan came upon too few numbers (a damaged file), stays."""
    return np.where(rows < 0, rows, rows + start)
