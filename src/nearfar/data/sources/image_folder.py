"""A folder of images: captions in text files beside them, folders as classes, or names as captions."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from nearfar.data.pictures.images import EXTENSIONS
from nearfar.data.sources.files_beside import texts_beside, what_else, without_picture
from nearfar.data.sources.record_text import readable, words
from nearfar.data.sources.skipped import BadRecord, Skipped
from nearfar.data.sources.source import Record, Records, Source, concat
from nearfar.data.tables.delimited import is_captions
from nearfar.data.tables.encoding import REMEDY, decode_text
from nearfar.data.tables.picture_pairs import PicturePairs
from nearfar.data.tables.table_files import table
from nearfar.errors import UserError

UNREADABLE = (".heic", ".heif", ".jxl", ".svg", ".psd", ".raw", ".cr2", ".nef", ".arw", ".dng")
"""Pictures of kinds that are not read: they are counted as skipped."""

SPLITS = ("train", "training", "val", "valid", "validation", "dev", "test")
"""Folders whose name is no class."""

CAMERA = (
    r"(img|dsc[a-z]?|pict?|image|photo|picture|screenshot|wp|pxl|mvi|gopr|p|aud(io)?|rec(ording)?)?[\W_\d]*"
    r"|[0-9a-f-]{16,}"
)
"""File names that say nothing of the picture: IMG_0001, DSC-12, REC_3, 4f1c0a9be2d37f60."""

TABLES = ("captions.txt", "captions.csv", "captions.tsv", "captions.jsonl", "captions.parquet")
"""Tables of captions beside a folder of pictures, as Kaggle's Flickr8k has them."""

