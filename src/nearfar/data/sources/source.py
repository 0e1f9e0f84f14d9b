"""What training data is: a `Source` is a collection of records, and a record is a plain dict.

| key | value | meaning |
|---|---|---|
| `image` | path, bytes, `PIL.Image` or anything with `read() -> bytes` | the picture, best left undecoded |
| `text` | `str` or list of `str` | its captions; training takes one of them at a time |
| `label`, `domain` | `int` | index into `source.classes` and `source.domains`; -1 where unknown |
| `group` | `int` | equal for records that match, never each other's negatives; else those of one picture match |
| `index` | `int` | the record's own id, one no other has; its place in the source where all are without |
| `answers` | `str`, list of `str`, or `str` to count | answers to the question in `text`: one, or one an annotator |
| `negative_text` | list of `str` | captions that nearly fit, but do not; in pairs of texts, texts unlike `text` |
| `text2` | `str` or list of `str` | the other text of a pair, of which the first is `text` |
| `image2` | as `image` | a picture that hardly differs from `image`, and contradicts `text`; `text2` is of it |
| `score` | `float` | how alike the two texts of a pair are, as people say |
| `weight` | `float` | how much the record counts |

Further keys are free. Reading a record twice gives the same record. A record keeps its id where the source is selected,
filtered, shuffled or mapped: what a batch, an embedding and a table by sample call its `index`. Joining is the
exception: two sources may give one id to different records, so `concat` numbers all records anew by their place in the
whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, SupportsIndex, overload

from nearfar.data.sources.record_numbers import domain_names, group_of_part, medium_of, own_group, record_id, with_id
from nearfar.data.sources.record_text import stored_captions
from nearfar.data.sources.skipped import BadRecord, Skipped
from nearfar.errors import UserError

Record = dict[str, Any]


class Source(ABC):
    """A collection of records that can be read by number. A subclass gives `__len__` and `record`.

    Attributes: `name`; `columns`, the keys its records have; `classes` and `domains`, what the numbers in `label` and
    `domain` stand for (None where there are none); `skipped`, what could not be used and why.
    """

    name: str = "source"
    columns: Sequence[str] = ("image", "text")
    classes: list[str] | None = None
    domains: list[str] | None = None
    other_classes: list[str] | None = None
    """Classes of the data that it was made of, and has no record of (`nearfar.data.batches.base_classes`)."""
    remark: str | None = None
    """What whoever trains on it should know first."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def record(self, index: int) -> Record:
        """Record number `index`, with 0 <= index < len(self). Must be safe to call from several threads."""

    @property
    def skipped(self) -> Skipped:
        """What was left out when the source was opened. Empty unless a subclass sets it."""
        return self.__dict__.setdefault("_skipped", Skipped())

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Source: ...
    def __getitem__(self, index: int | slice) -> Record | Source:
        if isinstance(index, slice):
            return self.select(range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} records, there is no number {index}")
        return self.record(index % len(self))

    def __iter__(self) -> Iterator[Record]:
        return (self.record(index) for index in range(len(self)))

    def column(self, key: str, default: Any = None) -> list[Any]:
        """One key of every record, `default` where a record lacks it or cannot be read. Images are not decoded for it.

        >>> Records([{"text": "a cat", "age": 3}, {"text": "a dog"}]).column("age")
        [3, None]
        """
        return [self._known(place).get(key, default) for place in range(len(self))]

    def _known(self, place: int) -> Record:
        """What is known of a record whether it can be used or not: nothing where it cannot be read."""
        try:
            return self.record(place)
        except (BadRecord, OSError):
            return {}

    def ids(self) -> Sequence[int]:
        """The stable id of each record, in order: its `index`, or its place where it has none. Batches have them as
        `index`. One that cannot be read, and of which no id is known, has a number that no other has.

        Raises:
            UserError: some records have an id and some have none, so that a place could be another record's id.

        >>> Records([{"text": c} for c in "abcdef"]).filter(lambda record: record["text"] > "c").ids()
        [3, 4, 5]
        """
        first: Record = next(filter(None, map(self._known, range(len(self)))), {})
        if "index" not in self.columns and first.get("index") is None:
            return range(len(self))
        own = self.column("index")
        ids = [record_id({"index": each}, place, name=self.name) for place, each in enumerate(own)]
        without = [place for place, each in enumerate(own) if each is None]
        if 0 < len(without) < len(own):
            blank = next((place for place in without if self._known(place)), None)
            if blank is not None:
                raise UserError(
                    f"{self.name}: {self.where(blank)} has no index, and {len(own) - len(without)} of {len(own)} "
                    "records have one: number all records, or none"
                )
            taken = {each for each, before in zip(ids, own, strict=True) if before is not None}
            free = (number for number in count() if number not in taken)
            for place in without:
                ids[place] = next(free)
        return ids

    def pictures(self) -> Iterator[tuple[Any, Any]]:
        """Picture, video or sound of each record, undecoded, and its `group` or None: which of them belong together."""
        for place in range(len(self)):
            try:
                record = self.record(place)
                yield medium_of(record), record.get("group")
            except (BadRecord, OSError):  # one that cannot be read belongs to no other
                yield None, None

    def texts(self) -> list[str]:
        """Every caption of every record, in order: what a tokenizer is trained on. What cannot be used has none.

        >>> Records([{"text": ["a cat", "a tabby"]}, {"text": "a dog"}]).texts()
        ['a cat', 'a tabby', 'a dog']
        """
        texts = map(stored_captions, self.column("text"))
        return [each for text in texts if isinstance(text, list) for each in text if isinstance(each, str)]

    def select(self, indices: Iterable[int], *, name: str | None = None) -> Source:
        """The records of these numbers, in this order.

        >>> [r["text"] for r in Records([{"text": c} for c in "abc"]).select([2, 0])]
        ['c', 'a']
        """
        return Selection(self, indices, name=name)

    def first(self, n: int) -> Source:
        """The first `n` records, or all where there are fewer."""
        return self.select(range(min(n, len(self))))

    def where(self, place: int) -> str:
        """The record of this number in words."""
        return f"record {place}"

    def training(self) -> Source | None:
        """Data of the same make to fit text-only baselines on, where more can be generated; None elsewhere."""
        return None

    def filter(self, keep: Callable[[Record], bool]) -> Source:
        """The records that `keep` says yes to; it reads every record once, now. One that cannot be used
        is left out, and `skipped` of what comes back says why."""
        kept, skipped = [], Skipped()
        for place in range(len(self)):
            try:
                if keep(self.record(place)):
                    kept.append(place)
            except BadRecord as problem:
                skipped.add(self.where(place), str(problem))
        return Selection(self, kept, skipped=Skipped.merged([self.skipped, skipped]) if skipped else None)

    def map(self, change: Callable[[Record], Record], *, columns: Sequence[str] | None = None) -> Source:
        """The same records, each passed through `change` when it is read. Name the `columns` if they change."""
        return Mapped(self, change, columns=columns)

    def __add__(self, other: Source) -> Source:
        return concat(self, other)

    def __repr__(self) -> str:
        classes = f", {len(self.classes)} classes" if self.classes else ""
        domains = f", {len(self.domains)} domains" if self.domains else ""
        return f"<{self.name}: {len(self)} records of {', '.join(self.columns)}{classes}{domains}>"


