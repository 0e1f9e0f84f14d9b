"""The Parquet file of an index's items, written a row group at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from nearfar import files
from nearfar.search.index.items import GROUP, Item, schema
from nearfar.search.index.kept import KeptTypes, to_columns


def write_items(path: Path, items: Callable[[], Iterable[Item]], kept: Iterable[str]) -> None:
    """Write the items in the order in which they come, their rows numbered from 0: the columns of `schema`, and those
    of these names that are kept, for whose types the items are read once before."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = KeptTypes(kept)
    if types.columns():
        for part in parts(items()):
            types.add([item.kept for item in part])
    own, columns, row = schema(), types.columns(), 0
    empty = to_columns([], columns)
    whole = pa.schema([*own, *(pa.field(name, array.type) for name, array in empty.items())])
    with (
        files.whole(files.place(path)) as temporary,
        pq.ParquetWriter(temporary, whole, compression="zstd", write_page_checksum=True) as file,
    ):
        for part in parts(items()):
            values = {name: [getattr(item, name) for item in part] for name in own.names}
            values["row"] = [*range(row, row + len(part))]
            arrays = {name: pa.array(values[name], own.field(name).type) for name in own.names}
            arrays |= to_columns([item.kept for item in part], columns)
            file.write_table(pa.table(arrays, schema=whole), row_group_size=GROUP)
            row += len(part)


def parts(items: Iterable[Item]) -> Iterator[list[Item]]:
    """The items, `GROUP` at a time."""
    rest = iter(items)
    while part := list(islice(rest, GROUP)):
        yield part
