"""The kinds of index, by name, and how the faiss file of a kind that has one is made and opened.

`flat` and `exact` need nothing but the vectors, memory-mapped as they lie on disk. The others are faiss indexes in a
file of their own, memory-mapped too: `hnsw` and `ivf` compare a few vectors, and pay from some hundred thousand
on; `fp16`, `sq8`, `pq`, `ivf-sq8` and `ivf-pq` hold each vector in fewer bytes. What these find is compared anew by the
vectors on disk, so scores are exact, and only what is not found at all is lost: by `fp16` nothing. The kinds of
clusters (`LISTED`) are made shard by shard, see `nearfar.search.lists`.
"""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from nearfar.errors import UserError, need

KINDS = {
    "flat": "exact, by faiss where it is installed (the default)",
    "exact": "exact, by a matrix product in blocks; needs no faiss",
    "hnsw": "approximate: a graph of neighbours; fastest, and twice the vectors' size on disk",
    "ivf": "approximate: clusters of vectors; quick to build",
    "fp16": "exact: half of the bytes are read, numbers of 2 bytes",
    "sq8": "a quarter of the memory: numbers of 1 byte",
    "pq": "a 16th of the memory or less: codes learnt from the vectors",
    "ivf-sq8": "a quarter of the memory, in clusters, of which a few are compared: for millions",
    "ivf-pq": "the same with the codes of pq",
}
EXACT = ("flat", "exact", "fp16")
"""Kinds that miss nothing, see `nearfar.search.kinds.certain`."""
LISTED = ("ivf", "ivf-sq8", "ivf-pq")
"""Kinds that keep the vectors in lists, one a cluster."""
LEAST = {"pq": 1000, "ivf-pq": 1000}
"""Vectors from which codes can be learnt: with fewer the codes are little but the vectors themselves."""
QUANTISED = {"fp16": 1, "sq8": 2, "pq": 10, "ivf-sq8": 2, "ivf-pq": 10}
"""Kinds whose codes are shorter than the vectors, with the candidates a hit that are compared anew by the vectors."""
SAMPLE, MOST_SAMPLED = 20_000, 250_000
"""Vectors that codes are learnt from, and the most that centres are, but for 40 a cluster."""


def check_kind(kind: str) -> str:
    """`kind` if it is one of KINDS, else a UserError that lists them."""
    if kind not in KINDS:
        listed = "; ".join(f"{name}: {what}" for name, what in KINDS.items())
        raise UserError(f"no kind of index is called {kind!r}. There are {listed}")
    return kind


def check_count(kind: str, count: int) -> None:
    """Raise UserError where an index of so many items cannot be of this kind."""
    if count < LEAST.get(kind, 0):
        raise UserError(
            f"the kind {kind} learns its codes from at least {LEAST[kind]:,} items, and there are {count:,}: "
            "choose --kind flat, or sq8, which needs a quarter of the memory"
        )


def check_recall(kind: str, recall: float) -> float:
    """`recall` if a search of this kind can aim at it, else a UserError."""
    if kind not in LISTED:
        raise UserError(
            f"a recall to aim at is for the kinds {', '.join(LISTED)}, which compare as many lists as reach it, and "
            f"this index is of the kind {kind}: leave --recall out, or choose --kind ivf"
        )
    if not 0 < recall <= 1:  # nor is NaN
        raise UserError(f"the recall of a search is above 0 and at most 1, not {recall!r}")
    return recall


def has_graph(kind: str, count: int) -> bool:
    """Whether an index of this kind and size keeps a faiss index beside the vectors."""
    return kind not in ("flat", "exact") and count >= LEAST.get(kind, 1)


def kind_of(graph: str) -> str:
    """The kind that a faiss file is of, by its name.

    >>> kind_of("ivf-pq-12.faiss")
    'ivf-pq'
    """
    return graph.rpartition("-")[0]


def build_graph(kind: str, vectors: np.ndarray) -> bytes:
    """The faiss index of `vectors` `[N, D]`, N > 0, as the bytes of its file."""
    faiss = need("faiss", "search")
    index = trained_graph(kind, vectors)
    for start in range(0, len(vectors), 65536):
        index.add(np.ascontiguousarray(vectors[start : start + 65536]))
    return faiss.serialize_index(index).tobytes()


def trained_graph(kind: str, vectors: np.ndarray) -> Any:
    """An empty faiss index that has learnt from a sample of `vectors` `[N, D]`, N > 0, what its kind learns, for all of
    them to be added."""
    faiss = need("faiss", "search")
    count, dim = vectors.shape
    clusters = clusters_of(count)
    made = {
        "hnsw": "HNSW32",
        "ivf": f"IVF{clusters},Flat",
        "fp16": "SQfp16",
        "sq8": "SQ8",
        "pq": f"PQ{pieces(dim)}np",
        "ivf-sq8": f"IVF{clusters},SQ8",
        "ivf-pq": f"IVF{clusters},PQ{pieces(dim)}np",
    }[kind]
    index = faiss.index_factory(dim, made, faiss.METRIC_INNER_PRODUCT)
    if kind == "hnsw":
        index.hnsw.efConstruction, index.hnsw.efSearch = 80, 64
    for learnt in (getattr(index, "cp", None), getattr(getattr(index, "pq", None), "cp", None)):
        if learnt is not None:
            learnt.min_points_per_centroid = 1  # faiss would print a warning; `check_count` has its own bound
    index.train(sample_of(kind, vectors))
    if kind in LISTED:
        index.nprobe = max(min(8, clusters), clusters // 8)  # until as many are chosen as find enough
    return index


def clusters_of(count: int) -> int:
    """How many clusters so many vectors are put into. k-means wants some 39 points a cluster; four times the square
    root balances finding clusters and scanning them. From a million on they are 4,000, then the square root, as each
    vector is compared with all centres when it is added.

    >>> [clusters_of(count) for count in (10, 1000, 100_000, 10_000_000, 100_000_000)]
    [1, 25, 1264, 4000, 10000]
    """
    root = math.sqrt(count)
    return max(1, min(int(4 * root), count // 39, max(4000, int(root))))


def sample_of(kind: str, vectors: np.ndarray) -> np.ndarray:
    """The rows of `vectors` that an index of this kind learns from, float32."""
    clusters = clusters_of(len(vectors))
    most = min(256 * clusters, MOST_SAMPLED) if kind == "ivf" else SAMPLE
    return training_sample(vectors, max(most, 40 * clusters))


def pieces(dim: int) -> int:
    """Into how many pieces of a byte each a vector is cut: of 4 numbers, or near 4 where the width is no multiple.

    >>> pieces(512), pieces(384), pieces(510), pieces(7)
    (128, 96, 170, 7)
    """
    return dim // next(size for size in (4, 3, 5, 2, 1) if dim % size == 0)


def training_sample(vectors: Any, most: int) -> np.ndarray:
    """At most `most` rows, evenly spread: the same ones at every build."""
    rows = np.linspace(0, len(vectors) - 1, min(most, len(vectors))).astype(np.int64)
    return np.ascontiguousarray(vectors[rows])


def open_graph(path: Path) -> Any:
    """The faiss index in a file, memory-mapped."""
    faiss = need("faiss", "search")
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)


def installed_faiss() -> Any:
    """faiss, or None where it is not installed: `flat` needs none."""
    with suppress(UserError):
        return need("faiss", "search")
    return None
