"""Which code a figure came from: the commit, the files of nearfar that were loaded, and how many changed since."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
"""The package's folder."""

NOT_COUNTED = ("cli.py", "commands/", "console.py", "papers/", "reproductions/__init__.py", "reproductions/shared/")
"""What starts, judges and prints a reproduction, but makes none of its figures."""


@cache
def commit() -> str:
    """The git commit of the code, with '+' where the tree has changes to it; '' outside a checkout."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # Recorded results are what a run changes itself, so they do not count as a change.
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!reproductions/results")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def loaded() -> dict[str, str]:
    """Files of nearfar that this process has loaded and that make figures, each with a digest of its text. What was
    imported is the whole of it, however it was named: methods and models are found by name."""
    paths = {file for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))}
    files = {name: Path(file) for file in paths if (name := _name_inside(str(file), ROOT)) is not None}
    return {name: digest(path) for name, path in sorted(files.items()) if counts(name)}


def counts(name: str) -> bool:
    """Whether a file, by its path in the package, has a part in figures."""
    return not name.startswith(NOT_COUNTED)


def digest(path: Path) -> str:
    """The start of the file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def changed(record: Mapping[str, Any]) -> tuple[int, int] | None:
    """Of the files that a record's figures came from: how many are no longer there as they were, and how many there
    were; of its oldest run. None where the record does not say. A file that only moved is no change."""
    if not record.get("code"):
        return None
    now = {digest(path) for path in ROOT.rglob("*.py")}
    return max((sum(text not in now for text in files.values()), len(files)) for files in record["code"].values())


@cache
def _name_inside(file: str, root: Path) -> str | None:
    """The name in the package of a module's file; None for one of elsewhere, as most of some thousand are. A module
    does not move while it is loaded, and to follow all links of each takes half a second."""
    path = Path(file)
    if path.suffix != ".py" or not path.is_file() or not (path := path.resolve()).is_relative_to(root):
        return None
    return path.relative_to(root).as_posix()
