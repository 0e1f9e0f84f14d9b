"""One number a record: label, domain, weight, or any that a method of yours reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nearfar.data.batches.batch import BatchKey
from nearfar.data.fields.field import BatchChance, Field, RecordChance
from nearfar.data.sources.skipped import BadRecord
from nearfar.data.sources.source import Record


class NumberField(Field):
    """A number of each record under its own name, `[B]`: long, or float32 where `absent` is a float.

    Args:
        name: key of the record and of the batch.
        absent: what stands where a record has none.
    """

    def __init__(self, name: str, absent: int | float) -> None:
        self.name, self.absent = name, absent
        self.columns, self.keys = (name,), {name: BatchKey(per_sample=True)}

    def prepare(self, record: Record, chance: RecordChance) -> int | float:
        return number_of(record, self.name, self.absent)

    def collate(self, parts: list[int | float], chance: BatchChance) -> dict[str, Any]:
        dtype = torch.float32 if isinstance(self.absent, float) else torch.long
        return {self.name: torch.tensor(parts, dtype=dtype)}


def number_of(record: Mapping[str, Any], name: str, absent: int | float) -> int | float:
    """A number of a record, a whole one where `absent` is an int; `absent` where it has none.

    Raises:
        BadRecord: what stands there is no such number.

    >>> number_of({"label": 3.0}, "label", -1), number_of({}, "weight", 1.0)
    (3, 1.0)
    """
    value = record.get(name)
    if value is None:
        return absent
    if type(value) is type(absent) is int and -(2**63) <= value < 2**63:
        return value  # what nearly all records hold
    try:
        number = float(value) if isinstance(absent, float) else int(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or isinstance(value, str) or number != value or abs(number) >= 2**63:
        raise BadRecord(f"its {name} is {value!r}, not a {'number' if isinstance(absent, float) else 'whole number'}")
    return number


def numbers_of(columns: Sequence[str]) -> list[NumberField]:
    """The fields that every loader has: the record's id and group, and label, domain and weight where there are any."""
    absent = {"label": -1, "domain": -1, "weight": 1.0}
    return [
        NumberField("index", -1),
        NumberField("group", -1),
        *(NumberField(name, value) for name, value in absent.items() if name in columns),
    ]
