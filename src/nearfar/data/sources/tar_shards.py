"""Shards in the WebDataset form: plain tar files in which `000.jpg`, `000.txt`, `000.json` make one sample.

Only headers, and labels, are read to find the samples; a picture is read, by its place in the file, when it is decoded.
So local shards can be shuffled as freely as a folder, and a process of many reads the bytes of its own samples only.
"""

from __future__ import annotations

import glob
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from nearfar import console, files
from nearfar.data.fields.images import EXTENSIONS
from nearfar.data.sources.arrow import USUAL
from nearfar.data.sources.encoding import decode_text
from nearfar.data.sources.source import Record, Source, Stream, field_of, stored_captions, words
from nearfar.errors import UserError


def shards(
    pattern: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    image: str | None = None,
    text: str | None = None,
    label: str | None = None,
    streaming: bool = False,
    max_skipped: float = 0.1,
) -> Source | Stream:
    """Tar shards on a local disk as records, with the sample's name in `key`.

    Args:
        pattern: a file, a folder of `.tar` files, a glob `data/*.tar`, braces `data/{000..099}.tar`, or a list.
        image, text, label: endings of the members, or keys of the sample's `.json`; by default any image, `txt` (or a
            usual key such as `caption`), and `cls`. Names of classes in place of numbers become numbers, in sorted
            order, and a sample without any caption takes its class for one, as in class folders.
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
        raise UserError(f"{name}: no samples in these shards:\n{source.skipped.listing(5) or ', '.join(paths[:5])}")
    return source


@dataclass(frozen=True)
class TarMember:
    """A file inside a tar file, not yet read."""

    path: str
    name: str
    offset: int
    size: int

    def read(self) -> bytes:
        with open(self.path, "rb") as shard:
            shard.seek(self.offset)
            return shard.read(self.size)


Sample = dict[str, TarMember]
"""The members of one sample by their ending, such as `jpg`."""


class TarSource(Source):
    """Shards whose samples have been listed, so that any can be read by number."""

    def __init__(self, paths: Sequence[str], roles: _MemberRoles, *, name: str) -> None:
        self.name, self._roles = name, roles
        self._samples: list[tuple[str, Sample]] = []
        broken: list[tuple[str, str, int]] = []
        names: set[str] = set()
        for path in console.track(paths, f"reading the shards of {name}"):
            before = len(self._samples)
            trouble: list[str] = []
            for key, sample in scan(path, trouble):
                self._samples.append((key, sample))
                names.add(roles.label_of(sample))
            broken += [(path, why, len(self._samples) - before) for why in trouble]
        # What a truncated shard held is not known: it is taken to have been as long as the whole ones.
        whole = len(paths) - len(broken)
        usual = (len(self._samples) - sum(whole_samples for *_, whole_samples in broken)) / whole if whole else 0
        for path, why, whole_samples in broken:
            self.skipped.add(path, why, count=max(1, round(usual) - whole_samples))
        names.discard("")
        if not all(map(_is_whole, names)):  # numbers stay what they are, as long as none of them is a name
            self.classes = sorted(names)
        self._numbers = {name: i for i, name in enumerate(self.classes or ())}
        self.columns = list(self.record(0)) if self._samples else ["image", "text"]

    def __len__(self) -> int:
        return len(self._samples)

    def record(self, index: int) -> Record:
        return self._roles.record(*self._samples[index], self._numbers)


class TarStream(Stream):
    """Shards read in order, one part each."""

    def __init__(self, paths: Sequence[str], roles: _MemberRoles, *, name: str) -> None:
        self.name, self.paths, self.parts, self._roles = name, list(paths), len(paths), roles
        first = next(iter(self), None)
        if first is None:
            raise UserError(f"{name}: no samples in these shards:\n{self.skipped.listing(5) or ', '.join(paths[:5])}")
        self.columns = list(first)

    def read(self, part: int, skip: int = 0) -> Iterator[Record]:
        trouble: list[str] = []
        for place, (key, sample) in enumerate(scan(self.paths[part], trouble)):
            if place >= skip:
                yield self._roles.record(key, sample)
        for why in trouble:
            self.skipped.add(self.paths[part], why)


def scan(path: str, trouble: list[str]) -> Iterator[tuple[str, Sample]]:
    """The samples of a shard by their names. What is wrong with the shard is put into `trouble`; the samples before
    that place are given all the same."""
    key, sample, samples_read = "", Sample(), 0
    try:
        end = os.path.getsize(path)
        with tarfile.open(path, "r:") as shard:
            for entry in shard:
                if entry.size < 0:  # which would lead back to a header before, over and over
                    raise tarfile.ReadError(f"{entry.name!r} has a negative size")
                folder, _, file = entry.name.rpartition("/")
                stem, _, ending = file.partition(".")
                if not entry.isfile() or not stem or entry.offset_data + entry.size > end:
                    continue
                if (stem := f"{folder}/{stem}" if folder else stem) != key and sample:
                    yield key, sample
                    samples_read, sample = samples_read + 1, {}
                key = stem
                sample[ending.lower()] = TarMember(path, f"{path}/{entry.name}", entry.offset_data, entry.size)
            stopped = shard.offset
        if not _ends_with_zeros(path, stopped):
            trouble.append(f"truncated or broken after {samples_read} samples")
    except Exception as error:  # tarfile meets broken headers with nearly every kind of exception
        trouble.append(f"truncated or broken after {samples_read} samples ({error or type(error).__name__})")
    # The last sample of a truncated shard may lack members, so it is not used.
    if sample and not trouble:
        yield key, sample


def expand(pattern: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    """The tar files that a pattern means.

    Raises `UserError` where one is missing or is not a plain tar file.
    """
    if not isinstance(pattern, str | os.PathLike):
        return [path for each in pattern for path in expand(each)]
    text = os.fspath(pattern)
    if os.path.isdir(text):
        text = os.path.join(glob.escape(text), "*.[tT][aA][rR]")
    shards: list[str] = []
    for each in _braces(text):
        matches = [each] if os.path.isfile(each) else sorted(glob.glob(each))
        if not matches:
            raise UserError(f"{each}: no such shards")
        shards += matches
    packed = [path for path in shards if not path.lower().endswith(".tar")]
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


def _ends_with_zeros(path: str, offset: int) -> bool:
    """A whole tar file ends with blocks of zeros; where one was cut off, or a header is broken, there is something
    else or nothing."""
    with open(path, "rb") as shard:
        shard.seek(max(0, offset - 512))
        return shard.read(512) == bytes(512) or shard.read(512) == bytes(512)


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
    text: str | None
    label: str | None

    def record(self, key: str, sample: Sample, numbers: Mapping[str, int] | None = None) -> Record:
        """The record of a sample; `numbers` are those of the classes where they have names."""
        fields = self._fields(sample)
        # The sample's own notes may use a key that is a number here for words of theirs ("group": "flickr").
        record: Record = {"key": files.one_line(key), **{k: v for k, v in fields.items() if k not in NUMBERS or _is_number(k, v)}}
        endings = [self.image] if self.image else [e[1:] for e in EXTENSIONS]
        record["image"] = next((sample[e] for e in endings if e in sample), None)
        places = [self.text] if self.text else ["txt", *USUAL["text"].split()]
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

    def label_of(self, sample: Sample) -> str:
        """The sample's label, a whole number or the name of a class; "" where there is none. Of its `.json` only a key
        that was named is read: there is much in these that could be a label."""
        member = next((sample[ending] for ending in self._labels if ending in sample), None)
        if member is not None:
            return _class(_notes(member))
        return _class(self._fields(sample).get(self.label)) if self.label else ""

    @property
    def _labels(self) -> list[str]:
        return [self.label] if self.label else ["cls", *USUAL["label"].split()]

    def _fields(self, sample: Sample) -> dict[str, Any]:
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
