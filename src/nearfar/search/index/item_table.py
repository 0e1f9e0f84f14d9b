"""The items of an index as they lie in their Parquet file: read by row group and by column, never held as a whole."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nearfar.errors import UserError
from nearfar.files import why
from nearfar.search.index.damage import KeyCheck, damaged, table_fault
from nearfar.search.index.items import GROUP, added, schema, with_added

if TYPE_CHECKING:
    import pyarrow as pa

    from nearfar.search.index.manifest import Manifest

HELD = 1 << 24
"""Bytes of row groups that are kept after hits of theirs were read; one is, however large."""


class ItemTable:
    """One row an item, in the order of their vectors: the columns of `items.schema`, and the kept ones.

    Args:
        directory: the index.
        manifest: what it is; the rows that it has `removed` are left out.
        in_order: items will be read in the order of their rows, so that no more than one row group is kept.

    Raises:
        UserError: the items are damaged; all are read and checked, a row group at a time.
    """

    def __init__(self, directory: Path, manifest: Manifest, *, in_order: bool = False) -> None:
        self._file: Any = None
        self._directory, self._name, self._count = directory, manifest.items, manifest.count
        self._lock = Lock()  # a file of Parquet is read by one thread at a time
        self._in_order = in_order
        self._held: OrderedDict[int, pa.Table] = OrderedDict()
        with self._reading():
            self._open(manifest)
        self.live = self._left(manifest.removed)
        """The rows that are left, int64, ascending; None where all are."""

    def _open(self, manifest: Manifest) -> None:
        import pyarrow.parquet as pq

        if not self._name:
            self.schema = schema()
            return
        self._file = pq.ParquetFile(self._directory / self._name, page_checksum_verification=True)
        self.schema = added(self._file.schema_arrow)
        sizes = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._ends = np.cumsum([0, *sizes])
        keys = KeyCheck()
        fault = table_fault(keys.noting(self.batches()), self.schema, schema(), manifest)
        fault = fault or keys.fault(self.batches, manifest)
        if fault:
            raise damaged(self._directory, fault)

    def _left(self, removed: Sequence[int]) -> NDArray[np.int64] | None:
        return np.delete(np.arange(self._count), removed) if removed else None

    def without(self, removed: Sequence[int]) -> ItemTable:
        """The same file without these rows, ascending; nothing is read."""
        other = object.__new__(ItemTable)
        other.__dict__ |= self.__dict__
        other.live = self._left(removed)
        return other

    def __len__(self) -> int:
        return self._count if self.live is None else len(self.live)

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        """A column, read anew."""
        return self.columns([name])[name]

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Some columns, read anew."""
        import pyarrow as pa

        whole = [name for name in names if self._file is not None and name in self._file.schema_arrow.names]
        with self._lock, self._reading():
            table = self._file.read(columns=whole) if self._file is not None else schema().empty_table()
        for name in names:
            if name not in table.schema.names:
                table = table.append_column(name, pa.nulls(len(table), self.schema.field(name).type))
        table = table.select(names)
        return table if self.live is None else table.take(numbers(self.live))

    def records(self, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
        """The items of these numbers `[K]`, as their values by column."""
        if not len(rows):
            return []
        places = np.asarray(rows) if self.live is None else self.live[rows]
        groups = np.searchsorted(self._ends, places, side="right") - 1
        records: dict[int, dict[str, Any]] = {}
        for group in np.unique(groups).tolist():
            here = np.flatnonzero(groups == group)
            values = self._group(group).take(numbers(places[here] - self._ends[group])).to_pylist()
            records |= dict(zip(here.tolist(), values, strict=True))
        return [records[place] for place in range(len(rows))]

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """All rows of the file, those that were removed too, some at a time."""
        import pyarrow as pa

        if self._file is not None:
            with self._reading():
                for batch in self._file.iter_batches(GROUP, columns=columns, use_threads=False):
                    yield pa.Table.from_batches([batch])

    def _group(self, number: int) -> pa.Table:
        with self._lock, self._reading():
            if number not in self._held:
                self._held[number] = with_added(self._file.read_row_group(number, use_threads=False))
            self._held.move_to_end(number)
            most = 0 if self._in_order else HELD
            while len(self._held) > 1 and sum(table.nbytes for table in self._held.values()) > most:
                self._held.popitem(last=False)
            return self._held[number]

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Where the file cannot be read, the index is damaged."""
        import pyarrow as pa

        try:
            yield
        except UserError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            path = self._directory / self._name
            fault = f"{path} cannot be read ({why(error, 'its content is damaged')})"
            raise damaged(self._directory, fault) from None


def numbers(rows: NDArray[np.int64]) -> pa.Array:
    """Row numbers for Arrow, as a buffer: where it makes an array of numpy's it imports pandas, which takes longer than
    a query."""
    import pyarrow as pa

    return pa.Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(np.ascontiguousarray(rows, np.int64))])
