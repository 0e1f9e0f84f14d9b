"""From the members of a tar file to samples: which files belong together, and which to none.

The key of a member is its path up to the first dot of its name, as WebDataset has it, so `000.seg.png` belongs to
`000`. But names that people give hold dots: where nothing of a key has a plain ending, or where what stands before the
last dot has a picture and a caption of its own (`img_1.1.jpg` and `img_1.1.txt`), the key goes up to the last dot.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from nearfar.data.sources.skipped import Skipped


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


@dataclass(frozen=True)
class Endings:
    """The endings that mean something: those of pictures, and those of captions, labels and notes."""

    pictures: Collection[str]
    notes: Collection[str]


def samples(path: str, endings: Endings, skipped: Skipped) -> tuple[list[tuple[str, Sample]], str | None]:
    """The samples of a shard with their keys, in the order of their first members, and what is wrong with the shard.

    Members that are not adjacent are put together. A key that is there twice makes two samples where each has the same
    endings; else, as what belongs to no sample, it is counted in `skipped`. Of a broken shard the samples before that
    place are returned, without the last, which may lack members.
    """
    members, trouble = _members(path, skipped)
    keys = _keys(members, endings)
    by_key: dict[str, list[tuple[int, str, TarMember]]] = {}
    for place, (member, (key, ending)) in enumerate(zip(members, keys, strict=True)):
        by_key.setdefault(key, []).append((place, ending, member))
    if trouble is not None and members:
        del by_key[keys[-1][0]]
    read: list[tuple[int, str, Sample]] = []
    for key, parts in by_key.items():
        pieces = _pieces(parts)
        if len({frozenset(piece) for _, piece in pieces}) > 1:
            most = max(Counter(ending for _, ending, _ in parts).values())
            skipped.add(
                f"{path}/{key}", "the key is there twice, and which files belong together is unclear", count=most
            )
            continue
        read += [(place, key, piece) for place, piece in pieces]
    read.sort(key=lambda each: each[0])
    if trouble is not None:
        trouble = f"truncated or broken after {len(read)} samples{trouble}"
    return [(key, sample) for _, key, sample in read], trouble


def _members(path: str, skipped: Skipped) -> tuple[list[TarMember], str | None]:
    """The files in a tar file that have an ending, and why reading it stopped, if it did before the end."""
    members: list[TarMember] = []
    try:
        end = os.path.getsize(path)
        with tarfile.open(path, "r:") as shard:
            for entry in shard:
                if entry.size < 0:  # which would lead back to a header before, over and over
                    raise tarfile.ReadError(f"{entry.name!r} has a negative size")
                name = entry.name.rpartition("/")[2]
                if entry.isdir() or name.startswith(".") or re.fullmatch(r"__.*__(\..*)?", name):
                    continue  # hidden files, and WebDataset's notes on a whole shard
                if not entry.isfile():
                    skipped.add(f"{path}/{entry.name}", "not a file but a link, which is not followed in a shard")
                elif "." not in name:
                    skipped.add(f"{path}/{entry.name}", "a name without an ending belongs to no sample")
                elif entry.offset_data + entry.size <= end:
                    members.append(TarMember(path, f"{path}/{entry.name}", entry.offset_data, entry.size))
            stopped = shard.offset
        return members, None if _ends_with_zeros(path, stopped) else ""
    except Exception as error:  # tarfile meets broken headers with nearly every kind of exception
        return members, f" ({error or type(error).__name__})"


def _keys(members: Sequence[TarMember], endings: Endings) -> list[tuple[str, str]]:
    """The key and the ending of each member."""
    known = {*endings.pictures, *endings.notes}
    split = [_split(member) for member in members]
    own: dict[str, set[str]] = defaultdict(set)
    inner: dict[tuple[str, str], set[str]] = defaultdict(set)
    for key, middle, last in split:
        own[key].add(f"{middle}{last}".lower())
        inner[key, middle].add(last)

    def is_of_the_name(key: str, middle: str, last: str) -> bool:
        if not middle or f"{middle}{last}".lower() in known:
            return False
        lasts = inner[key, middle]
        return not own[key] & known or bool(lasts & {*endings.pictures} and lasts & {*endings.notes})

    return [
        (f"{key}.{middle[:-1]}", last) if is_of_the_name(key, middle, last) else (key, f"{middle}{last}".lower())
        for key, middle, last in split
    ]


def _split(member: TarMember) -> tuple[str, str, str]:
    """The path up to the first dot of the name, what stands between that and the last dot, and the last ending.

    >>> _split(TarMember("s.tar", "s.tar/x.y/000.Seg.PNG", 0, 1)), _split(TarMember("s.tar", "s.tar/a.jpg", 0, 1))
    (('x.y/000', 'Seg.', 'png'), ('a', '', 'jpg'))
    """
    folder, _, name = member.name.removeprefix(f"{member.path}/").rpartition("/")
    key, _, ending = name.partition(".")
    middle, dot, last = ending.rpartition(".")
    return f"{folder}/{key}" if folder else key, f"{middle}{dot}", last.lower()


def _pieces(parts: Sequence[tuple[int, str, TarMember]]) -> list[tuple[int, Sample]]:
    """The members of one key, by place and ending, as one sample where no ending is there twice; else cut where one
    comes again, and where others lie between."""
    if len({ending for _, ending, _ in parts}) == len(parts):
        return [(parts[0][0], {ending: member for _, ending, member in parts})]
    pieces: list[tuple[int, Sample]] = []
    before = -2
    for place, ending, member in parts:
        if place != before + 1 or ending in pieces[-1][1]:
            pieces.append((place, {}))
        pieces[-1][1][ending] = member
        before = place
    return pieces


def _ends_with_zeros(path: str, offset: int) -> bool:
    """A whole tar file ends with blocks of zeros; where one was cut off, or a header is broken, there is something
    else or nothing."""
    with open(path, "rb") as shard:
        shard.seek(max(0, offset - 512))
        return shard.read(512) == bytes(512) or shard.read(512) == bytes(512)
