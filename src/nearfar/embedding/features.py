"""Frozen towers read the data once; the heads then train on what the towers gave, at the price of the heads alone.

So locked towers are trained cheaply (LiT, arXiv 2111.07991, precomputes its image features too): a step costs a few
small matrix products instead of two networks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nearfar import console
from nearfar.data import Loader
from nearfar.data.batches.batch import BatchKey
from nearfar.data.batches.data_info import DataInfo
from nearfar.data.batches.order import Order
from nearfar.data.fields.caption_choice import Caption
from nearfar.data.fields.field import BatchChance, Field, RecordChance
from nearfar.data.fields.number_field import numbers_of
from nearfar.data.fields.usual import count_negatives, text_fields
from nearfar.data.pictures.image_field import ImageField
from nearfar.data.pictures.views import ViewPreset
from nearfar.data.sources.record_text import captions
from nearfar.data.sources.skipped import BadRecord, Skipped, judged_over
from nearfar.data.sources.source import Record, Source
from nearfar.embedding.feature_loader import FeatureLoader, Features, KeptTexts, tokens_of
from nearfar.errors import UserError


def precompute(
    model: Any,
    source: Source,
    fields: Sequence[Field] = (),
    *,
    batch_size: int,
    views: Sequence[str | ViewPreset] = ("none",),
    n_views: int = 1,
    caption: Caption | None = None,
    negatives: int | None = None,
    answers: bool = False,
    max_length: int | None = None,
    pad_to: int | None = None,
    order: Order | None = None,
    shuffle: bool = True,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    tower_batch: int = 64,
    workers: int = 0,
    max_skipped: float = 0.1,
    progress: bool = False,
) -> FeatureLoader:
    """Run a model's frozen towers over a source, once, and give a loader of what came out.

    Its batches hold, as `image`, the image tower's summaries `[B, W]` in the place of pixels, and as `text` those of
    the text tower where it is frozen too, tokens where it is not. `DualEncoder` takes both, so any method that calls
    `encode_image` and `encode_text` trains on them unchanged. A `FusionModel` reads patches and fuses the text's
    own states: for it, `image` holds all of the tower's tokens `[B, 1 + P, W]`, and `text` is always tokens. Everything
    else is as in the batches of a `nearfar.data.Loader`: ids, groups, labels, hard captions, answers, `geometry`.

    Args:
        model: a `DualEncoder` with `model.freeze("image")`, or `freeze("image", "text")`.
        source: a `Source` with pictures and captions; it is read once for each of `views`.
        fields: what batches hold beside what a loader's batches usually do; of each record what they read is kept.
        batch_size: samples of a batch of this process.
        views: presets of `nearfar.data.pictures.views`, one a pass: `("none", "mirror")` keeps each picture as it is
            and in the mirror, and training sees one of the two at random each epoch. `("moco", "moco")` draws twice.
        n_views: how many different ones of these a batch holds of each picture: more than one come as `views`
            `[n_views, B, ...]`, the first of which is `image`.
        caption: one of a record's captions at `random`, always its `first`, or a share of draws that take the first,
            as in `nearfar.data.Loader`. By default `random` if `shuffle`.
        negatives, answers, max_length, pad_to: of the texts, as in `nearfar.data.Loader`.
        order: which record comes when, as in `nearfar.data.Loader`, such as a `PairedOrder`: one of numbered records.
        shuffle: a new order and view each epoch; False gives the first view, in order, and all of the data.
        seed: all chance depends on it.
        rank, world_size: this process's number and how many there are. Each holds the features of all data.
        tower_batch: pictures, and captions, that go through a tower at a time.
        workers: threads that read and decode ahead.
        max_skipped: share of records that may be unusable.
        progress: show progress bars.

    Raises:
        UserError: the image tower is not frozen, the source is a stream, too much of it is unusable, or there are
            fewer `views` than `n_views`.
    """
    if "image" not in getattr(model, "frozen", ()):
        raise UserError(
            "features can be kept of a tower that does not change: call model.freeze('image') first, or "
            "model.freeze('image', 'text') to train the projections only"
        )
    if not isinstance(source, Source):
        raise UserError(f"{source.name} is a stream: features are kept of data that can be counted")
    if not 1 <= n_views <= len(views):
        raise UserError(f"n_views={n_views} of {len(views)} views ({', '.join(map(str, views))}): name as many to read")
    tokens, count = tokens_of(model, max_length, pad_to), count_negatives(source, negatives)

    def make_fields(caption: Caption, kept: KeptTexts | None = None) -> list[Field]:
        return [*text_fields(tokens, kept, caption=caption, negatives=count, answers=answers), *fields]

    reading = {"batch_size": tower_batch, "seed": seed, "workers": workers, "max_skipped": max_skipped}
    features, skipped = _read(model, source, views, make_fields("first"), reading, progress)
    text = None
    if "text" in model.frozen and not _fuses(model):
        hard = ["", *_of_all(features.records, "negative_text")] if count else []
        text = _texts(model, {*_of_all(features.records, "text"), *hard}, tower_batch, progress)
    kept = None if text is None else KeptTexts(text)
    return FeatureLoader(
        replace(features, text=text),
        lambda caption: make_fields(caption, kept),
        order,
        batch_size=batch_size,
        n_views=n_views,
        shuffle=shuffle,
        caption=caption,
        seed=seed,
        rank=rank,
        world_size=world_size,
        name=source.name,
        skipped=skipped,
        info=DataInfo.of(source),
    )


class _RecordField(Field):
    """Of each record what batches need beside its picture, and its place in its source."""

    def __init__(self, columns: Collection[str]) -> None:
        self.kept = columns
        self.keys = {"record": BatchKey(), "place": BatchKey(per_sample=True)}

    def prepare(self, record: Record, chance: RecordChance) -> tuple[Record, int]:
        kept = {name: record[name] for name in self.kept if name in record}
        return kept | {"text": captions(record.get("text"))}, chance.place

    def collate(self, parts: list[tuple[Record, int]], chance: BatchChance) -> dict[str, Any]:
        return {"record": [record for record, _ in parts], "place": torch.tensor([place for _, place in parts])}


def _read(
    model: Any,
    source: Source,
    views: Sequence[str | ViewPreset],
    fields: Sequence[Field],
    reading: Mapping[str, Any],
    progress: bool,
) -> tuple[Features, Skipped]:
    """What the image tower gives for all records that can be used in each view; and what was skipped."""
    columns = {name for field in [*numbers_of(source.columns), *fields] for name in field.columns}
    columns |= {name for field in fields for name in field.optional_columns}
    first, *others = views
    keep = _RecordField(sorted(columns))
    image, geometry, records, places, skipped = _pictures(model, source, first, 0, [keep], reading, progress)
    usable = []
    for row, (record, place) in enumerate(zip(records, places, strict=True)):
        try:
            for field in fields:
                field.prepare(record, RecordChance(reading["seed"], 0, place))
            usable.append(row)
        except BadRecord as problem:
            skipped.add(f"{source.name}, record {place}", str(problem))
    skipped.check(len(source), limit=reading["max_skipped"], name=source.name, total=judged_over(source))
    read = [(image[usable], geometry[:, usable])]
    part = source.select([places[row] for row in usable])
    read += [_pictures(model, part, preset, turn, [], reading, progress)[:2] for turn, preset in enumerate(others, 1)]
    images, geometries = zip(*read, strict=True)
    return Features([records[row] for row in usable], torch.stack(images), torch.cat(geometries)), skipped


@torch.no_grad()
def _pictures(
    model: Any,
    source: Source,
    views: str | ViewPreset,
    turn: int,
    fields: Sequence[Field],
    reading: Mapping[str, Any],
    progress: bool,
) -> tuple[Tensor, Tensor, list[Record], list[int], Skipped]:
    """Of all pictures that can be read: the summaries `[N, W]`, or all tokens for a model that fuses, their geometry
    `[1, N, 3, 3]`, and by a `_RecordField` the records and places; and what was skipped."""
    pictures = ImageField(model.image_size, mean=model.mean, std=model.std, views=views)
    loader = Loader(
        source, [*fields, pictures], shuffle=False, drop_last=False, cache=0, device=model.device, **reading
    )
    loader.set_epoch(turn)  # so that a preset that comes twice is drawn anew
    tower = model.image.for_inference()
    what = "reading pictures" + (f" ({views})" if isinstance(views, str) and views != "none" else "")
    features, geometry, records, places = [], [], list[Record](), list[int]()
    for batch in console.track(loader, what, progress, total=len(loader)):
        tokens = tower(batch["image"])
        features.append((tokens if _fuses(model) else tokens[:, 0]).cpu())
        geometry.append(batch["geometry"].cpu())
        sizes = batch["picture_size"].tolist()
        records += [{**each, "picture_size": size} for each, size in zip(batch.get("record", []), sizes, strict=False)]
        places += batch["place"].tolist() if "place" in batch else []
    if not features:
        raise UserError(f"{source.name} holds no usable picture:\n{loader.skipped.reasons(5)}")
    return torch.cat(features), torch.cat(geometry, 1), records, places, loader.skipped


def _fuses(model: Any) -> bool:
    from nearfar.models.fusion.fusion_model import FusionModel

    return isinstance(model, FusionModel)


def _of_all(records: Sequence[Record], column: str) -> Iterator[str]:
    """The texts of all records."""
    return (text for record in records for text in captions(record.get(column)))


@torch.no_grad()
def _texts(model: Any, texts: Collection[str], tower_batch: int, progress: bool) -> dict[str, Tensor]:
    """The summary of each caption. Captions of like length go together: little is spent on padding."""
    different = sorted(texts, key=lambda caption: (len(caption), caption))
    parts = [different[first : first + tower_batch] for first in range(0, len(different), tower_batch)]
    features: dict[str, Tensor] = {}
    for part in console.track(parts, "reading captions", progress):
        features.update(zip(part, model.text_tokens(model.tokenize(part))[:, 0].cpu(), strict=True))
    return features
