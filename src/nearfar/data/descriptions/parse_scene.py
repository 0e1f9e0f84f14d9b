"""What a vision-language model writes of a picture, read leniently: its JSON may be fenced, cut, or no JSON at all."""

from __future__ import annotations

import json
import re
from typing import Any, Literal, NamedTuple

from nearfar.data.descriptions.scene_description import SceneDescription, object_of

How = Literal["json", "repaired", "none"]
FENCE = re.compile(r"```[a-zA-Z]*\s*(.*?)(?:```|\Z)", re.DOTALL)
MOST = 20
"""Objects of one list that are read: a model that repeats itself does not end."""


class ParsedScene(NamedTuple):
    """A description, how its list of objects was read, and how many of its items are not in it: beyond the first
    `MOST`, or without a name."""

    description: SceneDescription
    how: How
    left_out: int = 0


def parse_scene(scene: str, objects: str = "", *, most: int = MOST) -> ParsedScene:
    """The description of two answers of a model.

    Read are, in this order: strict JSON; what stands in a code fence; what stands between the outermost brackets,
    without trailing commas; the objects up to where a cut list ends. Where nothing can be read the scene is all there
    is, and where that is empty, too, the raw answer stands for it: no picture is ever without a description.

    Args:
        scene: what it wrote of the whole; JSON of `scene` and `objects` is taken apart.
        objects: its list of objects, as JSON.
        most: objects that are read at most, before the same ones are made one.

    >>> parsed = parse_scene("a street", '```json\\n[{"name": "car", "attributes": ["red"]}, {"name": "do')
    >>> parsed.description.objects[0].phrase, len(parsed.description.objects), parsed.how
    ('red car', 1, 'repaired')
    >>> parse_scene("a street", "I see a car.").description
    SceneDescription(scene='a street', objects=())
    """
    whole = _lenient(scene)[0] if scene.lstrip().startswith(("{", "```")) else None
    if isinstance(whole, dict) and isinstance(whole.get("scene"), str):
        scene, objects = whole["scene"], objects or json.dumps(whole.get("objects", []))
    text = " ".join(scene.split())
    held, how = _lenient(objects)
    items = _items(held)
    if items is None:
        return ParsedScene(SceneDescription(text or " ".join(objects.split())), "none")
    made = [object_of(item) for item in items[:most]]
    named = tuple(each for each in made if each is not None)
    return ParsedScene(SceneDescription(text, named).merged(), how, len(items) - len(named))


def _items(held: Any) -> list[Any] | None:
    """The list that an answer holds, by itself, under one key, or as a single object."""
    if isinstance(held, list):
        return held
    if not isinstance(held, dict):
        return None
    if isinstance(held.get("objects"), list):
        return list(held["objects"])
    return [held] if object_of(held) is not None else None


def _lenient(text: str) -> tuple[Any, How]:
    """The value that a text holds and how it was read; None where there is none."""
    value = _loaded(text)
    if value is not None:
        return value, "json"
    fenced = FENCE.search(text)
    inner = fenced[1] if fenced else text
    start = min((place for place in (inner.find("["), inner.find("{")) if place >= 0), default=-1)
    if start < 0:
        return None, "none"
    end = max(inner.rfind("]"), inner.rfind("}"))
    for part in (inner, inner[start : end + 1]):
        value = _loaded(_without_trailing_commas(part))
        if value is not None:
            return value, "repaired"
    items = _leading(_without_trailing_commas(inner[max(inner.find("["), 0) :]))
    return (items, "repaired") if items else (None, "none")


def _loaded(text: str) -> Any:
    """A list or an object of JSON, or None."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list | dict) else None


def _leading(text: str) -> list[Any]:
    """The items of a list up to the first that is not whole."""
    decoder, items, place = json.JSONDecoder(), list[Any](), 1
    while place < len(text):
        if text[place] in " \t\r\n,":
            place += 1
            continue
        try:
            item, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            break
        items.append(item)
    return items


def _without_trailing_commas(text: str) -> str:
    """Without commas that stand before a closing bracket, outside of texts in quotes.

    >>> _without_trailing_commas('[{"a": "1,]", }, ]')
    '[{"a": "1,]" } ]'
    """
    parts = re.split(r'("(?:[^"\\]|\\.)*")', text)
    return "".join(part if place % 2 else re.sub(r",(?=\s*[\]}])", "", part) for place, part in enumerate(parts))
