"""Embeddings as a Parquet table, a row a vector, which pyarrow, pandas, DuckDB and Spark read as they are.

    id       int64               the record's stable id
    record   int64               its number in this file, from 0
    row      int64               its place in the data
    side     string              "image", "text", ...: what the vector is of
    text     string              the caption, where it is of one
    vector   float32[D]          a list of fixed size, at unit length
    group, picture, label, domain   int64, null where the data have none
    about    string              JSON: the record's name, and its other plain values under "columns"

All files of a folder have these columns, whatever the data hold. Rows come side by side, in the order of the data, and
each side is a row group of its own, so that `WHERE side = 'image'` reads nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nearfar import files
from nearfar.errors import UserError

KEY = b"nearfar.embeddings"
"""Under which the file's metadata holds what is of no record."""

OPTIONAL = ("group", "picture", "label", "domain")


def owner_key(side: str) -> str | None:
    """Under which tensors of a file the owners of a side lie; pictures have none, as each record has one."""
    return None if side == "image" else "image_of_text" if side == "text" else f"record_of_{side}"


def write(path: str | Path, tensors: Mapping[str, Tensor], words: Mapping[str, Any]) -> Path:
    """Write what `Embeddings.save` puts into a safetensors file as a table, atomically.

    Args:
        path: the file.
        tensors: each side's vectors `[M, D]` float32 and owners `[M]` int64, and the numbers of N records, `[N]` int64.
        words: names, captions, columns, and what else describes the data.

    Raises:
        UserError: sides of different widths, which one column cannot hold.
    """
    from pyarrow import parquet

    widths = {side: tensors[side].shape[1] for side in words["sides"] if len(tensors[side])}
    if len({*widths.values()}) > 1:
        counts = ", ".join(f"{width} of {side}" for side, width in widths.items())
        raise UserError(f"{path}: a table holds vectors of one width, and these have {counts}: write .safetensors")
    width = next(iter(widths.values()), 0) or max((tensors[side].shape[1] for side in words["sides"]), default=0)
    shared = {key: value for key, value in words.items() if key not in ("names", "captions", "columns")}
    shared |= {"columns": list(words["columns"]), "named": bool(words["names"])}
    shared |= {"numbers": [key for key in OPTIONAL if key in tensors], "records": len(tensors["row"])}
    schema = _schema(width).with_metadata(
        {KEY: json.dumps(shared, ensure_ascii=False).encode("utf-8", "backslashreplace")}
    )
    path = files.place(path)
    packed = {"text": "zstd", "about": "zstd", "side": "zstd"}
    compression = {name: packed.get(name, "none") for name in [*schema.names, "vector.list.element"]}
    with (
        files.whole(path) as temporary,
        parquet.ParquetWriter(temporary, schema, compression=compression, use_dictionary=["side", "about"]) as writer,
    ):
        for table in _tables(tensors, words, width, schema):
            writer.write_table(table)
    return path


def _schema(width: int) -> Any:
    import pyarrow

    numbers = [(name, pyarrow.int64()) for name in ("id", "record", "row")]
    vector = pyarrow.list_(pyarrow.field("element", pyarrow.float32()), width)
    middle = [("side", pyarrow.string()), ("text", pyarrow.string()), ("vector", vector)]
    return pyarrow.schema([*numbers, *middle, *((name, pyarrow.int64()) for name in OPTIONAL), ("about", "string")])


def _tables(tensors: Mapping[str, Tensor], words: Mapping[str, Any], width: int, schema: Any) -> Iterator[Any]:
    """A table a side, and one of the records that have no vector at all."""
    about, count = _about(words, len(tensors["row"])), len(tensors["row"])
    bare = torch.ones(count, dtype=torch.bool)
    for side in words["sides"]:
        vectors, key = tensors[side], owner_key(side)
        owner = torch.arange(count) if key is None else tensors[key]
        bare[owner] = False
        if len(owner):
            captions = words["captions"] if side == "text" and words["captions"] else [None] * len(owner)
            yield _table(tensors, owner, side, captions, vectors, about, schema)
    if bare.any():
        yield _table(tensors, bare.nonzero().flatten(), None, [None] * int(bare.sum()), None, about, schema)


