"""Scores of descriptions together with those of pictures, by two indexes of the same pictures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from nearfar.errors import UserError
from nearfar.search.index.items import Hit
from nearfar.search.index.stored_index import Index
from nearfar.search.querying.query import Query, Rerank


def fused_with(pictures: Index, encoder: Any, *, weight: float = 0.5, column: str = "image") -> Rerank:
    """What `query(..., rerank=...)` takes, so that the hits of an index of descriptions are ordered by

        (1 - weight) * score + weight * cosine of the query and the picture by the other encoder.

    No picture is opened: its vector lies in its own index. With `depth=len(index)` the order is that of all items.

    Args:
        pictures: an index of the pictures, by their files.
        encoder: its model; the query goes through it, too.
        weight: 0 for descriptions alone, 1 for pictures alone.
        column: the kept column that names the picture of a description: `nearfar index ... --keep image`.

    Raises:
        UserError: a weight out of range; on a query, a description without such a column, or whose picture is not in
            the other index.
    """
    if not 0 <= weight <= 1:
        raise UserError(f"weight={weight}: it goes from 0, descriptions alone, to 1, pictures alone")
    paths = pictures.table["path"].to_pylist()
    rows = {os.path.realpath(path): row for row, path in enumerate(paths) if path is not None}

    def rerank(query: Query, hits: list[Hit]) -> list[float]:
        if not hits:
            return []
        places = [_row_of(hit, rows, column, pictures) for hit in hits]
        cosine = pictures.rows_of(places) @ query.embed(encoder)
        return [(1 - weight) * hit.score + weight * float(c) for hit, c in zip(hits, cosine, strict=True)]

    return rerank


def _row_of(hit: Hit, rows: Mapping[str, int], column: str, pictures: Index) -> int:
    path = hit.kept.get(column)
    if not isinstance(path, str):
        raise UserError(f"the hit {hit.key!r} keeps no {column!r}: index the descriptions with --keep {column}")
    row = rows.get(os.path.realpath(path))
    if row is None:
        raise UserError(f"{path} is not in the index {pictures.directory}: index the same pictures there")
    return row
