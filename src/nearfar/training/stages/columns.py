"""Columns: what a stage computes of each of its records, kept by record id, and read by a later stage as if it stood in
the data.

    keep:                                          # of a stage, after its training
      features: image                              # a vector a record: its picture's embedding
      cluster: {of: image, clusters: 10}           # a number a record: k-means of those vectors
      caption: my_module:describe                  # whatever a function of yours returns
    ...
    data: {columns: {label: previous/cluster}}     # of a later stage

`columns.parquet` has the record ids as `index`, and one column each. Clusters of stages (MCL, arXiv 2402.11816) are
those samples that shared a cluster in every stage so far: `within: label` combines the new number with a record's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nearfar import files
from nearfar.data.fields.field import Field
from nearfar.data.fields.number_field import NumberField
from nearfar.data.fields.vector_field import VectorField
from nearfar.data.sources.source import Record, Source, record_id
from nearfar.errors import UserError, need

FILE = "columns.parquet"
SIDES = ("image", "text", "audio", "video")
CLUSTERING = ("of", "clusters", "within", "seed")
Column = str | Mapping[str, Any] | Callable[..., Any]
"""A side that the model embeds (`image`; `text`: its first caption; ...), `{of: SIDE, clusters: K, within: KEY,
seed: 0}`, or a function `(model, source) -> one value a record`."""


def check_keep(keep: Any) -> None:
    """Raise a `UserError` for a column to keep that is none.

    >>> check_keep({"cluster": {"of": "image", "clusters": 0}})
    Traceback (most recent call last):
    nearfar.errors.UserError: keep.cluster: clusters must be a whole number of at least 2, not 0.
    """
    if not isinstance(keep, Mapping):
        raise UserError(f"keep must name columns, {{features: image}}, say, not {keep!r}.")
    for name, column in keep.items():
        if not isinstance(name, str) or not name or "/" in name or name == "index":
            raise UserError(f"keep.{name}: a column's name is a word without '/', and not 'index', which is the ids.")
        if isinstance(column, Mapping):
            _check_clusters(name, column)
        elif not callable(column) and column not in SIDES and not (isinstance(column, str) and ":" in column):
            raise UserError(
                f"keep.{name} must be {', '.join(SIDES)}, {{of: image, clusters: 10}}, or module:function, not "
                f"{column!r}."
            )


def _check_clusters(name: str, column: Mapping[str, Any]) -> None:
    for setting in column:
        if setting not in CLUSTERING:
            raise UserError(f"keep.{name}: no setting {setting!r}. There are: {', '.join(CLUSTERING)}.")
    if column.get("of") not in SIDES:
        raise UserError(f"keep.{name}: say what to cluster with `of`: {' or '.join(SIDES)}.")
    for setting, least, default in (("clusters", 2, None), ("seed", 0, 0)):
        value = column.get(setting, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"keep.{name}: {setting} must be a whole number of at least {least}, not {value!r}.")
    if not isinstance(column.get("within"), str | None):
        raise UserError(f"keep.{name}: within is a key of the records, label, say, not {column['within']!r}.")
    need("sklearn", "probes")


def save(folder: Path, keep: Mapping[str, Column], model: Any, source: Any, *, max_skipped: float = 0.1) -> None:
    """Compute the columns `keep` of all records of a source, and write `columns.parquet` into `folder`.

    Raises:
        UserError: a stream, an id that comes twice, a function that does not return one value a record.
    """
    if not isinstance(source, Source):
        raise UserError(
            f"keep: {getattr(source, 'name', 'the data')} cannot be counted, so its records have no stable ids: keep "
            "columns of a source that is no stream."
        )
    import pyarrow
    from pyarrow import parquet

    embedded = _Embedded(model, source, max_skipped)
    records = {"index": np.array(_ids(source), dtype=np.int64)}
    if len(np.unique(records["index"])) != len(source):
        raise UserError(f"keep: {source.name} has records with the same `index`: give each record one of its own.")
    values = {name: _values(name, column, embedded) for name, column in keep.items()}
    arrays = {name: _array(name, value) for name, value in (records | values).items()}
    table = pyarrow.table(arrays).sort_by("index")
    table = table.replace_schema_metadata({"nearfar.source": source.name.encode("utf-8", "backslashreplace")})
    files.folder(folder)
    with files.whole(folder / FILE) as path:
        parquet.write_table(table, path)


class _Embedded:
    """A source's embeddings by side, each computed when it is first needed. Broken records have none."""

    def __init__(self, model: Any, source: Source, max_skipped: float) -> None:
        self.model, self.source, self.max_skipped = model, source, max_skipped
        self._sides: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def side(self, side: str) -> tuple[np.ndarray, np.ndarray]:
        """Vectors `[n, D]` float32 and the place `[n]` of each in the source."""
        if side not in self._sides:
            from nearfar.embedding.embed_source import embed

            found = embed(self.model, self.source, [side], captions=1, max_skipped=self.max_skipped)
            vectors, owner = found.sides[side]
            self._sides[side] = (vectors.numpy(), found.row[owner].numpy())
        return self._sides[side]


