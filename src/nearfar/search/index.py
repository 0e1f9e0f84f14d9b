"""The index as a search sees it: vectors, pictures and faiss index memory-mapped."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar.errors import UserError
from nearfar.search.items import Hit, schema, to_item
from nearfar.search.manifest import Manifest, load_manifest
from nearfar.search.neighbours import installed_faiss, neighbours, open_graph

if TYPE_CHECKING:
    import pyarrow as pa


class Index:
    """An index on disk, opened for searching: a snapshot that later changes do not touch.

    Make or extend one with `nearfar.search.build`; take pictures out with `Index.remove`.

    Raises UserError when `directory` holds no index or a damaged one.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        self.manifest: Manifest = load_manifest(self.directory)
        self.vectors = self._map_vectors()  # [N, D]
        self.table = self._read_table()
        self.graph = open_graph(self.directory / self.manifest.graph) if self.manifest.graph else None
        self._pictures = self._map_pictures()
        installed_faiss()  # imported now, not within the time of the first search

    def __len__(self) -> int:
        return self.manifest.count

    def __repr__(self) -> str:
        m = self.manifest
        return f"Index({str(self.directory)!r}, {m.count:,} pictures, {m.dim}-d, {m.kind}, model {m.model!r})"

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self.manifest.dim

    @property
    def model(self) -> str:
        """The model as it was named when the index was made."""
        return self.manifest.model

    def search(self, queries: np.ndarray, top: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """Scores `[Q, k]` float32, descending, and rows `[Q, k]` int64 of the pictures nearest to each query.

        Args:
            queries: `[Q, D]` or `[D]`, unit length (scores are then cosines).
            top: how many hits; `k = min(top, len(index))`.

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
        return neighbours(self.manifest.kind, self.vectors, self.graph, q, top)

    def hits(self, scores: Iterable[float], rows: Iterable[int]) -> list[Hit]:
        """Scores and rows of one query as hits, best first."""
        found = [(float(score), int(row)) for score, row in zip(scores, rows, strict=True) if row >= 0]
        records = self.table.take([row for _, row in found]).to_pylist()
        return [
            self._hit(rank, score, values)
            for rank, ((score, _), values) in enumerate(zip(found, records, strict=True), 1)
        ]

    def labels(self) -> list[str]:
        """The distinct label names of the items; where there are none, their distinct first captions. Sorted."""
        names = set(self.table["label_name"].drop_null().to_pylist())
        return sorted(names or {captions[0] for captions in self.table["captions"].to_pylist() if captions})

    def remove(self, keys: Iterable[str]) -> Index:
        """The index without these items, on disk and as returned; `self` stays what it was. Raises KeyError for an
        unknown key."""
        from nearfar.search.writer import Writer

        with Writer.extend(self.directory) as writer:
            for key in keys:
                writer.remove(key)
            writer.commit(final=True)
        return Index(self.directory)

    def _hit(self, rank: int, score: float, values: dict[str, Any]) -> Hit:
        item = to_item(values)

        def picture() -> bytes:
            if item.path is None:
                return self._pictures[item.offset : item.offset + item.length].tobytes()
            try:
                return Path(item.path).read_bytes()
            except OSError as error:
                reason = error.strerror or error
                raise UserError(
                    f"{item.path}: {reason}; run `nearfar index` again to bring the index up to date"
                ) from None

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
            picture=picture,
        )

    def _read_table(self) -> pa.Table:
        """The items, one row a vector, in the vectors' order."""
        if not self.manifest.items:
            return schema().empty_table()
        import pyarrow.parquet as pq

        return pq.read_table(self.directory / self.manifest.items)

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
