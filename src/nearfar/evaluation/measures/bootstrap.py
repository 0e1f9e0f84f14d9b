"""Bootstrap intervals: how far a figure would move on another sample of the same kind of data."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

BLOCK = 1 << 22
"""Resampling weights held at a time."""


def mean_interval(
    values: ArrayLike,
    *,
    cluster: ArrayLike | None = None,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The percentile interval of the mean of each column.

    Args:
        values: `[n]` or `[n, V]`: one row a query, one column a metric. All columns share the same resamples.
        cluster: `[n]` integers. Rows of one cluster (captions of one image, one concept in several styles) are
            not independent, so whole clusters are drawn. Default: every row is its own cluster.
        seed: of the resampling; the same seed gives the same interval.
        resamples: how many samples are drawn.
        level: the share of resamples inside the interval.

    Returns:
        `(low, high)`, each `[V]` float64 (`[1]` for a vector). NaN where there are no values.

    >>> low, high = mean_interval([0.0, 1.0] * 200)
    >>> bool(0.4 < low[0] < 0.5 < high[0] < 0.6)
    True
    """
    table = np.asarray(values, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if len(table) == 0:
        return np.full(table.shape[1], np.nan), np.full(table.shape[1], np.nan)
    member, count = clusters(cluster, len(table))
    sums = np.stack([np.bincount(member, column, count) for column in table.T], axis=1)
    sizes = np.bincount(member, minlength=count).astype(np.float64)
    means = [weights @ sums / (weights @ sizes)[:, None] for weights in resample(count, resamples, seed)]
    return _percentiles(np.concatenate(means), level)


def ratio_interval(
    part: ArrayLike, whole: ArrayLike, *, cluster: ArrayLike | None = None, seed: int = 0, resamples: int = 1000
) -> tuple[float, float]:
    """The 95 % percentile interval of sum(part) / sum(whole), such as a precision. Samples whose sum of `whole` is 0
    say nothing of it and are left out; NaN where all are.

    Args:
        part, whole: `[n]` counts, one row a query.
        cluster, seed, resamples: as for `mean_interval`.

    Returns:
        Its ends, two floats.

    >>> low, high = ratio_interval([1, 0] * 200, [2, 1] * 200)
    >>> bool(0.28 < low < 1 / 3 < high < 0.38)
    True
    """
    parts, wholes = (np.asarray(each, dtype=np.float64) for each in (part, whole))
    member, count = clusters(cluster, len(parts))
    sums = np.stack([np.bincount(member, column, count) for column in (parts, wholes)], axis=1)
    drawn = np.concatenate([weights @ sums for weights in resample(count, resamples, seed)])
    known = drawn[drawn[:, 1] > 0]
    if not len(known):
        return np.nan, np.nan
    low, high = _percentiles(known[:, 0] / known[:, 1], 0.95)
    return float(low), float(high)


def resample(count: int, resamples: int, seed: int, *, width: int | None = None) -> Iterator[NDArray[np.float64]]:
    """Blocks of `[b, count]`: how often each of `count` units is drawn in each resample. A block holds at most
    about `BLOCK` numbers of a row width `width` (default: `count`)."""
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK // max(1, width or count, count))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count).astype(np.float64)


def clusters(cluster: ArrayLike | None, n: int) -> tuple[NDArray[np.int64], int]:
    """The number of each row's cluster, counted from 0, and how many clusters there are."""
    if cluster is None:
        return np.arange(n), n
    names, member = np.unique(np.asarray(cluster), return_inverse=True)
    return member.reshape(-1), len(names)


def _percentiles(samples: NDArray[np.float64], level: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    tail = 50 * (1 - level)
    low, high = np.percentile(samples, [tail, 100 - tail], axis=0)
    return low, high
