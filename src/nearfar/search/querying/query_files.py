"""Queries from a file: the lines of a text, a column of a table, the pictures or sounds of a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nearfar.data.pictures.images import EXTENSIONS
from nearfar.data.sources.open_source import open_source
from nearfar.data.sources.record_text import captions
from nearfar.data.sources.skipped import Skipped
from nearfar.data.tables.encoding import REMEDY, line_not_utf8
from nearfar.errors import UserError
from nearfar.search.querying.query import Query


class QueryFile:
    """The queries of a file or folder, one a record; a record without any is an empty query.

    Args:
        path: `.txt`, a text a line; a table (`.csv`, `.tsv`, `.jsonl`, `.parquet`), a query a row, or shards; a folder,
            a query a picture, or a sound.
        column: the column of the texts, pictures or sounds of a table. Default: that of the texts, by its usual names,
            or else that of the pictures, or of the sounds.

    Raises:
        UserError: no such file, or it holds no queries, or has no such column.
    """

    def __init__(self, path: str | os.PathLike[str], column: str | None = None) -> None:
        path = Path(path)
        if path.is_dir() and next(path.glob("*.tar"), None) is None:
            self._records: Any = open_source(str(path), captions="none")
            self._side = medium_of(self._records)
        elif path.suffix.lower() == ".txt":
            if column is not None:
                raise UserError(f"{path}: a .txt file holds a query a line and has no column {column!r}: leave it out")
            self._records, self._side = [{"text": line} for line in lines_of(path)], "text"
        else:
            self._records, self._side = opened(path, column)
        if not len(self._records):
            raise UserError(f"{path}: it holds no queries")

    @property
    def skipped(self) -> Skipped:
        """What of the file could not be read at all."""
        return getattr(self._records, "skipped", None) or Skipped()

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Query]:
        for place in range(len(self)):
            record = self._records[place]
            if self._side in ("image", "audio"):
                yield Query(**{self._side: content_of(record.get(self._side))})
            else:
                yield Query(text=next(iter(captions(record.get("text"))), None))


def opened(path: Path, column: str | None) -> tuple[Any, str]:
    """A table's records, and which side of them the queries are."""
    if column is None:
        source = open_source(str(path))
        return source, "text" if "text" in source.columns else medium_of(source)
    source = open_source(str(path), image=column)
    return (
        (source, "image")
        if len(source) and is_picture(source[0].get("image"))
        else (
            open_source(str(path), text=column),
            "text",
        )
    )


def medium_of(source: Any) -> str:
    """Whether records without texts are queries by picture or by sound."""
    return "audio" if "audio" in source.columns and "image" not in source.columns else "image"


def is_picture(value: Any) -> bool:
    """Whether a cell is a picture, or names one.

    >>> is_picture("a/b.JPG"), is_picture("a red car"), is_picture(b"...")
    (True, False, True)
    """
    return value is not None and (not isinstance(value, str) or value.strip().lower().endswith(EXTENSIONS))


def content_of(image: Any) -> Any:
    """A picture of a record as a query takes it: a path, bytes or a picture."""
    if isinstance(image, dict):
        image = image["bytes"] if image.get("bytes") is not None else image.get("path")
    return image.read() if hasattr(image, "read") else image


def lines_of(path: Path) -> list[str]:
    """The lines of a text file."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if (line := line_not_utf8(path)) is not None:
        raise UserError(f"{path}: line {line} is not UTF-8 text: {REMEDY}")
    return path.read_text("utf-8-sig").splitlines()
