"""A stretch of a source as records of its own, which keep the ids and places that they have in the whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nearfar.data.sources.record_numbers import own_group, stream_place, with_id
from nearfar.data.sources.skipped import Skipped
from nearfar.data.sources.source import Record, Source, Stream
from nearfar.errors import UserError


@dataclass(frozen=True)
class BlockPlan:
    """How a source is cut: every `size` records, or a stream at the ends of its parts (shards). Nothing is listed, so
    that a plan of any source takes no memory.

    Args:
        records: how many records there are; None of a stream.
        parts: how many parts a stream has.
        size: records of a block of a source, the last block's excepted.

    >>> len(BlockPlan(records=10, size=4)), BlockPlan(records=10, size=4).range_of(2)
    (3, range(8, 10))
    """

    records: int | None = None
    parts: int | None = None
    size: int = 4096

    @classmethod
    def of(cls, source: Source | Stream, *, block: int, batch_size: int) -> BlockPlan:
        """The plan of a source; `block` records are rounded up to whole batches, so that a batch holds the same rows
        whatever the block.

        >>> from nearfar.data import Records
        >>> BlockPlan.of(Records([{"text": c} for c in "abcdefgh"]), block=3, batch_size=2)
        BlockPlan(records=8, parts=None, size=4)
        """
        if isinstance(source, Stream):
            return cls(parts=source.parts, size=0)
        return cls(records=len(source), size=-(-block // batch_size) * batch_size)

    def __len__(self) -> int:
        if self.records is None:
            return self.parts or 0
        return -(-self.records // self.size)

    def range_of(self, number: int) -> range:
        """The records of a block of a source."""
        if self.records is None:
            raise ValueError("a stream's records are not counted before they are read")
        return range(number * self.size, min(self.records, (number + 1) * self.size))

    def place(self, number: int, row: int) -> int:
        """The place in the whole of the record that is the `row`-th of a block.

        >>> BlockPlan(records=10, size=4).place(2, 1), BlockPlan(parts=3).place(2, 1) == (2 << 32) + 1
        (9, True)
        """
        return stream_place(number, row) if self.records is None else number * self.size + row


class BlockRecords:
    """The records of one block, by number from 0; each has an `index`, which is its place in the whole where it has
    no id of its own.

    Attributes: `name`, `columns`, `classes`, `domains` of the whole; `own_groups`, whether any record that was read
    brings a `group`; `skipped`, what a stream's part could not read.
    """

    in_part = True
    """What `embed` numbers pictures and groups by: alike in all parts of the data."""

    def __init__(self, source: Source | Stream, plan: BlockPlan, number: int) -> None:
        self.source = source
        self.name, self.columns = source.name, source.columns
        self.classes, self.domains = source.classes, source.domains
        self.own_groups = False
        self._plan, self._number = plan, number
        self.skipped = Skipped()
        self._range = None if isinstance(source, Stream) else plan.range_of(number)
        self._read: list[Record] = []
        if isinstance(source, Stream):
            source.skipped.clear()
            self._read = list(source.read(number))
            self.skipped = Skipped.merged([source.skipped])

    def __len__(self) -> int:
        return len(self._read) if self._range is None else len(self._range)

    def __getitem__(self, place: int) -> Mapping[str, Any]:
        if isinstance(self.source, Source):
            record = self.source[self.place(place)]
        else:
            record = self._read[place]
        self.own_groups = self.own_groups or own_group(record) is not None
        return with_id(record, self.place(place))

    def place(self, place: int) -> int:
        """The place in the whole of the record of this place in the block."""
        return self._plan.place(self._number, place)

    def where(self, place: int) -> str:
        """The record of this place in the block, in words."""
        return self.source.where(self.place(place))


def check_same(plan: BlockPlan, source: Source | Stream) -> None:
    """Raise a `UserError` where a worker sees another number of records, or shards, than were planned."""
    here = source.parts if isinstance(source, Stream) else len(source)
    planned = plan.parts if plan.records is None else plan.records
    if here != planned:
        noun = "shards" if plan.records is None else "records"
        raise UserError(
            f"{source.name} has {here:,} {noun} where a worker reads it, and {planned:,} were planned: let all "
            "machines read the same files under the same path"
        )
