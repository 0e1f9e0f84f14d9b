"""Pictures of things that usually come in twos, questions about them, and a small model that answers and describes.

In training a thing comes along with its companion more often than not; in validation and test half of the time. A model
that has learnt this says that a companion is there where it is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from random import Random
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from nearfar.methods.lvlm.captioning import Captioning
from nearfar.models.vlm.vision_language_model import VisionLanguageModel

PAIRS = (
    *(("key", "door"), ("crown", "castle"), ("tulip", "butterfly")),
    *(("fish", "cat"), ("pear", "lemon"), ("bicycle", "umbrella")),
)
DATA: dict[str, Any] = {
    "size": 96,
    "cells": 3,
    "pairs": PAIRS,
    "often": [5, 3, 2, 2, 1, 1],
    "together": {"train": 0.85, "val": 0.5, "test": 0.5},
    "second_pair": 0.5,
    "styles": ["noto", "twemoji", "openmoji"],
    "scenes": {"train": 1200, "val": 40, "test": 70},
}
LANGUAGE = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
TOWER = "efficientnet-lite0"
PARTNER = {**dict(PAIRS), **{second: first for first, second in PAIRS}}
NOUNS = sorted(PARTNER)


@dataclass(frozen=True)
class Scene:
    """A picture and the cell, counted row by row, of each thing in it."""

    picture: Image.Image
    places: dict[str, int]

    @property
    def caption(self) -> str:
        return "there is " + " and ".join(map(with_article, sorted(self.places, key=self.places.__getitem__)))


@dataclass(frozen=True)
class Question:
    """A question about a scene, by its number. Its kind is POPE's, by the thing that is not there."""

    scene: int
    kind: str
    text: str
    yes: bool


@cache
def company(split: str) -> list[Scene]:
    """The scenes of a split."""
    return [_scene(Random(f"{split} {number}"), DATA["together"][split]) for number in range(DATA["scenes"][split])]


