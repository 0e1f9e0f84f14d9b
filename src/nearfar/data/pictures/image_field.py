"""Pictures: decoded once to a small canvas, augmented as a whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearfar.data.batches.batch import BatchKey
from nearfar.data.fields.field import BatchChance, Field, RecordChance
from nearfar.data.pictures.images import decode, resize
from nearfar.data.pictures.views import SMALL_SHARE, ViewPreset, Views
from nearfar.data.sources.source import Record


class ImageField(Field):
    """`image` `[B, 3, H, W]`, `geometry` `[V, B, 3, 3]`, `picture_size` `[B, 2]`, with more than one view `views`
    `[V, B, 3, H, W]`, and with small ones `small_views` `[M, B, 3, h, w]`, all float32.

    Args:
        size: side of the pictures in pixels.
        mean, std: three numbers each that colours from 0 to 1 are normalised with.
        views: a preset of `nearfar.data.pictures.views`, or a `ViewPreset`.
        n_views: augmented views of each picture.
        small_views: further views of each picture, small crops of it (multi-crop, arXiv 2006.09882), made as `views`
            says but for the crop.
        small_size: side of the small views in pixels; None: 96 for each 224 of `size`.
        key: of the record and of the batch: "image", or "image2" for the second picture of a pair, of which the
            batch gets the first view alone, drawn as that of the first picture is.
    """

    fixed = True  # the canvas; views are drawn in `collate`

    def __init__(
        self,
        size: int,
        *,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        views: str | ViewPreset = "clip",
        n_views: int = 1,
        small_views: int = 0,
        small_size: int | None = None,
        key: str = "image",
    ) -> None:
        self.key, self.columns = key, (key,)
        self.views = Views(views, size=size, n_views=n_views, mean=mean, std=std)
        self.small: Views | None = None
        if small_views and self.views.preset.crop is not None:
            self.small = Views(
                replace(self.views.preset, crop=self.views.preset.small_crop),
                size=small_size or round(SMALL_SHARE * size),
                n_views=small_views,
                mean=mean,
                std=std,
            )
        if key != "image":
            self.keys = {key: BatchKey()}
            return
        self.keys = {"image": BatchKey(), "geometry": BatchKey(axis=1), "picture_size": BatchKey()} | (
            {"views": BatchKey(axis=1)} if n_views > 1 else {}
        )
        self.keys |= {"small_views": BatchKey(axis=1)} if self.small else {}

    def prepare(self, record: Record, chance: RecordChance) -> tuple[Tensor, tuple[int, int]]:
        """The canvas, uint8 `[3, S, S]`, and the original's width and height."""
        image, size = decode(record.get(self.key), near=self.views.canvas)
        pixels = resize(image, self.views.canvas, fit=self.views.preset.fit)
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))), size

    def collate(self, parts: list[tuple[Tensor, tuple[int, int]]], chance: BatchChance) -> dict[str, Any]:
        """The views. Canvases travel to the device as bytes and are augmented there."""
        draws = self.views.draw(chance.whole, chance.generator("views")).take(chance.rows)
        images = torch.stack([canvas for canvas, _ in parts])
        if chance.device is not None:
            images = images.to(chance.device, non_blocking=True)
        sizes = torch.tensor([size for _, size in parts])
        views, matrices = self.views(images, draws, sizes=sizes)
        if self.key != "image":
            return {self.key: views[0]}
        pictures = {"image": views[0], "geometry": matrices, "picture_size": sizes.float()}
        pictures |= {"views": views} if self.views.n_views > 1 else {}
        if self.small is not None:
            draws = self.small.draw(chance.whole, chance.generator("small views")).take(chance.rows)
            pictures["small_views"] = self.small(images, draws, sizes=sizes)[0]
        return pictures
