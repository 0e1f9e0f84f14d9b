"""Pictures of a coloured shape with captions of which few words are of the picture, and small models that write them.

A caption opens with a phrase, says what is there, and closes with a remark; phrase and remark are drawn at random. In a
tenth of the training captions the colour is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

import torch
from torch import Tensor

DATA: dict[str, Any] = {
    "size": 32,
    "make": {"vocabulary": "shapes", "objects": 1, "ground": "varied"},
    "scenes": {"train": 2000, "val": 200, "test": 300},
    "wrong": 0.1,
}
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
LANGUAGE = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
OPENINGS = (
    "here we have a simple little drawing of",
    "this is a picture that somebody made of",
    "if you look closely you can find",
    "in this wonderful piece of art there is",
    "my friend has sent me an image with",
    "on the page in front of us lies",
)
REMARKS = (
    "and it looks really nice on the wall",
    "which is what makes it so much fun",
    "and i like it more every single day",
    "although nobody knows who made it or why",
    "as we all have come to expect by now",
    "which reminds me of a warm summer evening",
)


@dataclass(frozen=True)
class CaptionedScenes:
    """Pictures `[N, 3, S, S]` uint8; of each its caption as words, which of them are of the picture, and the colour and
    name of what is there."""

    pictures: Tensor
    words: list[list[str]]
    is_visual: list[list[bool]]
    things: list[tuple[str, str]]

    @property
    def captions(self) -> list[str]:
        return [" ".join(words) for words in self.words]


@cache
def captioned_scenes(split: str, noise: bool = False) -> CaptionedScenes:
    """The pictures of a split, each in no other. Captions of the training split alone have wrong colours. With `noise`
    each ends in a number drawn at random."""
    import numpy as np

    from nearfar.data.scenes import COLOURS, scenes
    from nearfar.data.scenes.captions import indefinite
    from nearfar.data.scenes.layout import SceneObject

    pictures, words, is_visual, things = [], [], [], []
    for number, record in enumerate(scenes(split, n=DATA["scenes"][split], size=DATA["size"], **DATA["make"])):
        draw = Random(f"{split} {number}")
        [thing] = record["objects"]
        things.append((thing["colour"], thing["name"]))
        colour = thing["colour"]
        if split == "train" and draw.random() < DATA["wrong"]:
            colour = draw.choice([other for other in COLOURS if other != colour])
        opening, remark = draw.choice(OPENINGS).split(), draw.choice(REMARKS).split()
        if noise:
            remark += ["number", *(str(draw.randrange(10)) for _ in range(4))]
        body = indefinite(SceneObject(thing["name"], colour=colour)).split()
        words.append([*opening, *body, *remark])
        is_visual.append([*[False] * len(opening), False, True, True, *[False] * len(remark)])
        pictures.append(np.asarray(record["image"]))
    stacked = torch.from_numpy(np.stack(pictures)).movedim(3, 1).contiguous()
    return CaptionedScenes(stacked, words, is_visual, things)


@cache
def tokenizer() -> Any:
    """Learnt from all that captions may say: each of their words is one token."""
    from nearfar.data.fields.text import train_tokenizer
    from nearfar.data.scenes import COLOURS, SHAPES

    words = [*COLOURS, *SHAPES, "a an number", " ".join("0123456789")]
    return train_tokenizer([*OPENINGS, *REMARKS, *words] * 9, 1000)


def pixels(pictures: Tensor) -> Tensor:
    """Floating point, around 0."""
    return pictures.float() / 127.5 - 1


def tokens(captions: list[str]) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` `[B, L]`."""
    made = tokenizer()(captions, padding=True, return_tensors="pt")
    return {name: made[name] for name in ("input_ids", "attention_mask")}


def visual_tokens(scenes: CaptionedScenes, rows: list[int], length: int) -> Tensor:
    """Which targets `[B, length]` bool of the captions of some rows are of the picture. A word is one token."""
    placed = torch.zeros(len(rows), length, dtype=torch.bool)
    for place, row in enumerate(rows):
        placed[place, : len(scenes.is_visual[row])] = torch.tensor(scenes.is_visual[row])
    return placed


def words_alone(seed: int) -> Any:
    """A language model before training."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from nearfar.models.language.model import LanguageModel

    torch.manual_seed(seed)
    own = tokenizer()
    ends = {"pad_token_id": own.pad_token_id, "bos_token_id": own.cls_token_id, "eos_token_id": own.sep_token_id}
    config = LlamaConfig(vocab_size=len(own), max_position_embeddings=64, tie_word_embeddings=True, **LANGUAGE, **ends)
    return LanguageModel(LlamaForCausalLM(config), own)


def writer(seed: int) -> Any:
    """A model that reads pictures and writes captions, before training."""
    from nearfar.models.vlm.vlm_maker import vision_language_model

    words = words_alone(seed)
    return vision_language_model(VIT, words, image_size=DATA["size"], projector="mlp", max_length=32)


@dataclass(frozen=True)
class CaptionBatches:
    """`count` batches of scenes and captions, each scene once in a pass. `seed` draws their order, whatever else is
    drawn."""

    scenes: CaptionedScenes
    rows: list[int]
    count: int
    batch_size: int
    seed: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        chance = torch.Generator().manual_seed(self.seed)
        captions, order = self.scenes.captions, list[int]()
        for _ in range(self.count):
            while len(order) < self.batch_size:
                order += [self.rows[place] for place in torch.randperm(len(self.rows), generator=chance).tolist()]
            rows, order = order[: self.batch_size], order[self.batch_size :]
            text = tokens([captions[row] for row in rows])
            yield {
                "image": pixels(self.scenes.pictures[rows]),
                "text": text,
                "visual": visual_tokens(self.scenes, rows, text["input_ids"].shape[1] - 1),
                "index": torch.tensor(rows),
            }
