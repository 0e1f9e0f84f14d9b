"""Records held out of a stream, which nobody can count: by the same hash of their content as in `hold_out`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from nearfar.data.batches.held_out import BROAD, FEW, Content, content_of, digest, fraction
from nearfar.data.sources.record_numbers import numbered, stream_place, with_id
from nearfar.data.sources.skipped import BadRecord
from nearfar.data.sources.source import Record, Records, Stream
from nearfar.errors import UserError

MOST = 2000
"""So many records are held out at most: enough for a figure, and they are kept in memory."""


def hold_out_of_stream(stream: Stream, share: float, *, most: int = MOST, seed: int = 0) -> tuple[Stream, Records]:
    """The stream without some of its first records, and these.

    The stream is read until `most` records are held out, once. Those that follow are trained on, unless they have a
    `group`, a picture or a caption of one that is held out. A caption that many of the records read have (a class's
    name) ties none.

    Args:
        stream: the data.
        share: of the records read, about how many are held out; chosen as by `hold_out`.
        most: how many are held out at most.
        seed: another one draws others.

    Returns:
        the stream to train on, and the records held out. Records keep their places as ids.

    Raises:
        UserError: a share that is none, or a stream so short that nothing is held out of it.
    """
    if isinstance(share, bool) or not 0 < share < 1:
        raise UserError(f"the share to hold out must be between 0 and 1, not {share!r}: 0.1, say.")
    held: list[Record] = []
    keys: set[bytes] = set()
    texts: set[bytes] = set()
    common: Counter[bytes] = Counter()
    read = 0
    for place, record in numbered(stream):
        if (content := _content(record)) is None:
            continue
        read += 1
        common.update(set(content.texts))
        own = _keys(content, place)
        if fraction(digest(own[0], seed)) < share:
            held.append(with_id(dict(record), place))
            keys.update(own)
            texts.update(content.texts)
            if len(held) == most:
                break
    if not held:
        raise UserError(
            f"{stream.name}: a share of {share} holds none of its {read:,} records out: raise it, or name other data "
            "to validate on."
        )
    texts = {text for text in texts if common[text] <= max(FEW, BROAD * read)}
    name = f"{len(held):,} of the first {read:,} records of {stream.name} (held out)"
    kept = Records(held, name=name, classes=stream.classes, domains=stream.domains)
    return _WithoutHeld(stream, keys, texts), kept


class _WithoutHeld(Stream):
    """A stream without the records of some groups and pictures (or other keys), and of some captions."""

    def __init__(self, stream: Stream, keys: set[bytes], texts: set[bytes]) -> None:
        self.stream, self.keys, self.texts = stream, keys, texts
        self.name, self.columns, self.parts = stream.name, stream.columns, stream.parts
        self.classes, self.domains = stream.classes, stream.domains
        self._skipped = stream.skipped

    def read(self, part: int, skip: int = 0) -> Iterator[Record]:
        left = skip
        for number, record in enumerate(self.stream.read(part)):
            place = stream_place(part, number)
            content = _content(record)
            if content is not None and (
                not self.keys.isdisjoint(_keys(content, place)) or not self.texts.isdisjoint(content.texts)
            ):
                continue
            if left:
                left -= 1
            else:
                yield with_id(record, place)


def _content(record: Mapping[str, Any]) -> Content | None:
    """What a record is known by; None where it cannot be read."""
    try:
        return content_of(record)
    except (BadRecord, OSError):
        return None


def _keys(content: Content, place: int) -> list[bytes]:
    """What ties a record to others; the first speaks for it: its group, else its picture, else its captions."""
    group = [] if content.group is None else [f"group {content.group}".encode()]
    picture = [] if content.picture is None else [content.picture]
    return [*group, *picture] or [b"\n".join(content.texts) or str(place).encode()]
