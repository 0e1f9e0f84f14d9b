"""The nearest vectors to queries, by an index's kind, among all of them or among some."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nearfar.errors import need
from nearfar.search.kinds.graphs import LISTED, QUANTISED, installed_faiss, training_sample

FEW = 20
"""Below so many queries at once faiss's scan beats a matrix product; from there on the product wins."""
MANY = 128_000
"""So many numbers of queries, and faiss multiplies matrices as well, by a library of its own: either may be faster than
torch's product, but neither is than numpy's, or than rough scores."""
FEW_HALVES = 4
"""The same of a scan of `fp16`, which takes as long for each query as for the first."""
LEAST_SHARE = 0.2
"""Of a filter that lets through less than this share of the vectors no graph is walked."""
SCANNED = 100_000
"""So few vectors that a filter lets through are compared one by one in some milliseconds, and exactly."""
MARGIN = 16
"""Vectors that are fetched beyond those of use, so that the order among equals does not depend on what returned them,
and an exact search by numbers of 2 bytes is mostly certain at once."""
SMALL_MARGIN = 4
"""The same of a search by the vectors themselves: sums of float32 differ by so little that few scores lie as close."""
MEASURED = 200
"""Vectors that recall is measured with."""


def by_product(
    queries: np.ndarray, vectors: np.ndarray, top: int, among: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """As `exact_search`, which is imported where it is used: a query of an index that faiss scans does without."""
    from nearfar.search.kinds.exact import exact_search

    return exact_search(queries, vectors, top, among=among)


def candidates(kind: str, top: int) -> int:
    """How many vectors are fetched for `top` hits, to be compared anew."""
    return top * QUANTISED.get(kind, 1) + (SMALL_MARGIN if kind in ("flat", "exact") else MARGIN)


def neighbours(
    kind: str,
    vectors: np.ndarray,
    graph: Any,
    queries: np.ndarray,
    top: int,
    among: np.ndarray | None = None,
    removed: Sequence[int] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows `[Q, k]` of the best `k = min(top, N)` vectors, or of those `among` these rows, or else of those
    that are not `removed`, as the kind sees them; an approximate kind may find fewer for a query and fills up with row
    -1."""
    if kind == "fp16" and len(queries) >= FEW_HALVES:
        graph = None
    if among is not None:
        return neighbours_among(kind, vectors, graph, queries, top, among)
    if removed:
        return neighbours_beside(kind, vectors, graph, queries, top, np.array(removed))
    top = min(top, len(vectors))
    if graph is not None:
        return graph.search(queries, top, params=breadth(kind, graph, top))
    if kind == "exact" or (faiss := installed_faiss()) is None:
        return by_product(queries, vectors, top)

    def by_faiss(queries: np.ndarray, vectors: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
        return faiss.knn(queries, np.asarray(vectors), top, metric=faiss.METRIC_INNER_PRODUCT)

    if kind == "flat" and len(queries) < FEW:
        return by_faiss(queries, vectors, top)
    if queries.size >= MANY:
        from nearfar.nearest.rough_scores import rough_scores_pay
        from nearfar.nearest.score_products import numpy_threads
        from nearfar.search.kinds.faster_scan import BLOCK, LEAST, faster_scan

        large = len(vectors) >= LEAST and top <= BLOCK
        if large and not rough_scores_pay(*queries.shape) and numpy_threads() is None:
            return faster_scan((by_product, by_faiss), queries, vectors, top)
    return by_product(queries, vectors, top)


def neighbours_among(
    kind: str, vectors: np.ndarray, graph: Any, queries: np.ndarray, top: int, among: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The best among some rows. A graph of which few vectors count is walked mostly in vain, so they are compared one
    by one; and so they are for a query for which the graph has too few, and where faiss cannot select (pq)."""
    top = min(top, len(among))
    if not top:
        return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    if graph is None or kind == "pq" or len(among) < max(SCANNED, LEAST_SHARE * len(vectors)):
        return by_product(queries, vectors, top, among=among)
    params = breadth(kind, graph, top, selector(among, len(vectors)), len(vectors) / len(among))
    scores, rows = graph.search(queries, top, params=params)
    if (short := (rows < 0).any(axis=1)).any():
        scores[short], rows[short] = by_product(queries[short], vectors, top, among=among)
    return scores, rows


def neighbours_beside(
    kind: str, vectors: np.ndarray, graph: Any, queries: np.ndarray, top: int, removed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The best beside some rows, of which there are few. A graph is walked through them and finds others; where there
    is none to walk, so many more are fetched that enough remain without them."""
    top = min(top, len(vectors) - len(removed))
    if graph is not None and kind != "pq":
        others = selector(removed, len(vectors), others=True)
        return graph.search(queries, top, params=breadth(kind, graph, top, others))
    scores, rows = neighbours(kind, vectors, graph, queries, top + len(removed))
    order = np.argsort(np.isin(rows, removed), axis=1, kind="stable")[:, :top]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


def breadth(kind: str, graph: Any, top: int, selected: Any = None, times: float = 1.0) -> Any:
    """How much of a graph is searched for `top` hits, `times` as much where only some vectors are `selected`."""
    faiss: Any = need("faiss", "search")
    if kind == "hnsw":
        return faiss.SearchParametersHNSW(efSearch=int(max(64, 2 * top) * times), sel=selected)
    if kind in LISTED:
        return probing(kind, min(graph.nlist, math.ceil(graph.nprobe * times)), selected)
    return None if selected is None else faiss.SearchParameters(sel=selected)


def probing(kind: str, probes: int, selected: Any = None) -> Any:
    """What says to faiss how many lists it compares."""
    faiss: Any = need("faiss", "search")
    made = faiss.IVFPQSearchParameters if kind == "ivf-pq" else faiss.SearchParametersIVF
    return made(nprobe=probes, sel=selected)


def selector(rows: np.ndarray, count: int, *, others: bool = False) -> Any:
    """What says to faiss which of `count` vectors count: these rows, or all `others`."""
    faiss: Any = need("faiss", "search")
    mask = np.full(count, others)
    mask[rows] = not others
    return faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))


def neighbour_sample(vectors: np.ndarray, top: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """What recall is measured with: `MEASURED` of the vectors, and the rows `[Q, k]` of their exact neighbours,
    themselves included."""
    queries = training_sample(vectors, MEASURED)
    return queries, by_product(queries, vectors, min(top + 1, len(vectors)))[1]


def recall_of(kind: str, vectors: np.ndarray, graph: Any, sample: tuple[np.ndarray, np.ndarray] | None = None) -> float:
    """Recall@10 of a graph: the share of the ten exact neighbours that it finds, on average over a sample of the
    vectors themselves as queries, each without itself."""
    queries, exact = sample or neighbour_sample(vectors)
    top = exact.shape[1]
    _, rows = neighbours(kind, vectors, graph, queries, candidates(kind, top))
    shares = []
    for query, right, row in zip(queries, exact, rows, strict=True):
        row = row[row >= 0]
        best = row[np.argsort(-(np.asarray(vectors[row]) @ query), kind="stable")][:top]
        itself = right[0]
        expected = {*right.tolist()} - {int(itself)}
        shares.append(len(expected & {*best.tolist()}) / max(len(expected), 1) if expected else 1.0)
    return float(np.mean(shares))
