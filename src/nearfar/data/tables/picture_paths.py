"""From what a cell calls a picture to the file that is meant."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from nearfar import files


def file_named(cell: str, root: str | os.PathLike[str]) -> str | None:
    """The path that a cell names, relative ones from `root`; None for a blank. `file://` addresses are paths, and so is
    what Windows writes (`images\\\\a.jpg`), where there is no file of just that name. An address of the web stays one.

    >>> file_named("a.jpg", "photos"), file_named(" ", "photos"), file_named("file:///x/red%20car.jpg", "photos")
    ('photos/a.jpg', None, '/x/red car.jpg')
    """
    if not cell.strip():
        return None
    if files.is_address(cell):
        return cell
    if cell.startswith("file:"):
        cell = unquote(urlsplit(cell).path)
    path = os.path.join(root, cell)
    if "\\" in cell and not os.path.exists(path):
        path = os.path.join(root, cell.replace("\\", "/"))
    return path


def folder_of(cell: str, root: Path) -> Path:
    """The folder that paths of pictures start from: `root`, that of their table, or the one folder in it that holds the
    first picture, as `images/` beside the table does."""
    first = file_named(cell, root)
    if first is None or files.is_address(cell) or os.path.isabs(cell) or os.path.exists(first) or not root.is_dir():
        return root
    inside = (place for place in sorted(root.iterdir()) if place.is_dir())
    holding = [place for place in inside if os.path.exists(file_named(cell, place) or "")]
    return holding[0] if len(holding) == 1 else root