TOKENS = (".token.txt", ".token")
"""Endings of tables without a header, as Flickr8k and Flickr30k were published."""

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""A table inside the folder that describes its images, as `datasets` writes it."""

Captions = Literal["txt", "class", "name", "none"]


@dataclass(frozen=True)
class Media:
    """What a folder is opened for: what to call it, the endings of its names, those of kinds that are not read, and
    what to do about such a file."""

    noun: str
    endings: tuple[str, ...]
    unreadable: tuple[str, ...]
    remedy: str


PICTURES = Media("images", EXTENSIONS, UNREADABLE, "pictures are not read: convert it to .jpg or .png")


def folder(
    path: str | os.PathLike[str],
    *,
    split: str | None = None,
    captions: Captions | None = None,
    image: str | None = None,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    domain: str | None = None,
    group: str | None = None,
    answers: str | Sequence[str] | None = None,
    max_skipped: float = 0.1,
) -> Source:
    """Images below a folder, in the order of their paths. Hidden files are passed over; links are followed, except one
    that leads back to a folder it lies in.

    Args:
        path: the folder. If it, or folders in it, hold `metadata.csv` (or `.jsonl`, `.parquet`), or it holds a
            `captions.txt` that is a table, and `captions` is not given, those tables are opened instead, and pictures
            that they do not name are counted in `skipped`.
        split: a folder in it, such as `train`; by default everything.
        captions: `txt`, each image `a/b.jpg` has its captions in `a/b.txt` or `a/b.jpg.txt`, one a
            line, in UTF-8; `class`, the folder
            an image lies in is its class and its caption; `name`, the file's name is its caption, `_` and `-` read as
            spaces; `none`, pictures alone (of a table too, where columns of one are named).
            By default `txt` if there is one such file, else `class` if the images lie in two or more folders, else
            `name`.
        image, text, label, domain, group, answers: columns of those tables, as `nearfar.data.table` takes them.
        max_skipped: share of images that may be empty, out of reach or without caption; they are counted and listed in
            `skipped`.

    Raises:
        UserError: no such folder, no image in it, or more than `max_skipped` of them unusable; a column that is named
            where no table is opened.
    """
    columns = {"image": image, "text": text, "label": label, "domain": domain, "group": group, "answers": answers}
    return media_folder(path, PICTURES, columns, split=split, captions=captions, max_skipped=max_skipped)


def media_folder(
    path: str | os.PathLike[str],
    media: Media,
    columns: Mapping[str, Any],
    *,
    split: str | None,
    captions: Captions | None,
    max_skipped: float,
) -> Source:
    """`folder` for files of any kind: their paths are the records' `image`."""
    if captions is not None and captions not in get_args(Captions):
        raise UserError(f"{path}: captions={captions!r}: choose one of {', '.join(get_args(Captions))}")
    root = Path(path) / (split or "")
    if not root.is_dir():
        raise UserError(f"{root}: no such folder" + (_splits(Path(path)) if split else ""))
    files = sorted(_walk(root))
    columns = {role: column for role, column in columns.items() if column is not None}
    if (captions is None or (captions == "none" and columns)) and (described := _tables(root, files)):
        return _described(root, described, files, columns | ({"text": ()} if captions == "none" else {}), media)
    if columns:
        role, column = next(iter(columns.items()))
        why = "there is none in it" if captions is None else f"captions={captions!r} opens none"
        raise UserError(f"{root}: {role}={column!r} is for a table (metadata.csv, captions.txt, ...), and {why}")
    pictures = [file for file in files if file.suffix.lower() in media.endings]
    unreadable = [file for file in files if file.suffix.lower() in media.unreadable]
    others = what_else(root, files)
    if not pictures:
        remedy = f", only {unreadable[0].suffix} files, which are not read: convert them" if unreadable else ""
        if others and not unreadable:
            raise UserError(f"{root}: no {media.noun} in it; {others}")
        raise UserError(f"{root}: no {media.noun} in it{remedy} (their names must end in {', '.join(media.endings)})")
    texts = texts_beside(root, pictures, files)
    is_guess = captions is None
    if captions is None:
        captions = "txt" if texts else "class" if len({picture.parent for picture in pictures}) > 1 else "name"
    if is_guess and others and captions == "name" and all(re.fullmatch(CAMERA, p.stem, re.I) for p in pictures):
        raise UserError(f"{root}: there are no captions beside its {media.noun}; {others}")
    classes = class_names(root, [picture.parent for picture in pictures]) if captions == "class" else {}
    names = sorted(name for name in set(classes.values()) if readable(name) == name)
    skipped, records = Skipped(), []
    for picture in pictures:
        try:
            records.append(_record(picture, captions, classes, names, texts))
        except BadRecord as problem:
            skipped.add(str(picture), str(problem))
        except OSError as problem:  # a link to nowhere, a file that may not be read
            skipped.add(str(picture), f"{problem.strerror} ({problem.filename})")
    for file in unreadable:
        skipped.add(str(file), f"{file.suffix} {media.remedy}")
    total = len(pictures) + len(unreadable)
    skipped.check(total, limit=max_skipped, name=str(root), total=total)
    if captions == "txt":
        for file in without_picture(files, [*pictures, *unreadable], list(texts.values())):
            skipped.add(str(file), "no picture: there is none of its name beside it")
    source = Records(records, name=root.name, classes=names or None, skipped=skipped)
    if captions == "name":
        source.remark = f"{root}: no captions were found: the names of the files are taken for captions"
    elif captions == "class" and is_guess and others:
        source.remark = f"{root}: the names of the folders are taken for captions"
    if source.remark and is_guess and others:
        source.remark += f"; {others}"
    return source


def media_below(path: str | os.PathLike[str], endings: Sequence[str]) -> Iterator[Path]:
    """The files below a folder whose names end in one of `endings`, as they come."""
    return (file for file in _walk(Path(path)) if file.suffix.lower() in endings)


def holds_table(path: str | os.PathLike[str]) -> bool:
    """Whether a folder's pictures are described by a table in it."""
    return bool(_tables(Path(path), sorted(_walk(Path(path)))))


def _tables(root: Path, files: list[Path]) -> list[Path]:
    """Tables that describe the pictures: one of the root, else those of its folders."""
    own = next(
        (root / name for name in (*METADATA, *TABLES) if (root / name).is_file() and _is_table(root / name)), None
    )
    if own is not None:
        return [own]
    listed = (f for f in files if f.parent == root and f.name.lower().endswith(TOKENS) and is_captions(f))
    if (own := next(listed, None)) is not None:
        return [own]
    by_folder = {file.parent: file for file in reversed(files) if file.name in METADATA}
    return [by_folder[place] for place in sorted(by_folder)]


