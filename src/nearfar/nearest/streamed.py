"""The nearest of many vectors, streamed: the matrix of all scores is never held."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from nearfar.nearest.rough_scores import GIVE_UP, RoughScores
from nearfar.nearest.score_products import score_product

TILE = 2048
"""Queries and candidates whose scores are held at a time."""
GROUP = 64
"""Neighbouring candidates of which only the best score is looked at first."""
MANY = 2
"""Where more than one in so many groups holds a score of use, whole rows of scores are gone through."""


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
    buffer, rough = query.new_empty(0), RoughScores.where_they_pay(query)
    for start, block in candidates:
        if rough is not None and k and best.shape[1] == k and rough.missed < GIVE_UP:
            few = beyond_roughly(rough, block, best[:, -1])
            if few is not None:
                best, rows = with_better(best, rows, *by_query(*few), start)
                continue
            rough.missed += 1
        score, buffer = scores_of(query, block, buffer)
        groups = grouped(score)
        if best.shape[1] < k or not k:
            value, place = best_in(score, groups, k)
            best, rows = merged(best, rows, value, place + start, k)
            continue
        best, rows = with_better(best, rows, *beyond(score, groups, best[:, -1], k), start)
    return best, rows


def with_better(
    best: Tensor, rows: Tensor, better: Tensor, value: Tensor, place: Tensor, start: int
) -> tuple[Tensor, Tensor]:
    """Some queries' best with higher scores of the block that begins at row `start`."""
    if len(better):
        best[better], rows[better] = merged(best[better], rows[better], value, place + start, best.shape[1])
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
    few = above(score, groups, least)
    if few is not None:
        return by_query(*few)
    better = (groups > least[:, None]).any(1).nonzero().squeeze(1)
    part = slice(None) if len(better) == len(score) else better
    return better, *best_in(score[part], groups[part], k)


def beyond_roughly(rough: RoughScores, block: Tensor, least: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """The same of a block of keys, as `above` gives them, found by their rough scores."""
    scored = rough.of(block, least)
    few = None if scored is None else above(scored[0], grouped(scored[0]), scored[1])
    if few is None:
        return None
    query, place, _ = few
    value = rough.exactly(block, query, place)
    higher = value > least[query]
    return query[higher], place[higher], value[higher]


def above(score: Tensor, groups: Tensor, least: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """The entries of `[Q, n]` above `least` `[Q]`: their queries, places and values, each `[P]`, in this order. None
    where they are many."""
    count = score.shape[1]
    query, group = (groups > least[:, None]).nonzero().unbind(1)
    if count < GROUP or MANY * len(query) * GROUP > score.numel():
        return None
    first = (group * GROUP).clamp(max=count - GROUP)  # the last group may be short: some of the one before are read too
    value = score.flatten().unfold(0, GROUP, 1)[query * count + first]
    entry = (value > least[query, None]).flatten().nonzero().squeeze(1)
    place = first[entry // GROUP] + entry % GROUP
    own = place // GROUP == group[entry // GROUP]
    entry, place = entry[own], place[own]
    return query[entry // GROUP], place, value.flatten()[entry]


def by_query(query: Tensor, place: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Entries `[P]` in the order of their queries, as `beyond` gives them."""
    better, counts = query.unique_consecutive(return_counts=True)
    column = torch.arange(len(place)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    at = torch.arange(len(better)).repeat_interleave(counts), column
    shape = len(better), int(counts.max()) if len(counts) else 0
    values, places = value.new_full(shape, -torch.inf), torch.zeros(shape, dtype=torch.long)
    values[at], places[at] = value, place
    return better, values, places


def scores_of(query: Tensor, block: Tensor, buffer: Tensor) -> tuple[Tensor, Tensor]:
    """Inner products `[Q, n]`, and the buffer `[>= Q * n]` that they lie in, to be handed back with the next block."""
    size = len(query) * len(block)
    buffer = buffer if len(buffer) >= size else query.new_empty(size)
    return score_product(query, block, buffer[:size].view(len(query), len(block))), buffer


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
