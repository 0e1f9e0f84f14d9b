"""Exact search by a streamed matrix product: no index to build, no library but torch.

Keys pass in blocks, so memory beyond the answer is one block of keys and one of scores whatever the number of keys,
which may lie memory-mapped on disk.
"""

from __future__ import annotations

import numpy as np
import torch

from nearfar.nearest import best_of

BLOCK_BYTES = 1 << 25
"""Size of the buffer for scores, and of that for keys: 32 MiB."""


def exact_search(
    queries: np.ndarray, keys: np.ndarray, top: int, *, block: int | None = None, among: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The `top` keys of greatest inner product with each query.

    Args:
        queries: `[Q, D]` float32.
        keys: `[N, D]` float32; may be memory-mapped.
        top: how many a query; fewer are returned when there are fewer keys.
        block: keys a block. Default: as many as give 32 MiB of scores, and of keys.
        among: `[M]` the rows to search, M > 0, ascending; N is M then. Default: all.

    Returns:
        scores `[Q, min(top, N)]` float32, descending, and rows `[Q, min(top, N)]` int64.

    Equal scores come in the order of their rows within a block.

    >>> scores, rows = exact_search(np.eye(2, dtype="f4"), np.array([[1, 0], [0, 2], [3, 0]], "f4"), 2)
    >>> rows.tolist(), scores.tolist()
    ([[2, 0], [1, 0]], [[3.0, 1.0], [2.0, 0.0]])
    """
    if queries.ndim != 2 or keys.ndim != 2 or queries.shape[1] != keys.shape[1]:
        raise ValueError(f"queries and keys must be [Q, D] and [N, D] of one D, not {queries.shape} and {keys.shape}")
    if top < 1:
        raise ValueError(f"top must be at least 1, not {top}")
    count = len(keys) if among is None else len(among)
    q = torch.from_numpy(np.ascontiguousarray(queries, dtype=np.float32))
    block = block or max(1, BLOCK_BYTES // (4 * max(q.shape[0], q.shape[1], 1)))

    def taken(start: int) -> np.ndarray:
        # A copy of each block: torch may not alias memory that is mapped read-only.
        rows = slice(start, start + block) if among is None else among[start : start + block]
        return np.array(keys[rows], dtype=np.float32)

    best, rows = best_of(q, ((start, torch.from_numpy(taken(start))) for start in range(0, count, block)), top)
    return best.numpy(), rows.numpy() if among is None else among[rows.numpy()]
