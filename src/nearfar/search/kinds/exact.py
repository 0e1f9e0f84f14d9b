"""Exact search by a streamed matrix product: no index to build, no library but torch.

Keys pass in blocks, so memory beyond the answer is one block of scores whatever the number of keys, which may lie
memory-mapped on disk.
"""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import torch

from nearfar.nearest.streamed import GROUP, best_of

BLOCK_BYTES = 1 << 24
"""Size of the buffer for scores, and of a block of keys that has to be copied: 16 MiB. Of twice that nothing is faster,
with half of it products of many queries are slower."""
ROWS = 65536
"""Keys a block, at most."""
QUERIES = 1024
"""Queries at a time: of more, a block of 16 MiB of scores would be so few keys that its product is slow."""


def exact_search(
    queries: np.ndarray, keys: np.ndarray, top: int, *, block: int | None = None, among: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The `top` keys of greatest inner product with each query.

    Args:
        queries: `[Q, D]` float32; of more than 1,024 so many at a time.
        keys: `[N, D]` float32; may be memory-mapped.
        top: how many a query; fewer are returned when there are fewer keys.
        block: keys a block. Default: as many as give 16 MiB of scores, a multiple of 64, and no more than 65,536.
        among: `[M]` the rows to search, M > 0, ascending; N is M then. Default: all.

    Returns:
        scores `[Q, min(top, N)]` float32, descending, and rows `[Q, min(top, N)]` int64.

    Of equal scores the lower row comes first. They are sums in float32 as the product gives them, whose last digit can
    depend on where a row lies and how many queries there are: the same key twice may score apart by it. An `Index`
    compares what was returned anew, in one way, so that its hits do not depend on that. Keys in float32 whose rows lie
    one after the other are not copied, mapped from a disk or not.

    >>> scores, rows = exact_search(np.eye(2, dtype="f4"), np.array([[1, 0], [0, 2], [3, 0]], "f4"), 2)
    >>> rows.tolist(), scores.tolist()
    ([[2, 0], [1, 0]], [[3.0, 1.0], [2.0, 0.0]])
    """
    if queries.ndim != 2 or keys.ndim != 2 or queries.shape[1] != keys.shape[1]:
        raise ValueError(f"queries and keys must be [Q, D] and [N, D] of one D, not {queries.shape} and {keys.shape}")
    if top < 1:
        raise ValueError(f"top must be at least 1, not {top}")
    if len(queries) > QUERIES:
        parts = (queries[start : start + QUERIES] for start in range(0, len(queries), QUERIES))
        results = [exact_search(part, keys, top, block=block, among=among) for part in parts]
        return np.concatenate([scores for scores, _ in results]), np.concatenate([rows for _, rows in results])
    count = len(keys) if among is None else len(among)
    q = torch.from_numpy(np.ascontiguousarray(queries, dtype=np.float32))
    block = block or keys_a_block(len(q))
    if among is not None:
        block = min(block, keys_a_block(q.shape[1]))  # they are copied

    def part(start: int) -> torch.Tensor:
        rows = slice(start, start + block) if among is None else among[start : start + block]
        return reading(np.ascontiguousarray(keys[rows], dtype=np.float32))

    best, rows = best_of(q, ((start, part(start)) for start in range(0, count, block)), top)
    return best.numpy(), rows.numpy() if among is None else among[rows.numpy()]


def keys_a_block(numbers: int) -> int:
    """How many keys are taken at a time, with so many `numbers` for each. Rows of scores whose length is no multiple of
    a few numbers begin anywhere in a line of the cache, and the product takes longer to write them."""
    return max(GROUP, min(ROWS, BLOCK_BYTES // (4 * max(numbers, 1))) // GROUP * GROUP)


def reading(array: np.ndarray) -> torch.Tensor:
    """The array as a tensor that is only read, without a copy."""
    _say_once()
    return torch.from_numpy(array)


@cache
def _say_once() -> None:
    """torch warns once in a process that a tensor over memory mapped for reading must not be written to. Nothing here
    does, and a copy of each block would cost more than its product."""
    array = np.zeros(1, np.float32)
    array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.from_numpy(array)
