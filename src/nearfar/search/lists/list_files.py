"""A faiss file of the kinds that keep vectors in lists: written list by list and read where it lies.

faiss writes such an index from memory only. Its file is a head (sizes, centres, ranges of the codes) and the lists one
after the other, codes and then rows. So a shard is written from its codes, and several become one by copying: of each
list the parts of all, in their order. Nothing of the size of the vectors is held, and any faiss reads the result.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nearfar import files
from nearfar.errors import UserError, need

NONE = b"sprs" + struct.pack("<Q", 0)
"""How faiss writes the sizes of lists that are all empty."""

OTHER = "is not whole, or holds lists of another index: make it anew"


class Lists(Protocol):
    """The lists of an index or of a part of one: `sizes` `[K]` int64, and of each list its codes and rows, as bytes."""

    sizes: np.ndarray

    def codes(self, number: int) -> np.ndarray:
        """uint8."""

    def rows(self, number: int) -> np.ndarray:
        """int64, ascending."""


class MadeLists:
    """Lists of vectors that were just coded.

    Args:
        cluster: `[N]` int64, of each vector.
        codes: `[N, B]` uint8.
        clusters: K.
        first: the row of the first vector; the others follow.
    """

    def __init__(self, cluster: np.ndarray, codes: np.ndarray, clusters: int, first: int) -> None:
        self.sizes = np.bincount(cluster, minlength=clusters)
        self._codes, self._first = codes, first
        self._order = np.argsort(cluster, kind="stable")
        self._ends = np.cumsum([0, *self.sizes])

    def codes(self, number: int) -> np.ndarray:
        return self._codes[self._order[self._ends[number] : self._ends[number + 1]]]

    def rows(self, number: int) -> np.ndarray:
        return self._order[self._ends[number] : self._ends[number + 1]] + self._first


class StoredLists:
    """The lists in a file, memory-mapped.

    Args:
        path: a file that `write_lists` wrote.
        trained: the empty index that its vectors were coded by.
        shift: is added to its rows.

    Raises:
        UserError: it is another file, of vectors that were coded otherwise, or not whole.
    """

    def __init__(self, path: Path, trained: Any, *, shift: int = 0) -> None:
        clusters, width = trained.nlist, trained.code_size
        prefix = len(head_of(trained, 0)) + len(before_sizes(trained))
        mapped = np.memmap(path, np.uint8, mode="r") if path.stat().st_size else np.zeros(0, np.uint8)
        start = prefix + 8 * clusters
        if len(mapped) < start:
            raise UserError(f"{path} {OTHER}")
        self.sizes = np.frombuffer(mapped[prefix:start].tobytes(), "<i8")
        whole = start + int(self.sizes.sum()) * (width + 8)
        count = int(self.sizes.sum())
        expected = head_of(trained, count) + before_sizes(trained)
        if self.sizes.min() < 0 or len(mapped) != whole or mapped[:prefix].tobytes() != expected:
            raise UserError(f"{path} {OTHER}")
        self.count = count
        self._mapped, self._width, self._shift = mapped, width, shift
        self._starts = start + np.cumsum([0, *self.sizes]) * (width + 8)

    def codes(self, number: int) -> np.ndarray:
        start = self._starts[number]
        return self._mapped[start : start + self.sizes[number] * self._width]

    def rows(self, number: int) -> np.ndarray:
        end = self._starts[number + 1]
        return np.frombuffer(self._mapped[end - 8 * self.sizes[number] : end].tobytes(), "<i8") + self._shift


def write_lists(path: Path, trained: Any, parts: Sequence[Lists]) -> int:
    """Write the lists of all parts, one behind the other, as the faiss index that `trained` is empty. Returns the bytes
    before the lists. The file takes its place when it is whole."""
    sizes = np.sum([part.sizes for part in parts], axis=0, dtype=np.int64)
    head = head_of(trained, int(sizes.sum())) + before_sizes(trained) + sizes.astype("<i8").tobytes()
    with files.whole(files.place(path)) as temporary, temporary.open("xb") as file:
        file.write(head)
        for number in np.flatnonzero(sizes).tolist():
            for part in parts:
                file.write(part.codes(number).tobytes())
            for part in parts:
                file.write(part.rows(number).astype("<i8").tobytes())
    return len(head)


def head_of(trained: Any, count: int) -> bytes:
    """What the faiss file of an index of `count` vectors has before its lists."""
    faiss = need("faiss", "search")
    trained.ntotal = count
    content = faiss.serialize_index(trained).tobytes()
    trained.ntotal = 0
    tail = lists_named(trained) + NONE
    if not content.endswith(tail):
        raise UserError(f"faiss {faiss.__version__} writes lists in another form: install faiss-cpu 1.15")
    return content[: -len(tail)]


def lists_named(trained: Any) -> bytes:
    return b"ilar" + struct.pack("<QQ", trained.nlist, trained.code_size)


def before_sizes(trained: Any) -> bytes:
    """What stands between the head and the sizes of all lists."""
    return lists_named(trained) + b"full" + struct.pack("<Q", trained.nlist)


def trained_in(path: Path, head: int, clusters: int) -> Any:
    """The empty index that the lists in a file were made by: it has `head` bytes before its lists, one a cluster."""
    faiss = need("faiss", "search")
    with path.open("rb") as file:
        content = file.read(head)[: head - 8 * clusters - 12]
    index = faiss.deserialize_index(np.frombuffer(content + NONE, np.uint8))
    index.ntotal = 0
    return index
