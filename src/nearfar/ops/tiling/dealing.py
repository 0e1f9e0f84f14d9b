"""Whole tiles for each thread, in place of threads inside each tile.

Threads that share a tile wait for one another after each of its products and passes. Beside another busy process the
one that has lost its core keeps all the others waiting, many times a tile. Threads that have tiles of their own wait
once, at the end.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache

import torch

from nearfar.ops.tiling.tiles import Pairs, Tile

SPARE = 64 << 20
"""Bytes that the gradients of keys, which each thread sums up for itself, may take beside the first one's. Two threads
may always have them."""


UNEVEN = 1.25  # how much longer than on average the largest share may take before threads had better share tiles


def deal(pairs: Pairs) -> list[list[Tile]]:
    """The tiles in a share for each of torch's threads, of two sets whole bands of rows: no two shares have a row in
    common. All in one share where they cannot be dealt evenly, on a GPU, or where sums for each would take too much."""
    tiles, threads, sums = pairs.tiles, torch.get_num_threads(), pairs.k.numel() * pairs.k.element_size()
    if threads == 1 or pairs.q.device.type != "cpu" or (threads - 1) * sums > max(SPARE, sums):
        return [tiles]
    pieces: dict[int, list[Tile]] = {}
    for tile in tiles:
        pieces.setdefault(tile.index if pairs.one_set else tile.rows.start, []).append(tile)
    shares: list[list[Tile]] = [[] for _ in range(threads)]
    load = [0] * threads
    for piece in sorted(pieces.values(), key=_size, reverse=True):  # each to whoever has least
        least = load.index(min(load))
        shares[least] += piece
        load[least] += _size(piece)
    if max(load) * threads > UNEVEN * sum(load):
        return [tiles]
    return [sorted(share, key=lambda tile: tile.index) for share in shares]


def _size(tiles: list[Tile]) -> int:
    return sum(tile.size for tile in tiles)


def each(pairs: Pairs, shares: Sequence[list[Tile]], work: Callable[[int, Pairs, list[Tile]], None]) -> None:
    """Calls `work` with each share's number, the pairs, with scratch of their own, and its tiles. A single share is
    computed here, by all threads together; of several each by one thread of its own, in `torch.no_grad`."""
    if len(shares) == 1:
        work(0, pairs, shares[0])
        return
    inference, hands = torch.is_inference_mode_enabled(), [pairs.hand() for _ in shares]

    def compute(index: int) -> None:
        with torch.inference_mode(inference), torch.no_grad():
            work(index, hands[index], shares[index])

    futures = [_threads(len(shares)).submit(compute, index) for index in range(len(shares))]
    wait(futures)  # for all of them: they write to the same tensors
    for future in futures:
        future.result()


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    """As many threads, each of which computes alone."""
    pool, ready = ThreadPoolExecutor(count, "nearfar-tiles"), threading.Barrier(count + 1)

    def begin() -> None:
        torch.set_num_threads(1)  # of the thread that calls it, but it is the default of later ones, too
        ready.wait()

    for _ in range(count):
        pool.submit(begin)
    ready.wait()
    torch.set_num_threads(count)
    return pool


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_threads.cache_clear)
