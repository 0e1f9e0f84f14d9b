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
EXACT_INTEGERS = 2**53
"""Up to here every whole number is a number in floating point, too."""


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


class KeptTypes:
    """How the columns of these names are stored, by their values, of which some come at a time.

    >>> types = KeptTypes(["a", "b"])
    >>> types.add([{"a": 1, "b": 1}])
    >>> types.add([{"a": None, "b": "x"}])
    >>> types.columns()
    {'a': DataType(int64), 'b': None}
    """

    def __init__(self, names: Iterable[str]) -> None:
        import pyarrow as pa

        self._types: dict[str, pa.DataType | None] = {name: pa.null() for name in names}
        self._largest = dict.fromkeys(self._types, 0)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take the values of some rows into account."""
        for name, type_ in self._types.items():
            if type_ is not None:
                values = [row.get(name) for row in rows]
                self._types[name] = both(type_, type_of(values))
                whole = (abs(x) for value in values for x in flat(value) if isinstance(x, int))
                self._largest[name] = max(self._largest[name], *whole, 0)

    def columns(self) -> dict[str, pa.DataType | None]:
        """The type of each column, None of one that is stored as JSON."""
        import pyarrow as pa

        kinds = {}
        for name, type_ in self._types.items():
            number = type_ is not None and (type_.value_type if pa.types.is_list(type_) else type_) == pa.float64()
            kinds[name] = None if number and self._largest[name] > EXACT_INTEGERS else type_
        return kinds


def type_of(values: Sequence[Any]) -> pa.DataType | None:
    """The type that these values of a column have in common, None where they have none that a column may have."""
    import pyarrow as pa

    try:
        type_ = pa.array(values).type
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return None
    mixed = pa.types.is_float64(type_.value_type if pa.types.is_list(type_) else type_) and any(
        isinstance(x, bool) for value in values for x in flat(value)
    )
    whole = is_one_kind(type_) or (pa.types.is_list(type_) and pa.types.is_null(type_.value_type))
    return None if mixed or not whole or any(isinstance(value, dict) for value in values) else type_


def both(one: pa.DataType | None, other: pa.DataType | None) -> pa.DataType | None:
    """The type of values of both types, None where there is none."""
    import pyarrow as pa

    if one is None or other is None or one == other:
        return one if one == other else None
    if pa.types.is_null(one) or pa.types.is_null(other):
        return other if pa.types.is_null(one) else one
    if pa.types.is_list(one) and pa.types.is_list(other):
        value = both(one.value_type, other.value_type)
        return None if value is None else pa.list_(value)
    return pa.float64() if {one, other} == {pa.int64(), pa.float64()} else None


def flat(value: Any) -> Sequence[Any]:
    """The numbers of a list, or the one that a value is."""
    return value if isinstance(value, list) else (value,)


def to_columns(rows: Sequence[Mapping[str, Any]], types: Mapping[str, pa.DataType | None]) -> dict[str, pa.Array]:
    """The kept values of items as the columns of a table, of the types that `KeptTypes` says.

    >>> [*to_columns([{"a": 1, "b": 1}, {"a": None, "b": "x"}], {"a": __import__("pyarrow").int64(), "b": None})]
    ['kept:a', 'json:b']
    """
    import pyarrow as pa

    columns = {}
    for name, type_ in types.items():
        values = [row.get(name) for row in rows]
        if type_ is None:
            written = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
            columns[JSON + name] = pa.array(written, pa.string())
        else:
            columns[KEPT + name] = pa.array(values, type_)
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
