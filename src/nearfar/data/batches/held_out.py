"""A share of the data held out of training: what a model is measured on where nobody named other data.

Records that belong together stay on one side: those of one `group`, of one picture, video or sound (the same bytes,
wherever they lie) and of one caption. A side is drawn from the content of a picture, or of a text where there is none,
so that records that are added later do not move those before: only a new record that ties two groups together can.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from nearfar import console
from nearfar.data.sources.record_groups import SKETCH
from nearfar.data.sources.record_numbers import medium_of, own_group
from nearfar.data.sources.record_text import captions
from nearfar.data.sources.skipped import BadRecord
from nearfar.data.sources.source import Source
from nearfar.errors import UserError

BROAD = 0.02
"""Pictures that are tied by captions alone, and are more than this share of all (and more than `FEW`), show a class:
its name as a caption ("a dog" under a thousand pictures) says nothing of a single one, and ties none."""

FEW = 8
"""So many pictures may always share a caption: one thing in several styles."""


def hold_out(source: Source, share: float, *, seed: int = 0) -> tuple[Source, Source]:
    """The records to train on, and those held out.

    Args:
        source: the data.
        share: of the groups, about how many are held out; between 0 and 1. At least one is, and at least one is not.
            A larger share with the same seed holds out the same groups and more.
        seed: another one draws another share.

    Returns:
        two selections of `source`, each in its order; records keep their ids.

    Raises:
        UserError: a stream, a share that is none, data without records, or data that are one single group.

    >>> from nearfar.data import Records
    >>> rows = [{"image": bytes([p]), "text": f"thing {p} in words {c}"} for c in range(2) for p in range(50)]
    >>> trained, held = hold_out(Records(rows), 0.2)
    >>> len(trained), len(held)
    (86, 14)
    >>> {record["image"] for record in trained} & {record["image"] for record in held}
    set()
    """
    if isinstance(share, bool) or not 0 < share < 1:
        raise UserError(f"the share to hold out must be between 0 and 1, not {share!r}: 0.1, say.")
    if not isinstance(source, Source):
        raise UserError(
            f"{getattr(source, 'name', 'this data')} is a stream, which cannot be counted: hold_out_of_stream holds "
            "some of its records out."
        )
    sides = _sides(source, seed)
    chance = {side: fraction for side, fraction in sides if side is not None}
    if len(chance) < 2:
        raise UserError(
            f"{source.name}: no share can be held out of it, as its {len(source)} records are one group (of one "
            "picture, caption or 'group'): name other data to measure on."
        )
    held = {side for side, fraction in chance.items() if fraction < share}
    held = held or {min(chance, key=lambda side: chance[side])}
    if len(held) == len(chance):
        held.remove(max(chance, key=lambda side: chance[side]))
    places: tuple[list[int], list[int]] = ([], [])
    for place, (side, _) in enumerate(sides):
        places[side in held].append(place)
    return source.select(places[0]), source.select(places[1], name=f"{source.name} (held out)")


def folds(source: Source, count: int, *, seed: int = 0) -> list[int]:
    """Of each record the part of the data that it is in, 0 to `count - 1`: parts of about the same number of groups,
    each of which stays together, as in `hold_out`. Where captions leave fewer groups than parts, as the names of a few
    classes of a few pictures do, they tie none. A record that cannot be read is in the first.

    Raises:
        UserError: no records, or fewer groups than parts.

    >>> from nearfar.data import Records
    >>> sorted(set(folds(Records([{"image": bytes([p]), "text": str(p)} for p in range(9)]), 3)))
    [0, 1, 2]
    """
    sides = _sides(source, seed, fewest=count)
    chance = {side: fraction for side, fraction in sides if side is not None}
    if len(chance) < count:
        raise UserError(
            f"{source.name} holds {len(chance)} different things (of one picture, caption or 'group'), and at least "
            f"{count} are needed: bring more data."
        )
    part = {side: place * count // len(chance) for place, side in enumerate(sorted(chance, key=chance.__getitem__))}
    return [0 if side is None else part[side] for side, _ in sides]


def _sides(source: Source, seed: int, *, fewest: int = 1) -> list[tuple[int | None, float]]:
    """Of each record the group that it stays in, by its first record's place, and the group's number from 0 to 1; None
    for a record that cannot be read. Captions tie records as long as at least so many groups are left."""
    if not len(source):
        raise UserError(f"{source.name} holds no records, and none can be held out: name other data.")
    known = [content_at(source, place) for place in console.track(range(len(source)), f"reading {source.name}")]
    groups = _groups(source, known)
    if len(set(map(groups.first, range(len(known))))) < fewest:
        groups = _by_things(known)
    ids = source.ids()
    least: dict[int, tuple[int, bytes]] = {}
    for place, content in enumerate(known):
        if content is not None:
            # A picture goes first: more captions of it then change nothing.
            own = [(0, content.picture)] if content.picture else [(1, text) for text in content.texts]
            own = own or [(2, str(ids[place]).encode())]
            side = groups.first(place)
            least[side] = min([*((rank, digest(key, seed)) for rank, key in own), *filter(None, [least.get(side)])])
    return [
        (None, 0.0) if content is None else (side, fraction(least[side][1]))
        for content, side in zip(known, map(groups.first, range(len(known))), strict=True)
    ]


@dataclass(frozen=True)
class Content:
    """What a record is known by: its picture, video or sound, as far as it tells one from another, its captions and its
    group."""

    picture: bytes | None
    texts: list[bytes]
    group: Any


def _groups(source: Source, known: list[Content | None]) -> _Together:
    """The records that stay together."""
    groups = _by_things(known)
    if "answers" in source.columns:  # the text is a question, which many pictures have
        return groups
    names = {_known_by(name) for name in source.classes or ()}  # which are of a class, however few show it
    tied = groups.copy()
    tied.tie(
        (place, text) for place, content in enumerate(known) if content for text in content.texts if text not in names
    )
    alone = {groups.first(place) for place in range(len(source))}
    size = Counter(map(tied.first, alone))
    for place in alone:
        if size[tied.first(place)] <= max(FEW, BROAD * len(alone)):
            groups.join(place, tied.first(place))
    return groups


def _by_things(known: list[Content | None]) -> _Together:
    """The records of one picture, or of one `group`, together."""
    groups = _Together(len(known))
    groups.tie((place, content.picture) for place, content in enumerate(known) if content and content.picture)
    groups.tie((place, content.group) for place, content in enumerate(known) if content and content.group is not None)
    return groups


def content_at(source: Source, place: int) -> Content | None:
    """What a record is known by; None where it cannot be read."""
    try:
        return content_of(source.record(place))
    except (BadRecord, OSError):
        return None


def content_of(record: Mapping[str, Any]) -> Content:
    """What a record is known by.

    Raises:
        BadRecord, OSError: it cannot be read.
    """
    texts = [_known_by(text) for text in captions(record.get("text"))]
    return Content(_medium(record), texts, own_group(record))


def _known_by(text: str) -> bytes:
    return " ".join(text.casefold().split()).encode()


def _medium(record: Mapping[str, Any]) -> bytes | None:
    """What the record's picture is known by, or its video, which may be a list of frames, or its sound."""
    medium = medium_of(record)
    if "image" in record:
        return _picture(medium)
    if isinstance(medium, Mapping) and medium.get("array") is not None:
        medium = medium["array"]
    parts = [_picture(part) for part in (medium if isinstance(medium, list | tuple) else [medium])]
    known = [part for part in parts if part is not None]
    return b"".join(digest(part, len(part)) for part in known) if known else None


