"""Boxes in pictures, and what a map shows within them: plain torch, no other library."""

from __future__ import annotations

from nearfar.ops.regions.boxes import box_areas, box_iou, clip_boxes, nms, rescale_boxes
from nearfar.ops.regions.random_boxes import sample_random_boxes
from nearfar.ops.regions.roi_align import roi_align

__all__ = ["box_areas", "box_iou", "clip_boxes", "nms", "rescale_boxes", "roi_align", "sample_random_boxes"]
