"""Scenes of two things, painted once, with the class of each pixel; and two augmented views of each as batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
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
    "held_out_style": "twemoji",
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
    """The scenes of a split. Training and validation show the same things in the same styles in other pairs; in the
    test they are drawn in a style of their own."""
    import numpy as np

    from nearfar.data.scenes import scenes

    source = scenes(
        split,
        n=CONFIG["pictures"][split],
        size=CONFIG["size"],
        held_out_style=CONFIG["held_out_style"],
        **CONFIG["make"],
    )
    records = list(source)
    pictures = torch.from_numpy(np.stack([np.asarray(record["image"]) for record in records])).movedim(3, 1)
    masks = torch.from_numpy(np.stack([record["mask"] for record in records])).long()
    counts = torch.nn.functional.one_hot(masks, len(source.classes or ()) + 1).sum((1, 2))
    return Scenes(pictures.contiguous(), masks, counts[:, 1:].argmax(1))


@dataclass(frozen=True)
class SceneViews:
    """Shuffled batches of two views of scenes, one pass an iteration; with `shuffled` the second view's geometry is
    that of another scene, so that cells are matched at random."""

    pictures: Tensor
    batch_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shuffled: bool = False

    def __len__(self) -> int:
        return len(self.pictures) // self.batch_size

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        from nearfar.data.pictures.views import Views

        views = Views("byol", size=CONFIG["size"], n_views=2, mean=self.mean, std=self.std)
        for rows in torch.randperm(len(self.pictures)).split(self.batch_size)[: len(self)]:
            chance = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
            pixels, geometry = views(self.pictures[rows], views.draw(len(rows), chance))
            if self.shuffled:
                geometry = torch.stack([geometry[0], geometry[1].roll(1, 0)])
            yield {"views": pixels, "image": pixels[0], "geometry": geometry, "index": rows}
