"""The index as a search sees it: vectors, pictures and faiss index memory-mapped."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

from nearfar.errors import UserError
from nearfar.files import why
from nearfar.search.index.damage import checksum, damaged, graph_fault, rows_fault
from nearfar.search.index.item_table import ItemTable
from nearfar.search.index.items import MOVING, Hit, moves, sounds, to_item
from nearfar.search.index.kept import kinds_of
from nearfar.search.index.manifest import Manifest, load_manifest
from nearfar.search.kinds.certain import certain_search, products
from nearfar.search.kinds.graphs import EXACT, QUANTISED, installed_faiss, open_graph
from nearfar.search.kinds.neighbours import neighbours

TOLERANCE = 1e-2
"""How far a vector's length may be from 1, and a score from the product of its vectors."""
GATHERED = 1 << 25
"""Bytes of vectors that are read at a time to compute scores anew."""


class Index:
    """An index on disk, opened for searching: a snapshot that later changes do not touch.

    Make or extend one with `nearfar.search.build`; take pictures out with `Index.remove`.

    Raises UserError when `directory` holds no index or a damaged one.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        self.manifest: Manifest = load_manifest(self.directory)
        self._rows = self._map_vectors()  # of the items that were taken out, too
        self.table = ItemTable(self.directory, self.manifest)
        self.graph = self._open_graph()
        self._pictures = self._map_pictures()
        installed_faiss()  # imported now, not within the time of the first search

    def __len__(self) -> int:
        return self.manifest.held

    def __repr__(self) -> str:
        m = self.manifest
        return f"Index({str(self.directory)!r}, {self.counted}, {m.dim}-d, {m.kind}, model {m.model!r})"

    @property
    def vectors(self) -> np.ndarray:
        """The embeddings `[N, D]` of its items, in their order, float32: mapped from the disk, or a copy where items
        were taken out."""
        return self._rows if self._live is None else self._rows[self._live]

    def rows_of(self, places: Any) -> np.ndarray:
        """The embeddings `[n, D]` float32 of the items at some places, whole numbers `[n]`; no others are read."""
        places = np.asarray(places, dtype=np.int64)
        return np.asarray(self._rows[places if self._live is None else self._live[places]])

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self.manifest.dim

    @property
    def model(self) -> str:
        """The model as it was named when the index was made."""
        return self.manifest.model

    @property
    def counted(self) -> str:
        """How many things it holds, and what they are: "3 pictures", "1 video", "2 texts"."""
        from nearfar.search.index.counting import in_words

        return in_words(self.counts)

    @property
    def counts(self) -> dict[str, int]:
        """How many things it holds of each kind that there is: {"picture": 3, "video": 1, "text": 2}."""
        from nearfar.search.index.counting import COLUMNS, counts

        return counts(self.table.columns(COLUMNS), self._pictures)

    @property
    def bytes_per_vector(self) -> int:
        """Bytes that a search reads for each vector: of the faiss file of a kind that has one, else of the vectors."""
        if not self.manifest.graph or not len(self):
            return 4 * self.dim
        return round((self.directory / self.manifest.graph).stat().st_size / self.manifest.count)

    @property
    def recall(self) -> float | None:
        """Recall@10 against exact search, measured when the faiss index was made, a sample of the items as queries; 1
        where the search is exact; None of an index that was made before this was measured."""
        return self.manifest.recall if self.manifest.graph and self.manifest.kind not in EXACT else 1.0

    @property
    def columns(self) -> dict[str, str]:
        """The columns that it keeps of the user's data, and what each holds: {"price": "numbers", "sku": "texts"}."""
        return kinds_of(self.table.schema)

    def search(
        self, queries: np.ndarray, top: int = 10, *, among: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores `[Q, k]` float32, descending, and rows `[Q, k]` int64 of the pictures nearest to each query.

        Args:
            queries: `[Q, D]` or `[D]`, unit length (scores are then cosines).
            top: how many hits; `k = min(top, len(index))`, or with `among` `min(top, len(among))`. Of equal scores the
                lower row comes first; of the kinds "flat", "exact" and "fp16" none is missed.
            among: rows to search, ascending (`nearfar.search.matching_rows`). Default: all.

        Raises UserError when the index is empty or the queries are of another width.
        """
        q = np.atleast_2d(np.ascontiguousarray(queries, dtype=np.float32))
        if not len(self):
            raise UserError(f"the index {self.directory} is empty: add pictures with `nearfar index`")
        if q.shape[1] != self.dim:
            raise UserError(
                f"the queries are {q.shape[1]}-d and the index {self.directory} is {self.dim}-d: "
                f"it was made with another model ({self.model})"
            )
        if top < 1:
            raise UserError(f"top must be at least 1, not {top}")
        if not np.isfinite(q).all():
            raise UserError("the query's embedding holds NaN or infinity: the model is broken or was not trained")
        kind, live, removed = self.manifest.kind, self._live, self.manifest.removed
        if among is not None and live is not None:
            among = live[among]
        searched = live if among is None else among

        def scan(some: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
            return neighbours(kind, self._rows, self.graph, some, count, among, removed)

        def part(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
            rows = np.arange(start, stop) if searched is None else searched[start:stop]
            return self._rows[rows], rows

        count = len(self) if among is None else len(among)
        scores, rows = certain_search(
            kind, q, min(top, count), count=count, scan=scan, anew=self._checked, vectors=part
        )
        if live is not None:  # from rows of the file to those of the items
            rows = np.where(rows < 0, rows, np.searchsorted(live, rows))
        return scores, rows

    def _checked(self, queries: np.ndarray, scored: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """The scores as the vectors give them: a few products, which also reveal a damaged file, since nobody reads one
        as a whole. A row that was not found gets the least score."""
        scores, rows = scored
        if self.graph is None and (rows < 0).any():
            raise damaged(self.directory, f"{self.manifest.vectors} holds vectors that are not numbers")
        if fault := rows_fault(rows, str(self.manifest.graph), self.manifest.count):
            raise damaged(self.directory, fault)
        exact_kind = self.graph is None or self.manifest.kind in EXACT or self.manifest.kind not in QUANTISED
        tolerance = TOLERANCE if exact_kind else np.inf
        exact = np.full(rows.shape, np.finfo(np.float32).min, np.float32)
        step = max(1, GATHERED // max(1, 4 * self.dim * rows.shape[1]))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            query, column = np.nonzero(rows[part] >= 0)
            vectors, q = self._rows[rows[part][query, column]], queries[part][query]
            with np.errstate(all="ignore"):
                length, fresh = np.linalg.norm(vectors, axis=1), products(q, vectors)
                off = np.abs(scores[part][query, column] - fresh) / np.maximum(np.linalg.norm(q, axis=1), 1)
            # What is not a number is not less than anything, and so is caught too.
            if not (np.all(np.abs(length - 1) < TOLERANCE) and np.all(off < tolerance)):
                names = " or ".join(name for name in (self.manifest.vectors, self.manifest.graph) if name)
                raise damaged(self.directory, f"{names} holds vectors that are not of unit length")
            exact[part][query, column] = fresh
        return exact

    def hits(self, scores: Iterable[float], rows: Iterable[int]) -> list[Hit]:
        """Scores and rows of one query as hits, best first."""
        scored_rows = [(float(score), int(row)) for score, row in zip(scores, rows, strict=True) if row >= 0]
        records = self.table.records(np.array([row for _, row in scored_rows], np.int64))
        return [
            self._hit(rank, score, values)
            for rank, ((score, _), values) in enumerate(zip(scored_rows, records, strict=True), 1)
        ]

    def labels(self) -> list[str]:
        """The distinct label names of the items; where there are none, their distinct first captions. Sorted."""
        names = set(self.table["label_name"].unique().drop_null().to_pylist())
        if not names:
            for batch in self.table["captions"].chunks:
                names |= {captions[0] for captions in batch.to_pylist() if captions}
        return sorted(names)

    def remove(self, keys: Iterable[str]) -> Index:
        """The index without these items, on disk and as returned; `self` stays what it was. No search returns them any
        more; the files hold them until they are written anew, see `compact`. Raises KeyError for an unknown key."""
        from nearfar.search.index.writer import IndexWriter  # no query needs it

        with IndexWriter.extend(self.directory) as writer:
            for key in keys:
                writer.remove(key)
            writer.commit(final=True)
            after = writer.manifest
        if after.files != self.manifest.files:
            return Index(self.directory)
        smaller = copy(self)  # of the same files: nothing is read again
        smaller.manifest = after
        smaller.table = self.table.without(after.removed)
        return smaller

    def compact(self) -> Index:
        """The index, its files written anew without what was taken out, on disk and as returned; `self` stays what it
        was."""
        from nearfar.search.index.writer import IndexWriter

        with IndexWriter.extend(self.directory) as writer:
            writer.compact()
        return Index(self.directory)

    @property
    def _live(self) -> np.ndarray | None:
        """The rows of the files that hold an item; None where all do."""
        return self.table.live

    def _hit(self, rank: int, score: float, values: dict[str, Any]) -> Hit:
        item = to_item(values)

        def picture() -> bytes:
            if item.length or item.path is None:
                return self._pictures[item.offset : item.offset + item.length].tobytes()
            try:
                if not stat.S_ISREG(os.stat(item.path).st_mode):  # a pipe or a device would be read without end
                    raise UserError(f"{item.path} is not a regular file: take it out of the source and index again")
                return Path(item.path).read_bytes()
            except UserError:
                raise
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise UserError(
                    f"{item.path}: {reason}; run `nearfar index` again to bring the index up to date"
                ) from None

        start = self._pictures[item.offset : item.offset + min(item.length, MOVING)].tobytes()
        return Hit(
            rank=rank,
            score=score,
            key=item.key,
            path=item.path,
            captions=item.captions,
            label=item.label,
            label_name=item.label_name,
            group=item.group,
            domain=item.domain,
            domain_name=item.domain_name,
            id=item.id,
            sample=item.sample,
            shard=item.shard,
            kept=item.kept,
            moves=moves(start),
            sounds=sounds(start),
            picture=None if item.path is None and not item.length else picture,
        )

    def _open_graph(self) -> Any:
        """The faiss index, of a kind that has one."""
        if not self.manifest.graph:
            return None
        path, sum_then = self.directory / self.manifest.graph, self.manifest.graph_sum
        if sum_then is not None and checksum(path, self.manifest.graph_head) != sum_then:
            raise damaged(self.directory, f"{path} has changed since it was written")
        try:
            graph = open_graph(path)
            whole = self.manifest.graph_head is None
            fault = graph_fault(graph, path.name, count=self.manifest.count, dim=self.dim, rows=whole)
        except (RuntimeError, MemoryError, ValueError) as error:
            fault = f"{path} cannot be read ({why(error, 'its content is damaged')})"
        if fault:
            raise damaged(self.directory, fault)
        return graph

    def _map_vectors(self) -> np.ndarray:
        m = self.manifest
        if not m.count:
            return np.empty((0, m.dim), np.float32)
        return np.memmap(self.directory / m.vectors, np.dtype("<f4"), mode="r", shape=(m.count, m.dim))

    def _map_pictures(self) -> np.ndarray:
        m = self.manifest
        if not m.picture_bytes:
            return np.empty(0, np.uint8)
        return np.memmap(self.directory / m.pictures, np.uint8, mode="r", shape=(m.picture_bytes,))
