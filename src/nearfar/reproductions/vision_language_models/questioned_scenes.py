"""Scenes of two coloured shapes with captions, and others with questions; what a frozen tower sees of them, and a small
language model of their words.

The tower, EfficientNet-Lite0 with ImageNet's weights, is never trained: each picture goes through it once, and models
read its cells, which are centred and scaled as those of the captioned training scenes are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from nearfar.models.vlm.vision_language_model import VisionLanguageModel

DATA: dict[str, Any] = {
    "size": 128,
    "make": {"vocabulary": "shapes", "objects": 2, "ground": "varied"},
    "kinds": ["colour", "thing"],
    "captions": {"train": 3000, "test": 300},
    "questions": {"train": 3000, "val": 300, "test": 500},
}
TOWER = "efficientnet-lite0"
LANGUAGE = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4}


@dataclass(frozen=True)
class Scenes:
    """Cells `[N, P, C]` float16 of N pictures; of each its text, its answer ("" of a caption), and its things: phrase
    and box in shares of the picture."""

    cells: Tensor
    texts: list[str]
    answers: list[str]
    things: list[list[tuple[str, tuple[float, ...]]]]


class ReadsCells(VisionLanguageModel):
    """Reads what the tower made of pictures before, `[B, P, C]`, in the place of pixels."""

    def picture_tokens(self, pixels: Tensor) -> Tensor:
        return self.projector(pixels.float())


@cache
def scenes(kind: str, split: str) -> Scenes:
    """Those with "captions", or with "questions", of a split."""
    from nearfar.data.scenes import questions
    from nearfar.data.scenes import scenes as described

    n, size = DATA[kind][split], DATA["size"]
    if kind == "questions":
        source = questions(split, n=n, size=size, kinds=DATA["kinds"], **DATA["make"])
    else:
        source = described(split, n=n, size=size, **DATA["make"])
    pictures, texts, answers, things = [], [], [], []
    for record in source:
        pictures.append(record["image"])
        texts.append(record["text"] if kind == "questions" else record["text"][0])
        answers.append(record["answers"][0] if kind == "questions" else "")
        things.append(
            [
                (f"{thing['colour']} {thing['name']}", tuple(edge / size for edge in thing["box"]))
                for thing in record["objects"]
            ]
        )
    return Scenes(_cells(pictures), texts, answers, things)


@cache
def tower() -> Any:
    """The frozen tower, and how pictures are prepared for it."""
    from nearfar.models.towers import backbones

    made, pixels = backbones.image_tower(TOWER, image_size=DATA["size"])
    made.requires_grad_(False).eval()
    return made, pixels


@torch.no_grad()
def _cells(pictures: list[Any]) -> Tensor:
    image, pixels = tower()
    image = image.for_inference()
    parts = [
        image.encode_image_map(pixels(pictures[i : i + 50])).flatten(2).mT.half() for i in range(0, len(pictures), 50)
    ]
    return torch.cat(parts)


@cache
def scale() -> tuple[Tensor, Tensor]:
    """Mean and spread of each channel over the captioned training scenes."""
    cells = scenes("captions", "train").cells.float().flatten(0, 1)
    return cells.mean(0), cells.std(0).clamp(min=1e-3)


def cells_of(own: Scenes, rows: list[int]) -> Tensor:
    """What models read of some pictures, `[B, P, C]` float32."""
    mean, spread = scale()
    return (own.cells[rows].float() - mean) / spread


@cache
def tokenizer() -> Any:
    """Each word of captions, questions and answers is one token."""
    from nearfar.data.fields.text import train_tokenizer

    return train_tokenizer([text for text in _texts() for _ in range(2)], 1000)


@cache
def _texts() -> list[str]:
    """All that is said in training: captions, and questions with their answers."""
    pairs_of = scenes("questions", "train")
    pairs = [f"{text} {answer}" for text, answer in zip(pairs_of.texts, pairs_of.answers, strict=True)]
    return [*scenes("captions", "train").texts, *pairs]


def tokens(texts: list[str]) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` `[B, L]`."""
    made = tokenizer()(texts, padding=True, return_tensors="pt")
    return {name: made[name] for name in ("input_ids", "attention_mask")}


def words_alone(seed: int) -> Any:
    """A language model before training."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from nearfar.models.language.model import LanguageModel

    torch.manual_seed(seed)
    own = tokenizer()
    ends = {"pad_token_id": own.pad_token_id, "bos_token_id": own.cls_token_id, "eos_token_id": own.sep_token_id}
    config = LlamaConfig(vocab_size=len(own), max_position_embeddings=64, tie_word_embeddings=True, **LANGUAGE, **ends)
    return LanguageModel(LlamaForCausalLM(config), own)


def reader(words: Any, seed: int) -> ReadsCells:
    """A model that reads cells, its projector fresh, around a copy of a language model."""
    from copy import deepcopy

    image, pixels = tower()
    torch.manual_seed(seed)
    return ReadsCells(
        image, deepcopy(words.lm), tokenizer=words.tokenizer, pixels=pixels, projector="linear", max_length=24
    )


@dataclass(frozen=True)
class Batches:
    """`count` batches, each record once in a pass, in an order that `seed` draws: cells and their captions
    ("captions"), cells with questions and answers ("questions"), or texts alone ("texts")."""

    kind: str
    rows: list[int]
    count: int
    batch_size: int
    seed: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        chance = torch.Generator().manual_seed(self.seed)
        order = list[int]()
        for _ in range(self.count):
            while len(order) < self.batch_size:
                order += [self.rows[place] for place in torch.randperm(len(self.rows), generator=chance).tolist()]
            rows, order = order[: self.batch_size], order[self.batch_size :]
            yield {"index": torch.tensor(rows), **self._of(rows)}

    def _of(self, rows: list[int]) -> dict[str, Any]:
        if self.kind == "texts":
            everything = _texts()
            return {"text": tokens([everything[row] for row in rows])}
        own = scenes(self.kind, "train")
        batch = {"image": cells_of(own, rows), "text": tokens([own.texts[row] for row in rows])}
        if self.kind == "questions":
            answers = tokens([own.answers[row] for row in rows])
            batch |= {"answers": answers, "answer_weight": torch.ones(len(rows), 1)}
        return batch