class Stream(ABC):
    """A collection of records that can only be read in order: too large, or too far away, to be read by number.

    It is a list of `parts` (shards, files), each read from its start. The loader shuffles the parts, and the records
    within blocks, so its place in an epoch is a part and a count, and resuming is exact.
    """

    name: str = "stream"
    columns: Sequence[str] = ("image", "text")
    classes: list[str] | None = None
    domains: list[str] | None = None
    other_classes: list[str] | None = None
    """Classes of the data that it was made of, and has no record of (`nearfar.data.batches.base_classes`)."""
    remark: str | None = None
    """What whoever reads it should know first."""
    parts: int = 1

    @abstractmethod
    def read(self, part: int, skip: int = 0) -> Iterator[Record]:
        """The records of one part in their fixed order, without the first `skip`."""

    def where(self, place: int) -> str:
        """The record of this place (`stream_place`) in words."""
        return f"part {place >> 32}, record {place & 0xFFFFFFFF}"

    @property
    def skipped(self) -> Skipped:
        """What could not be read so far, and why."""
        return self.__dict__.setdefault("_skipped", Skipped())

    def __iter__(self) -> Iterator[Record]:
        for part in range(self.parts):
            yield from self.read(part)

    def __repr__(self) -> str:
        return f"<{self.name}: a stream of {', '.join(self.columns)} in {self.parts} parts>"


class Records(Source):
    """A source that is a list in memory.

    >>> source = Records([{"text": "a cat", "label": 0}], classes=["cat"], name="pets")
    >>> source
    <pets: 1 records of text, label, 1 classes>
    """

    def __init__(
        self,
        records: Iterable[Record],
        *,
        name: str = "records",
        classes: list[str] | None = None,
        domains: list[str] | None = None,
        skipped: Skipped | None = None,
    ) -> None:
        self._records = list(records)
        self.name, self.classes, self.domains = name, classes, domains
        self.columns = list(dict.fromkeys(key for record in self._records for key in record))
        if skipped is not None:
            self._skipped = skipped

    def __len__(self) -> int:
        return len(self._records)

    def record(self, index: int) -> Record:
        return dict(self._records[index])


