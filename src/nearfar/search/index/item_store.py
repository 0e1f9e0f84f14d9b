"""The items of an index while it is written: of each some numbers in memory, and the rest on the disk.

What was there lies in the index's own Parquet file; what is put in or taken over goes, as it comes, to a file without a
name, which the system removes whenever the writer ends. A commit reads both in the order of the rows.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from nearfar import files
from nearfar.search.index.digests import Digests, digest
from nearfar.search.index.item_table import ItemTable
from nearfar.search.index.items import GROUP, Item, to_item
from nearfar.search.index.manifest import Manifest

ROW = np.dtype(
    [
        ("stamp", "u8"),
        ("offset", "i8"),
        ("length", "i8"),
        ("place", "i8"),
        ("source", "i4"),
        ("live", "?"),
        ("new", "?"),
    ]
)
"""Of each row: a digest of its stamp, where its picture is, the row of the Parquet file that it is from, or where it is
in the log (-1 at its beginning, -2 at its second byte), the number of its source, whether it is there still, and
whether it was put in or taken over by this writer."""
NAMES = [field.name for field in fields(Item) if field.name not in ("row", "offset", "length")]


class ItemStore:
    """The items by key.

    Args:
        directory: the index.
        manifest: what it is.
        removed: rows that were taken out.

    Raises:
        UserError: its items are damaged.
    """

    def __init__(self, directory: Path, manifest: Manifest, removed: list[int]) -> None:
        self._log = ItemLog(directory)
        self._places = Digests()
        self._sources: dict[str, int] = {}
        table = ItemTable(directory, manifest, in_order=True)
        self._table = table.without([])
        self.count = manifest.count
        self._rows = np.zeros(self.count, ROW)
        self._rows["place"], self._rows["live"] = np.arange(self.count), True
        self._rows["live"][removed] = False
        start, keys = 0, []
        for batch in self._table.batches(["key", "stamp", "source", "offset", "length"]):
            part = self._rows[start : start + len(batch)]
            keys.append(b"".join(map(digest, batch["key"].to_pylist())))
            part["stamp"] = [stamp_number(stamp) for stamp in batch["stamp"].to_pylist()]
            part["source"] = [self._source(source) for source in batch["source"].to_pylist()]
            for name in ("offset", "length"):
                part[name] = np.from_dlpack(batch[name].combine_chunks())
            start += len(batch)
        self._places.fill(b"".join(keys))

    def __len__(self) -> int:
        return int(self._rows["live"][: self.count].sum())

    def __contains__(self, key: str) -> bool:
        return self._row(key) is not None

    def __getitem__(self, key: str) -> Item:
        """Raises KeyError for an unknown key."""
        row = self._row(key)
        if row is None:
            raise KeyError(key)
        return next(self._read(np.array([row])))

    def known(self, item: Item) -> bool:
        """Whether there is an item of this key and source."""
        row = self._row(item.key)
        return row is not None and self._rows["source"][row] == self._sources.get(item.source)

    def unchanged(self, item: Item) -> bool:
        """Whether there is one of the same stamp, too."""
        row = self._row(item.key)
        return row is not None and self.known(item) and self._rows["stamp"][row] == stamp_number(item.stamp)

    def is_new(self, key: str) -> bool:
        """Whether an item was put in or taken over by this writer."""
        row = self._row(key)
        return row is not None and bool(self._rows["new"][row])

    def put(self, item: Item, offset: int, length: int) -> None:
        """Add an item as the next row, in place of any of the same key."""
        if (before := self._row(item.key)) is not None:
            self._rows["live"][before] = False
        if self.count == len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros(max(GROUP, self.count // 4), ROW)])
        self._places[item.key] = self.count
        self._rows[self.count] = (0, offset, length, 0, 0, True, True)
        self.count += 1
        self.refresh(item)

    def refresh(self, item: Item) -> None:
        """Take over what an item says, but not where its vector and its picture are. Raises KeyError for an unknown
        key."""
        row = self._row(item.key)
        if row is None:
            raise KeyError(item.key)
        one = self._rows[row : row + 1]
        one["stamp"], one["source"], one["new"] = stamp_number(item.stamp), self._source(item.source), True
        one["place"] = ~self._log.write(item)

    def remove(self, key: str) -> None:
        """Raises KeyError for an unknown key."""
        row = self._row(key)
        if row is None:
            raise KeyError(key)
        self._rows["live"][row] = False

    def remove_old(self, source: str) -> int:
        """Take out what a source has and this writer did not put in or take over; returns how many these are."""
        rows = self._rows[: self.count]
        old = rows["live"] & ~rows["new"] & (rows["source"] == self._sources.get(source, -1))
        rows["live"][old] = False
        return int(old.sum())

    def live_rows(self) -> np.ndarray:
        """The rows that are there still, int64, ascending."""
        return np.flatnonzero(self._rows["live"][: self.count])

    def pictures(self) -> Iterator[tuple[int, int]]:
        """Where the pictures of these rows begin, and how long they are, of those that have one."""
        rows = self._rows[: self.count]
        for row in np.flatnonzero(rows["live"] & (rows["length"] > 0)):
            yield int(rows["offset"][row]), int(rows["length"][row])

    def compacted(self) -> ItemStore:
        """The same items with the rows and places that they have when what went is left out."""
        other = object.__new__(ItemStore)
        other.__dict__ |= self.__dict__
        live = self.live_rows()
        numbers = np.full(self.count, -1)
        numbers[live] = np.arange(len(live))
        other.count, other._rows, other._places = len(live), self._rows[live], self._places.renumbered(numbers)
        ends = np.cumsum(other._rows["length"])
        other._rows["offset"] = np.where(other._rows["length"] > 0, ends - other._rows["length"], 0)
        return other

    def in_order(self) -> Iterator[Item]:
        """All items, in the order of their rows."""
        rows = self.live_rows()
        for start in range(0, len(rows), GROUP):
            yield from self._read(rows[start : start + GROUP])

    def close(self) -> None:
        self._log.close()

    def _read(self, rows: np.ndarray) -> Iterator[Item]:
        places = self._rows["place"][rows]
        stored = iter(self._table.records(places[places >= 0]))
        for row, place in zip(rows.tolist(), places.tolist(), strict=True):
            item = to_item(next(stored)) if place >= 0 else self._log.read(~place)
            numbers = self._rows[row]
            yield replace(item, row=row, offset=int(numbers["offset"]), length=int(numbers["length"]))

    def _row(self, key: str) -> int | None:
        row = self._places.get(key)
        return row if row is not None and self._rows["live"][row] else None

    def _source(self, name: str) -> int:
        return self._sources.setdefault(name, len(self._sources))


class ItemLog:
    """Items in a file without a name, each known by where it begins."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with files.writing(directory):
            self._file: Any = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - closed by `close`
        self._end, self._behind = 0, False

    def write(self, item: Item) -> int:
        """Returns where it begins."""
        line = json.dumps([getattr(item, name) for name in NAMES]).encode() + b"\n"
        start = self._end
        with files.writing(self._directory):
            if self._behind:
                self._file.seek(start)
            self._file.write(line)
        self._end, self._behind = start + len(line), False
        return start

    def read(self, start: int) -> Item:
        self._file.seek(start)
        self._behind = True
        values = dict(zip(NAMES, json.loads(self._file.readline()), strict=True))
        return Item(**{**values, "captions": tuple(values["captions"])}, row=-1)

    def close(self) -> None:
        self._file.close()


def stamp_number(stamp: str) -> int:
    """8 bytes that tell one stamp of a key from another."""
    return int.from_bytes(digest(stamp)[:8], "little")
