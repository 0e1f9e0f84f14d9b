"""Boxes as left, top, right and bottom (x0, y0, x1, y1), at continuous places: a pixel i reaches from i to i + 1."""

from __future__ import annotations

import torch
from torch import Tensor

from nearfar.errors import UserError


def box_areas(boxes: Tensor) -> Tensor:
    """Areas `[...]` of boxes `[..., 4]`, floating point; 0 where an end lies before its start.

    >>> box_areas(torch.tensor([[1.0, 1.0, 3.0, 4.0], [2.0, 2.0, 1.0, 5.0]]))
    tensor([6., 0.])
    """
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes `a` `[..., 4]` and `b` `[..., 4]`, floating point, of shapes that broadcast:
    `[...]`, 0 where both are empty. All of `a` with all of `b` is `box_iou(a[:, None], b)`.

    >>> a, b = torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 1.0, 3.0, 3.0], [4.0, 4.0, 5.0, 5.0]])
    >>> box_iou(a[:, None], b)
    tensor([[0.1429, 0.0000]])
    """
    start, end = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    common = box_areas(torch.cat([start, end], dim=-1))
    union = box_areas(a) + box_areas(b) - common
    return common / union.clamp(min=torch.finfo(union.dtype).tiny)


def clip_boxes(boxes: Tensor, height: float, width: float) -> Tensor:
    """Boxes `[..., 4]`, floating point, cut to a picture of `height` and `width`."""
    limit = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limit)


def rescale_boxes(boxes: Tensor, image_size: tuple[float, float], scale: float) -> Tensor:
    """Boxes `[..., 4]`, floating point, `scale` times as wide and as high around the same centres, cut to the picture.

    DITO (arXiv 2310.00161) reads frozen features in boxes that are shrunk to 0.7.

    Args:
        boxes: of any shape that ends in 4.
        image_size: height and width of the picture, in the units of the boxes.
        scale: above 0.

    Raises:
        UserError: a scale that is not above 0.

    >>> rescale_boxes(torch.tensor([20.0, 10.0, 100.0, 50.0]), (100, 200), 0.7)
    tensor([32., 16., 88., 44.])
    """
    if not scale > 0:
        raise UserError(f"scale is {scale}: boxes are made so many times as large, a number above 0")
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    half = (boxes[..., 2:] - boxes[..., :2]) / 2 * scale
    scaled = boxes if scale == 1 else torch.cat([centre - half, centre + half], dim=-1)
    return clip_boxes(scaled, *image_size)


def nms(boxes: Tensor, scores: Tensor, threshold: float, label: Tensor | None = None) -> Tensor:
    """Non-maximum suppression of one picture's boxes: the places `[K]` int64 of those that are kept, highest score
    first. A box is dropped if it overlaps with a kept one of higher score by more than `threshold` (IoU).

    Args:
        boxes: `[R, 4]`, floating point.
        scores: `[R]`, floating point; among equal ones the first wins.
        threshold: from 0 to 1; 1 keeps all.
        label: `[R]` int64, where boxes of different labels do not drop one another.

    >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.9], [5.0, 5.0, 6.0, 6.0]])
    >>> nms(boxes, torch.tensor([0.5, 0.9, 0.1]), 0.5)
    tensor([1, 2])
    """
    order = scores.argsort(descending=True, stable=True)
    ranked = boxes[order]
    drops = (box_iou(ranked[:, None], ranked) > threshold).triu(1)
    if label is not None:
        drops &= label[order][:, None] == label[order]
    kept = torch.ones(len(order), dtype=torch.bool, device=boxes.device)
    # A row without anything to drop changes nothing, and most are of that kind.
    for row in drops.any(1).nonzero().flatten().tolist():
        if kept[row]:
            kept &= ~drops[row]
    return order[kept]
