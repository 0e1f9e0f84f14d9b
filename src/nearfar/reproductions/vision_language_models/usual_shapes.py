"""A world in which each colour has a usual shape, captions that name the colour before the shape, and pairs of pictures
that differ in one of both: whoever writes shapes by habit is wrong in half of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from nearfar.reproductions.vision_language_models.captioned_sprites import LANGUAGE, VIT, pixels

DATA: dict[str, Any] = {
    "size": 32,
    "usual": 0.9,
    "captions": {"train": 1500, "test": 200},
    "pairs": {"train": 600, "val": 100, "test": 200},
}
OPENINGS = ("in this picture there is one", "somebody has drawn some", "what we see here is the")
Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Drawings:
    """Pictures `[N, 3, S, S]` uint8, of each its caption, its shape and colour, and whether the shape is usual."""

    pictures: Tensor
    captions: list[str]
    things: list[tuple[str, str]]
    is_usual: list[bool]


@dataclass(frozen=True)
class Pairs:
    """First and second drawings of pairs: the same place and size, another colour or another shape, and in one of both
    the shape is usual."""

    first: Drawings
    second: Drawings


def usual_shape(colour: str) -> str:
    from nearfar.data.scenes import COLOURS, SHAPES

    return SHAPES[list(COLOURS).index(colour)]


@cache
def captioned(split: Split) -> Drawings:
    """Drawings of which nine in ten have the usual shape."""
    from nearfar.data.scenes import COLOURS, SHAPES
    from nearfar.data.scenes.draw import SeededDraw

    made = []
    for number in range(DATA["captions"][split]):
        draw = SeededDraw("usual shapes", split, number)
        colour = draw.one(list(COLOURS))
        usual = usual_shape(colour)
        is_usual = draw.below(1000) < 1000 * DATA["usual"]
        shape = usual if is_usual else draw.one([other for other in SHAPES if other != usual])
        made.append((shape, colour, draw.one(OPENINGS), (split, number)))
    return _drawn(made)


@cache
def paired(split: Split) -> Pairs:
    """Pairs, half of them of two colours and half of two shapes."""
    from nearfar.data.scenes import COLOURS, SHAPES
    from nearfar.data.scenes.draw import SeededDraw

    sides: tuple[list[Any], list[Any]] = ([], [])
    for number in range(DATA["pairs"][split]):
        draw = SeededDraw("pairs", split, number)
        colour, opening = draw.one(list(COLOURS)), draw.one(OPENINGS)
        usual = usual_shape(colour)
        other = (
            (usual, draw.one([each for each in COLOURS if each != colour]))
            if number % 2
            else (draw.one([shape for shape in SHAPES if shape != usual]), colour)
        )
        both = [(usual, colour), other]
        for side, thing in zip(sides, both if draw.below(2) else both[::-1], strict=True):
            side.append((*thing, opening, ("pair", split, number)))
    return Pairs(*map(_drawn, sides))


def _drawn(made: list[Any]) -> Drawings:
    from nearfar.data.scenes.draw import SeededDraw
    from nearfar.data.scenes.layout import SceneObject, arrange
    from nearfar.data.scenes.scene_source import PALE

    pictures, captions, things = [], [], []
    for shape, colour, opening, place in made:
        draw = SeededDraw("place", *place)
        thing = SceneObject(shape, colour=colour)
        pictures.append(np.asarray(arrange([thing], None, DATA["size"], draw.one(PALE), draw)))
        captions.append(f"{opening} {colour} thing and it is a {shape}")
        things.append((shape, colour))
    stacked = torch.from_numpy(np.stack(pictures)).movedim(3, 1).contiguous()
    return Drawings(stacked, captions, things, [shape == usual_shape(colour) for shape, colour in things])


@cache
def tokenizer() -> Any:
    """Each word of the captions is one token."""
    from nearfar.data.fields.text import train_tokenizer
    from nearfar.data.scenes import COLOURS, SHAPES

    return train_tokenizer([*OPENINGS, "thing and it is a", *COLOURS, *SHAPES] * 9, 1000)


def tokens(captions: list[str]) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` `[B, L]`."""
    made = tokenizer()(captions, padding=True, return_tensors="pt")
    return {name: made[name] for name in ("input_ids", "attention_mask")}


def fresh_writer(seed: int) -> Any:
    """A model that reads pictures and writes captions, before training."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from nearfar.models.language.model import LanguageModel
    from nearfar.models.vlm.vlm_maker import vision_language_model

    torch.manual_seed(seed)
    own = tokenizer()
    ends = {"pad_token_id": own.pad_token_id, "bos_token_id": own.cls_token_id, "eos_token_id": own.sep_token_id}
    config = LlamaConfig(vocab_size=len(own), max_position_embeddings=64, tie_word_embeddings=True, **LANGUAGE, **ends)
    words = LanguageModel(LlamaForCausalLM(config), own)
    return vision_language_model(VIT, words, image_size=DATA["size"], projector="mlp", max_length=24)


@dataclass(frozen=True)
class Batches:
    """`count` batches of `size` drawings with captions, or of pairs; with `flat` both drawings of pairs, one by one.
    `seed` draws their order."""

    data: Drawings | Pairs
    count: int
    size: int
    seed: int
    flat: bool = False

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        chance = torch.Generator().manual_seed(self.seed)
        sides = [self.data.first, self.data.second] if isinstance(self.data, Pairs) else [self.data]
        order = list[int]()
        for _ in range(self.count):
            while len(order) < self.size:
                order += torch.randperm(len(sides[0].captions), generator=chance).tolist()
            rows, order = order[: self.size], order[self.size :]
            pictures = [pixels(side.pictures[rows]) for side in sides]
            captions = [[side.captions[row] for row in rows] for side in sides]
            if len(sides) == 1 or self.flat:
                yield {"image": torch.cat(pictures), "text": tokens([text for each in captions for text in each])}
            else:
                names = (("image", "text"), ("image2", "text2"))
                batch: dict[str, Any] = {"index": torch.tensor(rows)}
                for (image, text), picture, own in zip(names, pictures, captions, strict=True):
                    batch |= {image: picture, text: tokens(own)}
                yield batch
