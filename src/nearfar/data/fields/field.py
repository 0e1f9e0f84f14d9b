"""The contract of a field: one kind of data on its way from a record to the batch. A new modality is one file here.

A `Loader` reads records, and gives each to its fields twice: `prepare` takes from one record what the batch needs of
it, in the reading threads; `collate` makes tensors of the prepared parts of a batch. All chance comes through their
second argument, so that it depends on the seed, the epoch and the place alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import torch

from nearfar.data.batches.batch import BatchKey
from nearfar.data.batches.order import mix
from nearfar.data.sources.source import Record

_STREAMS = {"caption": 0, "negative_text": 1, "views": 2}  # fixed numbers, so that batches stay what they were


@dataclass(frozen=True)
class RecordChance:
    """The chance that belongs to one record in one epoch.

    Attributes: `seed`; `epoch`; `place`, the record's number in the source.
    """

    seed: int
    epoch: int
    place: int

    def numbers(self, stream: str) -> tuple[int, ...]:
        """What the chance of this name depends on, to be mixed with more."""
        return self.seed, self.epoch, self.place, _stream(stream)

    def number(self, stream: str) -> int:
        """A random number from 0 to 2**63 - 1. Other names of `stream` give independent ones.

        >>> RecordChance(0, 1, 7).number("crop") == RecordChance(0, 1, 7).number("crop")
        True
        """
        return mix(*self.numbers(stream))


@dataclass(frozen=True)
class BatchChance:
    """The chance that belongs to one batch, and where its samples lie in the whole one.

    Attributes: `seed`, `epoch`, `step`; `whole`, samples of the batch of all processes together; `rows`, the places in
    it of the parts to collate; `device`, where the batch goes (None: it stays).
    """

    seed: int
    epoch: int
    step: int
    whole: int
    rows: Sequence[int]
    device: torch.device | str | None = None

    def generator(self, stream: str) -> torch.Generator:
        """A generator on the CPU, the same on every process: draw for `whole` samples and take `rows`."""
        return torch.Generator().manual_seed(mix(self.seed, self.epoch, self.step, _stream(stream)))


class Field(ABC):
    """One kind of data in a batch.

    Attributes:
        columns: the record's keys that it reads; a source without them is refused.
        optional_columns: keys that it reads where a record has them.
        keys: the batch's keys that it makes, and how samples lie in each (`nearfar.data.batches.batch.BatchKey`).
        fixed: whether `prepare` returns the same in every epoch, so that the loader may keep it in its cache.
    """

    columns: Sequence[str] = ()
    optional_columns: Sequence[str] = ()
    keys: Mapping[str, BatchKey]
    fixed: bool = False

    @abstractmethod
    def prepare(self, record: Record, chance: RecordChance) -> Any:
        """What the batch needs of a record. Called from several threads.

        Raises:
            nearfar.data.sources.skipped.BadRecord: the record cannot be used; another takes its place.
        """

    @abstractmethod
    def collate(self, parts: list[Any], chance: BatchChance) -> dict[str, Any]:
        """Tensors (or dicts of them) under this field's `keys`, of what `prepare` returned for each sample. They may be
        on the CPU: the loader moves them."""


def _stream(name: str) -> int:
    return _STREAMS.get(name, len(_STREAMS) + crc32(name.encode()))
