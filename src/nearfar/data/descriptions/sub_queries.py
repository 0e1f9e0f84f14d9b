"""Short queries about parts of scenes, with all the scenes that they are true of: our rebuild of the kind of query that
subFlickr and subCOCO are made of (LexiCLIP, arXiv 2509.19203), whose rules and files are not published."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from random import Random
from typing import NamedTuple

from nearfar.data.descriptions.scene_description import ObjectDescription, Relation, SceneDescription
from nearfar.errors import UserError

ATTRIBUTES = 2
"""The most attributes of an object that one query names."""
TRIES = 20
"""Draws of one query before its scene is held to have no more."""


class Part(NamedTuple):
    """What a query says of one object."""

    name: str
    attributes: tuple[str, ...] = ()
    action: str = ""
    relation: Relation | None = None

    @property
    def phrase(self) -> str:
        """It in words, with an article.

        >>> Part("tree", ("old",), relation=Relation("left of", "house")).phrase
        'an old tree left of a house'
        """
        words = _with_article(" ".join((*self.attributes, self.name)))
        other = "" if self.relation is None else f"{self.relation.predicate} {_named(self.relation.object)}".strip()
        return " ".join(part for part in (words, self.action, other) if part)


class SubQuery(NamedTuple):
    """A query, its parts, and the places of the scenes that it is true of, ascending."""

    text: str
    parts: tuple[Part, ...]
    positives: tuple[int, ...]


def sub_queries(
    scenes: Sequence[SceneDescription],
    *,
    each: int = 5,
    words: tuple[int, int] = (3, 8),
    most_positives: int | None = None,
    seed: int = 0,
) -> list[SubQuery]:
    """Queries of one or two objects of a scene, each with an attribute, an action or a relation.

    A query is true of every scene in which there are such objects, each part another one; all of them are its
    positives. It is no better than the descriptions are: what they leave out counts as not there.

    Args:
        scenes: descriptions that hold, such as those of a scene graph.
        each: queries drawn of each scene; fewer where it has no more. The same query of two scenes is one.
        words: the fewest and the most words of a query.
        most_positives: leave out queries that are true of more scenes than this.
        seed: of what is drawn; queries of a scene do not depend on the others.

    Raises:
        UserError: a number below 1, or fewest words above the most.

    >>> cars = [SceneDescription("", (ObjectDescription("car", attributes=(c,)),)) for c in ("red", "blue", "red")]
    >>> sub_queries(cars, each=1)
    [SubQuery(text='a red car', parts=(Part(name='car', attributes=('red',), action='', relation=None),), \
positives=(0, 2)), SubQuery(text='a blue car', parts=(Part(name='car', attributes=('blue',), action='', \
relation=None),), positives=(1,))]
    """
    fewest, most = words
    if each < 1 or fewest < 1 or most < fewest or (most_positives is not None and most_positives < 1):
        raise UserError(f"sub-queries: each={each}, words={words}, most_positives={most_positives}: numbers from 1 on")
    drawn = dict[str, tuple[Part, ...]]()
    for place, scene in enumerate(scenes):
        drawn |= drawn_parts(scene, each, words, Random(f"sub-queries {seed} {place}"))
    holding = _places_by_name(scenes)
    queries = []
    for text, parts in drawn.items():
        candidates = set.intersection(*(holding[part.name] for part in parts))
        positives = tuple(place for place in sorted(candidates) if holds(parts, scenes[place]))
        if most_positives is None or len(positives) <= most_positives:
            queries.append(SubQuery(text, parts, positives))
    return queries


def drawn_parts(
    scene: SceneDescription, each: int, words: tuple[int, int], chance: Random
) -> dict[str, tuple[Part, ...]]:
    """Up to `each` different queries of one scene, by their texts."""
    options = [_parts_of(one) for one in scene.objects]
    options = [parts for parts in options if parts]
    drawn = dict[str, tuple[Part, ...]]()
    for _ in range(TRIES * each if options else 0):
        if len(drawn) == each:
            break
        count = min(len(options), chance.choice((1, 2)))
        parts = tuple(chance.choice(of_one) for of_one in chance.sample(options, count))
        text = " and ".join(part.phrase for part in parts)
        if words[0] <= len(text.split()) <= words[1]:
            drawn.setdefault(text, parts)
    return drawn


def holds(parts: Sequence[Part], scene: SceneDescription) -> bool:
    """Whether a scene has an object for each part, each another one; of an object that is there three times, three.

    >>> scene = SceneDescription("", (ObjectDescription("car", 1, ("red", "small")), ObjectDescription("car")))
    >>> holds([Part("car", ("red",)), Part("car")], scene), holds([Part("car", ("red",))] * 2, scene)
    (True, False)
    """
    if not parts:
        return True
    for place, one in enumerate(scene.objects):
        if _fits(parts[0], one):
            fewer = ObjectDescription(one.name, one.count - 1, one.attributes, one.actions, "", one.relations)
            left = (*scene.objects[:place], *((fewer,) if fewer.count else ()), *scene.objects[place + 1 :])
            if holds(parts[1:], SceneDescription("", left)):
                return True
    return False


def _fits(part: Part, one: ObjectDescription) -> bool:
    return (
        part.name == one.name
        and set(part.attributes) <= set(one.attributes)
        and (not part.action or part.action in one.actions)
        and (part.relation is None or part.relation in one.relations)
    )


def _parts_of(one: ObjectDescription) -> list[Part]:
    """What can be said of an object: some of its attributes, an action, a relation; never its name alone."""
    numbers = range(1, min(ATTRIBUTES, len(one.attributes)) + 1)
    parts = [Part(one.name, some) for number in numbers for some in combinations(one.attributes, number)]
    parts += [Part(one.name, action=action) for action in one.actions]
    return parts + [Part(one.name, relation=relation) for relation in one.relations]


def _places_by_name(scenes: Sequence[SceneDescription]) -> dict[str, set[int]]:
    places = dict[str, set[int]]()
    for place, scene in enumerate(scenes):
        for one in scene.objects:
            places.setdefault(one.name, set()).add(place)
    return places


def _with_article(words: str) -> str:
    return f"{'an' if words[:1].lower() in 'aeiou' else 'a'} {words}"


def _named(words: str) -> str:
    """With an article, unless it has one."""
    return words if not words or words.split()[0] in ("a", "an", "the") else _with_article(words)
