"""Scenes as a source: record i depends on the seed, the split and i alone, and is painted when it is read."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import combinations

import numpy as np

from nearfar.data import world
from nearfar.data.scenes.captions import describe
from nearfar.data.scenes.draw import SeededDraw, digest
from nearfar.data.scenes.layout import RELATIONS, SceneObject, arrange
from nearfar.data.scenes.vocabulary import COLOURS, SHAPES, chosen_styles, nouns, pair_split
from nearfar.data.sources.source import Record, Source
from nearfar.errors import UserError

ATTRIBUTES = {
    "colour": tuple(COLOURS),
    "size": ("big", "small"),
    "turned": ("upright", "upside-down"),
}
PALE = ((255, 255, 255), (244, 236, 220), (224, 238, 250), (230, 244, 224), (246, 228, 236), (232, 232, 232))


@dataclass(frozen=True)
class ScenePlan:
    """What a source of scenes shows. Checked when it is made; small, so that worker processes get it cheaply."""

    split: str
    n: int
    seed: int
    size: int
    objects: int
    attributes: tuple[str, ...]
    relations: tuple[str, ...]
    vocabulary: str | tuple[str, ...] | None
    styles: tuple[str, ...]
    held_out_style: str | None
    ground: str

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("split", [self.split], world.SPLITS),
            ("attributes", self.attributes, ATTRIBUTES),
            ("relations", self.relations, RELATIONS),
            ("ground", [self.ground], ("white", "varied")),
        ):
            unknown = [v for v in value if v not in allowed]
            if unknown:
                raise UserError(f"scenes: {name} has no {unknown[0]!r}; choose from: {', '.join(allowed)}")
        if not 1 <= self.objects <= 5:
            raise UserError(f"scenes: objects={self.objects}; a scene holds 1 to 5 things")
        if self.size < 32 or self.n < 1:
            raise UserError(f"scenes: size={self.size}, n={self.n}; scenes need 32 pixels a side and n of at least 1")
        if self.objects > 1 and not self.possible_relations:
            raise UserError("scenes: no relation left; 'inside' needs objects=2, and more things need another relation")
        if self.vocabulary == "shapes" and "turned" in self.attributes:
            raise UserError("scenes: most shapes look the same upside-down; leave out the attribute 'turned'")
        names = nouns(self.vocabulary, self.split)
        if self.shared and self.objects > 1 and all(pair_split(*two) != self.split for two in combinations(names, 2)):
            raise UserError(
                f"vocabulary: each split shows pairs of nouns of its own, and no two of these {len(names)} are one of "
                f"{self.split!r}: name more nouns"
            )
        chosen_styles(self.styles, self.held_out_style, self.split)

    @property
    def possible_relations(self) -> tuple[str, ...]:
        return tuple(r for r in self.relations if r != "inside" or self.objects == 2)

    @property
    def shared(self) -> bool:
        """Whether all splits draw from the same nouns: then splits differ by the pairs of nouns they show."""
        return self.vocabulary is not None


class SceneSource(Source):
    """What `scenes` returns."""

    columns = (
        *("index", "image", "text", "label", "group", "domain", "negative_text", "negative_kind", "negative_of"),
        *("objects", "mask", "relation", "style"),
    )
    domains = world.STYLES

    def __init__(self, plan: ScenePlan) -> None:
        self.plan = plan
        self.name = f"world/scenes:{plan.split}"
        self.classes = list(nouns(plan.vocabulary, plan.split))
        self._number = {noun: i for i, noun in enumerate(self.classes)}

    def __len__(self) -> int:
        return self.plan.n

    def training(self) -> SceneSource:
        """A thousand scenes of the training split, of the same make."""
        return SceneSource(replace(self.plan, split="train", n=1000))

    def record(self, index: int) -> Record:
        plan = self.plan
        draw = SeededDraw("scene", plan.seed, plan.split, index)
        style = draw.one(chosen_styles(plan.styles, plan.held_out_style, plan.split))
        things = [SceneObject(noun, style=style) for noun in draw_nouns(plan, self.classes or [], plan.objects, draw)]
        relation = draw.one(plan.possible_relations) if plan.objects > 1 else None
        _dress(things, relation, plan.attributes, draw)
        ground = draw.one(PALE) if plan.ground == "varied" else PALE[0]
        image = arrange(things, relation, plan.size, ground, draw)
        descriptions = describe(things, relation, draw)
        return {
            "index": index,
            "image": image,
            "text": [caption.true for caption in descriptions],
            "label": self._number[things[0].name],
            "group": digest(relation, *((t.name, t.colour, t.size, t.turned) for t in things)),
            "domain": world.STYLES.index(style),
            "negative_text": [caption.false for caption in descriptions if caption.false],
            "negative_kind": [caption.kind for caption in descriptions if caption.false],
            "negative_of": [i for i, caption in enumerate(descriptions) if caption.false],
            "objects": [asdict(thing) for thing in things],
            "mask": self._mask(things),
            "relation": relation,
            "style": style,
        }

    def _mask(self, things: list[SceneObject]) -> np.ndarray:
        """The class of each pixel, `[size, size]`: 0 is the ground, i + 1 the noun `classes[i]`."""
        mask = np.zeros((self.plan.size, self.plan.size), np.int16)
        for thing in things:
            mask[thing.mask] = self._number[thing.name] + 1
        return mask


def draw_nouns(plan: ScenePlan, vocabulary: list[str], count: int, draw: SeededDraw) -> list[str]:
    """Different nouns; where the splits share them, the first two are a pair that the split owns."""
    while True:
        drawn = draw.some(vocabulary, count)
        if count == 1 or not plan.shared or pair_split(drawn[0], drawn[1]) == plan.split:
            return drawn


def _dress(things: list[SceneObject], relation: str | None, attributes: tuple[str, ...], draw: SeededDraw) -> None:
    """Give the things different values of one attribute. Sizes are left to the relation where it is about them."""
    sized = relation in ("inside", "bigger than", "smaller than")
    possible = [name for name in attributes if not (name == "size" and sized)]
    if any(thing.name in SHAPES for thing in things) and "colour" not in possible:
        possible = [*possible, "colour"]
    if not possible:
        return
    attribute = draw.one(possible)
    values = draw.some(ATTRIBUTES[attribute], min(len(things), len(ATTRIBUTES[attribute])))
    while len(values) < len(things):
        values.append(draw.one(ATTRIBUTES[attribute]))
    for thing, value in zip(things, values, strict=True):
        setattr(thing, attribute, value)
