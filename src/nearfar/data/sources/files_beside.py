"""What else lies in a folder of pictures: the text file of each, tables that describe them, archives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
"""Endings of tables that may describe the pictures of a folder."""

ARCHIVES = (".zip", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")
"""Endings of files that must be unpacked first."""

NOTES = (
    *("readme", "read_me", "license", "licence", "copying", "notice", "changelog", "authors", "credits", "classes"),
    *("labels", "captions", "train", "val", "test", "requirements"),
)
"""Text files that belong to no picture, and miss none."""


def texts_beside(root: Path, pictures: Sequence[Path], files: Sequence[Path]) -> dict[Path, Path]:
    """The text file of each picture that has one: `a.jpg.txt`, else `a.txt` beside `a.jpg`. Where none lies beside its
    picture, and all pictures are in one folder of the root and all texts in another, those of the same path in them:
    `images/red/a.jpg` and `captions/red/a.txt`."""
    # Of `a.TXT` and `a.txt` the latter, which sorts last; `a.jpg.txt` is found by its whole name.
    texts = [file for file in files if file.suffix.lower() == ".txt"]
    own = {file.with_suffix(""): file for file in texts}
    beside = {picture: own.get(picture, own.get(picture.with_suffix(""))) for picture in pictures}
    known = {picture: file for picture, file in beside.items() if file is not None}
    if known or not texts or len(_first_folders(root, pictures)) != 1:
        return known
    inside = {file.with_suffix("").relative_to(root).parts[1:]: file for file in texts if file.parent != root}
    if len(_first_folders(root, list(inside.values()))) != 1:
        return {}
    places = {picture: picture.relative_to(root).parts[1:] for picture in pictures}
    parallel = {
        picture: inside.get(place, inside.get((*place[:-1], picture.stem)))
        for picture, place in places.items()
        if place
    }
    return {picture: file for picture, file in parallel.items() if file is not None}


def without_picture(files: Sequence[Path], pictures: Sequence[Path], used: Sequence[Path]) -> list[Path]:
    """Text files of no picture: neither `used` nor of the name of one of `pictures`, nor notes on the whole folder."""
    names = {*used, *pictures, *(picture.with_suffix("") for picture in pictures)}
    texts = (file for file in files if file.suffix.lower() == ".txt" and file.stem.lower() not in NOTES)
    return [file for file in texts if file not in names and file.with_suffix("") not in names]


def what_else(root: Path, files: Sequence[Path]) -> str:
    """What to do about a folder without pictures or captions that holds tables or archives; "" where it has neither."""
    for endings, remedy in (
        (TABLES, "it holds a table, which is read where it is named itself"),
        (ARCHIVES, "it holds an archive: unpack it"),
    ):
        if named := [file for file in files if file.suffix.lower() in endings]:
            more = f" and {len(named) - 1} more, joined by ' + '" if len(named) > 1 and endings is TABLES else ""
            return f"{remedy}: {named[0]}{more}"
    return ""


def _first_folders(root: Path, files: Sequence[Path]) -> set[str]:
    return {parts[0] if len(parts := file.relative_to(root).parts) > 1 else "" for file in files}
