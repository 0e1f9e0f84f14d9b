"""Boxes and names of things as a batch has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nearfar.data.batches.batch import BatchKey
from nearfar.data.boxes.objects import things_in
from nearfar.data.fields.field import BatchChance, Field, RecordChance
from nearfar.data.pictures.images import image_size
from nearfar.data.sources.source import Record
from nearfar.errors import UserError


class BoxesField(Field):
    """`boxes` `[B, M, 4]` float32, left, top, right and bottom in pixels of the pictures themselves, and `box_label`
    `[B, M]` long, -1 where a picture has fewer than M things. `geometry` takes boxes to the pixels of a view.

    Args:
        classes: the names that labels number. Things of other names, and boxes around many, are left out.

    A record's `objects` are dicts of `name` and `box`. Boxes are cut to the picture; those outside are left out, and a
    picture without any stays. A picture whose size is another than the record's `width` and `height` cannot be used;
    a record without a picture is cut to these.

    Raises:
        UserError: no classes.

    >>> field = BoxesField(["cat", "dog"])
    >>> record = {"objects": [{"name": "dog", "box": (1, 1, 9, 3)}], "width": 8, "height": 8}
    >>> field.collate([field.prepare(record, None)], None)
    {'boxes': tensor([[[1., 1., 8., 3.]]]), 'box_label': tensor([[1]])}
    """

    columns = ("objects",)
    optional_columns = ("image", "width", "height")
    fixed = True

    def __init__(self, classes: Sequence[str] | None) -> None:
        if not classes:
            raise UserError("boxes need the names of their classes, and these data name none: give the source classes")
        self.number = {name: i for i, name in enumerate(classes)}
        self.keys = {"boxes": BatchKey(), "box_label": BatchKey()}

    def prepare(self, record: Record, chance: RecordChance | None) -> tuple[Tensor, Tensor]:
        size: Any = record.get("width"), record.get("height")
        if record.get("image") is not None or not all(size):
            size = image_size(record.get("image"))
        things, _ = things_in(record, *size)
        kept = [each for each in things if each.name in self.number and not each.crowd]
        boxes = torch.tensor([each.box for each in kept], dtype=torch.float32).view(-1, 4)
        return boxes, torch.tensor([self.number[each.name] for each in kept], dtype=torch.long)

    def collate(self, parts: list[tuple[Tensor, Tensor]], chance: BatchChance | None) -> dict[str, Any]:
        most = max(1, *(len(label) for _, label in parts))
        boxes, labels = torch.zeros(len(parts), most, 4), torch.full((len(parts), most), -1)
        for row, (each, label) in enumerate(parts):
            boxes[row, : len(each)], labels[row, : len(label)] = each, label
        return {"boxes": boxes, "box_label": labels}
