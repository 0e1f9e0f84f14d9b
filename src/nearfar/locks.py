"""One writer a folder: a lock that says who holds it, and that ends with the process that took it."""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from nearfar import files
from nearfar.errors import UserError

HOLDER = ".{name}-holder"
"""Who holds a lock, in a file beside it, as the lock's own is emptied by whoever tries for it."""
WAIT = 0.2
"""Seconds to wait for a lock: a writer that has just ended may be letting go of it."""


class Lock:
    """A folder's lock, held until `release`, or until this process ends, however it ends.

    Args:
        folder: is made if need be.
        doing: what its holder does, for the message to others: "writing the index", "training in".
        remedy: what else the other may do than wait.
        name: the lock's file, which stays behind, empty.

    Raises:
        UserError: another process holds it; the message says which, where and since when.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Lock(Path(folder), "writing").release()
    """

    def __init__(self, folder: Path, doing: str, remedy: str = "", *, name: str = ".lock") -> None:
        from filelock import FileLock, Timeout

        path = files.folder(folder) / name
        if path.is_symlink():
            raise UserError(f"{path} is a link, and what is written to this folder must stay in it: remove the link")
        self._holder = path.with_name(HOLDER.format(name=name.lstrip(".")))
        # The system's lock, not the file, is what counts: a dead process leaves the file, and holds nothing.
        self._lock: Any = FileLock(path)
        with files.writing(path):
            try:
                self._lock.acquire(timeout=WAIT)
            except Timeout:
                holder = _who(self._holder)
                raise UserError(f"another process is {doing} {folder}{holder}: wait for it to end{remedy}") from None
        try:
            files.write(self._holder, json.dumps(_self()))
        except BaseException:
            self._lock.release()
            raise

    def release(self) -> None:
        """Let go of the folder."""
        with suppress(OSError):
            self._holder.unlink()
        self._lock.release()


def _self() -> dict[str, Any]:
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": since}


def _who(holder: Path) -> str:
    """What the holder wrote of itself; nothing where it is about to."""
    try:
        holder_info = json.loads(holder.read_text("utf-8"))
        return (
            f" (process {int(holder_info['pid'])} on {holder_info['host']!s:.64}, since {holder_info['since']!s:.32})"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return ""
