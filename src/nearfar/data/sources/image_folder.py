"""A folder of images: captions in text files beside them, folders as classes, or names as captions."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, get_args

from nearfar.data.fields.images import EXTENSIONS
from nearfar.data.sources.encoding import REMEDY, decode_text
from nearfar.data.sources.skipped import BadRecord, Skipped
from nearfar.data.sources.source import Record, Records, Source, words
from nearfar.data.sources.table_files import table
from nearfar.errors import UserError

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""A table inside the folder that describes its images, as `datasets` writes it."""

Captions = Literal["txt", "class", "name"]


def folder(
    path: str | os.PathLike[str],
    *,
    split: str | None = None,
    captions: Captions | None = None,
    max_skipped: float = 0.1,
) -> Source:
    """Images below a folder, in the order of their paths. Hidden files are passed over; links are followed, except one
    that leads back to a folder it lies in.

    Args:
        path: the folder. If it holds `metadata.csv` (or `.jsonl`, `.parquet`) and `captions` is not given, that table
            is opened instead.
        split: a folder in it, such as `train`; by default everything.
        captions: `txt`, each image `a/b.jpg` has its captions in `a/b.txt`, one a line, in UTF-8; `class`, the folder
            an image lies in is its class and its caption; `name`, the file's name is its caption, `_` and `-` read as
            spaces.
            By default `txt` if there is one such file, else `class` if the images lie in two or more folders, else
            `name`.
        max_skipped: share of images that may be empty, out of reach or without caption; they are counted and listed in
            `skipped`.

    Raises:
        UserError: no such folder, no image in it, or more than `max_skipped` of them unusable.
    """
    if captions is not None and captions not in get_args(Captions):
        raise UserError(f"{path}: captions={captions!r}: choose one of {', '.join(get_args(Captions))}")
    root = Path(path) / (split or "")
    if not root.is_dir():
        raise UserError(f"{root}: no such folder" + (_splits(Path(path)) if split else ""))
    described = next((root / name for name in METADATA if (root / name).is_file()), None)
    if described is not None and captions is None:
        return table(described)
    files = sorted(_walk(root))
    pictures = [file for file in files if file.suffix.lower() in EXTENSIONS]
    if not pictures:
        raise UserError(f"{root}: no images in it (their names must end in {', '.join(EXTENSIONS)})")
    # Of `a.TXT` and `a.txt` the latter, which sorts last.
    texts = {file.with_suffix(""): file for file in files if file.suffix.lower() == ".txt"}
    if captions is None:
        if any(picture.with_suffix("") in texts for picture in pictures):
            captions = "txt"
        else:
            captions = "class" if len({picture.parent for picture in pictures}) > 1 else "name"
    classes = sorted({picture.parent.name for picture in pictures}) if captions == "class" else None
    skipped, records = Skipped(), []
    for picture in pictures:
        try:
            records.append(_record(picture, captions, classes, texts))
        except BadRecord as problem:
            skipped.add(str(picture), str(problem))
        except OSError as problem:  # a link to nowhere, a file that may not be read
            skipped.add(str(picture), f"{problem.strerror} ({problem.filename})")
    skipped.check(len(pictures), limit=max_skipped, name=str(root), total=len(pictures))
    return Records(records, name=root.name, classes=classes, skipped=skipped)


def _record(picture: Path, captions: Captions, classes: list[str] | None, texts: Mapping[Path, Path]) -> Record:
    if picture.stat().st_size == 0:
        raise BadRecord("the file is empty")
    record: Record = {"image": str(picture)}
    if classes is not None:
        return record | {"text": [words(picture.parent.name)], "label": classes.index(picture.parent.name)}
    if captions == "name":
        return record | {"text": [words(picture.stem)]}
    beside = texts.get(picture.with_suffix(""))
    if beside is None:
        raise BadRecord(f"no caption: there is no {picture.with_suffix('.txt').name}")
    written = decode_text(beside.read_bytes())
    if written is None:
        raise BadRecord(f"no caption that can be read: {beside.name} is not UTF-8 text: {REMEDY}")
    text = [line.strip() for line in written.splitlines() if line.strip()]
    if not text:
        raise BadRecord(f"no caption: {beside.name} is empty")
    return record | {"text": text}


def _walk(root: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".") and not _leads_back(place, name)]
        yield from (Path(place, name) for name in names if not name.startswith("."))


def _leads_back(place: str, name: str) -> bool:
    """Whether a folder is a link to one that it lies in, and so would be read over and over."""
    if not os.path.islink(os.path.join(place, name)):
        return False
    target, here = os.path.realpath(os.path.join(place, name)), os.path.realpath(place)
    return os.path.commonpath([target, here]) == target


def _splits(path: Path) -> str:
    found = sorted(child.name for child in path.iterdir() if child.is_dir()) if path.is_dir() else []
    return f"; the folders there are: {', '.join(found)}" if found else ""
