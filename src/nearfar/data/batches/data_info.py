"""What a method may know of its data before the first step: how many records, their ids, classes and domains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from os import PathLike
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearfar.data.sources.skipped import BadRecord
from nearfar.data.sources.source import Record, Source, Stream
from nearfar.errors import UserError

SAMPLE = 64
"""Records, evenly spread, whose content the fingerprint covers."""


class DataInfo:
    """What is known of training data; `Method.begin` gets it. `DataInfo.of(data)` makes one of a source or a loader.

    Attributes: `name`; `size`, the number of records, None of a stream and of plain batches; `columns`, the keys of a
    record; `classes` and `domains`, what the numbers in `label` and `domain` stand for, None where there are none;
    `other_classes`, those that training leaves out (`nearfar.data.batches.base_classes`);
    `steps`, those of the run that is to come, None where they are not known.

    >>> from nearfar.data import Records
    >>> pets = Records([{"text": t, "label": i % 2} for i, t in enumerate("abcdef")], classes=["cat", "dog"])
    >>> info = DataInfo.of(pets.filter(lambda record: record["label"] == 1))
    >>> info.size, info.ids, info.classes
    (3, tensor([1, 3, 5]), ['cat', 'dog'])
    >>> DataInfo.of([{"image": "a plain batch"}]).size is None
    True
    """

    def __init__(
        self,
        *,
        name: str = "the data",
        size: int | None = None,
        ids: Callable[[], Iterable[int]] | None = None,
        columns: Sequence[str] = (),
        classes: Sequence[str] | None = None,
        other_classes: Sequence[str] | None = None,
        domains: Sequence[str] | None = None,
        record: Callable[[int], Record] | None = None,
        steps: int | None = None,
    ) -> None:
        self.name, self.size, self.columns, self.steps = name, size, tuple(columns), steps
        self.classes = None if classes is None else list(classes)
        self.other_classes = None if other_classes is None else list(other_classes)
        self.domains = None if domains is None else list(domains)
        self._ids, self._record = ids, record

    @classmethod
    def of(cls, data: Any) -> DataInfo:
        """Of a source, a stream, or a loader of one (by its `info` or `source`); of plain batches nothing is known."""
        known = getattr(data, "info", None)
        if isinstance(known, DataInfo):
            return known
        source = data if isinstance(data, Source | Stream) else getattr(data, "source", None)
        if not isinstance(source, Source | Stream):
            return cls()
        named = ("columns", "classes", "other_classes", "domains")
        details: dict[str, Any] = {name: getattr(source, name) for name in named}
        if isinstance(source, Stream):
            return cls(name=source.name, **details)
        return cls(name=source.name, size=len(source), ids=source.ids, record=source.record, **details)

    @cached_property
    def ids(self) -> Tensor | None:
        """`[size]` int64: the records' stable ids, which batches have as `index`, in the order of the source; None of a
        stream and of plain batches. Read when it is first used."""
        return None if self._ids is None else torch.tensor(list(self._ids()), dtype=torch.long)

    def require_ids(self, user: str) -> Tensor:
        """`ids`, each different.

        Args:
            user: needs them, for the error.

        Raises:
            UserError: the data have none, or one comes twice.
        """
        if self.ids is None:
            raise UserError(
                f"{user} keeps something of each sample, and {self.name} cannot be counted: give a source, or a loader "
                "of one, in the place of a stream or of plain batches."
            )
        different, times = self.ids.unique(return_counts=True)
        if twice := different[times > 1][:5].tolist():
            raise UserError(
                f"{user} keeps something of each sample by its id, and {self.name} has {', '.join(map(str, twice))} "
                "more than once: give each record an 'index' of its own."
            )
        return self.ids

    @cached_property
    def fingerprint(self) -> int:
        """63 bits that other data do not have: of the ids, classes, domains, and of the content of up to 64 records,
        files by their names. 0 where nothing is known."""
        if self.ids is None or self._record is None or self.size is None:
            return 0
        digest = sha256(repr((self.size, sorted(self.columns), self.classes, self.domains)).encode())
        digest.update(self.ids.numpy().tobytes())
        for place in self.sampled:
            digest.update(self._record_bytes(place))
        return int.from_bytes(digest.digest()[:8], "big") >> 1

    @property
    def sampled(self) -> list[int]:
        """The places of the records that the fingerprint covers, evenly spread."""
        size = self.size or 0
        return np.linspace(0, size - 1, min(size, SAMPLE)).round().astype(int).tolist() if size else []

    def content(self, place: int) -> int:
        """63 bits that a record of other content does not have, its id left out; files by their names."""
        return int.from_bytes(sha256(self._record_bytes(place, leave_out="index")).digest()[:8], "big") >> 1

    def _record_bytes(self, place: int, *, leave_out: str | None = None) -> bytes:
        """What a record holds, as text."""
        assert self._record is not None
        try:
            record = self._record(place)
        except (BadRecord, OSError) as error:
            return type(error).__name__.encode()
        return _content({key: value for key, value in record.items() if key != leave_out}).encode()

    def __repr__(self) -> str:
        return f"<DataInfo of {self.name}: {'an unknown number of' if self.size is None else f'{self.size:,}'} records>"


def _content(value: Any, key: str = "") -> str:
    """A text that says what a value is, the same in every process and on every machine."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{_content(value[name], str(name))}" for name in sorted(value, key=str)) + "}"
    if isinstance(value, PathLike) or (key in ("image", "path") and isinstance(value, str)):
        return PurePath(value).name
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_content, value)) + "]"
    if isinstance(value, bytes):
        return sha256(value).hexdigest()
    if isinstance(value, str | int | float | bool | None):
        return repr(value)
    if hasattr(value, "tobytes"):  # a picture of PIL, an array
        return f"{getattr(value, 'size', '')}{sha256(value.tobytes()).hexdigest()}"
    return type(value).__name__
