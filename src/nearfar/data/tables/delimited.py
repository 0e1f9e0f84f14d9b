"""How the rows of a CSV or TSV file are written: separator and quotes, and whether every row fits the header."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from nearfar.errors import UserError

LONGEST = 1 << 30
"""Characters that one field may have."""


def separated(file: Path, separator: str) -> dict[str, Any]:
    """The options of a reader of pandas for a file: `sep`, where the header says another one than its ending does;
    `quoting`, where quotes are part of the texts; and `index_col`, where rows end in one more separator.

    Raises:
        UserError: a row has more fields than the header, with its line.
    """
    separator = _separator(file, separator)
    options: dict[str, Any] = {"sep": separator}
    if separator == "\t" and _quotes_are_text(file):
        options["quoting"] = csv.QUOTE_NONE
    if _ends_in_separators(file, options):
        options["index_col"] = False
    return options


def _separator(file: Path, usual: str) -> str:
    with open(file, encoding="utf-8-sig", errors="replace", newline="") as lines:
        header = next(lines, "")
    if usual in header:
        return usual
    separators = [mark for mark in (",", ";", "\t", "|") if mark in header]
    return separators[0] if len(separators) == 1 else usual


def _quotes_are_text(file: Path) -> bool:
    """Whether all lines fit the header as they stand, and some field opens a quote that it does not close."""
    with open(file, encoding="utf-8-sig", errors="replace", newline="") as lines:
        width, opened = next(lines, "").count("\t"), False
        for line in lines:
            fields = line.rstrip("\r\n").split("\t")
            if fields != [""] and len(fields) != width + 1:
                return False
            opened = opened or any(field.startswith('"') and not _is_quoted(field) for field in fields)
    return opened


def _is_quoted(field: str) -> bool:
    return len(field) > 1 and field.endswith('"') and '"' not in field[1:-1].replace('""', "")


def _ends_in_separators(file: Path, options: dict[str, Any]) -> bool:
    """Whether rows have more fields than the header, all of them empty."""
    longer = False
    csv.field_size_limit(LONGEST)
    with open(file, encoding="utf-8-sig", errors="replace", newline="") as lines:
        quoting = options.get("quoting", csv.QUOTE_MINIMAL)
        rows = csv.reader(lines, delimiter=options["sep"], skipinitialspace=True, quoting=quoting)
        try:
            width = len(next(rows, []))
            start = rows.line_num + 1
            for row in rows:
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


KEPT_AS_NUMBERS = ("index", "weight", "label", "domain", "group")


def zeros(file: Path, options: dict[str, Any], used: Iterable[str | None]) -> list[str]:
    """Columns beside those that are `used` in which a number begins with 0, as in 007: an article's number or a
    telephone's, which is no number, and would lose its zeros as one."""
    places: set[int] = set()
    csv.field_size_limit(LONGEST)
    with open(file, encoding="utf-8-sig", errors="replace", newline="") as lines:
        quoting = options.get("quoting", csv.QUOTE_MINIMAL)
        rows = csv.reader(lines, delimiter=options["sep"], skipinitialspace=True, quoting=quoting)
        header = next(rows, [])
        for row in rows:
            places |= {place for place, field in enumerate(row) if field[:1] == "0" and field[1:2].isdigit()}
    names = [header[place] for place in sorted(places) if place < len(header)]
    return [name for name in names if header.count(name) == 1 and name not in {*KEPT_AS_NUMBERS, *used}]
