"""Masks: the class of each pixel of a picture, in the frame that a model sees of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearfar.data.batches.batch import BatchKey
from nearfar.data.fields.field import BatchChance, Field, RecordChance
from nearfar.data.pictures.images import BadImage, numbers_of_pixels
from nearfar.data.sources.skipped import BadRecord
from nearfar.data.sources.source import Record

IGNORED = -1
"""The class of pixels that do not count."""

Window = Callable[[int, int], tuple[float, float, float, float]]
"""From a picture's width and height to the left, top, right and bottom of what a model sees of it."""


class MaskField(Field):
    """`mask` `[B, S, S]` long: the class of each pixel, -1 where it does not count. It lies as the picture does in
    evaluation, without augmentation: mirrored or cropped at random it does not follow.

    Args:
        size: S, the side of the pictures in pixels.
        window: which part of a picture a model sees (`model.pixels.window`); None: its central square.

    A record's `mask` is an array `[H, W]` of whole numbers, or a picture of one channel (a path, bytes, a
    `PIL.Image`), whose colours by number are the classes, as in Pascal VOC. In a picture 255 does not count,
    in an array -1 and any other negative number.

    >>> field = MaskField(2)
    >>> field.prepare({"mask": [[0, 0, 5, 5], [0, 0, 5, 7]]}, None)
    tensor([[0, 5],
            [0, 5]])
    """

    columns = ("mask",)
    fixed = True

    def __init__(self, size: int, *, window: Window | None = None) -> None:
        self.size, self.window = size, window or _central_square
        self.keys = {"mask": BatchKey()}

    def prepare(self, record: Record, chance: RecordChance | None) -> Tensor:
        """The mask `[S, S]`: of each pixel the class that lies at its centre."""
        mask = class_numbers(record.get("mask"))
        height, width = mask.shape
        left, top, right, bottom = self.window(width, height)
        rows, inside_rows = _places(top, bottom, self.size, height)
        columns, inside_columns = _places(left, right, self.size, width)
        framed = mask[np.ix_(rows, columns)]
        return torch.from_numpy(np.where(inside_rows[:, None] & inside_columns, framed, IGNORED))

    def collate(self, parts: list[Tensor], chance: BatchChance | None) -> dict[str, Any]:
        return {"mask": torch.stack(parts)}


def class_numbers(mask: Any) -> NDArray[np.int64]:
    """The classes `[H, W]` of a record's mask, -1 where a pixel does not count.

    Raises:
        BadRecord: none, or one that holds no whole numbers, row by row.
    """
    if mask is None:
        raise BadRecord("it has no mask")
    if isinstance(mask, np.ndarray | list | tuple):
        try:
            numbers = np.asarray(mask)
        except ValueError:
            numbers = np.empty(0)
        pixels = np.empty(0)
    else:
        try:
            numbers = pixels = numbers_of_pixels(mask)
        except BadImage as error:
            raise BadRecord(f"its mask: {error}") from error
    if numbers.ndim != 2 or not numbers.size or numbers.dtype.kind not in "iub":
        raise BadRecord(f"its mask is no table of whole numbers, but {numbers.dtype} of shape {list(numbers.shape)}")
    classes = numbers.astype(np.int64)
    classes[classes < 0] = IGNORED
    if pixels.dtype == np.uint8:
        classes[classes == 255] = IGNORED
    return classes


def _places(start: float, stop: float, count: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The pixel under each of `count` centres between two edges, and whether there is one."""
    place = np.floor(start + (np.arange(count) + 0.5) * (stop - start) / count).astype(np.int64)
    return place.clip(0, size - 1), (place >= 0) & (place < size)


def _central_square(width: int, height: int) -> tuple[float, float, float, float]:
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side