def _values(name: str, column: Column, embedded: _Embedded) -> Any:
    """One value a record, None where there is none."""
    source = embedded.source
    if callable(column):
        values = column(embedded.model, source)
        if not hasattr(values, "__len__") or len(values) != len(source):
            count = len(values) if hasattr(values, "__len__") else "none"
            raise UserError(f"keep.{name}: the function must return {len(source)} values, one a record, not {count}.")
        return values
    if isinstance(column, str):
        vectors, rows = embedded.side(column)
        return _placed(vectors, rows, len(source))
    vectors, rows = embedded.side(column["of"])
    count = column["clusters"]
    if len(vectors) < count:
        raise UserError(f"keep.{name}: {len(vectors)} records cannot be put into {count} clusters: ask for fewer.")
    cluster = need("sklearn.cluster", "probes")
    labels = cluster.KMeans(count, n_init=1, random_state=column.get("seed", 0)).fit_predict(vectors).astype(np.int64)
    if key := column.get("within"):
        own = source.column(key)
        outer = [own[row] for row in rows]
        if any(value is None for value in outer):
            raise UserError(f"keep.{name}: within is {key!r}, which not every record of {source.name} has.")
        labels += np.array(outer, dtype=np.int64) * count
    return _placed(labels, rows, len(source))


def _placed(values: np.ndarray, rows: np.ndarray, total: int) -> Any:
    """The values at their records' places."""
    if len(rows) == total and (rows == np.arange(total)).all():
        return values
    placed: list[Any] = [None] * total
    for row, value in zip(rows.tolist(), values, strict=True):
        placed[row] = value
    return placed


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
        raise UserError(f"keep.{name}: these values are no column: {str(error).splitlines()[0]}") from None


def _ids(source: Source) -> list[int]:
    return [record_id({"index": own}, place, name=source.name) for place, own in enumerate(source.column("index"))]


