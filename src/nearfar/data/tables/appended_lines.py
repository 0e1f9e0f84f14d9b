"""A file of JSON lines that grows while a run goes on: what a killed run wrote is there for the next one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nearfar import files
from nearfar.locks import Lock


class AppendedLines:
    """Lines of JSON, each written whole or not at all: one that a killed run was at is taken off again.

    Args:
        path: the file; it and its folder are made if need be.
        doing: what the holder does, for the message to a second one.

    Attributes:
        lines: what an earlier run wrote, and what was added since.

    Raises:
        UserError: another process writes it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with AppendedLines(Path(folder) / "a.jsonl", "writing") as first:
    ...         first.add({"row": 0})
    ...     with AppendedLines(Path(folder) / "a.jsonl", "writing") as again:
    ...         again.lines
    [{'row': 0}]
    """

    def __init__(self, path: Path, doing: str) -> None:
        self.path = files.place(path)
        self._lock = Lock(path.parent, f"{doing} {path.name} in", name=f".{path.name}.lock")
        try:
            with files.writing(path):
                self._file = open(path, "ab")  # noqa: SIM115  (closed by __exit__)
                self.lines, whole = _whole_lines(path)
                self._file.truncate(whole)
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def add(self, *lines: Any) -> None:
        """Write lines, and see that the disk has them."""
        written = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
        with files.writing(self.path):
            self._file.write(written.encode("utf-8", "backslashreplace"))
            self._file.flush()
            os.fsync(self._file.fileno())
        self.lines += lines

    def begin_afresh(self) -> None:
        """Take all lines away."""
        self._file.truncate(0)
        self.lines = []

    def close(self) -> None:
        """Let go of the file."""
        if not self._file.closed:
            self._file.close()
            self._lock.release()


def _whole_lines(path: Path) -> tuple[list[Any], int]:
    """The values of a file's lines up to the first that is not whole, and the bytes that these take."""
    values, length = list[Any](), 0
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not line.endswith(b"\n"):
            break
        values.append(value)
        length += len(line)
    return values, length
