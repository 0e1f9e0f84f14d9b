"""From scores of regions to detections: two classifiers' scores joined, boxes corrected, doubles dropped."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nearfar.errors import UserError
from nearfar.ops.regions import nms

CORRECTION = (10.0, 10.0, 5.0, 5.0)
"""What corrections of boxes are multiplied by, so that they are of the order of 1 (Fast R-CNN)."""


def ensemble_detection_scores(
    p: Tensor, z: Tensor, is_base: Tensor | None = None, *, base_weight: float = 0.35, novel_weight: float = 0.65
) -> Tensor:
    """The detector's and the frozen encoder's probabilities joined (DITO, arXiv 2310.00161; F-VLM):

        q_c = p_c ** (1 - w) * z_c ** w ,    w = 0.35 for base classes, 0.65 for novel ones

    Column 0 is the background, which stays the detector's; then rows are divided by their sums.

    Args:
        p, z: `[..., 1 + K]` of the detector and of the frozen encoder, floating point, each row with sum 1.
        is_base: `[K]` bool, which classes the detector was trained on; None: none of them.
        base_weight, novel_weight: how much the frozen encoder counts.

    Returns:
        `[..., 1 + K]` in their dtype.

    Raises:
        UserError: a weight that is no share; shapes that do not go together.

    >>> p, z = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    >>> ensemble_detection_scores(p, z, torch.tensor([True, False]))
    tensor([0.4278, 0.2227, 0.3495])
    """
    for name, weight in (("base_weight", base_weight), ("novel_weight", novel_weight)):
        if not 0 <= weight <= 1:
            raise UserError(f"{name} is {weight}: a share, from 0 to 1")
    classes = p.shape[-1] - 1
    if p.shape != z.shape or (is_base is not None and tuple(is_base.shape) != (classes,)):
        raise UserError(
            f"p and z are [..., 1 + K] and is_base [K]; these are {list(p.shape)}, {list(z.shape)} and "
            f"{None if is_base is None else list(is_base.shape)}"
        )
    weights = p.new_full((classes,), novel_weight)
    if is_base is not None:
        weights = torch.where(is_base.to(p.device), p.new_tensor(base_weight), weights)
    joined = torch.cat([p[..., :1], p[..., 1:] ** (1 - weights) * z[..., 1:] ** weights], dim=-1)
    return joined / joined.sum(-1, keepdim=True)


def box_corrections(boxes: Tensor, targets: Tensor) -> Tensor:
    """What takes boxes `[..., 4]` to `targets` `[..., 4]`, floating point: shifts of the centre in shares of the sides,
    and logarithms of the sides' ratios (Fast R-CNN), times `CORRECTION`."""
    sides, goal = (box[..., 2:] - box[..., :2] for box in (boxes, targets))
    sides, goal = sides.clamp(min=1e-3), goal.clamp(min=1e-3)
    shift = (targets[..., :2] + targets[..., 2:] - boxes[..., :2] - boxes[..., 2:]) / 2 / sides
    return torch.cat([shift, (goal / sides).log()], dim=-1) * boxes.new_tensor(CORRECTION)


def corrected_boxes(boxes: Tensor, corrections: Tensor) -> Tensor:
    """Boxes `[..., 4]`, floating point, with corrections `[..., 4]` as `box_corrections` makes them.

    >>> boxes, targets = torch.tensor([0.0, 0.0, 4.0, 2.0]), torch.tensor([1.0, 1.0, 3.0, 5.0])
    >>> corrected_boxes(boxes, box_corrections(boxes, targets))
    tensor([1., 1., 3., 5.])
    """
    change = corrections / corrections.new_tensor(CORRECTION)
    sides = boxes[..., 2:] - boxes[..., :2]
    centre = (boxes[..., 2:] + boxes[..., :2]) / 2 + change[..., :2] * sides
    half = sides * change[..., 2:].clamp(max=math.log(1000 / 16)).exp() / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def best_detections(boxes: Tensor, scores: Tensor, *, overlap: float = 0.5, most: int = 100) -> dict[str, Tensor]:
    """One picture's detections of the highest scores, those that are doubles of a better one of their class dropped.

    Args:
        boxes: `[R, 4]`, floating point.
        scores: `[R, K]`, floating point, of the classes without the background.
        overlap: from which a box is a double (IoU).
        most: detections.

    Returns:
        `boxes` `[M, 4]`, `scores` `[M]`, `labels` `[M]` int64, best first.
    """
    flat = scores.flatten()
    # Beyond some thousands the last ones are far below any that counts.
    top = flat.topk(min(10 * most, len(flat)))
    row, label = top.indices // scores.shape[1], top.indices % scores.shape[1]
    kept = nms(boxes[row], top.values, overlap, label)[:most]
    return {"boxes": boxes[row[kept]], "scores": top.values[kept], "labels": label[kept]}
