"""Captions as COCO publishes them, and as Karpathy's splits do: one JSON file, and pictures beside."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nearfar import files
from nearfar.data.sources.record_text import captions
from nearfar.data.sources.skipped import Skipped
from nearfar.data.sources.source import Record, Records, Source
from nearfar.errors import UserError

MOST_READ = 1 << 16
"""Characters at the start of a file that say what it holds."""

RAW = "raw"
"""The field of a sentence that holds it as it was written."""


def caption_file(
    path: str | os.PathLike[str], *, split: str | None = None, images: str | os.PathLike[str] | None = None
) -> Source:
    """A record for each picture, with all its captions.

    Args:
        path: `captions_val2017.json`, with lists of `images` and of `annotations`; or `dataset_flickr30k.json`, whose
            `images` have `sentences`.
        split: of files whose pictures name one (`train`, `val`, `test`, `restval`); by default all.
        images: the folder of pictures; by default the one beside the file, or beside its folder, that holds the first.

    Raises:
        UserError: a file that is missing or of another kind, a split that it does not have.
    """
    file = Path(path)
    pictures = _read(file)
    if split is not None:
        known = sorted({str(each["split"]) for each in pictures if "split" in each})
        pictures = [each for each in pictures if each.get("split") == split]
        if not pictures:
            raise UserError(f"{file}: no split {split!r}; name one of these: {', '.join(known) or 'it has none'}")
    skipped, records = Skipped(), list[Record]()
    folder = Path(images) if images is not None else folder_of_pictures(file, pictures)
    for each in pictures:
        texts = captions(each["captions"])
        if texts:
            records.append({"image": str(folder / _name_in(folder, each)), "text": texts, "picture_id": each["id"]})
        else:
            skipped.add(f"{file}, picture {each['id']} ({each['name']})", "no caption")
    return Records(records, name=file.name, skipped=skipped)


def holds_captions(file: Path) -> bool:
    """Whether a JSON file is one of these, and no VQA's, by its start."""
    with file.open(encoding="utf-8-sig", errors="replace") as text:
        start = text.read(MOST_READ)
    return '"images"' in start and '"questions"' not in start


def folder_of_pictures(file: Path, pictures: Sequence[Mapping[str, Any]]) -> Path:
    """The folder that holds the first picture: the file's own, or one in it or beside it."""
    here = Path(os.path.abspath(file)).parent  # the parent of a bare name's folder would be that folder again
    places = [file.parent, *(place for base in (here, here.parent) for place in _folders(base))]
    for place in places if pictures else ():
        if (place / _name_in(place, pictures[0])).is_file():
            return place
    return file.parent


def _folders(base: Path) -> list[Path]:
    return sorted(place for place in base.resolve().iterdir() if place.is_dir() and not place.name.startswith("."))


def _name_in(folder: Path, picture: Mapping[str, Any]) -> str:
    """A picture's file in a folder: in the folder that it names, too, where that is there."""
    inside = os.path.join(picture["folder"], picture["name"])
    return inside if picture["folder"] and (folder / inside).is_file() else picture["name"]


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(file.read_text("utf-8-sig"))
        return list(_pictures(content))
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file}: it is no file of captions: 'images' with 'id' and 'file_name', and 'annotations' with 'image_id' "
            "and 'caption', or 'images' with 'filename' and 'sentences'; for rows of your own use .jsonl, a line each"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON: {files.json_fault(error)}") from None


def _pictures(content: Any) -> Iterator[dict[str, Any]]:
    """Each picture's `id`, `name`, `folder`, `captions` and, where there is one, `split`."""
    of_picture: dict[Any, list[str]] = {}
    for each in content.get("annotations", ()):
        of_picture.setdefault(each["image_id"], []).append(each["caption"])
    for place, image in enumerate(content["images"]):
        name = image["file_name"] if "file_name" in image else image["filename"]
        number = image.get("id", image.get("imgid", place))
        texts = [each[RAW] for each in image["sentences"]] if "sentences" in image else of_picture.get(number, [])
        split = {"split": image["split"]} if "split" in image else {}
        yield {"id": number, "name": name, "folder": image.get("filepath", ""), "captions": texts, **split}
