"""Average precision of detections as COCO defines it, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearfar.errors import UserError


@dataclass(frozen=True)
class AveragePrecision:
    """By class `[K]` float64, NaN for one without a box: the mean over overlaps from 0.5 to 0.95, and that at 0.5."""

    ap: NDArray[np.float64]
    ap50: NDArray[np.float64]

    def mean(self, chosen: Sequence[int] | None = None) -> tuple[float, float]:
        """Both, averaged over the classes (numbers, or all) that have a box; NaN where none has."""
        rows = slice(None) if chosen is None else list(chosen)
        ap, ap50 = self.ap[rows], self.ap50[rows]
        has = ~np.isnan(ap)
        return (float(ap[has].mean()), float(ap50[has].mean())) if has.any() else (float("nan"), float("nan"))


def average_precision(
    truth: Sequence[Mapping[str, Any]], detections: Sequence[Mapping[str, Any]], classes: int
) -> AveragePrecision:
    """COCO's average precision of boxes, 100 detections a picture at most.

    Args:
        truth: of each picture `boxes` (left, top, right, bottom), `labels`, numbers from 0, and optionally `crowd`, for
            boxes around many, which cost nothing if they are not found, and `not_exhaustive`, labels of which the
            picture may hold more than its boxes: detections of them that meet no box do not count (LVIS, 1908.03195).
        detections: of the same pictures `boxes`, `scores` and `labels`.
        classes: how many there are.

    Raises:
        UserError: pycocotools is not there; pictures of different numbers.

    >>> picture = {"boxes": [(0.0, 0.0, 4.0, 4.0)], "labels": [1]}
    >>> average_precision([picture], [{**picture, "scores": [0.5]}], classes=3).ap50
    array([nan,  1., nan])
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise UserError("average precision needs pycocotools: pip install 'nearfar[detection]'") from error
    if len(truth) != len(detections):
        raise UserError(f"there are {len(truth)} pictures, and detections of {len(detections)}")
    known = [
        {"image_id": number, "category_id": int(label), "bbox": _xywh(box), "iscrowd": int(crowd)}
        for number, each in enumerate(truth)
        for box, label, crowd in zip(
            each["boxes"], each["labels"], each.get("crowd", [False] * len(each["labels"])), strict=True
        )
    ]
    results = [
        {"image_id": number, "category_id": int(label), "bbox": _xywh(box), "score": float(score)}
        for number, each in enumerate(detections)
        for box, label, score in zip(each["boxes"], each["labels"], each["scores"], strict=True)
    ]
    shared = {"images": [{"id": i} for i in range(len(truth))], "categories": [{"id": k} for k in range(classes)]}
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_dataset(COCO(), shared, known), _dataset(COCO(), shared, results), "bbox")
        evaluation.evaluate()
        _pardon(evaluation.evalImgs, [set(each.get("not_exhaustive", ())) for each in truth])
        evaluation.accumulate()
    # [overlap, recall, class, size, most detections]: of all sizes and 100 detections; -1 where there is no box. The
    # summary of the library itself is not taken: it is -1 for any other number of detections.
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    there = (precision > -1).all((0, 1))
    ap, ap50 = np.where(there, precision.mean((0, 1)), np.nan), np.where(there, precision[0].mean(0), np.nan)
    return AveragePrecision(ap, ap50)


def _pardon(matches: Sequence[dict[str, Any] | None], not_exhaustive: Sequence[set[int]]) -> None:
    """Lets detections that met no box count for nothing where boxes may be missing, at every overlap by itself."""
    for each in matches:  # of one class and one picture; None where it has neither boxes nor detections
        if each is not None and each["category_id"] in not_exhaustive[each["image_id"]]:
            each["dtIgnore"] = each["dtIgnore"] | (each["dtMatches"] == 0)


def _dataset(coco: Any, shared: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]]) -> Any:
    """Annotations are numbered from 1, since one of number 0 counts as missed, and all have an area."""
    numbered = [
        {"id": i, "area": each["bbox"][2] * each["bbox"][3], "iscrowd": 0, **each}
        for i, each in enumerate(annotations, start=1)
    ]
    coco.dataset = {**shared, "annotations": numbered}
    coco.createIndex()
    return coco


def _xywh(box: Sequence[float]) -> list[float]:
    left, top, right, bottom = (float(side) for side in box)
    return [left, top, right - left, bottom - top]
