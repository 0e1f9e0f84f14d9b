"""What the first row of data says of all of it: what cannot be used is refused before anything is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nearfar import files, lookup
from nearfar.data.sources.record_numbers import is_blank
from nearfar.data.sources.record_text import captions, field_of
from nearfar.data.sources.skipped import BadRecord
from nearfar.errors import UserError

ADDRESSES = ("url", "image_url", "URL")

DOWNLOAD = "addresses of images, not images. Download them first (img2dataset does) and name the column of their paths"


LOOKED_AT = 20
"""Rows at the top that say what the columns hold: the first may have blanks."""


def top_row(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The first value of each column that is not blank, of the rows at the top.

    >>> top_row([{"image": "", "price": 3}, {"image": "a.jpg", "price": 4}])
    {'image': 'a.jpg', 'price': 3}
    """
    top: dict[str, Any] = {}
    for row in reversed(rows[:LOOKED_AT]):
        top |= {name: value for name, value in row.items() if name not in top or not is_blank(value)}
    return top


def check_first(row: Mapping[str, Any], image: str | None, texts: Sequence[str], where: str) -> None:
    """Refuse data whose first row says that all of it cannot be used: addresses for pictures, objects for captions, a
    field that no object has."""
    picture = row.get(image) if image is not None else None
    if files.is_address(picture):
        raise UserError(f"{where}: column {image!r} holds {DOWNLOAD} with image=COLUMN")
    for column in texts:
        try:
            captions(cell(row, column))
        except BadRecord as problem:
            raise UserError(f"{where}: column {column!r}: {str(problem).replace('COLUMN', column)}") from None
        check_field(row, column, where)


def check_field(row: Mapping[str, Any], column: str, where: str) -> None:
    """Refuse the name of a field that is not inside its column: no row would have a caption."""
    if column in row:
        return
    name, *path = column.split(".")
    value, known = row.get(name), name
    for field in path:
        while isinstance(value, list | tuple) and value:
            value = value[0]
        if not isinstance(value, Mapping):
            if value is None or value == []:
                return
            raise UserError(f"{where}: {known!r} is no object that could have the field {field!r}: text={known}")
        if field not in value:
            raise UserError(
                f"{where}: {known!r} has no field {field!r}; its fields are: {', '.join(map(str, value))}"
                f"{lookup.near(field, list(map(str, value)))}"
            )
        value, known = value[field], f"{known}.{field}"


def cell(row: Mapping[str, Any], column: str) -> Any:
    """A cell of a row, or the field inside it that `column` names with dots."""
    if column in row:
        return row[column]
    name, *path = column.split(".")
    return field_of(row.get(name), path)
