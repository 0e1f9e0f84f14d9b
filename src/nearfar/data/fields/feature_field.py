"""What a frozen tower gave for each picture before, in the place of the picture."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nearfar.data.batches.batch import BatchKey
from nearfar.data.fields.field import BatchChance, Field, RecordChance
from nearfar.data.sources.source import Record


class FeatureField(Field):
    """`image` `[B, ...]`, `geometry` `[n_views, B, 3, 3]`, and with more than one view `views` `[n_views, B, ...]`, as
    an `ImageField` gives them, of features in the place of pixels.

    Args:
        features: `[V, N, ...]`, of the record at each of N places in V views.
        geometry: `[V, N, 3, 3]`, how each view lies in its picture.
        n_views: views of a picture in a batch.
        random: begin with a random one of the views; else with the first.

    >>> field = FeatureField(torch.arange(6.0).view(1, 3, 2), torch.eye(3).expand(1, 3, 3, 3))
    >>> chance = [RecordChance(0, 0, place) for place in (2, 0)]
    >>> field.collate([field.prepare({}, each) for each in chance], BatchChance(0, 0, 0, 2, [0, 1]))["image"]
    tensor([[4., 5.],
            [0., 1.]])
    """

    def __init__(self, features: Tensor, geometry: Tensor, *, n_views: int = 1, random: bool = False) -> None:
        self.features, self.geometry, self.n_views, self.random = features, geometry, n_views, random
        self.keys = {"image": BatchKey(), "geometry": BatchKey(axis=1)} | (
            {"views": BatchKey(axis=1)} if n_views > 1 else {}
        )

    def prepare(self, record: Record, chance: RecordChance) -> tuple[int, int]:
        """The record's place, and its first view."""
        return chance.place, chance.number("views") % len(self.features) if self.random else 0

    def collate(self, parts: list[tuple[int, int]], chance: BatchChance) -> dict[str, Any]:
        place, first = torch.tensor(parts).unbind(1)
        view = (first + torch.arange(self.n_views)[:, None]) % len(self.features)
        views = self.features[view, place]
        batch = {"image": views[0], "geometry": self.geometry[view, place]}
        return batch | {"views": views} if self.n_views > 1 else batch
