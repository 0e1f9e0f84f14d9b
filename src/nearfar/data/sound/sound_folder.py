"""Sounds from a folder or a table; captions as for pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence

from nearfar.data.sources.image_folder import Captions, Media
from nearfar.data.sources.media_source import media_source
from nearfar.data.sources.source import Source

ENDINGS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64")
"""Names of files that libsndfile reads."""

SOUNDS = Media(
    "sounds",
    ENDINGS,
    (".m4a", ".aac", ".wma", ".amr", ".ape", ".ra"),
    "sounds are not read: convert it to .wav or .flac",
)


def sounds(
    path: str | os.PathLike[str],
    *,
    split: str | None = None,
    captions: Captions | None = None,
    audio: str | None = None,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    domain: str | None = None,
    group: str | None = None,
    max_skipped: float = 0.1,
) -> Source:
    """Sounds below a folder, or of a table: what `folder` and `table` do for pictures, with `audio` in the records in
    place of `image`. Nothing is decoded when it is opened.

    Args:
        path: a folder of `.wav`, `.flac`, `.ogg`, `.opus`, `.mp3`, `.aiff` ... files, or a table (`.csv`, `.tsv`,
            `.jsonl`, `.parquet`) with a column of paths.
        split, captions, max_skipped: as for `folder`.
        audio: the column of sounds, by default `audio`; in a folder's own table by default as for `folder`.
        text, label, domain, group: further columns, as for `table`.

    Raises:
        UserError: no such folder or file, no sound in it, or more than `max_skipped` of them unusable.
    """
    named = {"text": text, "label": label, "domain": domain, "group": group}
    return media_source(
        path, SOUNDS, "audio", column=audio, split=split, captions=captions, max_skipped=max_skipped, **named
    )
