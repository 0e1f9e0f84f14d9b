"""How the rows of a CSV or TSV file are written: separator and quotes, and whether every row fits the header."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from nearfar.errors import UserError

LONGEST = 1 << 30
"""Characters that one field may have."""


def separated(file: Path, separator: str) -> dict[str, Any]:
    """The options of a reader of pandas for a file: `sep`, where the header says another one than its ending does;
    `names`, where the first line is no header but a picture and its caption; `quoting`, where quotes are part of the
    texts; and `index_col`, where rows end in one more separator.

    Raises:
        UserError: a row has more fields than the first, with its line; a first line with a picture and more than one
            text, which names no columns.
    """
    separator = _separator(file, separator)
    options: dict[str, Any] = {"sep": separator}
    if (width := _without_header(file, separator)) is not None:
        if width != 2:
            raise UserError(
                f"{file}: line 1 holds a picture and no names of columns: put a line such as "
                f"{separator.join(('image', 'caption', 'price'))!r} above it"
            )
        options |= {"names": ["image", "caption"], "header": None}
    if _quotes_have_backslashes(file, separator):
        options["escapechar"] = "\\"
    elif _quotes_are_text(file, separator) and (separator == "\t" or _swallowing_line(file, options) is not None):
        options["quoting"] = csv.QUOTE_NONE
    if _ends_in_separators(file, options):
        options["index_col"] = False
    return options


def names_of(file: Path, options: dict[str, Any]) -> list[str]:
    """The columns as the first line names them, a name as often as it is there."""
    if "names" in options:
        return list(options["names"])
    with open(file, encoding="utf-8-sig", errors="replace", newline="") as lines:
        return [name.strip() for name in next(_rows(lines, options), [])]


def _rows(lines: Iterable[str], options: dict[str, Any]) -> Any:
    """A reader of the rows as those of pandas with these options are."""
    csv.field_size_limit(LONGEST)
    quoting, escape = options.get("quoting", csv.QUOTE_MINIMAL), options.get("escapechar")
    return csv.reader(lines, delimiter=options["sep"], skipinitialspace=True, quoting=quoting, escapechar=escape)


def _separator(file: Path, usual: str) -> str:
    with open(file, encoding="utf-8-sig", errors="replace", newline="") as lines:
        header = next(lines, "")
    if usual in header:
        return usual
    separators = [mark for mark in (",", ";", "\t", "|") if mark in header]
    return separators[0] if len(separators) == 1 else usual


PICTURE = re.compile(r"(?P<name>.+\.(jpe?g|png|webp|gif|bmp|tiff?))(#\d+)?", re.I)
"""The name of a picture; of several captions each may have its number behind it, as Flickr8k's have: a.jpg#0."""


def picture_name(cell: str) -> str:
    """The picture that a cell names, without the number of its caption.

    >>> picture_name("a.jpg#3"), picture_name("a.jpg"), picture_name("b#1")
    ('a.jpg', 'a.jpg', 'b#1')
    """
    known = PICTURE.fullmatch(cell.strip())
    return known["name"] if known else cell


def _without_header(file: Path, separator: str) -> int | None:
    """How many fields the first line has, where it names a picture and no columns; else None."""
    with open(file, encoding="utf-8-sig", errors="replace", newline="") as lines:
        fields = next(csv.reader(islice(lines, 1), delimiter=separator, skipinitialspace=True), [])
    return len(fields) if fields and PICTURE.fullmatch(fields[0].strip()) else None


def is_captions(file: Path) -> bool:
    """Whether the first line of a text file is a picture, a tab and a caption, as in `Flickr8k.token.txt`."""
    with open(file, encoding="utf-8-sig", errors="replace", newline="") as lines:
        picture, tab, caption = next(lines, "").partition("\t")
    return bool(tab and caption.strip() and PICTURE.fullmatch(picture.strip()))


def _quotes_are_text(file: Path, separator: str) -> bool:
    """Whether all lines fit the first as they stand, and some field opens a quote that it does not close."""
    with open(file, encoding="utf-8-sig", errors="replace", newline="") as lines:
        width, opened = next(lines, "").count(separator), False
        for line in lines:
            fields = line.rstrip("\r\n").split(separator)
            if fields != [""] and len(fields) != width + 1:
                return False
            opened = opened or any(field.startswith('"') and not _is_quoted(field) for field in fields)
    return opened


def _quotes_have_backslashes(file: Path, separator: str) -> bool:
    r"""Whether a quote within a quoted text is written `\"`, as databases write it, and not `""`."""
    inside = re.compile(rf'(^|{re.escape(separator)})\s*"[^"]*\\"(?!\s*({re.escape(separator)}|$|"))')
    with open(file, encoding="utf-8-sig", errors="replace", newline="") as lines:
        return any(inside.search(line.rstrip("\r\n")) for line in lines)


