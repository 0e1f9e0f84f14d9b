"""An index may be damaged, or come from somebody else: what its files say is checked before it is used.

Names lead to plain files of the index's own folder, since a writer cuts and replaces them; numbers are within their
bounds; tables and graphs fit the vectors. A fault is text that ends the sentence "the index is damaged: ...".
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar.errors import UserError
from nearfar.search.index.kept import kept_fault
from nearfar.search.kinds.graphs import LISTED, kind_of

if TYPE_CHECKING:
    import pyarrow as pa

    from nearfar.search.index.manifest import Manifest

MOST = 2**62
"""No count, offset or size of an index is as large."""
CHECKED = 1 << 28
"""Bytes of a faiss file that are read to check it when an index is opened. Of a larger file of lists it is only what
comes before them."""


def damaged(directory: Path | str, why: str) -> UserError:
    """The error that says what is wrong with an index, and what to do."""
    return UserError(
        f"the index {directory} is damaged: {why}; delete it and make it anew with `nearfar index MODEL SOURCE --out "
        f"{directory}`"
    )


def file_fault(path: Path, size: int) -> str | None:
    """What is wrong with a file of the index that must have at least `size` bytes."""
    if path.is_symlink():
        return f"{path} is a link, and what is written to an index must stay in its folder"
    if not path.is_file():
        return f"{path} is missing"
    return f"{path} is cut short" if path.stat().st_size < size else None


def checksum(path: Path, head: int | None = None) -> int:
    """CRC-32 of a file, or of its first `head` bytes and its size."""
    total, left = 0, path.stat().st_size if head is None else head
    with path.open("rb") as file:
        while left > 0 and (piece := file.read(min(left, 1 << 22))):
            total, left = zlib.crc32(piece, total), left - len(piece)
    return total if head is None else zlib.crc32(path.stat().st_size.to_bytes(8, "little"), total)


def table_fault(tables: Iterable[pa.Table], written: pa.Schema, expected: pa.Schema, manifest: Manifest) -> str | None:
    """What is wrong with the items, which come as tables of some rows each, of the schema that they were `written`
    in."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.schema([*written][: len(expected)]).equals(expected):
        return f"{manifest.items} has other columns than nearfar writes"
    count = 0
    for table in tables:
        table.validate(full=True)  # raises for text that is not UTF-8, and for lists that do not fit
        if fault := kept_fault(table, table.schema.names[len(expected) :]):
            return f"{manifest.items} {fault}"
        for name in ("key", "stamp", "source", "row", "offset", "length"):
            if table[name].null_count:
                return f"{manifest.items} has an item without {name}"
        if pc.list_flatten(table["captions"]).null_count:
            return f"{manifest.items} has a caption that is empty"
        # Through DLPack: `to_numpy` of a column imports pandas where it is installed, which takes longer than a query.
        columns = (table[name].combine_chunks() for name in ("row", "offset", "length"))
        rows, offsets, lengths = (np.asarray(np.from_dlpack(column), np.int64) for column in columns)
        if not np.array_equal(rows, np.arange(count, count + len(table))):
            return f"{manifest.items} does not list its items in the order of their vectors"
        if len(table):
            least = min(offsets.min(), lengths.min())
            most = max(offsets.max(), lengths.max())
            # Both bounds first: their sum could be too large a number.
            if least < 0 or most > MOST or (offsets + lengths).max() > manifest.picture_bytes:
                return f"{manifest.items} names pictures outside {manifest.pictures}"
        count += len(table)
    return f"{manifest.items} holds {count} items for {manifest.count} vectors" if count != manifest.count else None


