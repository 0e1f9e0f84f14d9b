"""Which records belong together: the one place that decides it, for training, evaluation, probes and the index.

A record's own `group` goes first. A record without one (or with a blank, or a negative number) belongs to the records
that show the same picture: the same file, or the same bytes. One whose picture no other record shows is a group of its
own. Numbers given here are never numbers that some record brings as its `group`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count
from threading import Lock
from typing import Any

from nearfar import console, files
from nearfar.data.sources.record_numbers import medium_of, own_group
from nearfar.data.sources.skipped import BadRecord
from nearfar.data.sources.source import Records, Source

Picture = tuple[Any, ...]
"""What a picture is known by: ("file", real path), ("part", tar file, offset, size) or ("content", digest, size)."""

HASHED = 1 << 62
"""Numbers from here on are those of groups in a stream that are known by a picture."""

SKETCH = 4096
"""Bytes from the middle of a file that tell it from others of its size, before all of it is read."""


class Groups:
    """The group of each record of some data.

    Args:
        data: a source, a list of records, a stream or any other iterable of records. In what can be read only once,
            a picture is known by its path or its bytes alone, and a file is not compared with its copies.

    >>> rows = Records([{"image": b"cat", "text": "a cat"}, {"image": b"dog"}, {"image": b"cat", "text": "a tabby"}])
    >>> groups = Groups(rows)
    >>> [groups(record, place, place) for place, record in enumerate(rows)]
    [0, 1, 0]
    >>> groups.shared(rows[1], 1) is None
    True
    """

    def __init__(self, data: Any) -> None:
        self._source: Any = Records(data) if isinstance(data, list | tuple) else data
        self._lock = Lock()

    def __call__(self, record: Mapping[str, Any], place: int, identity: int) -> Any:
        """The group of the record at a place.

        Args:
            record: the record.
            place: its place in the data.
            identity: its id, the number of its group where it is alone and the data cannot be looked through.
        """
        if (own := own_group(record)) is not None:
            return own
        if isinstance(self._source, Source):
            return self._table().number[place]
        key = picture_key(medium_of(record))
        return identity if key is None else picture_number(key)

    def ready(self) -> Groups:
        """Look through a source whose first record has no group of its own, before threads read its pictures."""
        source = self._source
        if isinstance(source, Source) and len(source):
            with suppress(BadRecord, OSError):
                if own_group(source[0]) is None:
                    self._table()
        return self

    def shared(self, record: Mapping[str, Any], place: int) -> Any:
        """The group of the record if it has one of its own, or shares its picture; else None."""
        own = own_group(record)
        if own is not None or not isinstance(self._source, Source):
            return own
        table = self._table()
        return table.number[place] if table.size[table.number[place]] > 1 else None

    def _table(self) -> _Table:
        """Made when the first record without a group is met; kept with the source."""
        with self._lock:
            if "_group_table" not in self._source.__dict__:
                self._source._group_table = _tabulate(self._source)
            return self._source._group_table


def picture_key(image: Any) -> Picture | None:
    """What a picture is known by without reading a file; None where that is not known, as of one that is yet to be
    drawn.

    >>> picture_key(b"cat") == picture_key({"bytes": b"cat", "path": "x.png"}) != picture_key(b"dog")
    True
    """
    if isinstance(image, Mapping):
        image = image["bytes"] if image.get("bytes") is not None else image.get("path")
    if isinstance(image, bytes | bytearray | memoryview):
        return ("content", _digest(image), len(image)) if len(image) else None
    if isinstance(image, str | os.PathLike):
        path = os.fspath(image)
        return ("file", path if files.is_address(path) else os.path.realpath(path)) if path else None
    if hasattr(image, "offset") and hasattr(image, "path"):  # a file inside a tar file
        return ("part", image.path, image.offset, image.size)
    if hasattr(image, "tobytes"):  # a picture of PIL, an array
        shape = f"{getattr(image, 'mode', '')}{getattr(image, 'shape', getattr(image, 'size', ''))}"
        with suppress(Exception):  # a picture of PIL that is still to be read, and is broken
            return ("content", _digest(shape.encode() + image.tobytes()), -1)
    return None


def picture_number(key: Picture) -> int:
    """A picture's number, from `HASHED` on, by its key alone: the same in any part of any data.

    >>> picture_number(("file", "/a.png")) == picture_number(("file", "/a.png")) != picture_number(("file", "/b.png"))
    True
    """
    return HASHED + int.from_bytes(_digest(repr(key).encode())[:7], "big")


@dataclass(frozen=True)
class _Table:
    """The number of each record's group, and how many records each has."""

    number: list[Any]
    size: dict[Any, int]


def _tabulate(source: Source) -> _Table:
    own: list[Any] = []
    keys: list[Picture | None] = []
    for image, group in console.track(source.pictures(), f"comparing pictures of {source.name}", total=len(source)):
        own.append(own_group({"group": group}))
        keys.append(picture_key(image))
    keys = _one_key_for_copies(keys)
    taken = {group for group in own if group is not None}
    known: dict[Any, Any] = {}
    for key, group in zip(keys, own, strict=True):
        if key is not None and group is not None:
            known.setdefault(key, group)
    # Where no record brings a group, a group's number is the id of its first record.
    ids = source.ids()
    free = (number for number in count() if number not in taken)
    number = []
    for place, (key, group) in enumerate(zip(keys, own, strict=True)):
        if group is None:
            label = ("alone", place) if key is None else key
            if label not in known:
                known[label] = next(free) if taken else ids[place]
            group = known[label]
        number.append(group)
    size: dict[Any, int] = {}
    for group in number:
        size[group] = size.get(group, 0) + 1
    return _Table(number, size)


def _one_key_for_copies(keys: list[Picture | None]) -> list[Picture | None]:
    """The keys, with files (and parts of tar files) of the same content under one. Only files of the same size, and the
    same bytes in their middle, are read whole."""
    sizes = {key[2] for key in keys if key is not None and key[0] == "content"}
    sketches: dict[Any, list[Picture]] = {}
    for key in dict.fromkeys(key for key in keys if key is not None and key[0] != "content"):
        if (sketch := _sketch(key)) is not None:
            sketches.setdefault(sketch, []).append(key)
    same: dict[Picture, Picture] = {}
    for (size, _), alike in sketches.items():
        if len(alike) > 1 or size in sizes:
            same |= {key: ("content", _digest(data), size) for key in alike if (data := _read(key)) is not None}
    return [same.get(key, key) if key is not None else None for key in keys]


def _sketch(key: Picture) -> tuple[int, bytes] | None:
    try:
        if key[0] == "file" and not os.path.isfile(key[1]):
            return None
        size = os.path.getsize(key[1]) if key[0] == "file" else key[3]
        return (size, _read(key, max(0, size // 2 - SKETCH // 2), SKETCH) or b"") if size else None
    except OSError:
        return None


def _read(key: Picture, start: int = 0, length: int | None = None) -> bytes | None:
    """Bytes of a file or a part of one; None where it cannot be read."""
    first, size = (0, None) if key[0] == "file" else (key[2], key[3])
    most = size if length is None else length if size is None else min(length, size - start)
    try:
        with open(key[1], "rb") as file:
            file.seek(first + start)
            return file.read(-1 if most is None else most)
    except OSError:
        return None


def _digest(data: Any) -> bytes:
    return blake2b(data, digest_size=16).digest()
