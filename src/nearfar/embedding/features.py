"""Frozen towers read the data once; the heads then train on what the towers gave, at the price of the heads alone.

So locked towers are trained cheaply (LiT, arXiv 2111.07991, precomputes its image features too): a step costs a few
small matrix products instead of two networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nearfar import console
from nearfar.data import Loader
from nearfar.data.batches.batch import BatchKey, per_sample
from nearfar.data.batches.data_info import DataInfo
from nearfar.data.batches.order import BatchSplit, Order, OrderPlan, SourceOrder, mix
from nearfar.data.fields.caption_choice import Caption, check_caption, choose_caption
from nearfar.data.fields.field import BatchChance, Field, RecordChance
from nearfar.data.fields.image_field import ImageField
from nearfar.data.fields.views import ViewPreset
from nearfar.data.sources.skipped import Skipped
from nearfar.data.sources.source import Record, Source, captions
from nearfar.errors import UserError

_VIEW, _CAPTION = 11, 12  # streams of chance


def precompute(
    model: Any,
    source: Source,
    *,
    batch_size: int,
    views: Sequence[str | ViewPreset] = ("none",),
    n_views: int = 1,
    caption: Caption | None = None,
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
    own states: for it, `image` holds all of the tower's tokens `[B, 1 + P, W]`, and `text` is always tokens.

    Args:
        model: a `DualEncoder` with `model.freeze("image")`, or `freeze("image", "text")`.
        source: a `Source` with pictures and captions; it is read once for each of `views`.
        batch_size: samples of a batch of this process.
        views: presets of `nearfar.data.fields.views`, one a pass: `("none", "mirror")` keeps each picture as it is and
            in the mirror, and training sees one of the two at random each epoch.
        n_views: how many different ones of these a batch holds of each picture: more than one come as `views`
            `[n_views, B, ...]`, the first of which is `image`.
        caption: one of a record's captions at `random`, always its `first`, or a share of draws that take the first,
            as in `nearfar.data.Loader`. By default `random` if `shuffle`.
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
            'features can be kept of a tower that does not change: call model.freeze("image") first, or '
            'model.freeze("image", "text") to train the projections only'
        )
    if not isinstance(source, Source):
        raise UserError(f"{source.name} is a stream: features are kept of data that can be counted")
    if not 1 <= n_views <= len(views):
        raise UserError(f"n_views={n_views} of {len(views)} views ({', '.join(map(str, views))}): name as many to read")
    reading = {"batch_size": tower_batch, "seed": seed, "workers": workers, "max_skipped": max_skipped}
    pictures = [_pictures(model, source, preset, reading, progress) for preset in views]
    kept, numbers, skipped = pictures[0][1], pictures[0][2], pictures[0][3]
    texts = [captions(text) for text in source.column("text")]
    usable = torch.tensor([bool(texts[row]) for row in kept.tolist()], dtype=torch.bool)
    for row in kept[~usable].tolist():
        skipped.add(f"{source.name}, record {row}", "no caption")
    skipped.check(len(source), limit=max_skipped, name=source.name, total=len(source))
    chosen = [texts[row] for row in kept[usable].tolist()]
    return FeatureLoader(
        model,
        torch.stack([features for features, *_ in pictures])[:, usable],
        chosen,
        _texts(model, chosen, tower_batch, progress) if "text" in model.frozen and not _fuses(model) else None,
        {name: values[usable] for name, values in numbers.items()},
        name=source.name,
        skipped=skipped,
        split=BatchSplit(batch_size, rank, world_size, drop_last=shuffle),
        n_views=n_views,
        caption=caption,
        order=order,
        shuffle=shuffle,
        seed=seed,
        info=DataInfo.of(source),
    )


class FeatureLoader:
    """Batches of features; `precompute` makes one. Its batches depend on seed and epoch alone, whatever the number of
    processes, and it goes on inside an epoch where it was stopped, as a `nearfar.data.Loader` does.

    Attributes: `image` `[V, N, W]` (of a `FusionModel` `[V, N, 1 + P, W]`), the features of N pictures in V views;
    `texts`, the captions of each; `skipped`, what could not be used; `info`, the
    `DataInfo` of the source.
    """

    def __init__(
        self,
        model: Any,
        image: Tensor,
        texts: list[list[str]],
        text: Mapping[str, Tensor] | None,
        numbers: Mapping[str, Tensor],
        *,
        name: str,
        skipped: Skipped,
        split: BatchSplit,
        n_views: int,
        caption: Caption | None = None,
        order: Order | None = None,
        shuffle: bool,
        seed: int,
        info: DataInfo | None = None,
    ) -> None:
        self.info = info
        self.n_views = n_views
        self.model, self.image, self.texts, self.text, self.numbers = model, image, texts, text, dict(numbers)
        self.name, self.skipped, self.shuffle, self.seed = name, skipped, shuffle, seed
        self.caption = check_caption(("random" if shuffle else "first") if caption is None else caption)
        self.world_size, self._split = split.world_size, split
        self.order = SourceOrder() if order is None else order
        self._plan = OrderPlan(_PositionSource(len(texts), name), split, seed, shuffle)
        self.order.check(self._plan)
        self.epoch, self._state = 0, dict[str, int]()

    def again(
        self, model: Any, texts: list[list[str]], *, batch_size: int, n_views: int = 1, seed: int = 0
    ) -> FeatureLoader:
        """The same pictures with other captions, shuffled, for a model with the same frozen image tower whose text
        tower trains: many trainings on one reading."""
        return FeatureLoader(
            model,
            self.image,
            texts,
            None,
            self.numbers,
            name=self.name,
            skipped=self.skipped,
            split=BatchSplit(batch_size, 0, 1, drop_last=True),
            n_views=n_views,
            shuffle=True,
            seed=seed,
            info=self.info,
        )

    def plain(self, rows: Sequence[int], *, batch_size: int) -> FeatureLoader:
        """Some of the pictures, in order, each with its first view and caption."""
        kept = list(rows)
        return FeatureLoader(
            self.model,
            self.image[:, kept],
            [self.texts[row] for row in kept],
            self.text,
            {name: values[kept] for name, values in self.numbers.items()},
            name=self.name,
            skipped=self.skipped,
            split=BatchSplit(batch_size, 0, 1, drop_last=False),
            n_views=self.n_views,
            shuffle=False,
            seed=self.seed,
        )

    def __len__(self) -> int:
        """Batches an epoch."""
        return self.order.length(self._plan) or 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next. Without it they follow one another."""
        if epoch != self.epoch:
            self.epoch, self._state = epoch, {}

    def state_dict(self) -> dict[str, Any]:
        """The place in the data."""
        return {
            "epoch": self.epoch,
            "seed": self.seed,
            "global_batch": self._split.global_batch_size,
            "place": dict(self._state),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        for key, mine in (("seed", self.seed), ("global_batch", self._split.global_batch_size)):
            if state[key] != mine:
                raise UserError(f"cannot go on inside an epoch: its {key} was {state[key]} and now is {mine}")
        self.epoch, self._state = state["epoch"], dict(state["place"])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        start, self._state = self._state, {}
        for part in self.order.batches(self._plan, self.epoch, start):
            self._state = part.state
            yield self._batch([row.candidate(0)[0] for row in part.rows])
        self.epoch, self._state = self.epoch + 1, {}

    def _batch(self, rows: list[int]) -> dict[str, Any]:
        first = torch.tensor([self._choose_view(row) for row in rows])
        chosen = [self.texts[row][self._choose_caption(row)] for row in rows]
        batch: dict[str, Any] = {name: values[rows] for name, values in self.numbers.items()}
        views = [self.image[(first + step) % len(self.image), rows] for step in range(self.n_views)]
        batch["image"] = views[0]
        if self.n_views > 1:
            batch["views"] = torch.stack(views)
        if self.text is None:
            batch["text"] = self.model.tokenize(chosen)
        else:
            batch["text"] = torch.stack([self.text[caption] for caption in chosen])
        return batch

    def _choose_view(self, row: int) -> int:
        return mix(self.seed, self.epoch, row, _VIEW) % len(self.image) if self.shuffle else 0

    def _choose_caption(self, row: int) -> int:
        return choose_caption(self.caption, len(self.texts[row]), self.seed, self.epoch, row, _CAPTION)


class _PositionSource(Source):
    """As many places as there are features, to be put in order."""

    def __init__(self, count: int, name: str) -> None:
        self.count, self.name = count, name

    def __len__(self) -> int:
        return self.count

    def record(self, index: int) -> dict[str, Any]:
        return {"index": index}


class _PositionField(Field):
    """The place of each record in its source, where its captions are read."""

    def __init__(self) -> None:
        self.keys = {"place": BatchKey(per_sample=True)}

    def prepare(self, record: Record, chance: RecordChance) -> int:
        return chance.place

    def collate(self, parts: list[int], chance: BatchChance) -> dict[str, Tensor]:
        return {"place": torch.tensor(parts)}


@torch.no_grad()
def _pictures(
    model: Any, source: Source, views: str | ViewPreset, reading: Mapping[str, Any], progress: bool
) -> tuple[Tensor, Tensor, dict[str, Tensor], Skipped]:
    """Of all pictures that can be read: the summaries `[N, W]`, or all tokens for a model that fuses, their places,
    their ids and numbers; and what was skipped."""
    fields = [_PositionField(), ImageField(model.image_size, mean=model.mean, std=model.std, views=views)]
    loader = Loader(source, fields, shuffle=False, drop_last=False, cache=0, device=model.device, **reading)
    features, numbers = [], []
    tower = model.image.for_inference()
    what = "reading pictures" + (f" ({views})" if isinstance(views, str) and views != "none" else "")
    for batch in console.track(loader, what, progress, total=len(loader)):
        tokens = tower(batch["image"])
        features.append((tokens if _fuses(model) else tokens[:, 0]).cpu())
        numbers.append({name: values.cpu() for name, values in per_sample(batch).items()})
    if not features:
        raise UserError(f"{source.name} holds no usable picture:\n{loader.skipped.listing(5)}")
    joined = {name: torch.cat([part[name] for part in numbers]) for name in numbers[0]}
    return torch.cat(features), joined.pop("place"), joined, loader.skipped


def _fuses(model: Any) -> bool:
    from nearfar.models.fusion.fusion_model import FusionModel

    return isinstance(model, FusionModel)


@torch.no_grad()
def _texts(model: Any, texts: list[list[str]], tower_batch: int, progress: bool) -> dict[str, Tensor]:
    """The summary of each different caption. Captions of like length go together: little is spent on padding."""
    different = sorted({caption for each in texts for caption in each}, key=lambda caption: (len(caption), caption))
    parts = [different[first : first + tower_batch] for first in range(0, len(different), tower_batch)]
    features: dict[str, Tensor] = {}
    for part in console.track(parts, "reading captions", progress):
        features.update(zip(part, model.text_tokens(model.tokenize(part))[:, 0].cpu(), strict=True))
    return features
