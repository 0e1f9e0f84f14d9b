"""The values of a source's columns as they stand in the data: what a record holds besides its picture and captions, and
what those parts were before they became numbers (names of classes, say).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from nearfar.data.sources.record_text import captions
from nearfar.data.sources.skipped import BadRecord
from nearfar.data.sources.source import Concatenation, Mapped, Selection
from nearfar.data.sources.tar_shards import TarSource, TarStream
from nearfar.data.tables.arrow import ArrowSource
from nearfar.errors import UserError

Cells = Callable[[int, Mapping[str, Any]], dict[str, Any]]
"""From the place of a record, and the record, to the values of its columns."""

SAMPLE, SHARD = "__key__", "__url__"
"""Columns that name a sample of shards, and its shard, as WebDataset calls them."""


def check_columns(known: Sequence[str], columns: Sequence[str], *, name: str) -> None:
    """Raise UserError, with the columns that are `known`, when one of `columns` is not among them."""
    for column in columns:
        if column not in known:
            raise UserError(f"{name}: no column {column!r} to keep; its columns are: {', '.join(known) or 'none'}")


def known_columns(source: Any) -> list[str]:
    """Names of the columns whose values `cells` gives: all but the pictures.

    >>> from nearfar.data.sources.source import Records
    >>> known_columns(Records([{"image": "a.png", "price": 3}, {"image": "b.png", "size": "L"}]))
    ['price', 'size']
    """
    if isinstance(source, ArrowSource):
        return source.column_names
    if isinstance(source, Selection):
        return known_columns(source.source)
    if isinstance(source, Mapped):
        return list(dict.fromkeys([*_without_image(source.columns), *known_columns(source.source)]))
    if isinstance(source, Concatenation):
        return list(dict.fromkeys(chain.from_iterable(known_columns(part) for part in source.sources)))
    own = [*_without_image(getattr(source, "columns", ())), *(source.fields if isinstance(source, TarSource) else ())]
    return list(dict.fromkeys([*own, *((SAMPLE, SHARD) if isinstance(source, TarSource | TarStream) else ())]))


def cells(source: Any, columns: Sequence[str]) -> Cells:
    """A function that gives `columns` of a record, by its place in `source` and the record itself; a column that the
    record does not have is left out.

    >>> from nearfar.data.sources.source import Records
    >>> pets = Records([{"text": "a cat", "label": 0, "age": 3}], classes=["cat"])
    >>> cells(pets, ["text", "label", "age", "name"])(0, pets[0])
    {'text': 'a cat', 'label': 'cat', 'age': 3}
    """
    if isinstance(source, ArrowSource):
        rows = source.cells(columns)
        return lambda place, record: rows(place)
    if isinstance(source, TarSource):
        members = source.cells(columns)
        return lambda place, record: of_record(record, columns, source) | members(place)
    if isinstance(source, Selection):
        inner, indices = cells(source.source, columns), source.indices
        return lambda place, record: inner(indices[place], record)
    if isinstance(source, Mapped):
        below = cells(source.source, columns)
        return lambda place, record: below(place, record) | of_record(record, columns, source, roles=False)
    if isinstance(source, Concatenation):
        parts, starts = [cells(part, columns) for part in source.sources], source.starts

        def of_part(place: int, record: Mapping[str, Any]) -> dict[str, Any]:
            part = next(p for p in range(len(parts)) if place < starts[p + 1])
            return parts[part](place - starts[part], record)

        return of_part
    return lambda place, record: of_record(record, columns, source)


def of_record(
    record: Mapping[str, Any], columns: Iterable[str], source: Any = None, *, roles: bool = True
) -> dict[str, Any]:
    """The columns that a record has; names for the numbers of its class and domain. Without `roles`, no captions,
    class, domain or group."""
    values: dict[str, Any] = {}
    for column in columns:
        if column in ("text", "label", "domain", "group") and not roles:
            continue
        if column == "text":
            values[column] = _one_or_all(record.get("text"))
        elif column in ("label", "domain"):
            names = getattr(source, {"label": "classes", "domain": "domains"}[column], None)
            values[column] = _named(record.get(column), names)
        elif column in record:
            values[column] = record[column]
        elif column in (SAMPLE, SHARD) and isinstance(source, TarStream):
            values[column] = record.get("key") if column == SAMPLE else getattr(record.get("image"), "path", None)
    return values


def _one_or_all(text: Any) -> Any:
    try:
        texts = captions(text)
    except BadRecord:
        return text
    return texts[0] if len(texts) == 1 else texts or None


def _named(value: Any, names: Sequence[str] | None) -> Any:
    known = names and isinstance(value, int) and 0 <= value < len(names)
    return names[value] if names and known else None if value == -1 else value


def _without_image(columns: Iterable[str]) -> list[str]:
    return [column for column in columns if column != "image"]
