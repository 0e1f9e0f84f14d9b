"""Approximate search over vectors that lie on a disk, by row: for embeddings at hand, and more of them than memory."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from nearfar import files
from nearfar.errors import UserError, at_least
from nearfar.files import why
from nearfar.locks import Lock
from nearfar.search.index.damage import CHECKED, MOST, checksum, file_fault, graph_fault, rows_fault
from nearfar.search.kinds.graphs import LISTED, check_count, check_recall, kind_of, open_graph, training_sample
from nearfar.search.kinds.hit_order import ordered
from nearfar.search.kinds.neighbours import candidates, probing
from nearfar.search.lists.list_files import StoredLists, head_of, trained_in, write_lists
from nearfar.search.lists.list_shards import ENOUGH, FOLDER, SHARD, build_lists
from nearfar.search.lists.stacked_vectors import StackedVectors

NAME = "vectors.json"
GATHERED = 1 << 25
"""Bytes of vectors that are read at a time to compute scores anew."""
COMPARED = 100
"""Vectors by which an index knows its own."""
NUMBERS = {"serial": 0, "count": 1, "dim": 1, "clusters": 1, "head": 1, "sum": 0, "sample": 0}
"""Whole numbers that `vectors.json` holds, and the least that each may be."""


class VectorIndex:
    """Lists of vectors by cluster, in a folder, opened for searching. What it holds of a vector is its code; with the
    vectors themselves, which stay where they are, scores are exact.

    Args:
        folder: where `VectorIndex.build` made it.
        vectors: those that it was made of, `[N, D]`, or a sequence of arrays `[n_i, D]` in their order, of any floating
            point, memory-mapped or not. None: none are read, and scores are those of the codes.

    Raises:
        UserError: the folder holds no such index or a damaged one, or the vectors are others.

    >>> import tempfile
    >>> vectors = np.random.default_rng(0).standard_normal((500, 8), dtype="f4")
    >>> vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     index = VectorIndex.build(folder, [vectors[:300], vectors[300:]])
    ...     scores, rows = index.search(vectors[[7, 400]], 3)
    >>> rows[:, 0].tolist(), scores[:, 0].round(3).tolist()
    ([7, 400], [1.0, 1.0])
    """

    def __init__(self, folder: Path | str, vectors: np.ndarray | Sequence[np.ndarray] | None = None) -> None:
        self.folder = Path(folder)
        self._about = about = read_about(self.folder)
        path = self.folder / self._name
        head = about["head"] if about["large"] else None
        if fault := file_fault(path, 1):
            raise damaged(self.folder, fault)
        if checksum(path, head) != about["sum"]:
            raise damaged(self.folder, f"{path} has changed since it was written")
        try:
            self.graph = open_graph(path)
            fault = graph_fault(self.graph, self._name, count=len(self), dim=self.dim, rows=head is None)
        except (RuntimeError, MemoryError, ValueError) as error:
            fault = f"{path} cannot be read ({why(error, 'its content is damaged')})"
        if fault:
            raise damaged(self.folder, fault)
        self._vectors = None if vectors is None else StackedVectors(vectors)
        if self._vectors is not None and not self._are_its_own(self._vectors):
            raise UserError(f"the index {self.folder} was made of other vectors: name those, or build it anew")

    @classmethod
    def build(
        cls,
        folder: Path | str,
        vectors: np.ndarray | Sequence[np.ndarray],
        *,
        kind: str = "ivf-sq8",
        shard: int = SHARD,
        like: Path | str | None = None,
        recall: float = ENOUGH,
        progress: bool | None = None,
    ) -> VectorIndex:
        """Make an index of vectors, by a sample that is learnt from and shard by shard; memory is needed for a shard. A
        build that was killed goes on with the next shard when it is started again.

        Args:
            folder: a new folder, or that of an index, which is replaced when the new one is whole.
            vectors: `[N, D]`, or a sequence of arrays `[n_i, D]`, of any floating point; of unit length, if scores are
                to be cosines. They are compared as float32.
            kind: "ivf-sq8", "ivf-pq" or "ivf" (`nearfar.search.kinds.graphs.KINDS`).
            shard: vectors a shard, a multiple of 65,536.
            like: the folder of an index whose centres and codes are taken over, so that both can be merged.
            recall: recall@10 that a search is to have. It compares as few lists as reach that with a sample of the
                vectors as queries; where none does, as few as come within 0.01 of what all lists find.
            progress: show a progress bar; None: within a command only.

        Returns:
            The opened index, with its vectors.

        Raises:
            UserError: no such kind, `recall` is no share, too few vectors for the kind, one that holds NaN or infinity,
                or `like` is of another kind or width; another process builds there; the disk refuses.
        """
        folder, stacked = Path(folder), StackedVectors(vectors)
        if kind not in LISTED:
            raise UserError(f"no kind of lists is called {kind!r}: choose {', '.join(LISTED)}")
        check_recall(kind, recall)
        trained = None
        if like is None:
            check_count(kind, len(stacked))
        else:
            trained = trained_of(Path(like), kind, stacked.shape[1])
        lock = Lock(folder, "building the index")
        try:
            path = next_file(folder, kind)
            shards = folder / FOLDER
            made = build_lists(
                kind, stacked, path, shards, shard=shard, trained=trained, enough=recall, progress=progress
            )
            write_about(path, *made, stacked)
        finally:
            lock.release()
        return cls(folder, vectors)

    @classmethod
    def merge(
        cls, folder: Path | str, parts: Sequence[Path | str], vectors: np.ndarray | Sequence[np.ndarray] | None = None
    ) -> VectorIndex:
        """Make one index of several, of which all but one were built `like` that one. The rows of a part follow those
        of the part before it. Files are copied, list by list; nothing is computed.

        Args:
            folder: a new folder.
            parts: the folders of the parts.
            vectors: those of all parts, in their order, as in `VectorIndex`.

        Returns:
            The opened index. Its recall is that of the worst part, and so many lists are compared as in any.

        Raises:
            UserError: there is no part, parts differ in what they learnt, `folder` is one of them, or the disk refuses.
        """
        folder, opened = Path(folder), [VectorIndex(part) for part in parts]
        if not opened or folder.absolute() in [index.folder.absolute() for index in opened]:
            raise UserError("name the folders of the indices to merge, and another for the merged one")
        first = opened[0]
        lists, rows = [], 0
        trained = [trained_of(index.folder, first.kind, first.dim) for index in opened]
        for index, learnt in zip(opened, trained, strict=True):
            lists.append(StoredLists(index.folder / index._name, learnt, shift=rows))
            rows += len(index)
            learnt.nprobe = trained[0].nprobe
            if head_of(learnt, 0) != head_of(trained[0], 0):
                raise UserError(f"{index.folder} and {first.folder} were not built alike: build one 'like' the other")
        trained[0].nprobe = max(int(index.graph.nprobe) for index in opened)
        stacked = None if vectors is None else StackedVectors(vectors)
        if stacked is not None and stacked.shape != (rows, first.dim):
            raise UserError(f"the parts hold {rows:,} vectors of {first.dim} numbers, not {stacked.shape}")
        lock = Lock(folder, "building the index")
        try:
            path = next_file(folder, first.kind)
            head = write_lists(path, trained[0], lists)
            write_about(path, head, min(index.recall for index in opened), stacked)
        finally:
            lock.release()
        return cls(folder, vectors)

    def __len__(self) -> int:
        return int(self._about["count"])

    def __repr__(self) -> str:
        return f"VectorIndex({str(self.folder)!r}, {len(self):,} vectors, {self.dim}-d, {self.kind})"

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return int(self._about["dim"])

    @property
    def kind(self) -> str:
        """ "ivf-sq8", "ivf-pq" or "ivf"."""
        return str(self._about["kind"])

    @property
    def recall(self) -> float:
        """Recall@10 against exact search, measured when it was built, a sample of the vectors as queries."""
        return float(self._about["recall"])

    @property
    def probes(self) -> int:
        """How many lists a search compares."""
        return int(self.graph.nprobe)

    @property
    def _name(self) -> str:
        return f"{self.kind}-{self._about['serial']}.faiss"

    def search(self, queries: np.ndarray, top: int = 10, *, probes: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The vectors nearest to each query, by inner product.

        Args:
            queries: `[Q, D]` or `[D]` in floating point.
            top: how many of each; `k = min(top, len(index))`.
            probes: lists that are compared: more find more, and take longer. Default: as the index was built.

        Returns:
            Scores `[Q, k]` float32, descending, and rows `[Q, k]` int64; of equal scores the lower row comes first.
            Where the lists that were compared hold fewer, the rest are row -1.

        Raises:
            UserError: the queries are of another width or no numbers.
        """
        at_least(1, top=top, probes=probes)
        q = np.atleast_2d(np.ascontiguousarray(queries, dtype=np.float32))
        if q.shape[1] != self.dim:
            raise UserError(f"the queries are {q.shape[1]}-d and the index {self.folder} is {self.dim}-d")
        if not np.isfinite(q).all():
            raise UserError("the queries hold NaN or infinity")
        params = probing(self.kind, min(probes or self.probes, self.graph.nlist))
        fetched = min(candidates(self.kind, top), len(self))
        scores, rows = self.graph.search(q, fetched, params=params)
        if fault := rows_fault(rows, self._name, len(self)):
            raise damaged(self.folder, fault)
        if self._vectors is not None:
            scores = exact_scores(self._vectors, q, rows)
        return ordered(scores, rows, min(top, len(self)))

    def _are_its_own(self, vectors: StackedVectors) -> bool:
        same = vectors.shape == (len(self), self.dim)
        return same and self._about["sample"] in (None, sample_sum(vectors))


