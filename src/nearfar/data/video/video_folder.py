"""Videos from a folder: files, or folders of numbered frames; captions as for pictures."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nearfar.data.pictures.images import EXTENSIONS
from nearfar.data.sources.image_folder import Captions, Media, class_names, media_below
from nearfar.data.sources.media_source import media_source
from nearfar.data.sources.record_text import words
from nearfar.data.sources.skipped import Skipped
from nearfar.data.sources.source import Record, Records, Source

MOVING = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".mts", ".flv", ".ogv")
"""Names of files that PyAV reads."""

ANIMATED = (".gif", ".webp", ".apng")
"""Names of pictures that may move, which Pillow reads."""

VIDEOS = Media(
    "videos", (*MOVING, *ANIMATED), (".wmv", ".rm", ".swf", ".mxf"), "videos are not read: convert it to .mp4 or .webm"
)


def videos(
    path: str | os.PathLike[str],
    *,
    split: str | None = None,
    captions: Captions | None = None,
    video: str | None = None,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    domain: str | None = None,
    group: str | None = None,
    max_skipped: float = 0.1,
) -> Source:
    """Videos below a folder, or of a table: what `folder` and `table` do for pictures, with `video` in the records in
    place of `image`. Nothing is decoded when it is opened.

    A folder without a single video, whose pictures are numbered, holds one video a folder: `jump/clip_7/0001.jpg`,
    `0002.jpg` ... are the frames of `jump/clip_7`, of the class `jump`.

    Args:
        path: a folder of `.mp4`, `.webm`, `.mov`, `.mkv`, `.avi` ..., `.gif`, `.webp` and `.apng` files, or a table
            (`.csv`, `.tsv`, `.jsonl`, `.parquet`) with a column of paths.
        split, captions, max_skipped: as for `folder`.
        video: the column of videos, by default `video`; in a folder's own table by default as for `folder`.
        text, label, domain, group: further columns, as for `table`.

    Raises:
        UserError: no such folder or file, no video in it, or more than `max_skipped` of them unusable.
    """
    named = {"text": text, "label": label, "domain": domain, "group": group}
    inside = Path(path) / (split or "")
    plain = all(column is None for column in (video, *named.values()))
    if inside.is_dir() and plain and next(media_below(inside, VIDEOS.endings), None) is None:
        frames = sorted(media_below(inside, EXTENSIONS))
        if frames and all(re.search(r"\d$", frame.stem) for frame in frames):
            return frame_folders(inside, frames, max_skipped)
    return media_source(
        path, VIDEOS, "video", column=video, split=split, captions=captions, max_skipped=max_skipped, **named
    )


def frame_folders(root: Path, frames: Sequence[Path], max_skipped: float) -> Source:
    """Folders of numbered pictures as videos: records with `video`, the paths of a folder's frames by their numbers.
    The folder that a folder lies in is its class and its caption, where there is one; else its own name is the caption.
    """
    by_folder: dict[Path, list[Path]] = {}
    for frame in frames:
        by_folder.setdefault(frame.parent, []).append(frame)
    places = sorted(by_folder)
    classes = class_names(root, [place.parent for place in places if root not in (place, place.parent)])
    names = sorted(set(classes.values()))
    records: list[Record] = []
    skipped = Skipped()
    for place in places:
        record: Record = {"video": [str(frame) for frame in sorted(by_folder[place], key=_number)]}
        if not names:
            record |= {"text": [words(place.name)]}
        elif place.parent in classes:
            name = classes[place.parent]
            record |= {"text": [words(name.replace("/", " "))], "label": names.index(name)}
        else:
            skipped.add(str(place), "its frames lie beside the class folders, in none of them: move the folder")
            continue
        records.append(record)
    skipped.check(len(places), limit=max_skipped, name=str(root), total=len(places))
    return Records(records, name=root.name, classes=names or None, skipped=skipped)


def _number(frame: Path) -> tuple[Any, ...]:
    """The numbers in a frame's name: 2 comes before 10."""
    return (*map(int, re.findall(r"\d+", frame.stem)), frame.name)
