"""The things of a record: names and boxes, cut to the picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nearfar.data.sources.skipped import BadRecord

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""


class BoxedThing(NamedTuple):
    """A thing's name and its box in the picture; `crowd` marks a box around many."""

    name: str
    box: Box
    crowd: bool = False


def things_in(record: Mapping[str, Any], width: float, height: float) -> tuple[list[BoxedThing], int]:
    """The things of a record's `objects`, each a dict with `box` and `name` (or `phrase`), cut to a picture of `width`
    and `height`; and how many were left out, as nothing of them lies in it.

    Raises:
        BadRecord: no list of objects, or one without a name, or a box that is not four numbers; a record whose own
            `width` and `height` are others, so that its boxes lie elsewhere in this picture.

    >>> record = {"objects": [{"name": "cat", "box": (-2, 1, 3, 4)}, {"name": "dog", "box": (9, 9, 12, 12)}]}
    >>> things_in(record, 8, 8)
    ([BoxedThing(name='cat', box=(0.0, 1.0, 3.0, 4.0), crowd=False)], 1)
    """
    objects = record.get("objects")
    if not isinstance(objects, Sequence) or isinstance(objects, str):
        raise BadRecord("it has no list of objects")
    drawn_on = [record.get(side) or pixels for side, pixels in (("width", width), ("height", height))]
    if drawn_on != [width, height]:
        raise BadRecord(
            f"its boxes were drawn on {drawn_on[0]} x {drawn_on[1]} pixels, and the picture has {width} x {height}: "
            "take the pictures as they were then, or the boxes of these"
        )
    things, outside = [], 0
    for each in objects:
        name = each.get("name") or each.get("phrase") if isinstance(each, Mapping) else None
        if not isinstance(name, str):
            raise BadRecord("one of its objects has no name")
        left, top, right, bottom = four_numbers(each.get("box"), name)
        box = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
        if box[2] > box[0] and box[3] > box[1]:
            things.append(BoxedThing(name, box, bool(each.get("crowd"))))
        else:
            outside += 1
    return things, outside


def four_numbers(box: Any, name: str) -> Box:
    """A box as four finite numbers.

    Raises:
        BadRecord: it is something else.
    """
    try:
        left, top, right, bottom = (float(value) for value in box)
    except (TypeError, ValueError) as error:
        raise BadRecord(f"the box of {name!r} is no left, top, right and bottom") from error
    if not all(map(math.isfinite, (left, top, right, bottom))):
        raise BadRecord(f"the box of {name!r} has numbers that are not finite")
    return left, top, right, bottom


def in_frame(box: Box, window: Box, size: float) -> Box | None:
    """A box as it lies in the `size` x `size` pixels that a model makes of the `window` of a picture; None where less
    than a hundredth of a pixel of it does.

    >>> in_frame((5.0, 2.0, 20.0, 6.0), (5.0, 0.0, 15.0, 10.0), 20)
    (0.0, 4.0, 20.0, 12.0)
    """
    across, down = size / (window[2] - window[0]), size / (window[3] - window[1])
    left, right = ((x - window[0]) * across for x in (box[0], box[2]))
    top, bottom = ((y - window[1]) * down for y in (box[1], box[3]))
    cut = max(left, 0.0), max(top, 0.0), min(right, float(size)), min(bottom, float(size))
    return cut if min(cut[2] - cut[0], cut[3] - cut[1]) > 0.01 else None
