"""Shards in the WebDataset form: plain tar files in which `000.jpg`, `000.txt`, `000.json` make one sample.

Only headers, and labels, are read to find the samples; a picture is read, by its place in the file, when it is decoded.
So local shards can be shuffled as freely as a folder, and a process of many reads the bytes of its own samples only.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from nearfar import console, files
from nearfar.data.pictures.images import EXTENSIONS
from nearfar.data.sources.record_text import captions, field_of, stored_captions, words
from nearfar.data.sources.skipped import BadRecord, Skipped
from nearfar.data.sources.source import Record, Source, Stream
from nearfar.data.sources.tar_members import Endings, Sample, TarMember, samples
from nearfar.data.tables.arrow import USUAL
from nearfar.data.tables.encoding import decode_text
from nearfar.data.tables.first_row import check_field
from nearfar.errors import UserError


def shards(
    pattern: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    image: str | None = None,
    text: str | tuple[()] | None = None,
    label: str | None = None,
    streaming: bool = False,
    max_skipped: float = 0.1,
) -> Source | Stream:
    """Tar shards on a local disk as records, with the sample's name in `key`. Hidden files are passed over; what
    belongs to no sample is counted in `skipped`, with its tar and key.

    Args:
        pattern: a file, a folder of `.tar` files, a glob `data/*.tar`, braces `data/{000..099}.tar`, or a list.
        image, text, label: endings of the members, or keys of the sample's `.json`; by default any image, `txt` (or a
            usual key such as `caption`), and `cls`. Names of classes in place of numbers become numbers, in sorted
            order, and a sample without any caption takes its class for one, as in class folders. An empty `text` reads
            no members and no keys for captions.
        streaming: read shards in order without listing their samples first; gives a `Stream`. For so many samples that
            a list of them does not fit in memory. It has no numbers for names of classes, which nobody knows all yet.
        max_skipped: share of samples that may be lost to broken or truncated shards; they are in `skipped`.

    Raises:
        UserError: no such shards, no samples with images in them, or more than `max_skipped` of them lost.
    """
    paths = expand(pattern)
    roles = _MemberRoles(image, text, label)
    name = Path(paths[0]).stem if len(paths) == 1 else f"{Path(paths[0]).stem}...{Path(paths[-1]).stem}"
    if streaming:
        return TarStream(paths, roles, name=name)
    source = TarSource(paths, roles, name=name)
    lost = source.skipped.count
    source.skipped.check(len(source) + lost, limit=max_skipped, name=name, total=len(source) + lost)
    if not len(source):
        raise UserError(f"{name}: no samples in these shards:\n{source.skipped.reasons(5) or ', '.join(paths[:5])}")
    return source


class TarSource(Source):
    """Shards whose samples have been listed, so that any can be read by number."""

    def __init__(self, paths: Sequence[str], roles: _MemberRoles, *, name: str) -> None:
        self.name, self._roles = name, roles
        self._samples: list[tuple[str, Sample]] = []
        broken: list[tuple[str, str, int]] = []
        without: list[tuple[str, Sample]] = []
        for path in console.track(paths, f"reading the shards of {name}"):
            read, trouble = samples(path, roles.endings, self.skipped)
            for key, sample in read:
                (self._samples if roles.picture_of(sample) else without).append((key, sample))
            if trouble is not None:
                broken.append((path, trouble, len(read)))
        self._samples = _usable(self._samples, without, roles, self.skipped)
        # What a truncated shard held is not known: it is taken to have been as long as the whole ones.
        whole = len(paths) - len(broken)
        usual = (len(self._samples) - sum(whole_samples for *_, whole_samples in broken)) / whole if whole else 0
        for path, why, whole_samples in broken:
            self.skipped.add(path, why, count=max(1, round(usual) - whole_samples))
        names = {roles.label_of(sample) for _, sample in self._samples} - {""}
        if not all(map(_is_whole, names)):  # numbers stay what they are, as long as none of them is a name
            self.classes = sorted(names)
        self._numbers = {name: i for i, name in enumerate(self.classes or ())}
        if self._samples:
            roles.check_caption(*self._samples[0], name=name)
        self.columns = list(self.record(0)) if self._samples else ["image", "text"]

    def __len__(self) -> int:
        return len(self._samples)

    def record(self, index: int) -> Record:
        return self._roles.record(*self._samples[index], self._numbers)

    @property
    def fields(self) -> list[str]:
        """Keys of the `.json` of the first sample."""
        return list(self._roles.fields_of(self._samples[0][1])) if self._samples else []

    def cells(self, columns: Sequence[str]) -> Callable[[int], dict[str, Any]]:
        """A function from a sample's number to its values in some columns: keys of its `.json` as they stand there,
        `__key__`, its name, and `__url__`, its shard."""
        from_notes = set(columns) - {"__key__", "__url__"}

        def read(place: int) -> dict[str, Any]:
            key, sample = self._samples[place]
            fields = self._roles.fields_of(sample) if from_notes else {}
            known = {
                **fields,
                "__key__": files.one_line(key),
                "__url__": next((member.path for member in sample.values()), None),
            }
            return {column: known[column] for column in columns if column in known}

        return read


class TarStream(Stream):
    """Shards read in order, one part each."""

    def __init__(self, paths: Sequence[str], roles: _MemberRoles, *, name: str) -> None:
        self.name, self.paths, self.parts, self._roles = name, list(paths), len(paths), roles
        first = next(iter(self), None)
        if first is None:
            raise UserError(f"{name}: no samples in these shards:\n{self.skipped.reasons(5) or ', '.join(paths[:5])}")
        self.columns = list(first)

    def read(self, part: int, skip: int = 0) -> Iterator[Record]:
        read, trouble = samples(self.paths[part], self._roles.endings, self.skipped)
        pictured = [each for each in read if self._roles.picture_of(each[1])]
        bare = [each for each in read if not self._roles.picture_of(each[1])]
        usable = _usable(pictured, bare, self._roles, self.skipped)
        # What is unusable is known of the whole shard now, of which the first row is still to be read.
        self.skipped.note_usable(self.paths[part], len(usable))
        for key, sample in usable[skip:]:
            yield self._roles.record(key, sample)
        if trouble is not None:
            self.skipped.add(self.paths[part], trouble)


def _usable(
    pictured: list[tuple[str, Sample]], bare: list[tuple[str, Sample]], roles: _MemberRoles, skipped: Skipped
) -> list[tuple[str, Sample]]:
    """The samples that make records: those with a picture, or where there is none those with a text or a label. The
    others, and pictures of a sample beside the one that is read, are counted."""
    if not pictured:
        pictured, bare = [each for each in bare if roles.has_notes(each[1])], []
    for key, sample in bare:
        where = f"{next(iter(sample.values())).path}/{key}"
        skipped.add(where, f"no picture: its files end in {', '.join(sample)}; image=ENDING names another")
    for _, sample in pictured:
        for ending in roles.unread_pictures(sample):
            used = sample[roles.picture_of(sample) or ending].name
            why = f"another picture of the same key, {used}, is read: image={ending} takes this one"
            skipped.add(sample[ending].name, why)
    return pictured


def expand(pattern: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], *, ending: str = ".tar") -> list[str]:
    """The tar files, or those of another ending, that a pattern means.

    Raises `UserError` where one is missing or is not a plain file of this ending.
    """
    if not isinstance(pattern, str | os.PathLike):
        return [path for each in pattern for path in expand(each, ending=ending)]
    text = os.fspath(pattern)
    if os.path.isdir(text):
        text = os.path.join(glob.escape(text), "*.[tT][aA][rR]")
    shards: list[str] = []
    for each in _braces(text):
        matches = [each] if os.path.isfile(each) else sorted(glob.glob(each))
        if not matches:
            raise UserError(f"{each}: no such shards")
        shards += matches
    packed = [path for path in shards if not path.lower().endswith(ending)]
    if packed and ending != ".tar":
        raise UserError(f"{packed[0]}: shards must all be {ending} files, as the first is")
    if packed:
        raise UserError(f"{packed[0]}: shards must be plain .tar files; unpack compressed ones (images gain nothing)")
    return shards


def _braces(text: str) -> list[str]:
    """
    >>> _braces("s-{08..10}.tar")
    ['s-08.tar', 's-09.tar', 's-10.tar']
    """
    match = re.search(r"\{(\d+)\.\.(\d+)\}", text)
    if match is None:
        return [text]
    first, last = match.groups()
    numbers = (f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1))
    return [each for n in numbers for each in _braces(text[: match.start()] + n + text[match.end() :])]


NOTES = 1 << 24
"""Bytes of a sample's text or JSON that are read; a longer one is no caption."""

