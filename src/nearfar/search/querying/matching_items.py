"""The items of an index that a filter lets through: its conditions, computed a column at a time by pyarrow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar.errors import UserError
from nearfar.search.index.kept import JSON, KEPT
from nearfar.search.querying.where import Both, Comparison, Condition, Not, parse

if TYPE_CHECKING:
    import pyarrow as pa

    from nearfar.search.index.item_table import ItemTable

OWN = {
    "caption": "captions",
    "label": "label_name",
    "domain": "domain_name",
    **{name: name for name in ("id", "key", "path", "source", "group", "sample", "shard")},
}
"""What an index knows of each item without being told to keep it. A kept column of the same name goes first."""
FUNCTIONS = {"=": "equal", "!=": "not_equal", "<": "less", "<=": "less_equal", ">": "greater", ">=": "greater_equal"}


def matching_rows(table: ItemTable | pa.Table, where: str) -> np.ndarray:
    """The numbers of the items for which a filter holds, ascending. A comparison with null is neither true nor false,
    and neither is its opposite: such an item is let through by `is null` alone.

    Args:
        table: the items of an index, `Index.table`, of which the columns that the filter names are read.
        where: conditions over kept columns and those of OWN; `nearfar.search.querying.where` has the grammar.

    Raises:
        UserError: the filter cannot be read, names no column, or compares values of two kinds; it says at which place.
    """
    import pyarrow.compute as pc

    mask = _mask(table, parse(where))
    return np.flatnonzero(pc.fill_null(mask, False).to_numpy(zero_copy_only=False))


def filter_columns(table: ItemTable | pa.Table) -> list[str]:
    """Names of the columns that a filter over these items may use."""
    kept = [name.partition(":")[2] for name in table.schema.names if ":" in name]
    return list(dict.fromkeys([*kept, *OWN]))


def _mask(table: ItemTable | pa.Table, condition: Condition) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(condition, Not):
        return pc.invert(_mask(table, condition.condition))
    if isinstance(condition, Both):
        function = pc.and_kleene if condition.word == "and" else pc.or_kleene
        return function(_mask(table, condition.first), _mask(table, condition.second))
    column, of_text = _column(table, condition)
    if condition.operator == "null":
        return pc.is_null(column)
    if condition.operator == "contains":
        return _contains(column, condition, of_text=of_text)
    values = condition.value if condition.operator == "in" else [condition.value]
    for value in values:
        _check_kind(column.type, value, condition)
    if condition.operator == "in":
        return _among(column, values) if not pa.types.is_null(column.type) else pc.cast(column, pa.bool_())
    return _compared(FUNCTIONS[condition.operator], column, condition.value)


def _column(table: ItemTable | pa.Table, condition: Comparison) -> tuple[Any, bool]:
    """The column that a comparison names, in one piece, and whether it is captions: text, though stored as a list."""
    import pyarrow.compute as pc

    name = condition.column
    if KEPT + name in table.schema.names:
        return table[KEPT + name].combine_chunks(), False
    if JSON + name in table.schema.names:
        if condition.operator != "null":
            raise _wrong(condition, "holds values of several kinds, and can only be compared by is null")
        return table[JSON + name].combine_chunks(), False
    if name not in OWN:
        known = ", ".join(filter_columns(table))
        raise _wrong(condition, f"is no column of the index; its columns are: {known}")
    column = table[OWN[name]].combine_chunks()
    if name != "caption":
        return column, False
    joined = pc.binary_join(column, "\n")
    return pc.if_else(pc.equal(pc.list_value_length(column), 0), None, joined), True


def _contains(column: Any, condition: Comparison, *, of_text: bool) -> Any:
    """A text with a piece of text in it, or a list with a value among its own."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_string(column.type) or of_text or pa.types.is_null(column.type):
        if not isinstance(condition.value, str):
            raise _wrong(condition, f"holds texts, and {_written(condition.value)} is none: write it in quotes")
        return pc.match_substring(column.cast(pa.string()), condition.value)
    if not pa.types.is_list(column.type):
        raise _wrong(condition, f"holds {_kind(column.type)}, and only texts and lists contain something")
    _check_kind(column.type.value_type, condition.value, condition)
    holds = pc.fill_null(_compared("equal", pc.list_flatten(column), condition.value), False)
    parents = pc.list_parent_indices(column).to_numpy()[holds.to_numpy(zero_copy_only=False)]
    mask = np.zeros(len(column), bool)
    mask[parents] = True
    return pc.if_else(pc.is_null(column), None, pa.array(mask))


def _among(column: Any, values: list[Any]) -> Any:
    """Whether each value of a column is one of several."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_int64(column.type):
        values = [int(value) for value in values if not isinstance(value, float) or value.is_integer()]
        values = [value for value in values if -(2**63) <= value < 2**63]  # beyond them no value of the column lies
    elif pa.types.is_float64(column.type):
        values = [float(value) for value in values]  # as one alone is compared
    listed = pa.array(values, column.type)
    return pc.if_else(pc.is_null(column), None, pc.is_in(column, listed))


def _compared(function: str, column: Any, value: Any) -> Any:
    """A column of numbers compared with a number as numbers are, not as either's kind would round them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_null(column.type):
        return pc.cast(column, pa.bool_())
    if pa.types.is_int64(column.type) and isinstance(value, float):
        if value.is_integer() and abs(value) < 2**63:
            value = int(value)
        elif function in ("equal", "not_equal"):
            return pc.if_else(pc.is_null(column), None, function == "not_equal")
        elif abs(value) < 2**63:
            below = int(np.floor(value))  # x < 2.5 where x <= 2, and x > 2.5 where x > 2
            function, value = ("less_equal" if function.startswith("less") else "greater"), below
    elif pa.types.is_float64(column.type):
        value = float(value)
    return pc.call_function(function, [column, pa.scalar(value)])


def _check_kind(type_: pa.DataType, value: Any, condition: Comparison) -> None:
    """Raise UserError where a column's values and a value cannot be compared."""
    import pyarrow as pa

    fits = (
        isinstance(value, str)
        if pa.types.is_string(type_)
        else isinstance(value, bool)
        if pa.types.is_boolean(type_)
        else isinstance(value, int | float) and not isinstance(value, bool)
    )
    if pa.types.is_list(type_):
        raise _wrong(condition, f"holds {_kind(type_)}: look into one by contains")
    if not fits and not pa.types.is_null(type_):
        remedy = f': write "{_written(value)}"' if pa.types.is_string(type_) else ""
        raise _wrong(condition, f"holds {_kind(type_)}, and {_written(value)} is {_kind_of(value)}{remedy}")
    if isinstance(value, bool) and condition.operator not in ("=", "!=", "in", "contains"):
        raise _wrong(condition, "holds true and false, which only = and != compare")


def _kind(type_: pa.DataType) -> str:
    import pyarrow as pa

    if pa.types.is_list(type_):
        return "lists"
    return "texts" if pa.types.is_string(type_) else "true and false" if pa.types.is_boolean(type_) else "numbers"


def _kind_of(value: Any) -> str:
    return "a text" if isinstance(value, str) else "true or false" if isinstance(value, bool) else "a number"


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value[:40]}"' if isinstance(value, str) else str(value)


def _wrong(condition: Comparison, why: str) -> UserError:
    return UserError(f"the filter at letter {condition.place}: {condition.column[:60]!r} {why}")
