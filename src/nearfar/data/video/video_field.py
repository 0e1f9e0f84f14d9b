"""Videos in a batch: frames decoded to small canvases, and augmented as a whole batch, every frame of one alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nearfar.data.batches.batch import BatchKey
from nearfar.data.fields.field import BatchChance, Field, RecordChance
from nearfar.data.pictures.images import resize
from nearfar.data.pictures.views import ViewDraws, ViewPreset, Views
from nearfar.data.sources.source import Record
from nearfar.data.video.frame_choice import FrameChoice
from nearfar.data.video.video_frames import read_frames
from nearfar.errors import UserError, at_least


class VideoField(Field):
    """`video` `[B, T, 3, H, W]` float32, with `frame_number` `[B, T]` int64 and `frame_time` `[B, T]` float32, which
    frames these are and when they begin, in seconds; with more than one view `video_views` `[V, B, T, 3, H, W]`, whose
    first is `video`.

    Args:
        size: side of the frames in pixels.
        choice: which frames are taken.
        mean, std: three numbers each that colours from 0 to 1 are normalised with.
        views: a preset of `nearfar.data.pictures.views`, or a `ViewPreset`. Its draws are the same for all frames of a
            video. Presets with `flip` turn a motion to the left into one to the right.
        random: frames at random, as in training; else those of evaluation, which the loader may keep.
        n_views: selections of frames of each video, at random or spread evenly over it, each augmented anew.
        crops: squares of each selection, side by side from one end of the longer side to the other (X-CLIP, arXiv
            2208.02816, tests 4 selections in 3 crops). Views are ordered by selection, then by crop.

    Raises:
        UserError: `crops` with a preset that crops by itself.
    """

    columns = ("video",)

    def __init__(
        self,
        size: int,
        choice: FrameChoice | None = None,
        *,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        views: str | ViewPreset = "none",
        random: bool = False,
        n_views: int = 1,
        crops: int = 1,
    ) -> None:
        at_least(1, n_views=n_views, crops=crops)
        self.choice = FrameChoice() if choice is None else choice
        self.views = Views(views, size=size, n_views=n_views * crops, mean=mean, std=std)
        preset = self.views.preset
        if crops > 1 and (preset.fit != "crop" or preset.crop is not None or preset.window):
            raise UserError(f"crops={crops}: these views crop by themselves; take views='none', or crops=1")
        # What differs from view to view, the chance of a blur, is made one view's own.
        self._each = [
            Views(
                replace(
                    preset,
                    blur=(preset.blur[view % len(preset.blur)],),
                    solarise=(preset.solarise[view % len(preset.solarise)],),
                ),
                size=size,
                mean=mean,
                std=std,
            )
            for view in range(n_views * crops)
        ]
        self.random, self.n_views, self.crops = random, n_views, crops
        self.fixed = not random  # the canvases; views are drawn in `collate`
        self.keys = {"video": BatchKey(), "frame_number": BatchKey(), "frame_time": BatchKey()}
        self.keys |= {"video_views": BatchKey(axis=1)} if n_views * crops > 1 else {}

    def prepare(self, record: Record, chance: RecordChance) -> tuple[Tensor, tuple[int, int], Tensor, Tensor]:
        """The canvases, uint8 `[V, T, 3, S, S]`, the video's width and height, and of each selection the frames'
        numbers and times `[n_views, T]`."""
        frames = read_frames(record.get("video"), lambda edges: self._chosen(edges, chance), shape=self._canvases)
        canvases = np.stack(frames.pictures)  # [n_views * T, crops, 3, S, S]
        canvases = canvases.reshape(self.n_views, self.choice.frames, *canvases.shape[1:]).swapaxes(1, 2)
        pixels = torch.from_numpy(np.ascontiguousarray(canvases)).flatten(0, 1)
        numbers, times = (torch.from_numpy(v).view(self.n_views, -1) for v in (frames.numbers, frames.seconds))
        return pixels, frames.size, numbers, times.float()

    def collate(
        self, parts: list[tuple[Tensor, tuple[int, int], Tensor, Tensor]], chance: BatchChance
    ) -> dict[str, Any]:
        """The views. Canvases travel to the device as bytes and are augmented there."""
        draws = self.views.draw(chance.whole, chance.generator("views")).take(chance.rows)
        canvases = torch.stack([part[0] for part in parts], dim=1)  # [V, B, T, 3, S, S]
        if chance.device is not None:
            canvases = canvases.to(chance.device, non_blocking=True)
        sizes, frames = torch.tensor([part[1] for part in parts]), self.choice.frames
        made = []
        for view, (apply, pixels) in enumerate(zip(self._each, canvases, strict=True)):
            alike = ViewDraws(
                draws.uniform[view : view + 1].repeat_interleave(frames, dim=1), draws.order[view : view + 1]
            )
            augmented, _ = apply(pixels.flatten(0, 1), alike, sizes=sizes.repeat_interleave(frames, dim=0))
            made.append(augmented[0].unflatten(0, (-1, frames)))
        videos = {"video": made[0]} | ({"video_views": torch.stack(made)} if len(made) > 1 else {})
        first = {"frame_number": [part[2][0] for part in parts], "frame_time": [part[3][0] for part in parts]}
        return videos | {key: torch.stack(values) for key, values in first.items()}

    def _chosen(self, edges: np.ndarray, chance: RecordChance) -> np.ndarray:
        """The numbers of all selections, one after the other; from the same chance whenever it is called."""
        generator = np.random.default_rng(chance.number("frames")) if self.random else None
        selections = [
            self.choice.numbers(edges, generator, view=view, views=self.n_views) for view in range(self.n_views)
        ]
        return np.concatenate(selections)

    def _canvases(self, picture: Image.Image) -> np.ndarray:
        """The squares of a frame, uint8 `[crops, 3, S, S]`."""
        side = self.views.canvas
        if self.crops == 1:
            squares = [resize(picture, side, fit=self.views.preset.fit)]
        else:
            squares = [square(picture, side, place / (self.crops - 1)) for place in range(self.crops)]
        return np.stack(squares).transpose(0, 3, 1, 2)


def square(picture: Image.Image, side: int, place: float) -> np.ndarray:
    """A square of a picture, uint8 `[side, side, 3]`: as large as its shorter side, from one end of the longer one
    (`place` 0) to the other (1).

    >>> square(Image.fromarray(np.arange(3, dtype=np.uint8)[None, :, None].repeat(3, 2)), 1, 1.0).tolist()
    [[[2, 2, 2]]]
    """
    short = min(picture.size)
    left, top = ((length - short) * place for length in picture.size)
    box = (left, top, left + short, top + short)
    return np.array(picture.resize((side, side), Image.Resampling.BICUBIC, box=box), dtype=np.uint8)
