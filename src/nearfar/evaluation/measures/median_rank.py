"""The median rank where candidates tie: by it half of all queries, in all orders of the tied, have met a right one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearfar.evaluation.measures.bootstrap import clusters, resample
from nearfar.evaluation.measures.retrieval_ranks import Ranks

EVEN = 1e-12
"""A share this near to one half is one half: sums of probabilities round."""


def median_rank(ranks: Ranks) -> float:
    """The median of the rank of the first right candidate, over the queries and over every order of what is tied.

    Where nothing is tied, this is the median of the ranks. Where much is, it is not the median of the expected ranks:
    of nine candidates in a random order five are right, so that half of the queries have met one by the first.

    Args:
        ranks: ranks of queries that each have a right candidate.

    Returns:
        The rank, the mean of two where exactly half of the queries lie on either side; NaN for no queries.

    >>> import torch
    >>> from nearfar.evaluation.measures.retrieval_ranks import rank
    >>> one = torch.zeros(1, 3)
    >>> median_rank(rank(one, torch.zeros(9, 3), torch.tensor([0]), torch.arange(9)))
    5.0
    >>> median_rank(rank(one, torch.zeros(9, 3), torch.tensor([0]), torch.arange(9) // 5))
    1.0
    """
    if not len(ranks):
        return float("nan")
    return float(_medians(ranks, np.ones((1, len(ranks))))[0])


def median_rank_interval(
    ranks: Ranks,
    *,
    cluster: ArrayLike | None = None,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """The percentile interval of `median_rank`; arguments as for `mean_interval`. NaN for no queries."""
    if not len(ranks):
        return float("nan"), float("nan")
    member, count = clusters(cluster, len(ranks))
    # Queries that stand alike are one case: without ties there are as many as there are different ranks.
    fields = np.stack([ranks.better, ranks.tied_wrong, ranks.tied_right], axis=1)
    _, first, case = np.unique(fields, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(case.reshape(-1), kind="stable")
    start = np.searchsorted(case.reshape(-1)[order], np.arange(len(first)))
    medians = [
        _medians(ranks[first], np.add.reduceat(weights[:, member[order]], start, axis=1))
        for weights in resample(count, resamples, seed, width=len(ranks))
    ]
    tail = 50 * (1 - level)
    low, high = np.percentile(np.concatenate(medians), [tail, 100 - tail])
    return float(low), float(high)


def _medians(ranks: Ranks, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[B]`: the median rank of the queries under each row of `weights [B, Q]`."""
    total = weights.sum(axis=1)

    def met(place: NDArray[np.int64]) -> NDArray[np.float64]:
        """The share of the queries of row b that have met a right candidate by `place[b]`."""
        share = np.empty(len(place))
        for each in np.unique(place):
            rows = place == each
            share[rows] = weights[rows] @ ranks.hit(int(each)) / total[rows]
        return share

    most = int(ranks.candidates.max())
    lower = _smallest(lambda place: met(place) >= 0.5 - EVEN, len(weights), most)
    upper = _smallest(lambda place: met(place) > 0.5 + EVEN, len(weights), most)
    return (lower + upper) / 2


def _smallest(reached: Callable[[NDArray[np.int64]], NDArray[np.bool_]], rows: int, most: int) -> NDArray[np.int64]:
    """For each row the smallest place from 1 to `most` that is `reached`, by halving."""
    low, high = np.ones(rows, dtype=np.int64), np.full(rows, most)
    while (low < high).any():
        middle = (low + high) // 2
        enough = reached(middle) | (low == high)
        low, high = np.where(enough, low, middle + 1), np.where(enough, middle, high)
    return low
