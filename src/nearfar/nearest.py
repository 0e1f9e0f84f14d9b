"""The nearest of many vectors, streamed: the matrix of all scores is never held."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nearfar.machine import time_share

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

TILE = 2048
"""Queries and candidates whose scores are held at a time."""
GROUP = 64
"""Neighbouring candidates of which only the best score is looked at first."""
MANY = 2
"""Where more than one in so many groups holds a score of use, whole rows of scores are gone through."""
FEW = 20
"""So few queries are the short side of their product with a block."""
FEWEST, LEAST = 6, 1 << 24
"""Queries, and multiplications, below which scores are torch's to compute."""
TIMED, REPEATS, CLEARLY = (128, 4096, 512), 9, 0.9
"""What is timed: products of so many queries and keys of so many numbers, so often by each library, the fastest; numpy
has to take this share of torch's time or less."""
_ONE_AT_A_TIME = threading.Lock()  # the number of numpy's threads is one for the whole process


def nearest(query: Tensor, candidate: Tensor, k: int, *, tile: int = TILE) -> tuple[Tensor, Tensor]:
    """The `k` candidates of highest inner product for each query, best first, by exact search.

    Args:
        query: `[Q, D]` float32.
        candidate: `[N, D]` float32.
        k: how many; cut to the number of candidates.
        tile: queries and candidates at a time; memory does not depend on Q and N otherwise.

    Returns:
        `(scores [Q, k] float32, rows [Q, k] int64)`, on the CPU. Of equal scores the lower row comes first. Widths that
        differ raise torch's RuntimeError.

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
    """The `k` best of candidates that come in blocks `(first row, [n, D])`, lowest rows first, read from a disk,
    say. Of equal scores the lower row comes first, wherever blocks end."""
    best, rows = query.new_empty(len(query), 0), torch.empty(len(query), 0, dtype=torch.long)
    buffer = query.new_empty(0)
    for start, block in candidates:
        score, buffer = scores_of(query, block, buffer)
        groups = grouped(score)
        if best.shape[1] < k or not k:
            value, place = best_in(score, groups, k)
            best, rows = merged(best, rows, value, place + start, k)
            continue
        better, value, place = beyond(score, groups, best[:, -1], k)
        if len(better):
            best[better], rows[better] = merged(best[better], rows[better], value, place + start, k)
    return best, rows


def merged(best: Tensor, rows: Tensor, value: Tensor, place: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` best of both, where those of equal scores come in the order of their rows, `best` first."""
    value, order = torch.cat([best, value], 1).sort(dim=1, descending=True, stable=True)
    place = torch.cat([rows, place], 1).gather(1, order[:, :k])
    return value[:, :k].contiguous(), place


