"""Has the data changed? A stamp of the files that a source is opened from: names, sizes and times of change."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nearfar import __version__
from nearfar.data.sources.open_source import parts_of
from nearfar.data.sources.tar_shards import expand


def are_shards(spec: str) -> bool:
    """Whether a word names tar shards: a file, a glob, or a folder that holds some.

    >>> are_shards("data/{000..099}.tar"), are_shards("photos.csv")
    (True, False)
    """
    path = Path(spec)
    return (next(path.glob("*.[tT][aA][rR]"), None) is not None) if path.is_dir() else spec.lower().endswith(".tar")


def source_stamp(spec: str, options: Mapping[str, Any]) -> str:
    """A digest of a source's word, the options that it is opened with, and the files that lie behind it. Pictures that
    a table names are not among these: it is the table that is stamped.

    >>> len({source_stamp("world/emoji", {}), source_stamp("world/emoji", {}), source_stamp("world/marks", {})})
    2
    """
    made = hashlib.blake2b(repr(sorted(options.items())).encode(), digest_size=16)
    for part in parts_of(spec):
        name = part if part.startswith("world/") else os.path.abspath(part)
        made.update(f"{name} {__version__ if part.startswith('world/') else ''}\n".encode("utf-8", "backslashreplace"))
        for path in _files_of(part):
            status = os.stat(path)
            line = f"{path} {status.st_size} {status.st_mtime_ns}\n"
            made.update(line.encode("utf-8", "backslashreplace"))
    return made.hexdigest()


def _files_of(part: str) -> Iterator[str]:
    """The files behind a word, as strings: a `Path` of each would enter its name in Python's table of all names, which
    grows with them."""
    where = part
    for prefix in ("videos:", "sounds:", "text:"):
        where = where.removeprefix(prefix)
    if are_shards(where):
        yield from expand(where)
    elif where.lower().endswith(".parquet") and not os.path.exists(where):
        yield from expand(where, ending=".parquet")
    elif os.path.isfile(where):
        yield where
    elif os.path.isdir(where):
        if (about := Path(where, "curated.json")).is_file():  # what was kept of other data
            for part in parts_of(json.loads(about.read_text("utf-8"))["source"]):
                yield from _files_of(part)
        for folder, names, members in os.walk(where):
            names.sort()
            paths = (os.path.join(folder, name) for name in sorted(members))
            yield from filter(os.path.isfile, paths)
