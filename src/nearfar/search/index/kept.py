"""Columns of the user's own that an index keeps with its items, in the items' Parquet file.

A column of one kind of value (whole numbers, numbers, texts, yes or no, lists of these) is stored as that kind, under
`kept:NAME`; one of several kinds, or of objects, as JSON text, under `json:NAME`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from nearfar.data.sources.record_text import readable
from nearfar.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

KEPT, JSON = "kept:", "json:"


def plain(value: Any) -> Any:
    """A value as JSON has it: None, a flag, a number, a text, a list or an object. Dates and times are text as ISO 8601
    writes them; what is not a number (NaN) is None.

    Raises UserError for bytes, and for what is no value.

    >>> plain([date(2024, 5, 1), Decimal("1.50"), math.nan, {"a": (1,)}])
    ['2024-05-01', 1.5, None, {'a': [1]}]
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return readable(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == int(value) and value.as_tuple().exponent == 0 else float(value)
    if isinstance(value, Mapping):
        return {readable(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if hasattr(value, "tolist") and not isinstance(value, bytes | memoryview):  # numpy's, torch's
        return plain(value.tolist())
    raise UserError(f"a {type(value).__name__} is no number, text or list, and cannot be kept")


def plain_row(values: Mapping[str, Any], columns: Iterable[str]) -> dict[str, Any]:
    """The values of a record's kept columns, None where it has none. Raises UserError that names the column."""
    row = {}
    for column in columns:
        try:
            row[column] = plain(values.get(column))
        except (UserError, RecursionError) as error:
            why = str(error) if isinstance(error, UserError) else "it is nested too deep to be kept"
            raise UserError(f"column {column!r}: {why}") from None
    return row


def to_columns(rows: Sequence[Mapping[str, Any]], names: Iterable[str]) -> dict[str, pa.Array]:
    """The kept values of items as the columns of a table.

    >>> [*to_columns([{"a": 1, "b": 1}, {"a": None, "b": "x"}], ["a", "b"])]
    ['kept:a', 'json:b']
    """
    import pyarrow as pa

    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        try:
            array = pa.array(values)
            if not is_one_kind(array.type) or any(isinstance(value, dict) for value in values):
                raise pa.ArrowInvalid
            columns[KEPT + name] = array
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            written = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
            columns[JSON + name] = pa.array(written, pa.string())
    return columns


def is_one_kind(type_: pa.DataType) -> bool:
    """Whether a kept column may be stored as this type."""
    import pyarrow as pa

    if pa.types.is_list(type_):
        return type_.value_type in (pa.bool_(), pa.int64(), pa.float64(), pa.string())
    return type_ in (pa.null(), pa.bool_(), pa.int64(), pa.float64(), pa.string())


def kept_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The kept columns of a row of the table, by the user's names.

    >>> kept_of({"key": "a", "kept:price": 3, "json:size": '[1, "L"]'})
    {'price': 3, 'size': [1, 'L']}
    """
    kept = {}
    for name, value in values.items():
        if name.startswith(KEPT):
            kept[name.removeprefix(KEPT)] = value
        elif name.startswith(JSON):
            kept[name.removeprefix(JSON)] = None if value is None else json.loads(value)
    return kept


def short(value: object) -> str:
    """A kept value for people: texts as they are, nothing for null, JSON for the rest.

    >>> short("L"), short(None), short([1, "a"]), short(19.9), short(7.0)
    ('L', '', '[1, "a"]', '19.9', '7')
    """
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.12g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def kinds_of(schema: pa.Schema) -> dict[str, str]:
    """What each kept column holds, in a word or two."""
    import pyarrow as pa

    words = {
        pa.null(): "nothing",
        pa.bool_(): "true or false",
        pa.int64(): "whole numbers",
        pa.float64(): "numbers",
        pa.string(): "texts",
    }
    kinds = {}
    for field in schema:
        if field.name.startswith(KEPT):
            listed = pa.types.is_list(field.type)
            word = words[field.type.value_type if listed else field.type]
            kinds[field.name.removeprefix(KEPT)] = f"lists of {word}" if listed else word
        elif field.name.startswith(JSON):
            kinds[field.name.removeprefix(JSON)] = "values of several kinds"
    return kinds


def kept_fault(table: pa.Table, names: Sequence[str]) -> str | None:
    """What is wrong with the columns of a table that should all be kept ones."""
    for name in names:
        column = table[name]
        if name.startswith(KEPT) and is_one_kind(column.type):
            continue
        if not name.startswith(JSON) or str(column.type) != "string":
            return f"has a column {name[:60]!r} that nearfar does not write"
        try:
            for value in column.drop_null().to_pylist():
                json.loads(value)
        except (ValueError, RecursionError):
            return f"has a column {name[:60]!r} that is not JSON"
    own_names = [name.partition(":")[2] for name in names]
    return "has two columns of one name" if len({*own_names}) < len(own_names) else None
