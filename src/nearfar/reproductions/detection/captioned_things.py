"""Scenes of things with their names in any order for captions, whose boxes are for the test alone; and the small
image-text detector that learns from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

NAMES = ["bell", "bird", "bus", "cat", "crown", "fish", "house", "key", "mushroom", "owl", "ship", "tulip"]
DATA: dict[str, Any] = {
    "size": 64,
    "make": {"vocabulary": NAMES, "attributes": [], "ground": "varied", "styles": ["noto", "twemoji"]},
    "scenes": {"train": 1500, "val": 150, "test": 300},
}
CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.12}
TOWER = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128, **CALM}
PAIR: dict[str, Any] = {
    "image": {"model_type": "vit", "num_hidden_layers": 4, "patch_size": 8, **TOWER},
    "text": {"model_type": "bert", "num_hidden_layers": 1, "max_position_embeddings": 32, **TOWER},
    "text_pooling": "mean",
    "image_size": DATA["size"],
    "embed_dim": 64,
}
DETECTOR: dict[str, Any] = {"window": 4, "levels": [3, 4], "width": 48, "convolutions": 1, "hidden": 128}


@dataclass(frozen=True)
class NamedScenes:
    """Pictures `[N, 3, S, S]` uint8, the boxes of their M things `[N, M, 4]` float and what each is `[N, M]` long."""

    pictures: Tensor
    boxes: Tensor
    label: Tensor


@cache
def named_scenes(split: str, objects: int) -> NamedScenes:
    """The scenes of a split. All splits show the same things, each in pairs of its own."""
    import numpy as np

    from nearfar.data.scenes import scenes

    records = list(scenes(split, n=DATA["scenes"][split], size=DATA["size"], objects=objects, **DATA["make"]))
    things = [record["objects"] for record in records]
    return NamedScenes(
        torch.from_numpy(np.stack([np.asarray(record["image"]) for record in records])).movedim(3, 1).contiguous(),
        torch.tensor([[thing["box"] for thing in each] for each in things]).float(),
        torch.tensor([[NAMES.index(thing["name"]) for thing in each] for each in things]),
    )


def moved(scenes: NamedScenes, step: int) -> tuple[NamedScenes, Tensor]:
    """The scenes moved right and down by `step` pixels, what leaves coming in at the other side; and which things are
    whole in both, `[N, M]` bool."""
    size = scenes.pictures.shape[-1]
    placed = scenes.boxes + step
    whole = (placed[..., 2:] <= size).all(-1)
    pictures = scenes.pictures.roll((step, step), dims=(2, 3))
    return NamedScenes(pictures, placed.clamp(max=size), scenes.label), whole


def pixels(pictures: Tensor) -> Tensor:
    """Floating point, around 0."""
    return pictures.float() / 127.5 - 1


def fresh(seed: int, *, shift: int) -> Any:
    """The model before training; `shift` tokens between both passes, 0 for one pass."""
    from nearfar.data.fields.text import train_tokenizer
    from nearfar.models import detector

    torch.manual_seed(seed)
    tokenizer = train_tokenizer([" ".join(NAMES)] * 4, 300)
    return detector({**PAIR, "tokenizer": tokenizer}, shift=shift, **DETECTOR)


@dataclass(frozen=True)
class SceneBatches:
    """`count` batches of random scenes with their captions and boxes. `seed` draws them, whatever else is drawn."""

    scenes: NamedScenes
    model: Any
    count: int
    batch_size: int
    seed: int

    @property
    def info(self) -> Any:
        """What a method is told of the data."""
        from nearfar.data.batches.data_info import DataInfo

        return DataInfo(name="named scenes", classes=NAMES)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        chance = torch.Generator().manual_seed(self.seed)
        for _ in range(self.count):
            rows = torch.randint(len(self.scenes.label), (self.batch_size,), generator=chance)
            label = self.scenes.label[rows]
            order = [torch.randperm(label.shape[1], generator=chance) for _ in rows]
            captions = [" ".join(NAMES[i] for i in each[o].tolist()) for each, o in zip(label, order, strict=True)]
            yield {
                "image": pixels(self.scenes.pictures[rows]),
                "text": self.model.tokenize(captions),
                "boxes": self.scenes.boxes[rows],
                "box_label": label,
                "index": rows,
            }
