"""Sounds from a folder or a table; captions as for pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from nearfar.data.sources.image_folder import Captions, Media, media_folder
from nearfar.data.sources.source import Record, Source
from nearfar.data.tables.table_files import READERS, table
from nearfar.errors import UserError

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
    columns = {"text": text, "label": label, "domain": domain, "group": group}
    columns = {role: column for role, column in columns.items() if column is not None}
    root = Path(path)
    if root.suffix.lower() in READERS and not root.is_dir():
        if split is not None or captions not in (None, "none"):
            raise UserError(f"{root}: a table has no splits, and its captions are a column: text=COLUMN")
        columns |= {"text": ()} if captions == "none" else {}
        return as_sounds(table(root, image=audio or "audio", **columns))  # type: ignore[arg-type]
    columns |= {} if audio is None else {"image": audio}
    return as_sounds(media_folder(path, SOUNDS, columns, split=split, captions=captions, max_skipped=max_skipped))


def as_sounds(source: Source) -> Source:
    """The same records with `audio` in place of `image`.

    >>> from nearfar.data import Records
    >>> as_sounds(Records([{"image": "a.wav", "text": ["a dog barks"]}], name="clips"))
    <clips: 1 records of audio, text>
    """
    columns = ["audio" if column == "image" else column for column in source.columns]
    return source.map(_renamed, columns=columns)


def _renamed(record: Record) -> Record:
    return {("audio" if key == "image" else key): value for key, value in record.items()}
