"""Tables of texts with several pictures in them: a column of lists of paths, and one of texts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from nearfar.data.sources.source import Mapped, Record, Source
from nearfar.data.tables.picture_paths import file_named

COLUMN = "images"
"""The column that holds a list of pictures for each row."""


class DocumentColumns(Mapped):
    """The rows of a table whose `images` are lists of paths, or of the files themselves.

    Args:
        source: the table's rows.
        root: folder that paths start from.
    """

    def __init__(self, source: Source, root: str | os.PathLike[str]) -> None:
        self.root = root
        super().__init__(source, self._document, columns=list(dict.fromkeys([*source.columns, COLUMN])))

    def _document(self, record: Record) -> Record:
        held = record.get(COLUMN)
        listed = held if isinstance(held, list | tuple) else [] if held is None else [held]
        return {**record, COLUMN: [self._picture(each) for each in listed]}

    def _picture(self, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("bytes") is None:
            value = value.get("path")
        return file_named(value, self.root) if isinstance(value, str) else value


def first_picture(row: Mapping[str, Any]) -> str | None:
    """The path of a row's first picture, where it is one.

    >>> first_picture({"images": ["a.png", "b.png"]}), first_picture({"images": []})
    ('a.png', None)
    """
    listed = row.get(COLUMN)
    first = listed[0] if isinstance(listed, list | tuple) and listed else None
    return first if isinstance(first, str) else None