def join(source: Any, names: Mapping[str, tuple[Path, str]], *, max_skipped: float = 0.1) -> WithColumns:
    """A source whose records have further keys, read from columns that stages kept. Records that a column lacks, as
    their picture was broken, say, are left out and counted in `skipped`.

    Args:
        source: the data, the same as the stage's, or a part of it.
        names: key of the record -> folder of the stage and its column.
        max_skipped: the share of records that may be left out.

    Raises:
        UserError: a stream, no such file or column, columns of other data, too many records left out.
    """
    if not isinstance(source, Source):
        raise UserError(f"data.columns: {getattr(source, 'name', 'the data')} is a stream, whose records have no ids.")
    own = np.array(_ids(source), dtype=np.int64)
    added, found = {}, np.full(len(own), True)
    for key, (folder, column) in names.items():
        ids, values = _read(folder, column, source)
        rows = np.searchsorted(ids, own).clip(max=max(0, len(ids) - 1))
        there = (ids[rows] == own) if len(ids) else np.full(len(own), False)
        there &= np.array([values[row] is not None for row in rows.tolist()], dtype=bool) if there.any() else there
        for place in np.flatnonzero(found & ~there).tolist():
            source.skipped.add(f"record {own[place]}", f"{folder.name}/{column} has nothing for it")
        added[key] = (rows, values)
        found &= there
    left_out = len(own) - int(found.sum())
    if left_out > max_skipped * len(own):
        raise UserError(
            f"data.columns: {left_out} of the {len(own)} records of {source.name} are missing from what was "
            "kept: take the same data, or allow more with max_skipped=SHARE (between 0 and 1)."
        )
    kept = np.flatnonzero(found)
    columns = {key: (rows[kept], values) for key, (rows, values) in added.items()}
    return WithColumns(source.select(kept.tolist()) if left_out else source, columns)


class WithColumns(Source):
    """A source with columns beside it: for each key the row of each record in a column's values."""

    def __init__(self, source: Source, columns: Mapping[str, tuple[np.ndarray, Sequence[Any]]]) -> None:
        self.source, self.added = source, dict(columns)
        self.name, self._skipped = source.name, source.skipped
        self.columns = list(dict.fromkeys([*source.columns, *columns]))
        # The names of classes and domains are those of the numbers that stood there before.
        self.classes = None if "label" in columns else source.classes
        self.domains = None if "domain" in columns else source.domains

    def __len__(self) -> int:
        return len(self.source)

    def training(self) -> Source | None:
        return self.source.training()

    def record(self, index: int) -> Record:
        values = {key: values[int(rows[index])] for key, (rows, values) in self.added.items()}
        plain = {key: value.item() if isinstance(value, np.generic) else value for key, value in values.items()}
        return {**self.source.record(index), **plain}


USUAL = ("index", "group", "label", "domain", "weight", "image", "text", "negative_text", "answers")
"""Keys of records that a loader reads anyway."""


def fields_of(source: Any) -> list[Field]:
    """The fields that put added columns of numbers and vectors into batches, under their own names."""
    fields: list[Field] = []
    for key, (_, values) in getattr(source, "added", {}).items():
        first = next((value for value in values if value is not None), None)
        if key in USUAL or isinstance(first, str):
            continue
        if isinstance(first, np.ndarray):
            fields.append(VectorField(key, len(first)))
        elif isinstance(first, int | float | np.number):
            whole = isinstance(first, int | np.integer)
            fields.append(NumberField(key, -1 if whole else float("nan")))
    return fields


def _read(folder: Path, column: str, source: Source) -> tuple[np.ndarray, Sequence[Any]]:
    """The ids in order, and the values."""
    import pyarrow
    from pyarrow import parquet

    path = folder / FILE
    if not path.is_file():
        raise UserError(f"data.columns: {path} is not there: that stage kept no columns (keep), or was not run.")
    try:
        schema = parquet.read_schema(path)
        if column not in schema.names or column == "index":
            known = ", ".join(name for name in schema.names if name != "index")
            raise UserError(f"data.columns: {path} has no column {column!r}. There are: {known}.")
        table = parquet.read_table(path, columns=["index", column], memory_map=True)
        ids = table["index"].to_numpy()
        values = _plain(table[column].combine_chunks())
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        why = str(error).partition("\n")[0]
        raise UserError(
            f"data.columns: {path} cannot be read ({why}): remove {folder} and run that stage again."
        ) from None
    made_of = (schema.metadata or {}).get(b"nearfar.source", b"").decode()
    if made_of != source.name.encode("utf-8", "backslashreplace").decode():
        raise UserError(
            f"data.columns: {path} was computed of {made_of}, and the data here is {source.name}: ids of one mean "
            "nothing in the other. Take the same data."
        )
    return ids, values


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
