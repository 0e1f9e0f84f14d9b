"""Columns on the disk: Parquet by record id, with what says of which data they are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from nearfar import files
from nearfar.data.batches.data_info import DataInfo
from nearfar.data.sources.source import Source
from nearfar.errors import UserError

Part = Literal["training", "validation"]
FILE: dict[Part, str] = {"training": "columns.parquet", "validation": "columns-validation.parquet"}
"""The file of each part of a stage's data."""
NAME, DATA = b"nearfar.source", b"nearfar.data"


def write(folder: Path, part: Part, values: Mapping[str, Any], source: Source, *, original: Any = None) -> None:
    """Write columns, one value a record of `source`, whose records are those of `original`, or some of them.

    Raises:
        UserError: an id that comes twice, or values that Parquet has no column for.
    """
    import pyarrow
    from pyarrow import parquet

    ids = np.array(source.ids(), dtype=np.int64)
    if len(np.unique(ids)) != len(source):
        raise UserError(f"keep: {source.name} has records with the same 'index': give each record one of its own.")
    arrays = {name: _array(name, value) for name, value in ({"index": ids} | dict(values)).items()}
    known = first_of(source) if original is None else original
    about = {NAME: source.name.encode("utf-8", "backslashreplace"), DATA: json.dumps(_identity(known)).encode()}
    files.folder(folder)
    with files.whole(folder / FILE[part]) as path:
        parquet.write_table(pyarrow.table(arrays).sort_by("index").replace_schema_metadata(about), path)


def read(folder: Path, part: Part, column: str, source: Source) -> tuple[np.ndarray, Sequence[Any]]:
    """The ids in order, and the values.

    Raises:
        UserError: no such file or column, a damaged one, or one of other data than `source`.
    """
    import pyarrow
    from pyarrow import parquet

    path = folder / FILE[part]
    if not path.is_file():
        kept = "no columns" if part == "training" else "no columns of validation data"
        raise UserError(f"data.columns: {path} is not there: that stage kept {kept} (keep), or was not run.")
    try:
        schema = parquet.read_schema(path)
        if column not in schema.names or column == "index":
            known = ", ".join(name for name in schema.names if name != "index")
            raise UserError(f"data.columns: {path} has no column {column!r}. There are: {known}.")
        table = parquet.read_table(path, columns=["index", column], memory_map=True)
        ids = table["index"].to_numpy()
        values = _plain(table[column].combine_chunks())
        about = schema.metadata or {}
        made_of = json.loads(about.get(DATA, b"{}"))
    except (pyarrow.ArrowException, OSError, KeyError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"data.columns: {path} cannot be read: remove {folder} and run that stage again.") from error
    check(path, about.get(NAME, b"").decode(), made_of, first_of(source))
    return ids, values


def first_of(source: Any) -> Any:
    """The source as it was before columns were joined to it."""
    while hasattr(source, "original"):
        source = source.original
    return source


def check(path: Path, name: str, made_of: Mapping[str, Any], source: Source) -> None:
    """Raise a `UserError` where a file's columns were computed of other data than `source`: of another fingerprint,
    or, where `source` is a part of those data, of other content."""
    here = _identity(source) if made_of else {}
    if made_of and (made_of["size"], made_of["fingerprint"]) == (here["size"], here["fingerprint"]):
        return
    # A part of the data, or more of them, has another fingerprint: then each record that the file knows must be equal.
    own = {identity: place for place, identity in enumerate(source.ids())}
    info = DataInfo.of(source)
    alike = name == source.name.encode("utf-8", "backslashreplace").decode() and all(
        info.content(own[int(identity)]) == content
        for identity, content in made_of.get("sample", {}).items()
        if int(identity) in own
    )
    if alike and made_of.get("size") != here.get("size", 0):
        return
    numbers = ""
    if made_of:
        then, now = (f"{of['size']:,} records, fingerprint {of['fingerprint']:x}" for of in (made_of, here))
        numbers = f" ({then}; here {now})"
    raise UserError(
        f"data.columns: {path} was computed of {name}, and the data here is {source.name}{numbers}: ids of one mean "
        "nothing in the other. Take the same data."
    )


def _identity(source: Source) -> dict[str, Any]:
    """What is kept of the data: their size and fingerprint, and the content of some records by id."""
    info = DataInfo.of(source)
    ids = source.ids()
    sample = {str(int(ids[place])): info.content(place) for place in info.sampled}
    return {"size": len(source), "fingerprint": info.fingerprint, "sample": sample}


def _array(name: str, values: Any) -> Any:
    """A column of Parquet: numbers, vectors of one length, text, flags."""
    import pyarrow

    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    try:
        if isinstance(values, np.ndarray) and values.ndim == 2:
            flat = pyarrow.array(np.ascontiguousarray(values).reshape(-1))
            return pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[1])
        return pyarrow.array(values)
    except (pyarrow.ArrowException, TypeError, ValueError) as error:
        raise UserError(
            f"keep.{name}: these values are no column: return numbers or texts, one a record, or rows of one width."
        ) from error


def _plain(array: Any) -> Sequence[Any]:
    """Numbers as an array, vectors of one length as `[n, D]`, all else as a list."""
    import pyarrow

    kind = array.type
    if array.null_count:
        rows = array.to_pylist()
        vectors = pyarrow.types.is_list(kind) or pyarrow.types.is_fixed_size_list(kind)
        return [np.array(row, dtype=np.float32) if vectors and row is not None else row for row in rows]
    if pyarrow.types.is_fixed_size_list(kind):
        return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), kind.list_size)
    if pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind):
        return array.to_numpy(zero_copy_only=False)
    return array.to_pylist()
