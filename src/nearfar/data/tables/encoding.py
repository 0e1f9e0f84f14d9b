"""Text files as people have them: UTF-8, with or without a mark in front, and UTF-16 where it says so."""

from __future__ import annotations

import codecs
import os

REMEDY = "save it as UTF-8"


def decode_text(data: bytes) -> str | None:
    """The text of some bytes, or None if they are in an older encoding, in which no letter is certain.

    >>> decode_text("café".encode()), decode_text("café".encode("utf-16")), decode_text("café".encode("latin-1"))
    ('café', 'café', None)
    """
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        return None


def line_not_utf8(path: str | os.PathLike[str]) -> int | None:
    """The number of the first line of a file that is not UTF-8; None if all are."""
    decoder, number = codecs.getincrementaldecoder("utf-8")(), 1
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            try:
                decoder.decode(piece)
            except UnicodeDecodeError as error:
                # `error.object` is the piece, with what was left of a letter before it.
                return number + error.object[: error.start].count(b"\n")
            number += piece.count(b"\n")
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return number
    return None
