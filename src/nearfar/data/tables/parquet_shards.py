"""Parquet files of one form as a stream, a part each: of thousands of files one row is read before training begins."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nearfar.data.sources.source import Record, Stream
from nearfar.data.sources.tar_shards import expand
from nearfar.data.tables.arrow import STRINGS, ColumnRoles, RowReader, check_kinds, find_roles, without_texts
from nearfar.data.tables.first_row import check_first
from nearfar.errors import UserError
from nearfar.files import why

ROWS = 256
"""Rows that are decoded at a time."""

DAMAGED = "it is no whole Parquet file: write or copy it anew"


def parquet_shards(
    pattern: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    image: str | None = None,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    domain: str | None = None,
    group: str | None = None,
    answers: str | Sequence[str] | None = None,
    root: str | os.PathLike[str] | None = None,
) -> ParquetStream:
    """Parquet files on a local disk as a stream, read in their order. The files and their rows are not counted, so the
    number of rows costs nothing before they are read.

    Args:
        pattern: a glob `data/*.parquet`, braces `data/{0000..9999}.parquet`, or a list. One file by its name is a
            `table`, which can be read by number.
        image, text, label, domain, group, answers: columns, guessed by their usual names as in `table`. Labels and
            domains that are text stay text, in their own column, since nobody knows all of them yet.
        root: folder that paths of images start from, by default that of the first file.

    Raises:
        UserError: no such files, a damaged first one, or no column that could be the image or the text.
    """
    named = {"image": image, "text": text, "label": label, "domain": domain, "group": group, "answers": answers}
    return ParquetStream(expand(pattern, ending=".parquet"), named, root=root)


class ParquetStream(Stream):
    """Parquet files read in order, one part each. A file that is damaged, or lacks columns of the first, is passed over
    from where it fails, and stands in `skipped`."""

    def __init__(self, paths: Sequence[str], named: dict[str, Any], *, root: str | os.PathLike[str] | None) -> None:
        from datasets import Features

        first = Path(paths[0])
        self.paths, self.parts = list(paths), len(paths)
        self.name = first.stem if self.parts == 1 else f"{first.stem}...{Path(paths[-1]).stem}"
        row, schema = self._top()
        self._names = set(schema.names)
        roles: ColumnRoles = find_roles(schema.names, where=str(first), row=row, **named)
        self.remark = without_texts(schema.names, roles, self.name)
        check_first(row, roles.image, roles.text, self.name)
        features = Features.from_arrow_schema(schema)
        unknown: dict[str, Any] = {
            role: None
            for role in ("label", "domain")
            if getattr(features.get(getattr(roles, role)), "dtype", "") in STRINGS
        }
        roles = replace(roles, **unknown)
        check_kinds(features, roles, where=self.name)
        self._reader = RowReader(roles, features, root=first.parent if root is None else root)
        self.classes, self.columns = self._reader.list_of("label"), self._reader.columns

    def _top(self) -> tuple[dict[str, Any], Any]:
        """The first row of the first file, and its schema."""
        from pyarrow import parquet

        try:
            with parquet.ParquetFile(self.paths[0]) as file:
                batch = next(file.iter_batches(1), None)
                rows = [] if batch is None else batch.to_pylist()
                schema = file.schema_arrow
        except (OSError, ValueError) as error:
            raise UserError(f"{self.paths[0]}: {why(error, DAMAGED)}") from error
        if not rows:
            raise UserError(f"{self.paths[0]}: it holds no rows: leave it out")
        return rows[0], schema

    def read(self, part: int, skip: int = 0) -> Iterator[Record]:
        from pyarrow import parquet

        path = self.paths[part]
        try:
            with parquet.ParquetFile(path) as file:
                if lacks := sorted(self._names - set(file.schema_arrow.names)):
                    self.skipped.add(path, f"it lacks the columns {', '.join(lacks)} of {self.paths[0]}")
                    return
                groups, place = _groups_from(file.metadata, skip)
                for batch in file.iter_batches(ROWS, row_groups=groups, columns=sorted(self._names)) if groups else ():
                    for row in batch.to_pylist():
                        if place >= skip:
                            yield self._reader(row, place)
                        place += 1
        except UserError:
            raise
        except (OSError, ValueError) as error:
            self.skipped.add(path, why(error, DAMAGED))

    def where(self, place: int) -> str:
        return f"{self.paths[place >> 32]}, record {place & 0xFFFFFFFF}"


def _groups_from(metadata: Any, skip: int) -> tuple[list[int], int]:
    """The row groups from that which holds row `skip` on, and the number of the first of their rows."""
    first = 0
    for group in range(metadata.num_row_groups):
        count = metadata.row_group(group).num_rows
        if first + count > skip:
            return list(range(group, metadata.num_row_groups)), first
        first += count
    return [], first
