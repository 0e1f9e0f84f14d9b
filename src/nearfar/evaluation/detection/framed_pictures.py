"""Pictures with their boxes as a model sees both, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nearfar import console
from nearfar.data.boxes.objects import Box, BoxedThing, in_frame, things_in
from nearfar.data.pictures.images import load_image
from nearfar.data.sources.skipped import BadRecord, Skipped
from nearfar.errors import UserError


class FramedPicture(NamedTuple):
    """A picture of a record, its things in the model's pixels, what part of it the model sees, the names that were
    looked for in it (None: all), and those of which not all have boxes."""

    row: int
    picture: Any
    things: list[BoxedThing]
    window: Box
    checked: list[str] | None
    not_exhaustive: list[str]


def framed_pictures(
    encoder: Any, source: Any, *, limit: int | None, batch_size: int, skipped: Skipped, max_skipped: float
) -> Iterator[tuple[list[FramedPicture], Tensor]]:
    """Batches of pictures, with what `encoder.preprocess` makes of them, `[B, 3, S, S]` float32. Boxes that lie outside
    the picture, or outside what the model sees of it, are left out; pictures without boxes stay.

    Raises:
        UserError: too many records that cannot be read, or none that can.
    """
    name, size, batch, count = getattr(source, "name", "the data"), encoder.image_size, [], 0
    window_of = getattr(getattr(encoder, "pixels", None), "window", None)
    total = len(source) if hasattr(source, "__len__") else None
    for row, record in enumerate(console.track(islice(source, limit), f"{name}: pictures with boxes", total=total)):
        count += 1
        try:
            picture = load_image(record.get("image"))
            width, height = picture.size
            things, _ = things_in(record, width, height)
        except BadRecord as error:
            skipped.add(f"{name}, record {row}", str(error))
            continue
        window = window_of(width, height) if window_of else (0.0, 0.0, float(width), float(height))
        framed = [(each, in_frame(each.box, window, size)) for each in things]
        kept = [BoxedThing(each.name, box, each.crowd) for each, box in framed if box]
        partly = list(record.get("not_exhaustive") or ())
        batch.append(FramedPicture(row, picture, kept, window, record.get("checked"), partly))
        if len(batch) == batch_size:
            yield batch, encoder.preprocess([each.picture for each in batch])
            batch = []
    if batch:
        yield batch, encoder.preprocess([each.picture for each in batch])
    skipped.check(count, limit=max_skipped, name=name, total=count)
    if skipped.count == count:
        raise UserError(f"{name} holds no picture with boxes that can be read\n{skipped.reasons(5)}")


def padded(pictures: list[FramedPicture]) -> Tensor:
    """Boxes `[B, M, 4]` float32 of pictures with up to M things; what is missing is the whole unit square."""
    most = max((len(each.things) for each in pictures), default=0)
    boxes = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(len(pictures), max(most, 1), 1)
    for row, each in enumerate(pictures):
        if each.things:
            boxes[row, : len(each.things)] = torch.tensor([thing.box for thing in each.things])
    return boxes
