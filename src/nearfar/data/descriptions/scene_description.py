"""What a picture shows, as data: a sentence or more of the whole, and its objects one by one (LexiCLIP, arXiv
2509.19203)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from nearfar import files
from nearfar.errors import UserError


class Relation(NamedTuple):
    """How an object stands to another: "left of", "tree"."""

    predicate: str
    object: str = ""


@dataclass(frozen=True)
class ObjectDescription:
    """One object of a scene, or several that are alike.

    Args:
        name: what it is.
        count: how many there are.
        attributes, actions: words for it, in their order.
        position: where it is.
        relations: to other objects.
        other: keys that a model wrote beside these, kept as they are, and no part of a text.

    >>> ObjectDescription("dog", 2, ("small", "brown"), ("running",), "on the left").phrase
    '2 small brown dog running on the left'
    """

    name: str
    count: int = 1
    attributes: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    position: str = ""
    relations: tuple[Relation, ...] = ()
    other: Mapping[str, Any] = field(default_factory=dict)

    @property
    def phrase(self) -> str:
        """It in words: its number where there are several, attributes, name, actions, position, relations."""
        number = str(self.count) if self.count != 1 else ""
        relations = [" ".join(filter(None, relation)) for relation in self.relations]
        parts = (number, *self.attributes, self.name, *self.actions, self.position, *relations)
        return " ".join(part for part in parts if part)

    def plain(self) -> dict[str, Any]:
        """It as plain values, without what is empty."""
        relations = [{"predicate": each.predicate, "object": each.object} for each in self.relations]
        own = {
            "name": self.name,
            "count": self.count if self.count != 1 else None,
            "attributes": list(self.attributes),
            "actions": list(self.actions),
            "position": self.position,
            "relations": relations,
        }
        kept = {key: value for key, value in own.items() if value}
        return kept | {key: value for key, value in self.other.items() if key not in kept}


@dataclass(frozen=True)
class SceneDescription:
    """A scene in words and its objects. `nearfar.data.descriptions.description_text` makes one text of both.

    >>> scene = SceneDescription("a quiet street", (ObjectDescription("car", attributes=("red",)),))
    >>> SceneDescription.from_json(scene.to_json()) == scene
    True
    """

    scene: str
    objects: tuple[ObjectDescription, ...] = ()

    def to_json(self) -> str:
        """One line of JSON, always the same for the same description; what is empty is left out."""
        made = {"scene": self.scene, "objects": [each.plain() for each in self.objects]}
        return json.dumps(made, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> SceneDescription:
        """The description that `to_json` wrote, or that was edited since.

        Raises:
            UserError: no JSON of this form; `nearfar.data.descriptions.parse_scene` reads what models write.
        """
        try:
            held = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"a description is no JSON: {files.json_fault(error)}") from None
        if not isinstance(held, dict) or not isinstance(held.get("scene", ""), str):
            raise UserError("a description is an object of 'scene', a text, and 'objects', a list")
        if unknown := held.keys() - {"scene", "objects"}:
            raise UserError(f"a description has 'scene' and 'objects', and no {min(unknown)!r}: take it out")
        items = held.get("objects", [])
        objects = [object_of(item) for item in items] if isinstance(items, list) else [None]
        if None in objects:
            raise UserError("a description's 'objects' is a list of objects, each with a 'name': mend it")
        return cls(held.get("scene", ""), tuple(each for each in objects if each is not None))

    def merged(self) -> SceneDescription:
        """Objects that are the same are one, with the sum of their counts.

        >>> car = ObjectDescription("car")
        >>> [each.phrase for each in SceneDescription("", (car, ObjectDescription("bus"), car)).merged().objects]
        ['2 car', 'bus']
        """
        counts = dict[str, int]()
        first = dict[str, ObjectDescription]()
        for each in self.objects:
            key = json.dumps(replace(each, count=1).plain(), ensure_ascii=False, sort_keys=True)
            first.setdefault(key, each)
            counts[key] = counts.get(key, 0) + each.count
        return replace(self, objects=tuple(replace(first[key], count=count) for key, count in counts.items()))

    def canonical(self) -> SceneDescription:
        """Merged, and its objects in alphabetical order: the same whatever order they were written in."""
        merged = self.merged()
        ordered = sorted(merged.objects, key=lambda each: json.dumps(each.plain(), ensure_ascii=False, sort_keys=True))
        return replace(merged, objects=tuple(ordered))

    def mapped(self, change: Callable[[str], str]) -> SceneDescription:
        """The description with each of its texts changed, those of unknown keys, too: for names and numbers that must
        not be stored. An object whose name becomes empty is left out.

        >>> SceneDescription("Ann waves").mapped(lambda text: text.replace("Ann", "someone"))
        SceneDescription(scene='someone waves', objects=())
        """

        def of(value: Any) -> Any:
            if isinstance(value, str):
                return change(value)
            if isinstance(value, Mapping):
                return {change(key): of(inner) for key, inner in value.items()}
            return [of(inner) for inner in value] if isinstance(value, list) else value

        objects = [
            replace(
                each,
                name=change(each.name),
                attributes=tuple(map(change, each.attributes)),
                actions=tuple(map(change, each.actions)),
                position=change(each.position),
                relations=tuple(Relation(change(r.predicate), change(r.object)) for r in each.relations),
                other=of(each.other),
            )
            for each in self.objects
        ]
        return SceneDescription(change(self.scene), tuple(each for each in objects if each.name.strip()))


NAMES = ("name", "object", "class", "label")
"""Keys that say what an object is; the first that is there does."""
WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def object_of(item: Any) -> ObjectDescription | None:
    """An object as a model wrote it: a name alone, or an object of JSON in which a list may be one text with commas,
    and a count a word. What is of another kind stays in `other`; None of what has no name.

    >>> object_of({"class": "dog", "count": "two", "attributes": "small, brown", "mood": "glad"})
    ObjectDescription(name='dog', count=2, attributes=('small', 'brown'), actions=(), position='', relations=(), \
other={'mood': 'glad'})
    """
    if isinstance(item, str):
        item = {"name": item}
    if not isinstance(item, Mapping):
        return None
    left = dict(item)
    key = next((key for key in NAMES if isinstance(left.get(key), str) and left[key].strip()), None)
    if key is None:
        return None
    name = _clean(left.pop(key))
    count = _count(left.get("count"))
    texts = {key: _texts(left.get(key)) for key in ("attributes", "actions")}
    position = _clean(left["position"]) if isinstance(left.get("position"), str) else None
    relations = _relations(left.get("relations"))
    read = {"count": count, **texts, "position": position, "relations": relations}
    for field_name, value in read.items():
        if value is not None or left.get(field_name) is None:  # what could not be read stays as it is
            left.pop(field_name, None)
    return ObjectDescription(
        name, count or 1, texts["attributes"] or (), texts["actions"] or (), position or "", relations or (), left
    )


def _clean(text: str) -> str:
    return " ".join(text.split())


def _count(value: Any) -> int | None:
    if isinstance(value, str):
        word = value.strip().lower()
        if word in WORDS:
            return WORDS.index(word) + 1
        value = int(word) if word.isdecimal() and len(word) < 7 else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _texts(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        return None
    return tuple(text for each in value if (text := _clean(each)))


def _relations(value: Any) -> tuple[Relation, ...] | None:
    if not isinstance(value, list):
        return None
    relations = []
    for each in value:
        if isinstance(each, str):
            relations.append(Relation(_clean(each)))
        elif isinstance(each, Mapping) and each.keys() == {"predicate", "object"}:
            if not all(isinstance(part, str) for part in each.values()):
                return None
            relations.append(Relation(_clean(each["predicate"]), _clean(each["object"])))
        else:
            return None
    return tuple(relations)