def _picture(image: Any) -> bytes | None:
    """The size of a picture and the bytes in its middle, the same in a file, a table or a tar file; None for one that
    is yet to be drawn, or is not there."""
    if isinstance(image, Mapping):
        image = image["bytes"] if image.get("bytes") is not None else image.get("path")
    if isinstance(image, str | os.PathLike):
        return _middle(os.fspath(image), 0, os.path.getsize(image)) if os.path.isfile(image) else None
    if hasattr(image, "offset") and hasattr(image, "path"):  # a file inside a tar file
        return _middle(image.path, image.offset, image.size)
    if isinstance(image, bytes | bytearray | memoryview):
        start = max(0, len(image) // 2 - SKETCH // 2)
        return b"%d:%b" % (len(image), bytes(image[start : start + SKETCH])) if len(image) else None
    if hasattr(image, "tobytes"):  # a picture of PIL, an array
        shape = f"{getattr(image, 'mode', '')}{getattr(image, 'shape', getattr(image, 'size', ''))}"
        return shape.encode() + image.tobytes()
    return None


def _middle(path: str, first: int, size: int) -> bytes | None:
    start = max(0, size // 2 - SKETCH // 2)
    with open(path, "rb") as file:
        file.seek(first + start)
        return b"%d:%b" % (size, file.read(min(SKETCH, size - start))) if size else None


def digest(key: bytes, seed: int) -> bytes:
    """16 bytes: the first 8 choose the record that speaks for its group, the last 8 say on which side it is."""
    return blake2b(b"%d:" % seed + key, digest_size=16).digest()


def fraction(digest: bytes) -> float:
    """The number from 0 to 1 that says on which side a group is."""
    return int.from_bytes(digest[8:], "big") / 2**64


class _Together:
    """Places that belong together; each set is known by its first place."""

    def __init__(self, size: int) -> None:
        self._up = list(range(size))

    def copy(self) -> _Together:
        """The same sets, to go on with."""
        other = _Together(0)
        other._up = list(self._up)
        return other

    def first(self, place: int) -> int:
        """The first place of a place's set."""
        up = self._up
        while up[place] != place:
            up[place] = place = up[up[place]]
        return place

    def join(self, one: int, other: int) -> None:
        """Make the sets of two places one."""
        one, other = sorted((self.first(one), self.first(other)))
        self._up[other] = one

    def tie(self, keys: Iterable[tuple[int, Any]]) -> None:
        """Join the places of one key."""
        known: dict[Any, int] = {}
        for place, key in keys:
            self.join(place, known.setdefault(key, place))