def _is_quoted(field: str) -> bool:
    return len(field) > 1 and field.endswith('"') and '"' not in field[1:-1].replace('""', "")


def _swallowing_line(file: Path, options: dict[str, Any]) -> int | None:
    """The first line that opens a quote which is closed lines below only, with rows of other pictures between."""
    with open(file, encoding="utf-8-sig", errors="replace", newline="") as lines:
        rows = _rows(lines, options)
        width = len(next(rows, []))
        start = rows.line_num + 1
        for row in rows:
            if any(_swallowed(field, options["sep"], width) for field in row):
                return start
            start = rows.line_num + 1
    return None


def _ends_in_separators(file: Path, options: dict[str, Any]) -> bool:
    """Whether rows have more fields than the first, all of them empty."""
    longer = False
    with open(file, encoding="utf-8-sig", errors="replace", newline="") as lines:
        rows = _rows(lines, options)
        try:
            width = len(next(rows, []))
            start = rows.line_num + 1
            for row in rows:
                if any(_swallowed(field, options["sep"], width) for field in row):
                    raise UserError(
                        f"{file}: line {start} opens a quote that is not closed on it, and so takes in the rows below: "
                        "write each quote within a text twice, and one around the text"
                    )
                if len(row) > width:
                    longer = True
                    if any(field.strip() for field in islice(row, width, None)):
                        raise UserError(
                            f"{file}: line {start} has {len(row)} fields, and the header {width}: put a text that "
                            f"holds {options['sep']!r} in quotes"
                        )
                start = rows.line_num + 1
        except csv.Error as error:
            raise UserError(
                f"{file}: line {rows.line_num} cannot be read as a row: write it anew, without null bytes"
            ) from error
    return longer


def _swallowed(field: str, separator: str, width: int) -> bool:
    """Whether a field goes on over rows of pictures that have nothing to do with it."""
    for line in field.splitlines()[1:]:
        fields = line.split(separator)
        if len(fields) >= width > 1 and any(PICTURE.fullmatch(each.strip().strip('"')) for each in fields):
            return True
    return False


KEPT_AS_NUMBERS = ("index", "weight", "label", "domain", "group")


def converters(
    file: Path, options: dict[str, Any], used: Iterable[str | None], written: Iterable[str | None]
) -> dict[str, type[str] | type[float]]:
    """How columns are read of which a piece of the rows does not tell the kind: `str` leaves cells as they are written.

    A column beside those that are `used` in which a number begins with 0, as in 007, is an article's number or a
    telephone's, and would lose its zeros as a number. One of whole numbers and fractions is read as fractions, and one
    of numbers and blanks or words as it is written, as a reader of all rows at once takes it: one that reads them piece
    by piece takes the kind of the first, and stops where another one's differs. Those `written` are text already.
    """
    zeros: set[int] = set()
    with open(file, encoding="utf-8-sig", errors="replace", newline="") as lines:
        rows = _rows(lines, options)
        header: list[str] = options.get("names") or next(rows, [])
        left_alone = {*written}
        places = [p for p, name in enumerate(header) if header.count(name) == 1 and name not in left_alone]
        kinds: dict[int, set[str]] = {place: set() for place in places}
        for row in filter(None, rows):
            for place in places:
                field = row[place] if place < len(row) else ""
                kinds[place].add(_kind(field))
                if field[:1] == "0" and field[1:2].isdigit():
                    zeros.add(place)
    kept_as_numbers = {*KEPT_AS_NUMBERS, *used}
    zeros = {p for p in zeros if header[p] not in kept_as_numbers}
    fractions = {p for p in places if kinds[p] == {"whole", "fraction"}}
    named = {p: float if p in fractions - zeros else str for p in places if len(kinds[p]) > 1 or p in zeros}
    return {header[p]: made_by for p, made_by in named.items()}


NUMBER = re.compile(r"\s*[+-]?(?:(?P<whole>\d+)|(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|inf(?:inity)?)\s*", re.I | re.A)


def _kind(cell: str) -> str:
    """What a reader takes a cell for.

    >>> [_kind(cell) for cell in ("7", "-1.5e3", "True", "", "7 kg")]
    ['whole', 'fraction', 'truth', 'text', 'text']
    """
    if cell.isascii() and (cell.isdecimal() or cell.isalpha()):  # without the regular expression, most cells
        if cell.isdecimal():
            return "whole"
        if cell.lower() not in ("true", "false", "inf", "infinity"):
            return "text"
    if (number := NUMBER.fullmatch(cell)) is not None:
        return "whole" if number["whole"] else "fraction"
    return "truth" if cell in ("True", "TRUE", "true", "False", "FALSE", "false") else "text"
