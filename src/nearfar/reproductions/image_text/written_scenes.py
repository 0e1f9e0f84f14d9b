"""Pictures of two or three small things in four places, a network that writes their things down as JSON and errs, and
short, long and false queries about them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from random import Random
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.data.descriptions.parse_scene import parse_scene
from nearfar.data.descriptions.scene_description import ObjectDescription, SceneDescription
from nearfar.data.descriptions.sub_queries import Part, SubQuery, drawn_parts, holds, sub_queries
from nearfar.reproductions.setups.attribute_sprites import sprites

DATA: dict[str, Any] = {
    "scenes": {"train": 2000, "test": 240},
    "things": [2, 3],
    "queries": 3,
    "most_positives": 10,
    "words": [3, 8],
    "colour_left_out": 0.4,
}
CAPTIONER: dict[str, Any] = {"steps": 400, "batch_size": 64, "lr": 3e-3, "widths": [24, 48, 64]}
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = ("red", "green", "blue", "yellow")
SIZES = ("small", "large")
TEXTURES = ("plain", "striped", "banded", "hollow")
PLACES = ("top left", "top right", "bottom left", "bottom right")
LEFT_OUT = 0.31
"""The share of objects that the paper's descriptions do not name."""


class Thing(NamedTuple):
    """Numbers of a shape, a colour, a size and a texture."""

    shape: int
    colour: int
    size: int
    texture: int

    @property
    def is_unseen(self) -> bool:
        """Whether its colour and its shape are never together in training: four of the sixteen pairs."""
        return (self.shape + self.colour) % 4 == 3


Scene = dict[int, Thing]
"""A thing in some of the four places."""


class Scenes(NamedTuple):
    """Scenes, their descriptions as they are, and their pictures `[N, 3, 32, 32]` float32."""

    scenes: list[Scene]
    gold: list[SceneDescription]
    pictures: Tensor


@cache
def drawn(split: str, seed: int) -> Scenes:
    """The scenes of a split. Those of "test" are the same for every seed."""
    chance = Random(f"scenes {split} {seed if split == 'train' else ''}")
    scenes = []
    for _ in range(DATA["scenes"][split]):
        places = sorted(chance.sample(range(4), chance.randint(*DATA["things"])))
        scenes.append({place: _thing(chance, split) for place in places})
    return Scenes(scenes, [described(scene) for scene in scenes], painted(scenes, chance.randrange(1 << 30)))


def _thing(chance: Random, split: str) -> Thing:
    while True:
        thing = Thing(chance.randrange(4), chance.randrange(4), chance.randrange(2), chance.randrange(4))
        if split == "test" or not thing.is_unseen:
            return thing


def painted(scenes: Sequence[Scene], seed: int) -> Tensor:
    """Each thing in its place, on grounds and with noise of its own."""
    things = [(number, place, thing) for number, scene in enumerate(scenes) for place, thing in scene.items()]
    values = torch.tensor([(thing.shape, thing.colour, 3 * thing.size, thing.texture) for _, _, thing in things])
    drawings = sprites(values, 1, n_views=1, seed=seed).views[0]
    g = torch.Generator().manual_seed(seed)
    side = drawings.shape[-1]
    pictures = 0.5 + 0.08 * torch.randn(len(scenes), 3, 2 * side, 2 * side, generator=g)
    for (number, place, _), drawing in zip(things, drawings, strict=True):
        row, column = divmod(place, 2)
        pictures[number, :, row * side : (row + 1) * side, column * side : (column + 1) * side] = drawing
    return pictures - 0.5


def described(scene: Scene) -> SceneDescription:
    """A scene as it is: its shapes in a sentence, its things one by one."""
    return parse_scene(*answers(scene)).description


def answers(scene: Scene) -> tuple[str, str]:
    """What a vision-language model would write: a sentence, and a list of objects as JSON."""
    named = [f"a {SHAPES[thing.shape]}" for thing in scene.values()]
    objects = [
        {
            "name": SHAPES[thing.shape],
            "attributes": [SIZES[thing.size], COLOURS[thing.colour], TEXTURES[thing.texture]],
            "position": PLACES[place],
        }
        for place, thing in scene.items()
    ]
    sentence = " and ".join(filter(None, [", ".join(named[:-1]), *named[-1:]]))
    return sentence or "nothing", f"```json\n{json.dumps(objects)}\n```"


