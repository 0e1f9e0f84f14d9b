"""`nearfar recipes`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def recipes(action: Literal["list", "copy"] = "list", name: str | None = None, dest: Path | None = None) -> None:
    """List the recipes that come with nearfar, or copy one out to edit.

    Args:
        action: "list", or "copy".
        name: the recipe to copy.
        dest: where to: a folder, or a file name (default: this folder).
    """
    from nearfar.errors import UserError
    from nearfar.training.recipe import comment, shipped

    known = shipped()
    if action == "list":
        width = max(map(len, known), default=0)
        print("\n".join(f"{recipe:<{width}}  {comment(path)}" for recipe, path in known.items()))
        print("\nnearfar train NAME runs one; nearfar recipes copy NAME copies it here to edit.")
        return
    if name not in known:
        raise UserError(f"no recipe {name!r}; there are: {', '.join(known)}")
    target = dest or Path()
    target = target / f"{name}.yaml" if target.is_dir() else target
    if target.exists():
        raise UserError(f"{target} exists already: remove it, or name another file.")
    target.write_bytes(known[name].read_bytes())
    print(f"{target}: edit it, then nearfar train {target}")