class Selection(Source):
    """Some records of a source, in a given order. Their `index` stays that of the whole source."""

    def __init__(
        self, source: Source, indices: Iterable[int], *, name: str | None = None, skipped: Skipped | None = None
    ) -> None:
        self.source, self.indices = source, list(indices)
        outside = [i for i in self.indices if not 0 <= i < len(source)]
        if outside:
            raise IndexError(f"{source.name} has {len(source)} records, there is no number {outside[0]}")
        self.name = name or source.name
        self.columns, self.classes, self.domains = source.columns, source.classes, source.domains
        self.other_classes = source.other_classes
        self.remark, self._skipped = source.remark, source.skipped if skipped is None else skipped

    def __len__(self) -> int:
        return len(self.indices)

    def training(self) -> Source | None:
        return self.source.training()

    def ids(self) -> Sequence[int]:
        whole = self.source.ids()
        return [whole[i] for i in self.indices]

    def where(self, place: int) -> str:
        return self.source.where(self.indices[place])

    def record(self, index: int) -> Record:
        place = self.indices[index]
        return with_id(self.source.record(place), place)

    def _known(self, place: int) -> Record:
        whole = self.indices[place]
        known = self.source._known(whole)
        return with_id(known, whole) if known else {}


class Mapped(Source):
    """A source whose records pass through a function when they are read."""

    def __init__(
        self, source: Source, change: Callable[[Record], Record], *, columns: Sequence[str] | None = None
    ) -> None:
        self.source, self.change = source, change
        self.name, self.classes, self.domains = source.name, source.classes, source.domains
        self.other_classes = source.other_classes
        self.columns = columns if columns is not None else source.columns
        self.remark, self._skipped = source.remark, source.skipped

    def __len__(self) -> int:
        return len(self.source)

    def where(self, place: int) -> str:
        return self.source.where(place)

    def record(self, index: int) -> Record:
        record = self.source.record(index)
        own = record.get("index")  # read first: `change` may empty the record
        changed = self.change(record)
        return changed if own is None else with_id(changed, own)

    def _known(self, place: int) -> Record:
        """Of a record that `change` cannot use, what it was before."""
        return super()._known(place) or self.source._known(place)


class Concatenation(Source):
    """Sources one after the other, with their classes and domains merged by name. See `concat`."""

    def __init__(self, sources: Sequence[Source], *, name: str | None = None) -> None:
        if not sources:
            raise ValueError("concat needs at least one source")
        self.sources = list(sources)
        self.name = name or "+".join(source.name for source in self.sources)
        self.starts = [0]
        for source in self.sources:
            self.starts.append(self.starts[-1] + len(source))
        self.classes, self._labels = _merge([source.classes for source in self.sources])
        names = [domain_names(source) for source in self.sources]
        self.domains, places = _merge([list(each.values()) for each in names])
        self._domains = [
            dict(zip(each, place.values(), strict=True)) for each, place in zip(names, places, strict=True)
        ]
        derived = ("index", "group", "domain")
        self.columns = list(dict.fromkeys([*(c for s in self.sources for c in s.columns), *derived]))
        self.remark = "\n".join(source.remark for source in self.sources if source.remark) or None
        self._skipped = Skipped.merged(source.skipped for source in self.sources)

    def __len__(self) -> int:
        return self.starts[-1]

    def ids(self) -> Sequence[int]:
        return range(len(self))

    def record(self, index: int) -> Record:
        part = self._part(index)
        return self._of_whole(self.sources[part].record(index - self.starts[part]), part, index)

    def _known(self, place: int) -> Record:
        part = self._part(place)
        known = self.sources[part]._known(place - self.starts[part])
        return self._of_whole(known, part, place) if known else {}

    def _part(self, place: int) -> int:
        """The number of the source in which the record of this place is."""
        return next(p for p in range(len(self.sources)) if place < self.starts[p + 1])

    def _of_whole(self, record: Record, part: int, index: int) -> Record:
        """The record of a part with the numbers of the whole."""
        record["index"] = index
        group = own_group(record)
        record["group"] = group_of_part(part, group) if isinstance(group, SupportsIndex) else group
        record["domain"] = self._domains[part].get(record.get("domain", 0), -1)  # 0 where a source is one domain
        if "label" in record:
            label = record["label"]
            record["label"] = self._labels[part].get(label, -1) if self.sources[part].classes else label
        return record


def concat(*sources: Source, name: str | None = None) -> Source:
    """Sources one after the other as one. `index` becomes the place in the whole, since two sources may give one id to
    different records. Groups of different sources are kept apart, classes and domains are merged by their names. A
    source without domains becomes one; where they are numbers without names, each is a domain: 'a.csv 0', 'a.csv 1'.

    >>> cats = Records([{"text": "a cat", "label": 0}], name="cats", classes=["cat"])
    >>> pets = Records([{"text": "a dog", "label": 0}], name="pets", classes=["dog"])
    >>> both = concat(cats, pets)
    >>> both.classes, both.domains, both[1]["label"], both[1]["domain"], both[1]["index"]
    (['cat', 'dog'], ['cats', 'pets'], 1, 1, 1)
    """
    return sources[0] if len(sources) == 1 else Concatenation(sources, name=name)


def _merge(names: Sequence[Sequence[str] | None]) -> tuple[list[str] | None, list[Mapping[int, int]]]:
    """One list of all names, and for each list the map from its numbers to the numbers of the whole."""
    union = list(dict.fromkeys(name for each in names for name in each or ()))
    place = {name: i for i, name in enumerate(union)}
    return union or None, [{i: place[name] for i, name in enumerate(each or ())} for each in names]
