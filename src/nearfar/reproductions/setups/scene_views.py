"""Scenes of two things, painted once, with the class of each pixel; and two augmented views of each as batches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

CONFIG: dict[str, Any] = {
    "size": 64,
    "make": {
        "objects": 2,
        "vocabulary": ["bus", "cat", "crown", "fish", "house", "owl", "ship", "tulip"],
        "attributes": [],
        "relations": ["left of", "above"],
        "ground": "varied",
    },
    "pictures": {"train": 1000, "val": 200, "test": 300},
}


@dataclass(frozen=True)
class Scenes:
    """Pictures `[N, 3, S, S]` uint8, the class of each pixel `[N, S, S]` long (0: the ground), and the class of the
    thing that fills the most pixels `[N]` long."""

    pictures: Tensor
    masks: Tensor
    largest: Tensor

    @property
    def classes(self) -> int:
        return len(CONFIG["make"]["vocabulary"]) + 1


@cache
def painted(split: str) -> Scenes:
    """The scenes of a split: all show the same things in the same styles, each split in pairs of its own."""
    import numpy as np

    from nearfar.data.scenes import scenes

    source = scenes(split, n=CONFIG["pictures"][split], size=CONFIG["size"], **CONFIG["make"])
    records = list(source)
    pictures = torch.from_numpy(np.stack([np.asarray(record["image"]) for record in records])).movedim(3, 1)
    masks = torch.from_numpy(np.stack([record["mask"] for record in records])).long()
    counts = torch.nn.functional.one_hot(masks, len(source.classes or ()) + 1).sum((1, 2))
    return Scenes(pictures.contiguous(), masks, counts[:, 1:].argmax(1))


@lru_cache(maxsize=1)
def view_batches(
    seed: int, batch_size: int, steps: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> list[dict[str, Tensor]]:
    """Batches of two augmented views of training scenes, drawn once a seed: every arm learns from the same ones."""
    from nearfar.data.pictures.views import Views

    pictures = painted("train").pictures
    views = Views("byol", size=CONFIG["size"], n_views=2, mean=mean, std=std)
    chance = torch.Generator().manual_seed(seed)
    batches: list[dict[str, Tensor]] = []
    while len(batches) < steps:
        for rows in torch.randperm(len(pictures), generator=chance).split(batch_size)[: len(pictures) // batch_size]:
            pixels, geometry = views(pictures[rows], views.draw(len(rows), chance))
            batches.append({"views": pixels, "image": pixels[0], "geometry": geometry, "index": rows})
    return batches[:steps]


def misplaced(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch with another scene's geometry for each second view, so that cells are matched at random."""
    first, second = batch["geometry"]
    return {**batch, "geometry": torch.stack([first, second.roll(1, 0)])}
