"""Files and folders that are either whole or not there: written beside their place, synced, then renamed."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nearfar.errors import UserError


def write(path: str | Path, content: str | bytes) -> Path:
    """Write a file in one step; folders are made as needed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(Path(folder) / "new" / "a.txt", "whole").read_text()
    'whole'
    """
    path = place(path)
    with whole(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def place(path: str | Path) -> Path:
    """The path, once a file can be written there: its folder is made. Asked early, it spares a run that could not keep
    its result.

    Raises:
        UserError: it is a folder, or lies below a file.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file to write")
    folder(path.parent)
    return path


def folder(path: str | Path) -> Path:
    """Make a folder, and those above it, unless it is there.

    Raises:
        UserError: a file has its name, or the name of one above it.
    """
    path = Path(path)
    for part in (path, *path.parents):
        if part.exists():
            if not part.is_dir():
                raise UserError(f"{part} is a file, and a folder is to be written there: name another, or remove it")
            break
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to fill that takes its place as `path` when the block ends without an error, and else is removed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def replace_folder(temporary: Path, final: Path) -> None:
    """Put the finished folder `temporary` in the place of `final`, which may exist."""
    for path in temporary.rglob("*"):
        sync(path)
    sync(temporary)
    if final.exists():
        # A folder cannot be renamed over a full one: the old one steps aside first, and is never half deleted.
        old = final.with_name(f".{final.name}.{os.getpid()}.old")
        final.rename(old)
        temporary.rename(final)
        shutil.rmtree(old)
    else:
        temporary.rename(final)
    sync(final.parent)


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """A folder to fill that takes its place as `final` when the block ends without an error."""
    temporary = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    replace_folder(temporary, final)


def point(link: Path, target: str) -> None:
    """Make `link` a symbolic link to its neighbour `target`, in one step."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)
    sync(link.parent)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk. (Windows opens no folders.)"""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed run left half written in `folder`."""
    for path in folder.glob(".*"):
        if path.name.endswith((".tmp", ".old")):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