def _is_table(file: Path) -> bool:
    """Whether a file is a table: of `captions.txt` its header says so, as it may be the captions of `captions.jpg`."""
    if file.suffix != ".txt":
        return True
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        return re.match(r"\W*(image|file|filename|file_name|image_name)\W*[,\t;|]", next(lines, ""), re.I) is not None


def _described(root: Path, tables: list[Path], files: list[Path], columns: Mapping[str, Any], media: Media) -> Source:
    """The pictures that tables describe; those that none names are counted as skipped."""
    sources, named = [], set()
    for file in tables:
        source = table(file, **columns)
        first = next((image for image, _ in source.pictures() if isinstance(image, str)), None)
        if first is not None and not os.path.exists(first):  # they lie in a folder beside the table
            name = os.path.relpath(first, file.parent)
            place = next((f.parent for f in files if f.name == os.path.basename(name) and f.suffix), None)
            source = table(file, root=place, **columns) if place is not None else source
        pictures = [image for image, _ in source.pictures()]
        pictures += source.second_pictures() if isinstance(source, PicturePairs) else []
        named |= {os.path.realpath(image) for image in pictures if isinstance(image, str)}
        sources.append(source)
    joined = concat(*sources, name=root.name)
    by = f"{tables[0].name!r} does not name" if len(tables) == 1 else f"none of {len(tables)} tables names"
    for file in files:
        if named and file.suffix.lower() in (*media.endings, *media.unreadable) and os.path.realpath(file) not in named:
            joined.skipped.add(str(file), f"no caption: {by} it")
    return joined


def class_names(root: Path, places: Sequence[Path]) -> dict[Path, str]:
    """The class of each folder: its name, or its path where folders of one name lie in different ones (`dog/indoor` and
    `car/indoor`). The root is none while there are others."""
    parts = {}
    for place in dict.fromkeys(places):
        path = place.relative_to(root).parts
        parts[place] = path[1:] if len(path) > 1 and path[0].lower() in SPLITS else path
    if set(parts) == {root}:
        return {root: root.name}
    paths: dict[str, set[tuple[str, ...]]] = {}
    for path in parts.values():
        if path:
            paths.setdefault(path[-1], set()).add(path)
    apart = any(len(each) > 1 for each in paths.values())
    return {place: "/".join(path) if apart else path[-1] for place, path in parts.items() if path}


def _record(
    picture: Path, captions: Captions, classes: Mapping[Path, str], names: list[str], texts: Mapping[Path, Path]
) -> Record:
    if picture.stat().st_size == 0:
        raise BadRecord("the file is empty")
    record: Record = {"image": str(picture)}
    if captions == "none":
        return record
    if captions == "class":
        if picture.parent not in classes:
            raise BadRecord("it lies beside the class folders, in none of them; captions='name' takes names of files")
        name = classes[picture.parent]
        if readable(name) != name:
            raise BadRecord("no class: the name of its folder is not UTF-8 text: rename it")
        return record | {"text": [words(name.replace("/", " "))], "label": names.index(name)}
    if captions == "name":
        if re.fullmatch(CAMERA, picture.stem, re.I):
            raise BadRecord(
                f"no caption: a file's name such as {picture.name!r} says nothing of the picture; captions='none' "
                "reads pictures alone"
            )
        if readable(picture.stem) != picture.stem:
            raise BadRecord("no caption: the name is not UTF-8 text: rename it")
        return record | {"text": [words(picture.stem)]}
    beside = texts.get(picture)
    if beside is None:
        raise BadRecord(f"no caption: there is no {picture.with_suffix('.txt').name!r}")
    written = decode_text(beside.read_bytes())
    if written is None:
        raise BadRecord(f"no caption that can be read: {beside.name!r} is not UTF-8 text: {REMEDY}")
    text = [line.strip() for line in written.splitlines() if line.strip()]
    if not text:
        raise BadRecord(f"no caption: {beside.name!r} is empty")
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
    folders = sorted(child.name for child in path.iterdir() if child.is_dir()) if path.is_dir() else []
    return f"; the folders there are: {', '.join(folders)}" if folders else ""
