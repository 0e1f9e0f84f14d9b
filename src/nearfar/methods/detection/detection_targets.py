"""What a detector is to say of places and of boxes, by the things that are there."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nearfar.data.pictures.view_boxes import boxes_in_view
from nearfar.ops.regions import box_areas, box_iou


class PlaceTargets(NamedTuple):
    """Of N places of each picture: which count `[B, N]` bool, their centerness `[B, N]`, which lie in a thing `[B, N]`
    bool, and the box of that `[B, N, 4]`."""

    counts: Tensor
    centerness: Tensor
    positive: Tensor
    boxes: Tensor


def centerness(centres: Tensor, boxes: Tensor) -> Tensor:
    """How central places `centres` `[..., 2]` (x, y) lie in `boxes` `[..., 4]`, floating point: `[...]`, the root of
    `min(l, r) / max(l, r) * min(t, b) / max(t, b)`, 0 outside (FCOS, arXiv 1904.01355).

    >>> box = torch.tensor([0.0, 0.0, 4.0, 4.0])
    >>> centerness(torch.tensor([[2.0, 2.0], [1.0, 2.0], [5.0, 2.0]]), box)
    tensor([1.0000, 0.5774, 0.0000])
    """
    near, far = centres - boxes[..., :2], boxes[..., 2:] - centres
    inside = (torch.minimum(near, far) > 0).all(-1)
    ratio = torch.minimum(near, far) / torch.maximum(near, far).clamp(min=1e-6)
    return ratio.clamp(min=0).prod(-1).sqrt() * inside


def place_targets(
    centres: Tensor, anchors: Tensor, boxes: Tensor, there: Tensor, *, count: int = 256, near: float = 0.3
) -> PlaceTargets:
    """Targets of places, `centres` `[N, 2]` with `anchors` of sides `[N]`, for things `boxes` `[B, M, 4]`, floating
    point all, of which those are real that are `there` `[B, M]` bool.

    A place is positive for the thing that its anchor overlaps most, if it lies in it and the overlap is above `near`,
    or no anchor overlaps the thing more; negative if it overlaps all by less than 0.1. `count` places of each picture
    count, half of them positive at most, drawn with torch's own random numbers.
    """
    half = anchors[:, None] / 2
    iou = box_iou(torch.cat([centres - half, centres + half], 1)[None, :, None], boxes[:, None]) * there[:, None]
    overlap, thing = iou.max(2)
    best = (iou == iou.amax(1, keepdim=True)) & (iou > 0)
    # Every thing has a place: the one whose anchor overlaps it most, and which then is its.
    thing = torch.where(best.any(2), best.int().argmax(2), thing)
    own = boxes.gather(1, thing[..., None].expand(-1, -1, 4))
    central = centerness(centres, own)
    positive = ((overlap >= near) | best.any(2)) & (central > 0)
    negative = (overlap < 0.1) & ~positive
    counts = _some(positive, count // 2)
    counts = counts | _some(negative, count - counts.sum(1, keepdim=True))
    return PlaceTargets(counts, central * positive, positive & counts, own)


def sampled_regions(
    proposals: Tensor, boxes: Tensor, label: Tensor, *, count: int = 64, share: float = 0.25, overlap: float = 0.5
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes to learn from: `proposals` `[B, R, 4]` and the things themselves, `boxes` `[B, M, 4]`, floating point, with
    `label` `[B, M]` int64 (-1: none).

    Returns:
        `count` boxes `[B, count, 4]` of each picture, at most a `share` of them on things; what each is, `[B, count]`
        int64: 0 the background, c + 1 the class c, -1 for what does not count (nothing else was there); and the boxes
        of their things `[B, count, 4]`. A box is on the thing that it overlaps most, from `overlap` on (IoU).
    """
    there = label >= 0
    every = torch.cat([proposals, boxes], 1)
    real = torch.cat([torch.ones_like(proposals[..., 0], dtype=torch.bool), there], 1)
    iou, thing = (box_iou(every[:, :, None], boxes[:, None]) * there[:, None]).max(2)
    positive = (iou >= overlap) & real
    target = torch.where(positive, label.gather(1, thing) + 1, 0)
    kept = _some(positive, max(1, int(share * count)))
    kept = kept | _some(real & ~positive, count - kept.sum(1, keepdim=True))
    order = (
        (kept.int() + torch.rand(kept.shape, device=kept.device) * 0.5).topk(min(count, kept.shape[1]), dim=1).indices
    )
    wide = order[..., None].expand(-1, -1, 4)
    matched = boxes.gather(1, thing[..., None].expand(-1, -1, 4))
    return every.gather(1, wide), target.masked_fill(~kept, -1).gather(1, order), matched.gather(1, wide)


def things_in_view(
    boxes: Tensor, label: Tensor, geometry: Tensor, size: int, *, least: float = 0.3
) -> tuple[Tensor, Tensor]:
    """The `boxes` `[B, M, 4]` float32 of pictures, with `label` `[B, M]` int64 (-1: none), as they lie in a view of
    `size` pixels that `geometry` `[B, 3, 3]` float32 made (`nearfar.data.pictures.view_boxes`), cut to it; and the
    labels, -1 where less than a share `least` of a box is left.

    >>> flip = torch.tensor([[[-1.0, 0.0, 7.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
    >>> things_in_view(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]), torch.tensor([[5]]), flip, 8)
    (tensor([[[5., 2., 7., 4.]]]), tensor([[5]]))
    """
    cut, kept = torch.zeros_like(boxes), torch.full_like(label, -1)
    for row, matrix in enumerate(geometry):
        rows = (label[row] >= 0).nonzero().flatten()
        inside, shown = boxes_in_view(boxes[row, rows], matrix, (size, size))
        rows = rows[shown]
        whole = box_areas(boxes[row, rows]) * matrix[:2, :2].det().abs()
        enough = box_areas(inside) >= least * whole
        cut[row, rows[enough]] = inside[enough].to(cut)
        kept[row, rows[enough]] = label[row, rows[enough]]
    return cut, kept


def _some(chosen: Tensor, most: Tensor | int) -> Tensor:
    """At most so many of the true values of each row `[B, N]` bool, drawn at random."""
    rank = torch.where(chosen, torch.rand(chosen.shape, device=chosen.device), 2.0).argsort(1).argsort(1)
    return chosen & (rank < most)
