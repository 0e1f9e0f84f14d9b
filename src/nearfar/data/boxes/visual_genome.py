"""Visual Genome as it is published: things in pictures by name, with attributes and boxes, and how they are related."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nearfar.data.boxes.box_files import read_json
from nearfar.data.sources.image_folder import EXTENSIONS
from nearfar.data.sources.skipped import Skipped
from nearfar.data.sources.source import Record, Records, Source
from nearfar.errors import UserError

RELATIONSHIPS, GRAPHS = "relationships.json", "scene_graphs.json"


def visual_genome(folder: str | os.PathLike[str], *, images: str | os.PathLike[str] | None = None) -> Source:
    """A record for each picture that has things, as `nearfar.data.PhraseField` reads them.

    Args:
        folder: holds `relationships.json`, and beside it where they are there `attributes.json` and `objects.json`; or
            `scene_graphs.json` alone. `relationship_alias.txt` and `object_alias.txt`, of names that mean one, are
            followed.
        images: the folder of pictures, `VG_100K` and the like below it or not; by default `folder`.

    Returns:
        records of `image`, `objects`, dicts of `name`, `box` (left, top, right, bottom) and where there is one
        `attribute`, the first; `relations`, lists of subject, name and object, the things by their place; and
        `picture_id`. Names are in lower case. Things that are related come first. Relations of things without a name,
        and pictures that are not there, are in `skipped`.

    Raises:
        UserError: none of these files, a file of another form, or no picture.
    """
    place = Path(folder)
    aliases = {kind: _aliases(place / f"{kind}_alias.txt") for kind in ("object", "relationship")}
    parts = [name for name in (RELATIONSHIPS, "attributes.json", "objects.json") if (place / name).is_file()]
    if RELATIONSHIPS not in parts:
        if not (place / GRAPHS).is_file():
            raise UserError(f"{place} holds no Visual Genome: neither {RELATIONSHIPS} nor {GRAPHS} is there")
        parts = [GRAPHS]
    made: dict[Any, _Picture] = {}
    skipped = Skipped()
    for name in parts:
        for entry in _entries(place / name):
            picture = made.setdefault(entry["image_id"], _Picture(aliases["object"], aliases["relationship"]))
            faults = picture.take(entry)
            for fault in faults:
                skipped.add(f"{name}, picture {entry['image_id']}", fault)
    where = _pictures(Path(images) if images is not None else place)
    records: list[Record] = []
    for number, picture in made.items():
        if not picture.things:
            continue
        if str(number) not in where:
            skipped.add(f"picture {number}", "its file is not there")
            continue
        things, relations = picture.content()
        records.append(
            {"image": where[str(number)], "objects": things, "relations": relations, "picture_id": int(number)}
        )
    if not records:
        raise UserError(f"{place}: none of its {len(made):,} pictures is there: name their folder with images=FOLDER")
    return Records(records, name=place.name, skipped=skipped)


def commonest_names(source: Iterable[Mapping[str, Any]], *, relations: int = 114, objects: int = 55) -> dict[str, Any]:
    """The commonest names of relations and of things, from the commonest on: the settings `relations` and `objects` of
    a `relation_encoder` (VG-Bert, arXiv 2111.07180, has 114 and 55).

    >>> rows = [{"objects": [{"name": "cat"}, {"name": "mat"}, {"name": "cat"}], "relations": [[0, "on", 1]]}]
    >>> commonest_names(rows, objects=1)
    {'relations': ['on'], 'objects': ['cat']}
    """
    names, predicates = Counter[str](), Counter[str]()
    for record in source:
        names.update(thing["name"] for thing in record.get("objects") or ())
        predicates.update(name for _, name, _ in record.get("relations") or ())
    most = {"relations": (predicates, relations), "objects": (names, objects)}
    return {key: [name for name, _ in counts.most_common(number)] for key, (counts, number) in most.items()}


class _Picture:
    """Things of a picture by their numbers, and relations between them."""

    def __init__(self, names: Mapping[str, str], predicates: Mapping[str, str]) -> None:
        self.names, self.predicates = names, predicates
        self.things: dict[Any, dict[str, Any]] = {}
        self.relations: list[tuple[Any, str, Any]] = []

    def take(self, entry: Mapping[str, Any]) -> list[str]:
        """What one of the files says of it; what of that cannot be used."""
        faults: list[str] = []
        content: dict[str, list[Mapping[str, Any]]] = {}
        for kind in ("relationships", "attributes", "objects"):
            listed = entry.get(kind) or []
            content[kind] = [each for each in listed if isinstance(each, Mapping)] if isinstance(listed, list) else []
            if not isinstance(listed, list) or len(content[kind]) < len(listed):
                faults.append(f"its {kind} are no list of objects")
        for relation in content["relationships"]:
            for end in ("subject", "object"):
                if isinstance(relation.get(end), Mapping):
                    self._add(relation[end])
        for thing in (*content["attributes"], *content["objects"]):
            self._add(thing)
        for relation in content["relationships"]:  # when all things are known
            ends = [self._number(relation, end) for end in ("subject", "object")]
            name = plain(relation.get("predicate"))
            if not name or any(end not in self.things for end in ends):
                faults.append("a relation without a name, or of a thing without one")
            elif ends[0] != ends[1]:
                self.relations.append((ends[0], self.predicates.get(name, name), ends[1]))
        return faults

    def content(self) -> tuple[list[dict[str, Any]], list[list[Any]]]:
        """Things, those that are related first, and relations by their places."""
        related = [end for start, _, stop in self.relations for end in (start, stop)]
        place = {number: i for i, number in enumerate(dict.fromkeys([*related, *self.things]))}
        relations = [[place[start], name, place[stop]] for start, name, stop in dict.fromkeys(self.relations)]
        return [self.things[number] for number in place], relations

    def _add(self, thing: Mapping[str, Any]) -> None:
        name = plain(thing.get("names") or thing.get("name"))
        number = thing.get("object_id")
        if number is None or not (name or number in self.things):
            return
        known = self.things.setdefault(number, {"name": self.names.get(name, name)})
        if attribute := plain(thing.get("attributes")):
            known["attribute"] = attribute
        sides = [thing.get(side) for side in "xywh"]
        if all(isinstance(side, int | float) for side in sides):
            left, top, width, height = map(float, sides)  # type: ignore[arg-type]
            known.setdefault("box", (left, top, left + width, top + height))

    @staticmethod
    def _number(relation: Mapping[str, Any], end: str) -> Any:
        thing = relation.get(end)
        return thing.get("object_id") if isinstance(thing, Mapping) else relation.get(f"{end}_id")


def plain(name: Any) -> str:
    """A name in lower case and without blanks about it; of several the first; "" where there is none.

    >>> plain(["Traffic  Light ", "lamp"]), plain("ON"), plain(None)
    ('traffic light', 'on', '')
    """
    first = next(iter(name), None) if isinstance(name, list) else name
    return " ".join(first.lower().split()) if isinstance(first, str) else ""


def _aliases(file: Path) -> dict[str, str]:
    """Lines of names that mean the first of them."""
    if not file.is_file():
        return {}
    lines = [[plain(name) for name in line.split(",")] for line in file.read_text("utf-8-sig").splitlines()]
    return {name: names[0] for names in lines if names[0] for name in names if name}


def _entries(file: Path) -> list[Any]:
    content = read_json(file)
    if not isinstance(content, list) or not all(isinstance(each, Mapping) for each in content):
        raise UserError(f"{file}: it is no file of Visual Genome: a list, with an object for each picture")
    # Attributes name the picture "image_id" in one version, and "id" in another.
    entries = [each if "image_id" in each else {**each, "image_id": each.get("id")} for each in content]
    if any(each["image_id"] is None for each in entries):
        raise UserError(f"{file}: it is no file of Visual Genome: an entry has no 'image_id'")
    return entries


def _pictures(folder: Path) -> dict[str, str]:
    """The files of pictures in a folder and those right below it, by their number."""
    places = [folder, *(each for each in sorted(folder.iterdir()) if each.is_dir())] if folder.is_dir() else []
    pictures = (each for place in places for each in sorted(place.iterdir()) if each.suffix.lower() in EXTENSIONS)
    return {each.stem: str(each) for each in pictures}
