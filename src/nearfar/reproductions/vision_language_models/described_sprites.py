"""Pictures of two coloured shapes with titles that may leave something out and full descriptions; a small model that
was trained to write both, and a small dual encoder beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from random import Random
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (50, 80, 220),
    "yellow": (230, 190, 30),
    "purple": (140, 60, 170),
    "black": (30, 30, 30),
}
SHAPES = ("square", "ring", "cross", "bar", "frame")
DATA: dict[str, Any] = {"size": 32, "side": 12, "jitter": 2, "pairs": {"train": 180, "val": 40, "test": 80}}
TITLE_LEAVES_OUT = 0.4
"""The share of titles that name one colour only."""
VIT: dict[str, Any] = {
    "model_type": "vit",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "patch_size": 8,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
LANGUAGE = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4}
BERT: dict[str, Any] = {
    **LANGUAGE,
    "model_type": "bert",
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
PROMPTS: dict[str, Any] = {"image_prompt": "in short", "text_prompt": "in short"}
Kind = Literal["short", "long", "either", "both"]


class Thing(NamedTuple):
    """A colour and a shape."""

    colour: str
    shape: str


Pair = tuple[Thing, Thing]
"""What is on the left, and on the right."""


@cache
def pairs(split: str) -> list[Pair]:
    """The pairs of a split, each in no other: two things of other colours and other shapes, in either order."""
    things = [Thing(colour, shape) for colour in COLOURS for shape in SHAPES]
    apart = [two for two in combinations(things, 2) if two[0].colour != two[1].colour and two[0].shape != two[1].shape]
    Random("pairs").shuffle(apart)
    sizes = DATA["pairs"]
    first = sum(sizes[name] for name in list(sizes)[: list(sizes).index(split)])
    own = apart[first : first + sizes[split]]
    if split == "train":
        return [*own, *((two, one) for one, two in own)]
    return [two if place % 2 else (two[1], two[0]) for place, two in enumerate(own)]


def picture(pair: Pair, chance: Random) -> np.ndarray[Any, Any]:
    """A picture `[S, S, 3]` uint8 of two things, each anywhere in its half."""
    size, side, jitter = DATA["size"], DATA["side"], DATA["jitter"]
    canvas = np.full((size, size, 3), 255, dtype=np.uint8)
    for half, thing in enumerate(pair):
        left = half * size // 2 + (size // 2 - side) // 2 + chance.randint(-jitter, jitter)
        top = (size - side) // 2 + chance.randint(-3 * jitter, 3 * jitter)
        canvas[top : top + side, left : left + side][_mask(thing.shape, side)] = COLOURS[thing.colour]
    return canvas


def _mask(shape: str, side: int) -> np.ndarray[Any, Any]:
    rows, columns = np.indices((side, side)) - (side - 1) / 2
    away, inner = np.hypot(rows, columns), side / 2
    square = np.ones((side, side), dtype=bool)
    return {
        "square": square,
        "ring": (away <= inner) & (away > inner - 3.2),
        "cross": (abs(rows) < 2) | (abs(columns) < 2),
        "bar": abs(rows) < 2.6,
        "frame": (abs(rows) > inner - 2.6) | (abs(columns) > inner - 2.6),
    }[shape]


def title(pair: Pair, chance: Random | None = None) -> str:
    """A short caption: both things, in any order; by chance without one of the colours."""
    named = [f"a {thing.colour} {thing.shape}" for thing in pair]
    if chance is not None:
        if chance.random() < TITLE_LEAVES_OUT:
            place = chance.randrange(2)
            named[place] = f"a {pair[place].shape}"
        chance.shuffle(named)
    return " and ".join(named)


def description(pair: Pair) -> str:
    """A long caption of three sentences."""
    left, right = pair
    return (
        f"on the left there is a {left.colour} {left.shape} . on the right there is a {right.colour} {right.shape} . "
        f"the {left.shape} is left of the {right.shape} ."
    )


def swapped(pair: Pair) -> Pair:
    """The same things with one another's colours."""
    one, other = pair
    return Thing(other.colour, one.shape), Thing(one.colour, other.shape)


def replaced(pair: Pair, chance: Random) -> Pair:
    """One colour or one shape is another, which is not in the picture."""
    place, field = chance.randrange(2), chance.choice(("colour", "shape"))
    known = COLOURS if field == "colour" else SHAPES
    other = chance.choice([each for each in known if each not in {getattr(thing, field) for thing in pair}])
    changed = [thing._replace(**{field: other}) if n == place else thing for n, thing in enumerate(pair)]
    return changed[0], changed[1]


@cache
def tokenizer() -> Any:
    """Each word is one token."""
    from nearfar.data.fields.text import train_tokenizer

    words = [*COLOURS, *SHAPES, "a and on the left right there is of . in short"]
    return train_tokenizer(words * 9, 1000)


def pixels(pictures: list[np.ndarray[Any, Any]]) -> Tensor:
    """`[B, 3, S, S]` float32, around 0."""
    return torch.from_numpy(np.stack(pictures)).movedim(3, 1).float() / 127.5 - 1


def tokens(texts: list[str]) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` `[B, L]`."""
    made = tokenizer()(texts, padding=True, return_tensors="pt")
    return {name: made[name] for name in ("input_ids", "attention_mask")}


def writer(seed: int) -> Any:
    """A model that reads pictures and writes captions, before training."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from nearfar.models.language.model import LanguageModel
    from nearfar.models.vlm.vlm_maker import vision_language_model

    torch.manual_seed(seed)
    own = tokenizer()
    ends = {"pad_token_id": own.pad_token_id, "bos_token_id": own.cls_token_id, "eos_token_id": own.sep_token_id}
    config = LlamaConfig(vocab_size=len(own), max_position_embeddings=64, tie_word_embeddings=True, **LANGUAGE, **ends)
    words = LanguageModel(LlamaForCausalLM(config), own)
    return vision_language_model(VIT, words, image_size=DATA["size"], projector="mlp", max_length=40)


def two_towers(seed: int) -> Any:
    """A dual encoder of the same image tower and a text tower of the language model's size, before training."""
    from nearfar.models.presets import create

    torch.manual_seed(seed)
    size = {"image_size": DATA["size"], "embed_dim": LANGUAGE["hidden_size"]}
    return create(image=VIT, text=BERT | {"vocab_size": len(tokenizer())}, tokenizer=tokenizer(), **size)


@dataclass(frozen=True)
class DescribedBatches:
    """`count` batches of training pairs, each pair and order once in a pass, drawn anew each time. `text` is a title, a
    description, or of each sample either; with "both" it is a title, and `long_text` a description."""

    kind: Kind
    count: int
    batch_size: int
    seed: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        chance, order = Random(f"batches {self.seed}"), list[Pair]()
        for _ in range(self.count):
            while len(order) < self.batch_size:
                order += chance.sample(pairs("train"), len(pairs("train")))
            own, order = order[: self.batch_size], order[self.batch_size :]
            titles, descriptions = [title(pair, chance) for pair in own], [description(pair) for pair in own]
            either = [texts[chance.randrange(2)] for texts in zip(titles, descriptions, strict=True)]
            texts = {"short": titles, "long": descriptions, "either": either, "both": titles}[self.kind]
            batch = {"image": pixels([picture(pair, chance) for pair in own]), "text": tokens(texts)}
            yield batch | ({"long_text": tokens(descriptions)} if self.kind == "both" else {})
