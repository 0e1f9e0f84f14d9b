"""Search that is certain to have missed nothing, of the kinds that compare every vector.

A scan sums in float32, and `fp16` sums numbers of 11 bits: its scores are off by a little, and the best by them need
not be the best. What it returns is compared anew by the vectors, in one way whatever returned it, and how far a scan
may be off has a bound. A vector that was not returned scored no more than the last that was; so where the last hit's
score is more than the bound above that one's, no other vector can be among the hits, or equal to one. Where it is not,
more are fetched, and at the end all vectors are compared in that one way. So `flat`, `exact` and `fp16` give the same
hits in the same order, of equal scores the lower row first.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from nearfar.search.kinds.graphs import EXACT
from nearfar.search.kinds.hit_order import ordered
from nearfar.search.kinds.neighbours import candidates

Scored = tuple[np.ndarray, np.ndarray]
"""Scores `[Q, C]` float32 and rows `[Q, C]` int64."""

LONGEST = 1.01
"""No vector of an index is longer: they are of unit length, which is checked of every hit."""
MORE = 4
"""How many times as many candidates are fetched where it is not certain that they were enough."""
MOST_FETCHED = 4096
"""From so many candidates a query on, or a quarter of all, all vectors are compared instead."""
COMPARED = 1 << 23
"""Bytes of vectors that are compared at a time where all are."""


def certain_search(
    kind: str,
    queries: np.ndarray,
    top: int,
    *,
    count: int,
    scan: Callable[[np.ndarray, int], Scored],
    anew: Callable[[np.ndarray, Scored], np.ndarray],
    vectors: Callable[[int, int], Scored],
) -> Scored:
    """The `top` best of each query; of kinds that are not exact the best of what one scan finds.

    Args:
        kind: one of `KINDS`.
        queries: `[Q, D]` float32, finite.
        top: how many; `count` at most.
        count: how many vectors are searched.
        scan: queries and a number of candidates to the candidates, as the kind sees them.
        anew: queries and candidates to the candidates' exact scores, float32.
        vectors: the vectors `[n, D]` float32 from one place to another of those that are searched, and their rows
            `[n]`, ascending.

    Returns:
        scores `[Q, top]`, descending, and rows; of equal scores the lower row comes first.
    """
    fetched = min(candidates(kind, top), count)
    scores, rows = scan(queries, fetched)
    exact = anew(queries, (scores, rows))
    best, best_rows = ordered(exact, rows, top)
    if kind not in EXACT or fetched == count:
        return best, best_rows
    left = np.flatnonzero(~enough(kind, queries, scores, exact, best[:, -1]))
    while left.size and MORE * fetched < min(MOST_FETCHED, count // 4):
        fetched *= MORE
        scores, rows = scan(queries[left], fetched)
        exact = anew(queries[left], (scores, rows))
        best[left], best_rows[left] = ordered(exact, rows, top)
        left = left[~enough(kind, queries[left], scores, exact, best[left, -1])]
    for query in left:
        whole = best_of_all(queries[query], vectors, count, top)
        best[query], best_rows[query] = ordered(anew(queries[query : query + 1], whole), whole[1], top)
    return best, best_rows


def enough(kind: str, queries: np.ndarray, scores: np.ndarray, exact: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Whether `[Q]` no vector but the candidates can be a hit, by their scores `[Q, C]` as scanned and as exact, and
    the exact score `[Q]` of the last hit. Where a scan is off by more than it can be, nothing is certain."""
    bound = scan_error(kind, queries)
    with np.errstate(all="ignore"):
        off = np.abs(scores.astype(np.float64) - exact).max(axis=1)
        return (last > scores.min(axis=1) + bound) & (off <= bound)  # false of what is not a number


def scan_error(kind: str, queries: np.ndarray) -> np.ndarray:
    """How far `[Q]` float64 the score of a vector by the kind's scan and its score computed anew can be apart.

    A sum of D products in float32, in any order, is off by D u / (1 - D u) of the sum of their sizes, u = 2^-24
    (Higham, Accuracy and Stability, 3.1), which is at most the product of both lengths; there are two such sums. A
    number of float16 is off by 2^-11 of its size, or by 2^-25 where it is subnormal; D such faults are at most 2^-11 of
    the vector's length, and 2^-25 sqrt(D). Products too small for float32 are off by 2^-126 each.

    >>> bounds = [scan_error(kind, np.eye(256, dtype="f4")[:1])[0] for kind in ("flat", "fp16")]
    >>> [f"{bound:.1e}" for bound in bounds]
    ['3.1e-05', '5.2e-04']
    """
    dim = queries.shape[1]
    sums = dim * 2.0**-24 / (1 - dim * 2.0**-24)
    rounding = 2.0**-11 + 2.0**-25 * math.sqrt(dim) if kind == "fp16" else 0.0
    relative = 2 * sums + rounding * (1 + sums)
    return np.asarray(LONGEST * relative * np.linalg.norm(queries.astype(np.float64), axis=1) + dim * 2.0**-125)


def best_of_all(query: np.ndarray, vectors: Callable[[int, int], Scored], count: int, top: int) -> Scored:
    """The `top` best for one query `[D]`, all vectors compared as `products` does."""
    best = np.empty((1, 0), np.float32), np.empty((1, 0), np.int64)
    step = max(1, COMPARED // (4 * len(query)))
    for start in range(0, count, step):
        block, rows = vectors(start, min(start + step, count))
        scores = products(np.repeat(query[None], len(block), 0), block)
        both = np.concatenate([best[0], scores[None]], 1), np.concatenate([best[1], rows[None]], 1)
        best = ordered(*both, top)
    return best


def products(queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """The score `[n]` float32 of each query `[n, D]` with the vector beside it `[n, D]`: the same to the bit wherever
    they lie, and however many there are."""
    with np.errstate(all="ignore"):
        return np.asarray(np.einsum("nd,nd->n", queries, vectors))