def _scene(draw: Random, together: float) -> Scene:
    from nearfar.data.scenes.sprites import sprite

    size, cells = DATA["size"], DATA["cells"]
    pairs = [draw.choices(PAIRS, DATA["often"])[0]]
    if draw.random() < DATA["second_pair"]:
        pairs.append(draw.choice([pair for pair in PAIRS if pair != pairs[0]]))
    things = [thing for pair in pairs for thing in (pair if draw.random() < together else (draw.choice(pair),))]
    canvas = Image.new("RGB", (size, size), tuple(draw.randrange(215, 256) for _ in range(3)))
    places = dict(zip(things, draw.sample(range(cells**2), len(things)), strict=True))
    for thing, place in places.items():
        side = draw.randrange(22, size // cells + 1)
        corner = (place % cells, place // cells)
        left, top = (each * size // cells + draw.randrange(size // cells - side + 1) for each in corner)
        cut = sprite(thing, draw.choice(DATA["styles"]), None, side)
        canvas.paste(cut.image, (left, top), cut.alpha)
    return Scene(canvas, places)


@cache
def questions(split: str) -> list[Question]:
    """POPE's: of each scene, for each kind, one about a thing that is not there and one about a thing that is."""
    common = {noun: DATA["often"][place] for place, pair in enumerate(PAIRS) for noun in pair}
    made = []
    for number, scene in enumerate(company(split)):
        draw = Random(f"questions {split} {number}")
        absent = [noun for noun in NOUNS if noun not in scene.places]
        strangers = [noun for noun in absent if PARTNER[noun] not in scene.places]
        most = max(common[noun] for noun in strangers)
        kinds = {
            "random": strangers,
            "popular": [noun for noun in strangers if common[noun] == most],
            "adversarial": [noun for noun in absent if noun not in strangers],
        }
        for kind, nouns in kinds.items():
            if nouns:
                for noun, yes in ((draw.choice(nouns), False), (draw.choice(list(scene.places)), True)):
                    made.append(Question(number, kind, is_there(noun), yes))
    return made


def is_there(noun: str) -> str:
    return f"is there {with_article(noun)}"


def with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


@cache
def lessons() -> list[tuple[int, str, str]]:
    """What is learnt: the number of a training scene, a question (or none) and what is to be written."""
    made = []
    for number, scene in enumerate(company("train")):
        draw = Random(f"lessons {number}")
        there, absent = list(scene.places), [noun for noun in NOUNS if noun not in scene.places]
        made += [(number, "", scene.caption)] * 2
        for nouns, answer in ((there, "yes"), (absent, "no")):
            made += [(number, is_there(draw.choice(nouns)), answer) for _ in range(2)]
    return made


@cache
def tokenizer() -> Any:
    from nearfar.data.fields.text import train_tokenizer

    texts = [f"{question} {text}".strip() for _, question, text in lessons()]
    return train_tokenizer([*texts, *map(is_there, NOUNS)], 600)


@cache
def tower() -> tuple[Any, Any]:
    """The frozen tower of all models, and how its pictures are prepared."""
    from nearfar.models.towers.backbones import image_tower

    made, pixels = image_tower(TOWER, image_size=DATA["size"])
    return made.eval().for_inference(), pixels


KNOWN: dict[bytes, Tensor] = {}
"""Cells of pictures that the frozen tower has read, by their pixels."""


class CellsReader(VisionLanguageModel):
    """A model whose frozen tower reads the same pixels once, whatever it writes of them."""

    def picture_tokens(self, pixels: Tensor) -> Tensor:
        """Of pixels `[B, 3, S, S]`, or of cells `[B, 1, P, D]` that are known, floating point."""
        return self.projector(pixels[:, 0] if pixels.shape[1] == 1 else cells(pixels))


@torch.no_grad()
def cells(pixels: Tensor) -> Tensor:
    """The tower's cells `[B, P, D]` float32 of pixels `[B, 3, S, S]` float32."""
    keys = [blake2b(row.contiguous().numpy().tobytes(), digest_size=16).digest() for row in pixels]
    new = list({key: place for place, key in enumerate(keys) if key not in KNOWN}.items())
    for start in range(0, len(new), 64):
        part = new[start : start + 64]
        read = tower()[0](pixels[[place for _, place in part]])[:, 1:]
        KNOWN.update(zip((key for key, _ in part), read.clone(), strict=True))
    return torch.stack([KNOWN[key] for key in keys])


def reader(seed: int) -> CellsReader:
    """A model before training."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    own, (image, pixels) = tokenizer(), tower()
    ends = {"pad_token_id": own.pad_token_id, "bos_token_id": own.cls_token_id, "eos_token_id": own.sep_token_id}
    config = LlamaConfig(vocab_size=len(own), max_position_embeddings=64, tie_word_embeddings=True, **LANGUAGE, **ends)
    model = CellsReader(
        image, LlamaForCausalLM(config), tokenizer=own, pixels=pixels, projector="linear", max_length=32
    )
    return model.freeze("image")


class Answering(Captioning):
    """Captioning where questions are read and not learnt."""

    def token_weights(self, batch: Any, mask: Tensor) -> Tensor:
        return batch["written"][:, : mask.shape[1]] & mask


@dataclass(frozen=True)
class LessonBatches:
    """`count` batches of lessons, each once in a pass. `seed` draws their order."""

    count: int
    batch_size: int
    seed: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        chance, order = torch.Generator().manual_seed(self.seed), list[int]()
        read = training_cells()
        for _ in range(self.count):
            while len(order) < self.batch_size:
                order += torch.randperm(len(lessons()), generator=chance).tolist()
            rows, order = order[: self.batch_size], order[self.batch_size :]
            chosen = [lessons()[row] for row in rows]
            yield {
                "image": read[[number for number, _, _ in chosen]][:, None],
                **encoded([(question, text) for _, question, text in chosen]),
                "index": torch.tensor(rows),
            }


def encoded(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Tokens of questions with their answers, and which targets `[B, L]` bool are of the answers or the ends."""
    made = tokenizer()([f"{question} {text}".strip() for question, text in pairs], padding=True, return_tensors="pt")
    words = [tokenizer()(question, add_special_tokens=False)["input_ids"] if question else [] for question, _ in pairs]
    places = torch.arange(made["input_ids"].shape[1] - 1)
    return {
        "text": {name: made[name] for name in ("input_ids", "attention_mask")},
        "written": places >= torch.tensor([len(each) for each in words])[:, None],
    }


@cache
def training_cells() -> Tensor:
    """The tower's cells of the training scenes."""
    pixels = tower()[1]([scene.picture for scene in company("train")])
    with torch.no_grad():
        return torch.cat([tower()[0](part)[:, 1:] for part in pixels.split(64)])


def things_in(text: str) -> list[str]:
    """The things that a text names."""
    return [word for word in text.lower().split() if word in PARTNER]