class KeyCheck:
    """Whether each item has a key of its own, with 8 bytes an item in memory and not the keys themselves: of each key
    as it passes a number is noted, Python's hash; where two numbers are equal, their keys are compared.

    >>> import pyarrow as pa
    >>> check = KeyCheck()
    >>> _ = [*check.noting([pa.table({"key": ["a", "b"]}), pa.table({"key": ["c"]})])]
    >>> check.repeated().tolist()
    []
    """

    def __init__(self) -> None:
        self._numbers = array("q")

    def noting(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The same tables; the keys of each are noted when the next one is taken, after it was checked itself."""
        for table in tables:
            yield table
            self._numbers.extend(map(hash, table["key"].to_pylist()))

    def repeated(self) -> np.ndarray:
        """The numbers `[n]` int64 that were noted more than once."""
        numbers = np.frombuffer(self._numbers, np.int64)
        numbers.sort()  # where they lie
        return np.unique(numbers[1:][numbers[1:] == numbers[:-1]])

    def fault(self, tables: Callable[[Sequence[str]], Iterable[pa.Table]], manifest: Manifest) -> str | None:
        """What is wrong with the keys; of some columns `tables` gives the items again."""
        suspected = set(self.repeated().tolist())
        if not suspected:
            return None
        passed: set[str] = set()
        for table in tables(["key"]):
            for key in table["key"].to_pylist():
                if hash(key) in suspected:
                    if key in passed:
                        return f"{manifest.items} has two items of one key"
                    passed.add(key)
        return None


def graph_fault(graph: Any, name: str, *, count: int, dim: int, rows: bool = True) -> str | None:
    """What is wrong with a faiss index, of a file called `name`. Its search follows the numbers in it unchecked, so
    every one must be of a vector that is there. Without `rows` those that it only returns are left to `rows_fault`."""
    import faiss

    made: dict[str, tuple[Any, Any]] = {
        "hnsw": (faiss.IndexHNSWFlat, _hnsw_fits),
        "ivf": (faiss.IndexIVFFlat, _ivf_fits),
        "fp16": (faiss.IndexScalarQuantizer, _halves_fit),
        "sq8": (faiss.IndexScalarQuantizer, _bytes_fit),
        "pq": (faiss.IndexPQ, _codes_fit),
        "ivf-sq8": (faiss.IndexIVFScalarQuantizer, _ivf_bytes_fit),
        "ivf-pq": (faiss.IndexIVFPQ, _ivf_codes_fit),
    }
    expected, fits = made[kind_of(name)]
    if type(graph) is not expected or (graph.d, graph.ntotal, graph.metric_type) != (
        dim, count, faiss.METRIC_INNER_PRODUCT,
    ):  # fmt: skip
        return f"{name} is not a graph of {count} vectors of {dim} numbers"
    if fits(graph, count) and (kind_of(name) not in LISTED or _lists_fit(graph, count, rows=rows)):
        return None
    return f"{name} points to vectors that are not there"


def rows_fault(rows: np.ndarray, name: str, count: int) -> str | None:
    """What is wrong with the rows that a search in the faiss file `name` returned; -1 is none."""
    if rows.size and not -1 <= rows.min() <= rows.max() < count:
        return f"{name} points to vectors that are not there"
    return None


def _halves_fit(graph: Any, count: int) -> bool:
    return _scalars_fit(graph, count, qtype="QT_fp16", width=2, learnt=0)


def _bytes_fit(graph: Any, count: int) -> bool:
    return _scalars_fit(graph, count, qtype="QT_8bit", width=1, learnt=2 * graph.d)


def _scalars_fit(graph: Any, count: int, *, qtype: str, width: int, learnt: int) -> bool:
    """Whether every number of each vector has its code, and the codes their ranges."""
    import faiss

    sq = graph.sq
    size = width * graph.d
    return (
        sq.qtype == getattr(faiss.ScalarQuantizer, qtype)
        and (sq.d, sq.code_size, graph.code_size) == (graph.d, size, size)
        and sq.trained.size() == learnt
        and graph.codes.size() == size * count
    )


def _codes_fit(graph: Any, count: int) -> bool:
    """Whether every piece of each vector has its code."""
    return _product_fits(graph.pq, graph) and graph.codes.size() == graph.code_size * count and graph.search_type == 0


def _ivf_codes_fit(graph: Any, count: int) -> bool:
    return (
        _product_fits(graph.pq, graph)
        and _flat_fits(graph.quantizer, graph.d, graph.nlist)
        and graph.polysemous_ht == 0
    )


def _ivf_bytes_fit(graph: Any, count: int) -> bool:
    import faiss

    sq, size = graph.sq, graph.d
    return (
        sq.qtype == faiss.ScalarQuantizer.QT_8bit
        and (sq.d, sq.code_size, graph.code_size, sq.trained.size()) == (size, size, size, 2 * size)
        and _flat_fits(graph.quantizer, graph.d, graph.nlist)
    )


def _product_fits(pq: Any, graph: Any) -> bool:
    return (
        (pq.d, pq.nbits, pq.ksub, pq.M * pq.dsub) == (graph.d, 8, 256, graph.d)
        and pq.code_size == graph.code_size == pq.M
        and pq.centroids.size() == 256 * graph.d
    )


def _flat_fits(index: Any, dim: int, count: int) -> bool:
    """Whether a part of the graph really holds `count` vectors of `dim` numbers."""
    import faiss

    index = faiss.downcast_index(index)
    sizes = (index.d, index.ntotal, index.metric_type)
    return (
        type(index) is faiss.IndexFlatIP
        and sizes == (dim, count, faiss.METRIC_INNER_PRODUCT)
        and index.code_size == 4 * dim
        and index.codes.size() == 4 * dim * count
    )


def _hnsw_fits(graph: Any, count: int) -> bool:
    """Whether every link of the graph leads to a vector that is there and that has links of that level itself."""
    import faiss

    names = ("levels", "offsets", "neighbors", "cum_nneighbor_per_level")
    levels, offsets, linked, starts = (
        faiss.vector_to_array(getattr(graph.hnsw, name)).astype(np.int64) for name in names
    )
    top, entry = graph.hnsw.max_level, graph.hnsw.entry_point
    if not (
        _flat_fits(graph.storage, graph.d, count)
        and count == len(levels)
        and len(offsets) == count + 1
        and 0 <= entry < count
    ):
        return False
    if not (levels.min() >= 1 and levels.max() == levels[entry] == top + 1 < len(starts) and offsets[0] == 0):
        return False
    if not (offsets[-1] == len(linked) and np.array_equal(np.diff(offsets), starts[levels]) and starts[0] == 0):
        return False
    if (np.diff(starts[: top + 2]) < 0).any() or linked.min(initial=-1) < -1 or linked.max(initial=-1) >= count:
        return False
    for level in range(1, top + 1):
        own = offsets[:-1][levels > level, None] + np.arange(starts[level], starts[level + 1])
        others = linked[own]
        if (levels[others[others >= 0]] <= level).any():
            return False
    return True


def _ivf_fits(graph: Any, count: int) -> bool:
    return graph.code_size == 4 * graph.d and _flat_fits(graph.quantizer, graph.d, graph.nlist)


def _lists_fit(graph: Any, count: int, *, rows: bool) -> bool:
    """Whether the lists of the clusters hold every vector once; without `rows`, as many as there are."""
    import faiss

    lists = graph.invlists
    nlist = graph.nlist
    if not (nlist == lists.nlist == graph.quantizer.ntotal and lists.code_size == graph.code_size and graph.nprobe > 0):
        return False
    sizes = [lists.list_size(i) for i in range(graph.nlist)]
    if sum(sizes) != count:
        return False
    if not rows or not count:
        return True
    numbers = [faiss.rev_swig_ptr(lists.get_ids(i), size) for i, size in enumerate(sizes) if size]
    return np.array_equal(np.sort(np.concatenate(numbers)), np.arange(count))
