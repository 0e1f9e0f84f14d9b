"""Batches of what frozen towers gave: a loader whose pictures, and captions, were read before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nearfar.data.batches.data_info import DataInfo
from nearfar.data.batches.loader import Loader
from nearfar.data.batches.order import Order
from nearfar.data.fields.caption_choice import Caption, check_caption
from nearfar.data.fields.feature_field import FeatureField
from nearfar.data.fields.field import Field, RecordChance
from nearfar.data.fields.number_field import numbers_of
from nearfar.data.fields.text_field import FieldTokenizer, ReadTexts, TextField
from nearfar.data.fields.usual import settings_of
from nearfar.data.fields.vector_field import VectorField
from nearfar.data.sources.skipped import Skipped
from nearfar.data.sources.source import Record, Records

MakeFields = Callable[[Caption], list[Field]]
"""From which caption is taken to the fields of a batch beside its numbers and pictures."""


@dataclass(frozen=True)
class Features:
    """What was read of N records.

    Attributes:
        records: of each what batches need beside the picture, with its `index` and `group`, and the
            `picture_size` where it is known.
        image: `[V, N, W]`, the image tower's summaries in V views; for a `FusionModel` all tokens, `[V, N, 1 + P, W]`.
        geometry: `[V, N, 3, 3]`, how each view lies in its picture.
        text: what a frozen text tower gave for each different caption, `[W]`; None where it trains.
    """

    records: list[Record]
    image: Tensor
    geometry: Tensor
    text: Mapping[str, Tensor] | None = None

    def take(self, rows: Sequence[int]) -> Features:
        """Some of the records, in this order."""
        kept = list(rows)
        return Features([self.records[row] for row in kept], self.image[:, kept], self.geometry[:, kept], self.text)


class FeatureLoader(Loader):
    """Batches of features; `precompute` makes one. It is a `nearfar.data.Loader` in all but the pictures: the same
    order, captions, numbers, hard captions and answers, whatever the number of processes, and it goes on inside an
    epoch where it was stopped.

    Attributes: `features`, and of these `image`, `text` and `texts`, the captions of each picture; `numbers`, one
    tensor `[N]` for `index`, `group`, `label` and the like; `skipped`, what could not be used; `info`, the `DataInfo`
    of the source.
    """

    def __init__(
        self,
        features: Features,
        make_fields: MakeFields,
        order: Order | None = None,
        *,
        batch_size: int,
        n_views: int = 1,
        shuffle: bool = True,
        caption: Caption | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        name: str = "features",
        skipped: Skipped | None = None,
        info: DataInfo | None = None,
    ) -> None:
        self.features, self.n_views, self.info, self._make_fields = features, n_views, info, make_fields
        self.caption = check_caption(("random" if shuffle else "first") if caption is None else caption)
        sized = bool(features.records) and "picture_size" in features.records[0]
        super().__init__(
            Records(features.records, name=name, skipped=skipped),
            [
                *make_fields(self.caption),
                *([VectorField("picture_size", 2)] if sized else []),
                FeatureField(features.image, features.geometry, n_views=n_views, random=shuffle),
            ],
            order,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            rank=rank,
            world_size=world_size,
            drop_last=shuffle,
            cache=0,
            max_skipped=1.0,  # it was judged when the features were read
        )

    @property
    def image(self) -> Tensor:
        """What the frozen image tower made of each picture: `[N, W]`, or `[N, 1 + P, W]`, floating point."""
        return self.features.image

    @property
    def text(self) -> Mapping[str, Tensor] | None:
        """The captions' tokens `[N, L]` int64, or their summaries `[N, W]` floating point; None where they are read
        anew."""
        return self.features.text

    @property
    def texts(self) -> list[list[str]]:
        return [record["text"] for record in self.features.records]

    @property
    def numbers(self) -> dict[str, Tensor]:
        """What the records hold as one number each, `[N]` int64 or float32, by name."""
        fields = {field.name: field for field in numbers_of(self.source.columns)}
        records, chance = self.features.records, RecordChance(0, 0, 0)
        values = {name: [field.prepare(record, chance) for record in records] for name, field in fields.items()}
        return {name: torch.tensor(each) for name, each in values.items()}

    def again(
        self, model: Any, texts: list[list[str]], *, batch_size: int, n_views: int = 1, seed: int = 0
    ) -> FeatureLoader:
        """The same pictures with other captions, shuffled, for a model with the same frozen image tower whose text
        tower trains: many trainings on one reading. What belonged to the captions before, such as hard captions, is
        left out."""
        kept = [field.name for field in numbers_of(self.source.columns)]
        records = [
            {name: record[name] for name in kept if name in record} | {"text": own}
            for record, own in zip(self.features.records, texts, strict=True)
        ]
        return FeatureLoader(
            replace(self.features, records=records, text=None),
            captions_only(tokens_of(model)),
            batch_size=batch_size,
            n_views=n_views,
            seed=seed,
            name=self.source.name,
            skipped=self.skipped,
            info=self.info,
        )

    def plain(self, rows: Sequence[int], *, batch_size: int) -> FeatureLoader:
        """Some of the pictures, in order, each with its first view and caption."""
        return FeatureLoader(
            self.features.take(rows),
            self._make_fields,
            batch_size=batch_size,
            n_views=self.n_views,
            shuffle=False,
            seed=self.seed,
            name=self.source.name,
            skipped=self.skipped,
        )


class KeptTexts:
    """Captions to what a frozen tower gave for them, `[N, W]`.

    >>> KeptTexts({"a cat": torch.tensor([1.0, 2.0])})(["a cat", "a cat"]).shape
    torch.Size([2, 2])
    """

    def __init__(self, features: Mapping[str, Tensor]) -> None:
        self.features = features

    def __call__(self, texts: list[str]) -> Tensor:
        return torch.stack([self.features[text] for text in texts])


def captions_only(read: ReadTexts) -> MakeFields:
    """The fields of batches that have a caption, and nothing else of the texts."""
    return lambda caption: [TextField(read, caption=caption)]


def tokens_of(model: Any, max_length: int | None = None, pad_to: int | None = None) -> FieldTokenizer:
    """How a model's captions become tokens."""
    own = settings_of(model)
    return FieldTokenizer(own["tokenizer"], max_length or own.get("max_length"), pad_to)
