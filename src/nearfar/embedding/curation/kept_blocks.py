"""What a stage of curation keeps of a block, and what it drops, each a Parquet table a block.

block-000003.parquet      place, id, text (null where the record has none and needs none), row and captions: its
                          number, and those of its captions, among the embeddings of the block (-1 and none without)
dropped-000003.parquet    place, id, text (null where the whole record goes), why, near: the place of the record that
                          it is near
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nearfar import files
from nearfar.data.mining.kept_pairs import FORMAT, NAME
from nearfar.embedding.blocks.block_folder import MadeOf, stem
from nearfar.embedding.blocks.source_stamp import are_shards

Of = Literal["pictures", "captions"]


@dataclass(frozen=True)
class KeptRow:
    """A record that is kept, with the captions that are."""

    place: int
    id: int
    text: list[str] | None
    row: int = -1
    captions: tuple[int, ...] = ()


@dataclass(frozen=True)
class DroppedRow:
    """A record, or one of its captions, that is not."""

    place: int
    id: int
    text: str | None
    why: str
    near: int | None = None


def reasons(dropped: Sequence[DroppedRow]) -> dict[str, int]:
    """How many were dropped for what.

    >>> reasons([DroppedRow(0, 0, None, "no caption"), DroppedRow(1, 1, None, "no caption")])
    {'no caption': 2}
    """
    return dict(Counter(row.why for row in dropped))


def save(folder: Path, number: int, kept: Sequence[KeptRow], dropped: Sequence[DroppedRow]) -> None:
    """Write both tables of a block, each whole or not there."""
    import pyarrow

    whole, texts = pyarrow.int64(), pyarrow.list_(pyarrow.string())
    _write(_kept(folder, number), kept, KeptRow, [whole, whole, texts, whole, pyarrow.list_(whole)])
    kinds = [whole, whole, pyarrow.string(), pyarrow.string(), whole]
    _write(stem(folder, number).with_name(f"dropped-{number:06}.parquet"), dropped, DroppedRow, kinds)


def _write(path: Path, rows: Sequence[Any], kind: type[Any], types: Sequence[Any]) -> None:
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema([(field.name, each) for field, each in zip(fields(kind), types, strict=True)])
    columns = list(zip(*map(astuple, rows), strict=True)) or [()] * len(schema)
    arrays = [pyarrow.array(column, each.type) for column, each in zip(columns, schema, strict=True)]
    with files.whole(files.place(path)) as temporary:
        parquet.write_table(pyarrow.table(arrays, schema=schema), temporary, compression="zstd")


def load(folder: Path, number: int) -> list[KeptRow]:
    """The records that a stage kept of a block, in order."""
    from pyarrow import parquet

    rows = parquet.read_table(_kept(folder, number), partitioning=None).to_pylist()
    return [KeptRow(**{**row, "captions": tuple(row["captions"])}) for row in rows]


def chosen(folder: Path, number: int, of: Of) -> tuple[np.ndarray, np.ndarray]:
    """Of a block's pictures, or captions, that are kept: the numbers `[n]` int64 of their vectors, and the places `[n]`
    int64 of their records."""
    from pyarrow import parquet

    column = "row" if of == "pictures" else "captions"
    table = parquet.read_table(_kept(folder, number), columns=["place", column], partitioning=None).combine_chunks()
    places = table["place"].to_numpy()
    if of == "pictures":
        return table["row"].to_numpy(), places
    lists = table["captions"].combine_chunks()
    return lists.flatten().to_numpy(), np.repeat(places, lists.value_lengths().to_numpy())


def _kept(folder: Path, number: int) -> Path:
    return stem(folder, number).with_suffix(".parquet")


def reopen_curation(out: Path) -> None:
    """Take back that a folder is a source, until `end_curation` says so again."""
    (out / NAME).unlink(missing_ok=True)


def end_curation(out: Path, made_of: MadeOf, stage: str) -> None:
    """Make a folder a source, for `nearfar.data.open_source`: the records whose places and captions the blocks of the
    stage hold, of the data that `made_of` names."""
    content = {
        "format": FORMAT,
        "source": made_of.source,
        "options": made_of.options,
        "streaming": are_shards(made_of.source),
        "stage": stage,
        "blocks": len(made_of.plan),
    }
    files.write(out / NAME, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
