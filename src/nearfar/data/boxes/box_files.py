"""Boxes as COCO and LVIS publish them: one JSON file of pictures, annotations and categories, and pictures beside."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nearfar import files
from nearfar.data.sources.caption_files import folder_of_pictures
from nearfar.data.sources.skipped import Skipped
from nearfar.data.sources.source import Record, Records, Source
from nearfar.errors import UserError

ENDS = 1 << 16
"""Bytes at the start and at the end of a file that say what it holds: categories come first or last."""


def box_file(path: str | os.PathLike[str], *, images: str | os.PathLike[str] | None = None) -> Source:
    """A record for each picture, with all its boxes; pictures without any are kept.

    Args:
        path: `instances_val2017.json` of COCO or `lvis_v1_val.json` of LVIS, or a file of that form.
        images: the folder of pictures; by default the one beside the file, or beside its folder, that holds the first.

    Returns:
        records of `image` (the file), `objects`, dicts of `name`, `box` (left, top, right, bottom) and, around many,
        `crowd`; `width` and `height` where the file says them, `picture_id`, and of LVIS `checked`, the names that were
        looked for in the picture, and `not_exhaustive`, those of which it may hold more than have boxes. `classes` are
        the categories in the order of their ids; those of one name are one class. An annotation's own id and area are
        not read: no id is special, and none need be there. Boxes that are none, and annotations of unknown pictures or
        categories, are in `skipped`.

    Raises:
        UserError: a file that is missing or of another kind, two pictures with one id, or annotations of which none
            can be used.
    """
    file = Path(path)
    content = read_json(file)
    try:
        categories = {each["id"]: str(each["name"]) for each in sorted(content["categories"], key=lambda c: c["id"])}
        pictures = {each["id"]: _picture(each) for each in content["images"]}
        annotations = list(content["annotations"])
        of_picture: dict[Any, list[dict[str, Any]]] = {number: [] for number in pictures}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file}: it is no file of boxes: 'images' with 'id' and 'file_name', 'categories' with 'id' and 'name', "
            "and 'annotations' with 'image_id', 'category_id' and 'bbox'"
        ) from error
    if len(pictures) < len(content["images"]):
        twice, _ = Counter(each["id"] for each in content["images"]).most_common(1)[0]
        raise UserError(
            f"{file}: several pictures have the id {twice}: number them apart, and their annotations with them"
        )
    skipped = Skipped()
    for place, each in enumerate(annotations):
        fault = _fault(each, pictures, categories)
        if fault:
            skipped.add(f"{file}, annotation {place + 1}", fault)
            continue
        left, top, width, height = (float(value) for value in each["bbox"])
        crowd = {"crowd": True} if each.get("iscrowd") else {}
        thing = {"name": categories[each["category_id"]], "box": (left, top, left + width, top + height), **crowd}
        of_picture[each["image_id"]].append(thing)
    if annotations and skipped.count == len(annotations):
        raise UserError(f"{file}: none of its {len(annotations):,} annotations can be used:\n{skipped.reasons(5)}")
    folder = Path(images) if images is not None else folder_of_pictures(file, list(pictures.values()))
    records: list[Record] = []
    for number, picture in pictures.items():
        record = {"image": str(_inside(folder, picture)), "objects": of_picture[number], "picture_id": number}
        record |= {side: picture[side] for side in ("width", "height") if picture[side]}
        if picture["negative"] is not None:
            missing = [categories[each] for each in picture["negative"] if each in categories]
            record["checked"] = sorted({*missing, *(thing["name"] for thing in of_picture[number])})
        if partly := {categories[each] for each in picture["partly"] or [] if each in categories}:
            record["not_exhaustive"] = sorted(partly)
        records.append(record)
    return Records(records, name=file.name, classes=list(dict.fromkeys(categories.values())), skipped=skipped)


def holds_boxes(file: Path) -> bool:
    """Whether a JSON file is one of these, and none of captions or questions, by its start and its end."""
    with file.open("rb") as stream:
        start = stream.read(ENDS)
        stream.seek(max(0, file.stat().st_size - ENDS))
        ends = start + stream.read()
    return b'"images"' in start + ends and b'"categories"' in ends


def _picture(each: Mapping[str, Any]) -> dict[str, Any]:
    """What is read of a picture. LVIS names no file, but a place on the web that ends in it."""
    name = each["file_name"] if "file_name" in each else "/".join(str(each["coco_url"]).split("/")[-2:])
    folder, _, last = str(name).rpartition("/")
    sides = {side: each.get(side) for side in ("width", "height")}
    looked_for = {"negative": each.get("neg_category_ids"), "partly": each.get("not_exhaustive_category_ids")}
    return {"name": last, "folder": folder, **looked_for, **sides}


def _inside(folder: Path, picture: Mapping[str, Any]) -> Path:
    whole = folder / picture["folder"] / picture["name"]
    return whole if picture["folder"] and whole.is_file() else folder / picture["name"]


def _fault(each: Any, pictures: Mapping[Any, Any], categories: Mapping[Any, Any]) -> str | None:
    """Why an annotation cannot be used; None where it can."""
    if not isinstance(each, Mapping):
        return "it is no object"
    if each.get("image_id") not in pictures:
        return f"it is of picture {each.get('image_id')}, which is not there"
    if each.get("category_id") not in categories:
        return f"it is of category {each.get('category_id')}, which is not there"
    box = each.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(value, int | float) for value in box):
        return "its bbox is no left, top, width and height"
    if not all(map(math.isfinite, box)) or box[2] <= 0 or box[3] <= 0:
        return f"its bbox {box} is empty"
    return None


def read_json(file: Path) -> Any:
    """What a JSON file holds. Raises UserError for one that is missing or no JSON."""
    try:
        return json.loads(file.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON: {files.json_fault(error)}") from None
