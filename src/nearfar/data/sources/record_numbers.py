"""The numbers that a record is known by: its id, its group and its domain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from operator import index
from typing import Any, SupportsIndex

from nearfar.errors import UserError

MEDIA = ("image", "video", "audio")
"""Keys of records under which a picture, a video and a sound lie."""


UNSEEN = "\0\u200b\u200c\u200d\u2060\ufeff \t\n"
"""Letters that nobody sees: a text of these alone is none."""

WRITTEN_BLANKS = ("", "nan", "null", "none", "na", "n/a", "<na>")


def record_id(record: Mapping[str, Any], place: int, *, name: str = "source") -> int:
    """A record's own id, or else its place.

    Raises:
        UserError: an id that is no whole number of 64 bits.

    >>> record_id({"index": 17}, 3), record_id({}, 3)
    (17, 3)
    """
    own = record.get("index")
    if own is None:
        return place
    try:
        number = None if isinstance(own, bool) else index(own)
    except TypeError:
        number = None
    if number is None or not -(2**63) <= number < 2**63:
        raise UserError(
            f"{name}, record {place}: its index is {own!r}, but an id is a whole number below 2**63: number the "
            "records, or give this key another name"
        )
    return number


def with_id(record: dict[str, Any], place: int) -> dict[str, Any]:
    """The record with the id `place`, if it has none of its own."""
    return record if record.get("index") is not None else {**record, "index": place}


def stream_place(part: int, number: int) -> int:
    """The place of a stream's record: the id of a record that has none of its own."""
    return (part << 32) + number


def numbered(stream: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """A stream's records in its own order, each with its place."""
    for part in range(stream.parts):
        for number, record in enumerate(stream.read(part)):
            yield stream_place(part, number), record


def own_group(record: Mapping[str, Any]) -> Any:
    """The `group` that a record brings, None for a blank.

    >>> own_group({"group": 3}), own_group({"group": -1}), own_group({"group": "NaN"}), own_group({})
    (3, None, None, None)
    """
    group = record.get("group")
    if is_blank(group):
        return None
    return None if isinstance(group, int | float) and group < 0 else group


def is_blank(value: Any) -> bool:
    """Whether a cell says nothing: it is null, NaN, empty, or how programs write these as text.

    >>> is_blank(float("nan")), is_blank(" "), is_blank("NaN"), is_blank("nano"), is_blank(0)
    (True, True, True, False, False)
    """
    if isinstance(value, str):
        return value.strip().lower() in WRITTEN_BLANKS
    return value is None or value != value


def group_of_part(part: int, group: SupportsIndex) -> int:
    """A group's number where sources are joined: groups of different sources have nothing to do with one another. Large
    numbers, those of sources joined before among them, are mixed.

    >>> group_of_part(1, 2) == (1 << 40) + 2, group_of_part(0, 1 << 40) == group_of_part(1, 0)
    (True, False)
    """
    group = index(group)
    if group < 1 << 40:
        return (part << 40) + group
    digest = sha256(f"{part}:{group}".encode()).digest()
    return (1 << 61) + int.from_bytes(digest[:7], "big")


def domain_names(source: Any) -> dict[int, str]:
    """The domains of a source by their numbers, for joining it with others: numbers without names get the source's name
    before them, and a source without any is one domain, 0.

    >>> from nearfar.data import Records
    >>> domain_names(Records([{"domain": 3}, {"domain": -1}], name="a.csv")), domain_names(Records([{}], name="b.csv"))
    ({3: 'a.csv 3'}, {0: 'b.csv'})
    """
    if not source.domains and "domain" in source.columns:
        numbers = {each for each in source.column("domain") if isinstance(each, int) and each >= 0}
        if numbers:
            return {number: f"{source.name} {number}" for number in sorted(numbers)}
    return dict(enumerate(source.domains or [source.name]))


def medium_of(record: Mapping[str, Any]) -> Any:
    """The record's picture, else its video, else its sound, undecoded; None where it has none of them.

    >>> medium_of({"audio": "a.wav", "text": "a dog barks"})
    'a.wav'
    """
    return next((record[key] for key in MEDIA if key in record), None)
