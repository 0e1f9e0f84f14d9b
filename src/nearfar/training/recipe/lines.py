"""The sections of a recipe's file, and the line that a complaint is about."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nearfar.errors import UserError

Lines = Mapping[tuple[str, ...], int]
"""The line of each section and of each of its settings, by their names."""


def sections(where: str, values: Mapping[str, Any], lines: Lines) -> dict[str, dict[str, Any]]:
    """Sections as mappings of their settings.

    Raises:
        UserError: one holds something else; the message says in which line.
    """
    for name, section in values.items():
        if not isinstance(section, dict | None):
            line = f", line {lines[(name,)]}" if (name,) in lines else ""
            raise UserError(f"{where}{line}: section {name} must hold settings (name: value), not {section!r}.")
    return {name: dict(section or {}) for name, section in values.items()}


@contextmanager
def located(path: Path, lines: Lines, overrides: Sequence[tuple[str, Any]], about: str = "") -> Iterator[None]:
    """Complaints about a recipe, with the file's line where the setting stands in it.

    Args:
        path: the file.
        lines: those of its settings.
        overrides: settings that came from elsewhere.
        about: the part of the recipe, for the message.
    """
    try:
        yield
    except UserError as error:
        overridden = {".".join((key if "." in key else f"training.{key}").split(".")[:2]) for key, _ in overrides}
        line = _line(str(error), lines, overridden)
        where = f"{path}, line {line}: " if line else ""
        raise UserError(f"{where}{about}{error}") from None


def _line(message: str, lines: Lines, overridden: Collection[str]) -> int | None:
    """The line of the setting that a complaint is about, if it stands in the file."""
    for (section, *rest), line in lines.items():
        key = ".".join([section, *rest])
        setting = re.escape(rest[0]) if rest else ""
        about = rf"\b{re.escape(key)}\b|section {re.escape(section)}: (\w+ \w+ '{setting}'|{setting}\b)"
        named = key == "method.name" and message.startswith(("method", "no method "))
        if rest and key not in overridden and (named or re.search(about, message)):
            return line
        if not rest and f"no section {section!r}" in message:
            return line
    return None