def exact_scores(vectors: StackedVectors, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The inner products of queries `[Q, D]` with rows `[Q, C]` as the vectors give them; of row -1 the least score."""
    exact = np.full(rows.shape, np.finfo(np.float32).min, np.float32)
    step = max(1, GATHERED // (4 * queries.shape[1] * rows.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        query, column = np.nonzero(rows[part] >= 0)
        taken = vectors[rows[part][query, column]]
        exact[part][query, column] = np.einsum("nd,nd->n", queries[part][query], taken)
    return exact


def next_file(folder: Path, kind: str) -> Path:
    """The file of the next index in a folder, beside that of one that is there."""
    return folder / f"{kind}-{read_about(folder)['serial'] + 1 if (folder / NAME).exists() else 0}.faiss"


def write_about(path: Path, head: int, recall: float, vectors: StackedVectors | None) -> None:
    """Say in `vectors.json` what the index is; with this it is there, and the one before is gone."""
    large = path.stat().st_size > CHECKED
    graph = open_graph(path)
    about = {
        "kind": kind_of(path.name),
        "serial": int(path.stem.rpartition("-")[2]),
        "count": graph.ntotal,
        "dim": graph.d,
        "clusters": graph.nlist,
        "head": head,
        "large": large,
        "sum": checksum(path, head if large else None),
        "recall": round(recall, 4),
        "sample": None if vectors is None else sample_sum(vectors),
    }
    files.write(path.parent / NAME, json.dumps(about, indent=1))
    for old in path.parent.glob("*.faiss"):
        if old != path:
            with suppress(OSError):  # where a reader that has it mapped forbids that
                old.unlink()


def read_about(folder: Path) -> dict[str, Any]:
    """What `vectors.json` says, checked. Raises UserError where there is none, or it is damaged."""
    path = folder / NAME
    if not path.is_file():
        raise UserError(f"{folder} holds no index of vectors: make one with nearfar.search.VectorIndex.build")
    try:
        about = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise damaged(folder, f"{path} cannot be read ({why(error, 'it is no JSON')})") from error
    if not isinstance(about, dict) or set(about) != {*NUMBERS, "kind", "large", "recall"}:
        raise damaged(folder, f"{path} does not say what an index is")
    numbers = {name: 0 if name == "sample" and about[name] is None else about[name] for name in NUMBERS}
    if not all(type(value) is int and NUMBERS[name] <= value <= MOST for name, value in numbers.items()):
        raise damaged(folder, f"{path} holds numbers that no index has")
    if about["kind"] not in LISTED or type(about["large"]) is not bool or type(about["recall"]) not in (int, float):
        raise damaged(folder, f"{path} names no kind of lists")
    return about


def trained_of(folder: Path, kind: str, dim: int) -> Any:
    """The empty faiss index that an index was made by. Raises UserError where it is of another kind or width."""
    index = VectorIndex(folder)
    if (index.kind, index.dim) != (kind, dim):
        raise UserError(f"{folder} is {index.kind} of {index.dim} numbers a vector, not {kind} of {dim}")
    return trained_in(folder / index._name, index._about["head"], index._about["clusters"])


def sample_sum(vectors: StackedVectors) -> int:
    """CRC-32 of some rows as float32."""
    return zlib.crc32(training_sample(vectors, COMPARED).data)


def damaged(folder: Path, why: str) -> UserError:
    """The error that says what is wrong with an index of vectors, and what to do."""
    return UserError(f"the index {folder} is damaged: {why}; build it anew")
