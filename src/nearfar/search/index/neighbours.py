"""The kinds of index, by name: `flat` and `exact` compare every vector, `hnsw` and `ivf` a few.

`flat` needs nothing but the vectors, memory-mapped as they lie on disk. The other two are faiss indexes in a file of
their own, memory-mapped too; they pay from some hundred thousand pictures on.
"""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from nearfar.errors import UserError, need
from nearfar.search.index.exact import exact_search

KINDS = {
    "flat": "exact, by faiss where it is installed (the default)",
    "exact": "exact, by a matrix product in blocks; needs no faiss",
    "hnsw": "approximate: a graph of neighbours; fastest, and twice the vectors' size on disk",
    "ivf": "approximate: clusters of vectors; quick to build",
}
FEW = 20
"""Below so many queries at once faiss's scan beats a matrix product; from there on the product wins."""
LEAST_SHARE = 0.2
"""Of a filter that lets through less than this share of the vectors no graph is walked."""
SCANNED = 100_000
"""So few vectors that a filter lets through are compared one by one in some milliseconds, and exactly."""


def check_kind(kind: str) -> str:
    """`kind` if it is one of KINDS, else a UserError that lists them."""
    if kind not in KINDS:
        listed = "; ".join(f"{name}: {what}" for name, what in KINDS.items())
        raise UserError(f"no kind of index is called {kind!r}. There are {listed}")
    return kind


def has_graph(kind: str) -> bool:
    """Whether the kind keeps a faiss index beside the vectors."""
    return kind in ("hnsw", "ivf")


def build_graph(kind: str, vectors: np.ndarray) -> bytes:
    """The faiss index of `vectors` `[N, D]`, N > 0, as the bytes of its file."""
    faiss = need("faiss", "search")
    count, dim = vectors.shape
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = 80, 64
    else:
        # k-means wants some 39 points a cluster; the square root balances finding clusters and scanning them.
        clusters = max(1, min(int(4 * math.sqrt(count)), count // 39))
        index = faiss.index_factory(dim, f"IVF{clusters},Flat", faiss.METRIC_INNER_PRODUCT)
        index.train(training_sample(vectors, 256 * clusters))
        index.nprobe = max(1, clusters // 8)
    for start in range(0, count, 65536):
        index.add(np.ascontiguousarray(vectors[start : start + 65536]))
    return faiss.serialize_index(index).tobytes()


def training_sample(vectors: np.ndarray, most: int) -> np.ndarray:
    """At most `most` rows, evenly spread: the same ones at every build."""
    rows = np.linspace(0, len(vectors) - 1, min(most, len(vectors))).astype(np.int64)
    return np.ascontiguousarray(vectors[rows])


def open_graph(path: Path) -> Any:
    """The faiss index in a file, memory-mapped."""
    faiss = need("faiss", "search")
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)


def neighbours(
    kind: str, vectors: np.ndarray, graph: Any, queries: np.ndarray, top: int, among: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows `[Q, k]` of the best `k = min(top, N)` vectors, or of those `among` these rows; an approximate
    kind may find fewer for a query and fills up with row -1."""
    if among is not None:
        return neighbours_among(kind, vectors, graph, queries, top, among)
    top = min(top, len(vectors))
    if graph is not None:
        return graph.search(queries, top, params=breadth(kind, graph, top))
    if kind == "flat" and len(queries) < FEW and (faiss := installed_faiss()) is not None:
        return faiss.knn(queries, np.asarray(vectors), top, metric=faiss.METRIC_INNER_PRODUCT)
    return exact_search(queries, vectors, top)


def neighbours_among(
    kind: str, vectors: np.ndarray, graph: Any, queries: np.ndarray, top: int, among: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The best among some rows. A graph of which few vectors count is walked mostly in vain, so they are compared one
    by one; and so they are for a query for which the graph has too few."""
    top = min(top, len(among))
    if not top:
        return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    if graph is None or len(among) < max(SCANNED, LEAST_SHARE * len(vectors)):
        return exact_search(queries, vectors, top, among=among)
    params = breadth(kind, graph, top, selector(among, len(vectors)), len(vectors) / len(among))
    scores, rows = graph.search(queries, top, params=params)
    if (short := (rows < 0).any(axis=1)).any():
        scores[short], rows[short] = exact_search(queries[short], vectors, top, among=among)
    return scores, rows


def breadth(kind: str, graph: Any, top: int, selected: Any = None, times: float = 1.0) -> Any:
    """How much of a graph is searched for `top` hits, `times` as much where only some vectors are `selected`."""
    faiss = need("faiss", "search")
    if kind == "hnsw":
        return faiss.SearchParametersHNSW(efSearch=int(max(64, 2 * top) * times), sel=selected)
    return faiss.SearchParametersIVF(nprobe=min(graph.nlist, math.ceil(graph.nprobe * times)), sel=selected)


def selector(among: np.ndarray, count: int) -> Any:
    """What says to faiss which of `count` vectors count."""
    faiss = need("faiss", "search")
    mask = np.zeros(count, bool)
    mask[among] = True
    return faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))


def installed_faiss() -> Any:
    """faiss, or None where it is not installed: `flat` needs none."""
    with suppress(UserError):
        return need("faiss", "search")
    return None