class Captioner(nn.Module):
    """Says of each place whether a thing is there, and which."""

    sizes = (2, len(SHAPES), len(COLOURS), len(SIZES), len(TEXTURES))

    def __init__(self) -> None:
        super().__init__()
        self.trunk = trunk()
        self.heads = nn.Conv2d(CAPTIONER["widths"][-1], sum(self.sizes), 1)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Logits `[B, 4, K]` of each question, of pictures `[B, 3, 32, 32]` float32."""
        return list(self.heads(self.trunk(pictures)).flatten(2).mT.split(self.sizes, dim=-1))

    @torch.no_grad()
    def read(self, pictures: Tensor) -> list[SceneDescription]:
        """Descriptions of pictures `[N, 3, 32, 32]` float32, by way of what it writes."""
        self.eval()
        there, *fields = (torch.cat(each).argmax(-1) for each in zip(*map(self, pictures.split(250)), strict=True))
        values = torch.stack(fields, -1).tolist()
        scenes = [
            {place: Thing(*row[place]) for place in range(4) if present[place]}
            for row, present in zip(values, there.tolist(), strict=True)
        ]
        return [described(scene) for scene in scenes]


def trunk() -> nn.Sequential:
    """Three convolutions, to features of the four places."""
    layers: list[nn.Module] = []
    width = 3
    for after in CAPTIONER["widths"]:
        layers += [nn.Conv2d(width, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        width = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2))


def captioner(seed: int) -> Captioner:
    """A captioner trained on the training scenes of a seed."""
    torch.manual_seed(seed)
    model, data = Captioner().train(), drawn("train", seed)
    there = torch.tensor([[place in scene for place in range(4)] for scene in data.scenes])
    nothing = Thing(0, 0, 0, 0)
    fields = torch.tensor([[scene.get(place, nothing) for place in range(4)] for scene in data.scenes])
    optimiser = torch.optim.AdamW(model.parameters(), CAPTIONER["lr"], weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, CAPTIONER["lr"], total_steps=CAPTIONER["steps"])
    for _ in range(CAPTIONER["steps"]):
        rows = torch.randint(len(there), (CAPTIONER["batch_size"],))
        present, *logits = model(data.pictures[rows])
        shown = there[rows]
        loss = F.cross_entropy(present.flatten(0, 1), shown.flatten().long())
        for place, each in enumerate(logits):
            loss = loss + F.cross_entropy(each[shown], fields[rows][shown][:, place])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
    return model.eval()


def objects_right(read: Sequence[SceneDescription], gold: Sequence[SceneDescription]) -> float:
    """The share of things that a description has with all their attributes, in their place."""
    pairs = list(zip(read, gold, strict=True))
    right = sum(one in mine.objects for mine, true in pairs for one in true.objects)
    return right / sum(len(true.objects) for _, true in pairs)


def dropped(gold: Sequence[SceneDescription], seed: int) -> list[SceneDescription]:
    """Descriptions of which each object is left out with the share `LEFT_OUT`."""
    chance = Random(f"dropped {seed}")
    kept = [tuple(one for one in each.objects if chance.random() >= LEFT_OUT) for each in gold]
    return [SceneDescription("a picture", objects) for objects in kept]


def caption(scene: Scene, chance: Random) -> str:
    """A short caption: each thing by its shape and, by chance, its colour, in any order."""
    named = []
    for thing in scene.values():
        colour = "" if chance.random() < DATA["colour_left_out"] else f"{COLOURS[thing.colour]} "
        named.append(f"a {colour}{SHAPES[thing.shape]}")
    chance.shuffle(named)
    return " and ".join(named)


def part_query(gold: SceneDescription, chance: Random) -> str:
    """A query about one or two things of a scene."""
    return next(iter(drawn_parts(gold, 1, words_of_a_query(), chance)))


def words_of_a_query() -> tuple[int, int]:
    """The fewest and the most."""
    fewest, most = DATA["words"]
    return fewest, most


@cache
def short_queries() -> list[SubQuery]:
    """Queries about parts of the test scenes, each with all scenes that it is true of, ten at most."""
    gold, most = drawn("test", 0).gold, DATA["most_positives"]
    return sub_queries(gold, each=DATA["queries"], words=words_of_a_query(), most_positives=most)


def is_unseen(query: SubQuery) -> bool:
    """Whether a query names a colour and a shape that are never together in training."""
    return any(
        Thing(SHAPES.index(part.name), COLOURS.index(word), 0, 0).is_unseen
        for part in query.parts
        for word in part.attributes
        if word in COLOURS
    )


@cache
def long_queries() -> list[str]:
    """All things of each test scene with all attributes, in any order, and without their places."""
    chance, texts = Random("long"), []
    for gold in drawn("test", 0).gold:
        named = [f"a {ObjectDescription(one.name, one.count, one.attributes).phrase}" for one in gold.objects]
        texts.append(" and ".join(chance.sample(named, len(named))))
    return texts


class Swap(NamedTuple):
    """The number of a scene, a query that is true of it, and the same with two colours exchanged, which is not."""

    scene: int
    true: str
    false: str


@cache
def swaps() -> list[Swap]:
    """One for each test scene in which two colours can be exchanged."""
    made = []
    for number, gold in enumerate(drawn("test", 0).gold):
        parts = [Part(one.name, (one.attributes[1],)) for one in gold.objects]
        for first in parts:
            second = next((each for each in parts if each != first), first)
            turned = (Part(first.name, second.attributes), Part(second.name, first.attributes))
            if not holds(turned, gold):
                true, false = (" and ".join(part.phrase for part in two) for two in ((first, second), turned))
                made.append(Swap(number, true, false))
                break
    return made
