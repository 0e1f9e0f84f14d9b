"""Queries and descriptions of scenes, texts alone: what LexiCLIP (arXiv 2509.19203) is calibrated on."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from nearfar.data.descriptions.description_text import description_text
from nearfar.data.descriptions.scene_description import ObjectDescription, Relation, SceneDescription
from nearfar.data.descriptions.sub_queries import drawn_parts
from nearfar.data.scenes.captions import describe
from nearfar.data.scenes.draw import SeededDraw, digest
from nearfar.data.scenes.layout import INVERSE, RELATIONS, SceneObject
from nearfar.data.scenes.scene_source import ScenePlan, draw_nouns
from nearfar.data.scenes.vocabulary import COLOURS, nouns
from nearfar.data.sources.source import Record, Source
from nearfar.errors import UserError

WORDS = (2, 10)
"""Words of a query about a part of a scene."""


def described(
    split: str = "train",
    *,
    n: int = 4_000,
    seed: int = 0,
    objects: int = 3,
    relations: Sequence[str] = RELATIONS,
    vocabulary: str | Sequence[str] | None = "basic",
    parts: int = 3,
    false_queries: bool = False,
) -> Source:
    """`n` scenes of a split as texts: queries about each, and its description, as pairs. No picture is drawn.

    Args:
        n: how many.
        seed, relations, vocabulary: as for `nearfar.data.scenes.scenes`. Each thing has a colour of its own.
        objects: things in a scene, 2 to 5.
        parts: queries about one or two things of a scene, after its caption.
        false_queries: adds the caption with two colours, or two things, exchanged, as a hard negative.

    Returns:
        records with `text`, a caption and then queries about parts, `text2`, the description, `scene`, the same as
        JSON, and `group`, equal for scenes that show the same; with `false_queries` `negative_text`.

    Raises:
        UserError: an argument that is not understood.

    >>> pair = described("test", n=1)[0]
    >>> len(pair["text"]), pair["text2"].startswith("there are 3 things Objects: ")
    (4, True)
    """
    if not 2 <= objects <= 5 or parts < 0:
        raise UserError(
            f"described: objects={objects}, parts={parts}; 2 to 5 things, and 0 or more queries about parts"
        )
    plan = ScenePlan(
        split=split,
        n=n,
        seed=seed,
        size=32,  # of no picture
        objects=objects,
        attributes=("colour",),
        relations=tuple(relation for relation in relations if objects == 2 or relation != "inside"),
        vocabulary=vocabulary if vocabulary is None or isinstance(vocabulary, str) else tuple(vocabulary),
        styles=(),
        held_out_style=None,
        ground="white",
    )
    return DescribedSource(plan, parts, false_queries)


class DescribedSource(Source):
    """What `described` returns."""

    def __init__(self, plan: ScenePlan, parts: int, false_queries: bool) -> None:
        self.plan, self.parts, self.false_queries = plan, parts, false_queries
        self.name = f"world/described:{plan.split}"
        self.nouns = list(nouns(plan.vocabulary, plan.split))
        self.columns = ("index", "text", "text2", "scene", "group", *(("negative_text",) if false_queries else ()))

    def __len__(self) -> int:
        return self.plan.n

    def record(self, index: int) -> Record:
        plan = self.plan
        draw = SeededDraw("described", plan.seed, plan.split, index)
        colours = draw.some(list(COLOURS), plan.objects)
        named = draw_nouns(plan, self.nouns, plan.objects, draw)
        things = [SceneObject(noun, colour=colour) for noun, colour in zip(named, colours, strict=True)]
        relation = draw.one(plan.possible_relations)
        captions = describe(things, relation, draw)
        scene = scene_of(things, relation)
        chance = Random(f"described {plan.seed} {plan.split} {index}")
        queries = drawn_parts(scene, self.parts, WORDS, chance) if self.parts else {}
        record = {
            "index": index,
            "text": [captions[0].true, *queries],
            "text2": description_text(scene).text,
            "scene": scene.to_json(),
            "group": digest(relation, *((thing.name, thing.colour) for thing in things)),
        }
        return record | ({"negative_text": [each.false for each in captions[:2]]} if self.false_queries else {})


def scene_of(things: Sequence[SceneObject], relation: str) -> SceneDescription:
    """Things, the first two in a relation, as a description."""
    first, second = things[0].name, things[1].name
    relations: list[tuple[Relation, ...]] = [(Relation(relation, second),), (Relation(INVERSE[relation], first),)]
    relations += [()] * (len(things) - 2)
    objects = [
        ObjectDescription(thing.name, attributes=(thing.colour,) if thing.colour else (), relations=own)
        for thing, own in zip(things, relations, strict=True)
    ]
    return SceneDescription(f"there are {len(things)} things", tuple(objects))
