"""Sources of videos and sounds: read as pictures are, in a folder or a table, under a key of their own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from nearfar.data.sources.image_folder import Captions, Media, media_folder
from nearfar.data.sources.source import Record, Source
from nearfar.data.tables.table_files import READERS, table
from nearfar.errors import UserError


def media_source(
    path: str | os.PathLike[str],
    media: Media,
    side: str,
    *,
    column: str | None,
    split: str | None,
    captions: Captions | None,
    max_skipped: float,
    **columns: str | Sequence[str] | None,
) -> Source:
    """What `folder` and `table` open of pictures, of this medium: with `side` in the records in place of `image`.

    Args:
        path: a folder of its files, or a table with a column of paths.
        media: which files.
        side: the key of the records, "video" or "audio".
        column: of a table, by default `side`; in a folder's own table by default as for `folder`.
        split, captions, max_skipped: as for `folder`.
        columns: further columns, `text`, `label`, `domain` and `group`, those that are not None.

    Raises:
        UserError: no such folder or file, none of this medium in it, or more than `max_skipped` of them unusable.
    """
    named = {role: name for role, name in columns.items() if name is not None}
    root = Path(path)
    if root.suffix.lower() in READERS and not root.is_dir():
        if split is not None or captions not in (None, "none"):
            raise UserError(f"{root}: a table has no splits, and its captions are a column: text=COLUMN")
        named |= {"text": ()} if captions == "none" else {}
        return with_side(table(root, image=column or side, **named), side)  # type: ignore[arg-type]
    named |= {} if column is None else {"image": column}
    return with_side(media_folder(path, media, named, split=split, captions=captions, max_skipped=max_skipped), side)


def with_side(source: Source, side: str) -> Source:
    """The same records with `side` in place of `image`.

    >>> from nearfar.data import Records
    >>> with_side(Records([{"image": "a.wav", "text": ["a dog barks"]}], name="clips"), "audio")
    <clips: 1 records of audio, text>
    """
    columns = [side if column == "image" else column for column in source.columns]
    return source.map(partial(_renamed, side), columns=columns)


def _renamed(side: str, record: Record) -> Record:
    return {(side if key == "image" else key): value for key, value in record.items()}