def beyond(score: Tensor, groups: Tensor, least: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of scores `[Q, n]` those above `least` `[Q]`: an equal one has a higher row than what is there already.

    Returns the queries `[B]` that have any, and for each `[B, C]` values and places, in the order of their places or of
    their values, of equal ones the first, filled up with minus infinity. After the first blocks few groups hold one.
    """
    count = score.shape[1]
    query, group = (groups > least[:, None]).nonzero().unbind(1)
    if count < GROUP or MANY * len(query) * GROUP > score.numel():
        better = query.unique_consecutive()
        part = slice(None) if len(better) == len(score) else better
        return better, *best_in(score[part], groups[part], k)
    first = (group * GROUP).clamp(max=count - GROUP)  # the last group may be short: some of the one before are read too
    value = score.flatten().unfold(0, GROUP, 1)[query * count + first]
    above = (value > least[query, None]).flatten().nonzero().squeeze(1)
    place = first[above // GROUP] + above % GROUP
    own = place // GROUP == group[above // GROUP]
    above, place = above[own], place[own]
    better, counts = query[above // GROUP].unique_consecutive(return_counts=True)
    column = torch.arange(len(above)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    at = torch.arange(len(better)).repeat_interleave(counts), column
    shape = len(better), int(counts.max()) if len(counts) else 0
    values, places = score.new_full(shape, -torch.inf), torch.zeros(shape, dtype=torch.long)
    values[at], places[at] = value.flatten()[above], place
    return better, values, places


def scores_of(query: Tensor, block: Tensor, buffer: Tensor) -> tuple[Tensor, Tensor]:
    """Inner products `[Q, n]`, and the buffer `[>= Q * n]` that they lie in, to be handed back with the next block."""
    size = len(query) * len(block)
    buffer = buffer if len(buffer) >= size else query.new_empty(size)
    return score_product(query, block, buffer[:size].view(len(query), len(block))), buffer


def score_product(query: Tensor, key: Tensor, out: Tensor) -> Tensor:
    """`query @ key.T` of `[Q, D]` and `[N, D]`, in `out` `[Q, N]`; no derivative is taken. On processors of AMD, which
    torch's MKL does not make the most of, numpy's OpenBLAS computes it if it is clearly faster, on torch's number of
    threads. `NEARFAR_PRODUCTS=torch` in the environment leaves all to torch."""
    large = len(query) >= FEWEST and len(query) * key.numel() >= LEAST
    if large and _plain(query, key) and (threads := numpy_threads()):
        with _ONE_AT_A_TIME, threads.limit(limits=torch.get_num_threads()):
            np.matmul(query.numpy(), key.numpy().T, out=out.numpy())
        return out
    if 1 < len(query) < FEW:  # the product runs along the long side a third faster, and the copy is small
        return out.copy_(torch.mm(key, query.T).T)
    return torch.mm(query, key.T, out=out)


def _plain(*tensors: Tensor) -> bool:
    return all(x.dtype == torch.float32 and x.device.type == "cpu" and not x.requires_grad for x in tensors)


@cache
def numpy_threads() -> ThreadpoolController | None:
    """The threads of numpy's OpenBLAS, on a processor of AMD where it is clearly faster, and computes the scores."""
    able: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # which older releases of torch lack
    if os.environ.get("NEARFAR_PRODUCTS") == "torch" or "AMD" not in str(able.get("cpu_name")):
        return None
    from threadpoolctl import ThreadpoolController

    threads = ThreadpoolController().select(internal_api="openblas")
    if not len(threads):
        return None
    with threads.limit(limits=torch.get_num_threads()):
        return threads if _numpy_is_faster() else None


def _numpy_is_faster() -> bool:
    queries, keys, numbers = TIMED
    q, k, out = torch.ones(queries, numbers), torch.ones(keys, numbers), torch.empty(queries, keys)

    def by_numpy() -> object:
        return np.matmul(q.numpy(), k.numpy().T, out=out.numpy())

    return time_share(by_numpy, lambda: torch.mm(q, k.T, out=out), REPEATS) <= CLEARLY


def grouped(score: Tensor) -> Tensor:
    """The best score of every `GROUP` neighbours: `[Q, ceil(n / GROUP)]` of `[Q, n]`."""
    whole = score.shape[1] // GROUP * GROUP
    parts = [score[:, :whole].unflatten(1, (-1, GROUP)).amax(2)] if whole else []
    return torch.cat([*parts, score[:, whole:].amax(1, keepdim=True)] if whole < score.shape[1] else parts, 1)


def best_in(score: Tensor, groups: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and places `[Q, min(k, n)]` of the best of `[Q, n]`, of equal ones the first.

    The k best lie in the k groups whose best are best: before any other group's scores come those k. So nearly all
    scores are read once, for their group's maximum, and few are sorted.
    """
    count = score.shape[1]
    if 4 * k * GROUP > count:
        return first_best(score, k)
    _, chosen = first_best(groups, k)
    place = (chosen.sort(1).values[..., None] * GROUP + torch.arange(GROUP)).flatten(1)
    value = score.gather(1, place.clamp(max=count - 1)).masked_fill_(place >= count, -torch.inf)
    value, local = first_best(value, k)
    return value, place.gather(1, local)


def first_best(score: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`topk` with an order among equals: the first of them are taken, and come first."""
    count = score.shape[1]
    value, place = score.topk(min(k + 1, count), dim=1)
    if count > k:
        # Where the last that is taken equals the first that is not, topk took any of the equals.
        for row in (value[:, k - 1] == value[:, k]).nonzero().flatten().tolist() if k else ():
            order = score[row].sort(descending=True, stable=True).indices[:k]
            value[row, :k], place[row, :k] = score[row, order], order
        value, place = value[:, :k], place[:, :k]
    place = place.sort(1).values
    value, order = score.gather(1, place).sort(dim=1, descending=True, stable=True)
    return value, place.gather(1, order)
