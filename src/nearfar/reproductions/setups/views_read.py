"""What TCL's reproduction trains and tests on, read once for all seeds by a frozen image tower: emoji in four styles
and in a fifth, and scenes of two coloured things."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import torch

from nearfar.reproductions.setups.fusion_pairs import MODEL, fresh_model
from nearfar.reproductions.setups.grid_encoder import Reduction

DATA: dict[str, Any] = {
    "tower": {"image": MODEL["image"], "image_size": MODEL["image_size"], "kept": 128},
    "emoji": {"unseen": "fluent-3d", "seen": "noto", "concepts": None, "validation": 382, "trained": 200},
    "scenes": {
        "make": {"objects": 2, "vocabulary": "basic", "styles": ["noto"], "relations": ["left of", "above"]},
        "size": 128,
        "train": 3000,
        "val": 300,
        "test": 1000,
    },
    # A mirror image or another colour would contradict the captions of scenes.
    "views": {"emoji": ["moco", "moco"], "scenes": [{"crop": [0.8, 1.0], "canvas": 1.25, "blur": [0.5]}] * 2},
}


class Data(NamedTuple):
    """What the frozen tower read, once for all seeds: what is trained on, in two views; the gallery, with the rows of
    it that ask; and of emoji the same gallery in a style that training shows."""

    train: Any
    gallery: Any
    queries: list[int]
    known_style: Any = None


def data_of(world: str, split: str, seed: int) -> Data:
    """Of the "emoji" or the "scenes": "test" to be tested on, "val" to choose settings on. A seed draws its own
    concepts; all concepts are the gallery."""
    return _emoji(split, seed) if world == "emoji" else _scenes(split)


@cache
def _emoji(split: str, seed: int) -> Data:
    train, unseen, known_style = _read_emoji()
    rows = random.Random(0).sample(range(len(unseen.texts)), len(unseen.texts))
    config, group = DATA["emoji"], unseen.numbers["group"].tolist()
    own = rows[: config["validation"]] if split == "val" else rows[config["validation"] :]
    drawn = sorted(random.Random(seed).sample(own, min(config["trained"], len(own))))
    taught = {group[row] for row in drawn}
    kept = [row for row, each in enumerate(train.numbers["group"].tolist()) if each in taught]
    return Data(_loader(train.features.take(kept)), unseen, drawn, known_style)


@cache
def _read_emoji() -> tuple[Any, Any, Any]:
    """The concepts that all styles draw: in four styles to train on, in the fifth, and in one of the four again."""
    from nearfar.data import world

    config = DATA["emoji"]
    common = set.intersection(*(set(world.emoji("train", styles=[each]).column("group")) for each in world.STYLES))
    concepts = set(sorted(common)[: config["concepts"]])

    def of(styles: list[str]) -> Any:
        return world.emoji("train", styles=styles).filter(lambda record: record["group"] in concepts)

    train = _read(of([style for style in world.STYLES if style != config["unseen"]]), DATA["views"]["emoji"])
    reduced = _Reduced(train)
    return reduced(train), reduced(_read(of([config["unseen"]]))), reduced(_read(of([config["seen"]])))


@cache
def _scenes(split: str) -> Data:
    config = DATA["scenes"]
    train, reduced = _read_scenes()
    return Data(train, reduced(_read(_made(split))), list(range(config[split])))


@cache
def _read_scenes() -> tuple[Any, _Reduced]:
    train = _read(_made("train"), DATA["views"]["scenes"])
    reduced = _Reduced(train)
    return reduced(train), reduced


def _made(split: str) -> Any:
    """Scenes with their fullest caption, which says all; the two things are a pair that the split owns."""
    from nearfar.data.scenes import scenes

    config = DATA["scenes"]
    source = scenes(split, n=config[split], size=config["size"], **config["make"])
    return source.map(lambda record: {**record, "text": record["text"][0]})


@cache
def _tower() -> Any:
    """A model for its frozen image tower alone."""
    config = DATA["tower"]
    return fresh_model(["a picture"], {**MODEL, "image": config["image"], "image_size": config["image_size"]})


def _read(source: Any, views: list[Any] | None = None) -> Any:
    from nearfar.data.pictures.views import ViewPreset
    from nearfar.training import precompute

    presets = [ViewPreset(**each) if isinstance(each, dict) else each for each in views or ["none"]]
    return precompute(_tower(), source, batch_size=1, views=presets, negatives=0, shuffle=False)


class _Reduced:
    """Features in their first principal components, each of unit spread over the places of what is trained on: small
    towers learn from these in a fraction of the steps."""

    def __init__(self, train: Any) -> None:
        self.reduction = Reduction(train.image[0][:, 1:], kept=DATA["tower"]["kept"])

    def __call__(self, read: Any) -> Any:
        kept = [self.reduction(view).unflatten(1, (view.shape[1], -1)) for view in read.image]
        return _loader(replace(read.features, image=torch.stack(kept)))


def _loader(features: Any) -> Any:
    from nearfar.embedding.feature_loader import FeatureLoader, captions_only, tokens_of

    return FeatureLoader(features, captions_only(tokens_of(_tower())), batch_size=1, shuffle=False)
