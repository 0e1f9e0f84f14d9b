"""Ogg files that hold several streams one after the other (RFC 3533: chained), as a radio's recording does, or files
that were joined. libsndfile 1.2.2 reads the first of them and says that this is all there is."""

from __future__ import annotations

from pathlib import Path

MARK = b"OggS"
HEADER = 27
"""Bytes of a page before its table of segments."""
FIRST = 2
"""The flag of a page with which a stream begins."""
LARGEST = 65_307
"""Bytes of the largest page."""


def ogg_links(content: Path | bytes) -> list[bytes]:
    """The links of a chain, each an Ogg file by itself; empty where there is one alone, or no Ogg file.

    A link begins with the first pages of its streams; those that lie side by side, as of a picture and a sound, are of
    one link.

    >>> def page(flag, stream):
    ...     return MARK + bytes([0, flag]) + bytes(8) + bytes([stream]) + bytes(11) + bytes([1, 3]) + b"abc"
    >>> [len(link) for link in ogg_links(page(2, 1) + page(4, 1) + page(2, 2) + page(0, 2) + page(4, 2))]
    [62, 93]
    >>> ogg_links(page(2, 1) + page(2, 2) + page(4, 1) + page(4, 2)), ogg_links(b"RIFF")
    ([], [])
    """
    if not _may_be_chained(content):
        return []
    whole = content.read_bytes() if isinstance(content, Path) else content
    begins, place, before = [], 0, 0
    while whole[place : place + 4] == MARK and len(whole) >= place + HEADER:
        flags, segments = whole[place + 5], whole[place + 26]
        if flags & FIRST and not before & FIRST:
            begins.append(place)
        before = flags
        place += HEADER + segments + sum(whole[place + HEADER : place + HEADER + segments])
    if len(begins) < 2:
        return []
    return [whole[start:stop] for start, stop in zip(begins, [*begins[1:], len(whole)], strict=True)]


def _may_be_chained(content: Path | bytes) -> bool:
    """Whether the last page is of another stream than the first: else nothing need be walked through."""
    if isinstance(content, Path):
        with content.open("rb") as file:
            head = file.read(HEADER)
            file.seek(max(0, content.stat().st_size - LARGEST - HEADER))
            tail = file.read()
    else:
        head, tail = content[:HEADER], content[-LARGEST - HEADER :]
    if head[:4] != MARK:
        return False
    last = tail.rfind(MARK)
    return tail[last + 14 : last + 18] != head[14:18]