def _table(
    tensors: Mapping[str, Tensor],
    owner: Tensor,
    side: str | None,
    captions: list[str | None],
    vectors: Tensor | None,
    about: list[str],
    schema: Any,
) -> Any:
    import pyarrow

    kind = schema.field("vector").type
    if vectors is None:
        lists = pyarrow.nulls(len(owner), kind)
    else:
        flat = pyarrow.array(vectors.contiguous().reshape(-1).numpy(), pyarrow.float32())
        lists = pyarrow.FixedSizeListArray.from_arrays(flat, type=kind)
    none = pyarrow.nulls(len(owner), pyarrow.int64())
    numbers = [tensors["index"][owner].numpy(), owner.numpy(), tensors["row"][owner].numpy()]
    others = [tensors[name][owner].numpy() if name in tensors else none for name in OPTIONAL]
    arrays = [*numbers, [side] * len(owner), captions, lists, *others, [about[i] for i in owner.tolist()]]
    return pyarrow.table([pyarrow.array(a, f.type) for a, f in zip(arrays, schema, strict=True)], schema=schema)


def _about(words: Mapping[str, Any], count: int) -> list[str]:
    """Of each record, its name and its plain values as JSON; bytes of a name that are not UTF-8 read as the same name
    again."""
    columns, made = words["columns"], []
    for i in range(count):
        known: dict[str, Any] = {"name": words["names"][i]} if words["names"] else {}
        known["columns"] = {name: values[i] for name, values in columns.items() if values[i] is not None}
        made.append(json.dumps(known, ensure_ascii=False).encode("utf-8", "backslashreplace").decode())
    return made


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (vectors float32, numbers int64) and words that `write` was given.

    Raises:
        KeyError, ValueError, TypeError: the table is another one, or incomplete.
    """
    from pyarrow import parquet

    try:
        table = parquet.read_table(path, partitioning=None)
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError("no whole Parquet file") from error  # as pyarrow says it of a damaged page
    words: dict[str, Any] = json.loads((table.schema.metadata or {})[KEY])
    count, columns = words.pop("records"), words.pop("columns")
    sides = table["side"].to_pylist()
    owner = _tensor(table["record"])
    first = torch.full((count,), -1)
    first[owner.flip(0)] = torch.arange(len(owner)).flip(0)
    if bool((first < 0).any()):
        raise ValueError("a record without a row")
    tensors = {"row": _tensor(table["row"])[first], "index": _tensor(table["id"])[first]}
    tensors |= {name: _tensor(table[name])[first] for name in words.pop("numbers")}
    width = table.schema.field("vector").type.list_size
    for side in words["sides"]:
        places = torch.tensor([i for i, each in enumerate(sides) if each == side], dtype=torch.long)
        part = table["vector"].take(places.numpy()).combine_chunks()
        flat = torch.from_numpy(part.flatten().to_numpy(zero_copy_only=False).copy())
        tensors[side] = flat.view(-1, width) if width else torch.zeros(len(places), 0)
        if (key := owner_key(side)) is not None:
            tensors[key] = owner[places]
    about = [json.loads(each) for each in table["about"].take(first.numpy()).to_pylist()]
    words["names"] = [each["name"] for each in about] if words.pop("named") else []
    words["captions"] = [text for text, side in zip(table["text"].to_pylist(), sides, strict=True) if side == "text"]
    words["captions"] = [] if None in words["captions"] else words["captions"]
    words["columns"] = {name: [each["columns"].get(name) for each in about] for name in columns}
    return tensors, words


def _tensor(column: Any) -> Tensor:
    return torch.from_numpy(column.to_numpy().copy())
