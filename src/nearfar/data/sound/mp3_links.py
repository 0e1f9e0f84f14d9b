"""MP3 files that were joined by writing one behind the other. Each begins with a frame that states its length in bytes
(Xing's, or LAME's), by which libsndfile 1.2.2 ends after the first and says that this is all there is."""

from __future__ import annotations

from mmap import ACCESS_READ, mmap
from pathlib import Path

TAGS = (b"Xing", b"Info")
FRAMES, BYTES = 1, 2
"""Flags: the tag states the number of frames, of bytes."""
LARGEST = 1 << 10
"""The tag lies within so many bytes of its frame's beginning."""


def mp3_links(content: Path | bytes) -> list[bytes]:
    """The files that were joined, each an MP3 file by itself; empty where there is one alone, or no MP3 file.

    One ends where its first frame says, if another with such a frame begins there; what states no length is left as it
    is.

    >>> frame = b"\\xff\\xfb\\x90\\x00" + bytes(32) + b"Info" + bytes([0, 0, 0, BYTES, 0, 0, 0, 60]) + bytes(12)
    >>> [len(link) for link in mp3_links(frame + frame)], mp3_links(frame), mp3_links(b"RIFF")
    ([60, 60], [], [])
    """
    if isinstance(content, bytes):
        return _links_in(content)
    if not content.stat().st_size:
        return []
    # Of a file that is one alone, and may be long, its beginning is read.
    with content.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as mapped:
        return _links_in(mapped)


def _links_in(content: bytes | mmap) -> list[bytes]:
    links, begin = [], 0
    while (end := _end(content, begin)) is not None and _end(content, end) is not None:
        links.append(content[begin:end])
        begin = end
    return [*links, content[begin:]] if links else []


def _end(content: bytes | mmap, begin: int) -> int | None:
    """Where the file that begins here says that it ends; None where there is none, or it does not say."""
    start = begin
    if content[start : start + 3] == b"ID3" and len(content) >= start + 10:
        size = 0
        for byte in content[start + 6 : start + 10]:
            size = size << 7 | byte & 127
        start += 10 + size
    if not _audio(content[start : start + 2]):
        return None
    places = [content.find(tag, start, start + LARGEST) for tag in TAGS]
    place = min((each for each in places if each >= 0), default=None)
    if place is None or len(content) < place + 16 or not content[place + 7] & BYTES:
        return None
    where = place + 8 + 4 * (content[place + 7] & FRAMES)
    end = start + int.from_bytes(content[where : where + 4], "big")
    end += 128 if content[end : end + 3] == b"TAG" else 0  # ID3's first version stands at the end
    return end if start < end <= len(content) else None


def _audio(head: bytes) -> bool:
    """Whether a frame of audio begins here."""
    return len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0
