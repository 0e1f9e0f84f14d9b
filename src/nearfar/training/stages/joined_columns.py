"""A source with columns that earlier stages kept, joined by record id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nearfar.data.fields.field import Field
from nearfar.data.fields.number_field import NumberField
from nearfar.data.fields.vector_field import VectorField
from nearfar.data.sources.source import Record, Source
from nearfar.errors import UserError
from nearfar.training.stages.columns_file import Part, read


def join(
    source: Any, names: Mapping[str, tuple[Path, str]], *, part: Part = "training", max_skipped: float = 0.1
) -> WithColumns:
    """A source whose records have further keys, read from columns that stages kept. Records that a column lacks, as
    their picture was broken, say, are left out and counted in `skipped`.

    Args:
        source: the data, the same as the stage's, or a part of it.
        names: key of the record -> folder of the stage and its column.
        part: whether `source` is, or was, the training or the validation data of those stages.
        max_skipped: the share of records that may be left out.

    Raises:
        UserError: a stream, no such file or column, columns of other data, too many records left out.
    """
    if not isinstance(source, Source):
        raise UserError(f"data.columns: {getattr(source, 'name', 'the data')} is a stream, whose records have no ids.")
    own = np.array(source.ids(), dtype=np.int64)
    added, complete = {}, np.full(len(own), True)
    for key, (folder, column) in names.items():
        ids, values = read(folder, part, column, source)
        rows = np.searchsorted(ids, own).clip(max=max(0, len(ids) - 1))
        there = (ids[rows] == own) if len(ids) else np.full(len(own), False)
        there &= np.array([values[row] is not None for row in rows.tolist()], dtype=bool) if there.any() else there
        for place in np.flatnonzero(complete & ~there).tolist():
            source.skipped.add(f"record {own[place]}", f"{folder.name}/{column} has nothing for it")
        added[key] = (rows, values)
        complete &= there
    left_out = len(own) - int(complete.sum())
    if left_out > max_skipped * len(own):
        raise UserError(
            f"data.columns: {left_out} of the {len(own)} records of {source.name} are missing from what was "
            "kept: take the same data, or allow more with max_skipped=SHARE (between 0 and 1)."
        )
    kept = np.flatnonzero(complete)
    columns = {key: (rows[kept], values) for key, (rows, values) in added.items()}
    return WithColumns(source.select(kept.tolist()) if left_out else source, columns, original=source)


class WithColumns(Source):
    """A source with columns beside it: for each key the row of each record in a column's values."""

    def __init__(
        self, source: Source, columns: Mapping[str, tuple[np.ndarray, Sequence[Any]]], *, original: Source | None = None
    ) -> None:
        self.original = source if original is None else original
        """The data before columns were joined, by which files of columns know them."""
        self.source, self.added = source, dict(columns)
        self.name, self._skipped = source.name, source.skipped
        self.columns = list(dict.fromkeys([*source.columns, *columns]))
        # The names of classes and domains are those of the numbers that stood there before.
        self.classes = None if "label" in columns else source.classes
        self.domains = None if "domain" in columns else source.domains
        self.other_classes = None if "label" in columns else source.other_classes

    def __len__(self) -> int:
        return len(self.source)

    def training(self) -> Source | None:
        return self.source.training()

    def column(self, key: str, default: Any = None) -> list[Any]:
        if key not in self.added:
            return self.source.column(key, default)
        rows, values = self.added[key]  # without the records, which may be many files
        return [
            value.item() if isinstance(value, np.generic) else value for value in (values[int(row)] for row in rows)
        ]

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
    return [*fields, *getattr(source, "added_fields", ())]