NUMBERS = ("label", "domain", "group", "index", "weight")
"""Keys of a record that hold numbers."""


def _class(value: Any) -> str:
    """What a label says, as text: a whole number or the name of a class; "" where it is neither, but a score or several
    labels.

    >>> [_class(value) for value in (" -3\\n", "red_fox\\n", 7, "0.5", "1, 2", None)]
    ['-3', 'red_fox', '7', '', '', '']
    """
    if isinstance(value, int):
        return str(int(value))
    text = value.strip() if isinstance(value, str) else ""
    return text if _is_whole(text) or not all(map(_is_numeral, re.split(r"[\s,;]+", text))) else ""


def _is_whole(text: str) -> bool:
    return re.fullmatch("[+-]?[0-9]{1,18}", text) is not None


def _is_numeral(text: str) -> bool:
    try:
        float(text or 0)
    except ValueError:
        return False
    return True


def _is_number(key: str, value: Any) -> bool:
    if key == "weight":
        return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _notes(member: TarMember) -> str | None:
    """The text of a member; None where it cannot be read or is too long."""
    try:
        return decode_text(member.read()) if member.size <= NOTES else None
    except OSError:
        return None


@dataclass(frozen=True)
class _MemberRoles:
    image: str | None
    text: str | tuple[()] | None
    label: str | None

    def record(self, key: str, sample: Sample, numbers: Mapping[str, int] | None = None) -> Record:
        """The record of a sample; `numbers` are those of the classes where they have names."""
        fields = self.fields_of(sample)
        # The sample's own notes may use a key that is a number here for words of theirs ("group": "flickr").
        record: Record = {
            "key": files.one_line(key),
            **{k: v for k, v in fields.items() if k not in NUMBERS or _is_number(k, v)},
        }
        record.pop("image", None)  # a name in the notes is no picture of this sample
        if (picture := self.picture_of(sample)) is not None:
            record["image"] = sample[picture]
        places = self._texts
        text = self._value(sample, fields, places)
        record["text"] = stored_captions(text.splitlines() if isinstance(text, str) else text)
        label = self.label_of(sample)
        if (
            label
            and (numbers or not _is_whole(label))
            and not any(place in sample or place in fields for place in places)
        ):
            record["text"] = [words(label)]
        if numbers:
            return record | {"label": numbers.get(label, -1)}
        label = label or _class(next((fields[name] for name in self._labels if name in fields), None))
        return record | {"label": int(label)} if _is_whole(label) else record

    def check_caption(self, key: str, sample: Sample, *, name: str) -> None:
        """Raise UserError where the caption of a sample is an object, none of whose fields was named."""
        fields = self.fields_of(sample)
        try:
            captions(self._value(sample, fields, self._texts))
        except BadRecord as problem:
            column = next((each for each in self._texts if each in fields), self.text or "COLUMN")
            raise UserError(
                f"{name}: {files.one_line(key)}.json, {column!r}: {str(problem).replace('COLUMN', column)}"
            ) from None
        if isinstance(self.text, str) and self.text.partition(".")[0] in fields:
            check_field(fields, self.text, f"{name}: {files.one_line(key)}.json")

    def label_of(self, sample: Sample) -> str:
        """The sample's label, a whole number or the name of a class; "" where there is none. Of its `.json` only a key
        that was named is read: there is much in these that could be a label."""
        member = next((sample[ending] for ending in self._labels if ending in sample), None)
        if member is not None:
            return _class(_notes(member))
        return _class(self.fields_of(sample).get(self.label)) if self.label else ""

    @property
    def endings(self) -> Endings:
        """The endings that mean something."""
        return Endings(self._pictures, {*self._texts, *self._labels, "json"})

    def picture_of(self, sample: Sample) -> str | None:
        """The ending of a sample's picture."""
        return next((ending for ending in self._pictures if ending in sample), None)

    def unread_pictures(self, sample: Sample) -> list[str]:
        """The endings of a sample's other pictures, where none was named."""
        return [] if self.image else [e for e in self._pictures if e in sample and e != self.picture_of(sample)]

    def has_notes(self, sample: Sample) -> bool:
        """Whether a sample has a text, a label or a `.json`."""
        return any(ending in sample for ending in self.endings.notes)

    @property
    def _pictures(self) -> list[str]:
        return [self.image.lower().lstrip(".")] if self.image else [ending[1:] for ending in EXTENSIONS]

    @property
    def _texts(self) -> list[str]:
        if self.text is None:
            return ["txt", *USUAL["text"].split()]
        return [self.text] if isinstance(self.text, str) else []

    @property
    def _labels(self) -> list[str]:
        return [self.label] if self.label else ["cls", *USUAL["label"].split()]

    def fields_of(self, sample: Sample) -> dict[str, Any]:
        if "json" not in sample:
            return {}
        try:
            fields = json.loads(_notes(sample["json"]) or "")
        except (ValueError, RecursionError):
            # Broken, or nested without end: no caption, unless there is a text file too, and counted as such.
            return {}
        return fields if isinstance(fields, dict) else {}

    @staticmethod
    def _value(sample: Sample, fields: dict[str, Any], names: Sequence[str]) -> Any:
        for name in names:
            if name in sample:
                return _notes(sample[name])  # None: no caption that can be read, and so none
            if (value := field_of(fields, [name] if name in fields else name.split("."))) is not None:
                return value
        return None
