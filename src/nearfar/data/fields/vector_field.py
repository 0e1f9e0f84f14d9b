"""A vector of each record: a feature that was computed before, say."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearfar.data.batches.batch import BatchKey
from nearfar.data.fields.field import BatchChance, Field, RecordChance
from nearfar.data.sources.skipped import BadRecord
from nearfar.data.sources.source import Record


class VectorField(Field):
    """A vector of each record under its own name, `[B, D]` float32.

    Args:
        name: key of the record and of the batch; its value is a list, an array or a tensor of `size` numbers.
        size: D.
    """

    def __init__(self, name: str, size: int) -> None:
        self.name, self.size = name, size
        self.columns, self.keys, self.fixed = (name,), {name: BatchKey()}, True

    def prepare(self, record: Record, chance: RecordChance) -> Tensor:
        value = record.get(self.name)
        try:
            vector = torch.as_tensor(np.array(value, dtype=np.float32))
        except (TypeError, ValueError):
            vector = torch.empty(0)
        if vector.shape != (self.size,) or not vector.isfinite().all():
            raise BadRecord(f"its {self.name!r} is no vector of {self.size} finite numbers")
        return vector

    def collate(self, parts: list[Tensor], chance: BatchChance) -> dict[str, Any]:
        return {self.name: torch.stack(parts)}
