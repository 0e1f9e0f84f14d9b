"""Regions by their names: what a model calls the thing in a box that is known, and where it points for a name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nearfar.data.sources.record_groups import Groups
from nearfar.data.sources.skipped import Skipped
from nearfar.errors import UserError
from nearfar.evaluation.detection.framed_pictures import framed_pictures, padded
from nearfar.evaluation.measures.bootstrap import mean_interval
from nearfar.evaluation.measures.result import Metric, Result
from nearfar.modes import evaluating
from nearfar.ops.regions import clip_boxes, roi_align

GRID = 8
"""Places a side that a head is asked about in the pointing game."""


def regions(
    encoder: Any,
    source: Any,
    *,
    classes: Sequence[str] | None = None,
    template: str = "{}",
    read: str = "auto",
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    max_skipped: float = 0.1,
) -> Result:
    """Names as classifiers of known boxes, and the pointing game; no detector is trained for it.

    Args:
        encoder: anything with `preprocess`, `tokenize`, `encode_text` and `encode_image_map`; a detector's
            `encode_regions` is used where there is one.
        source: records with `image` and `objects`, a list of dicts with `name` and `box` (left, top, right, bottom in
            pixels).
        classes: the names to choose among; None: the source's own, else all that its first records show.
        template: what a name is put into.
        read: what a region's embedding is: "head", the detector's own; "map", the mean of the map's cells within the
            box; "auto", the head where there is one.
        limit: records that are used, from the first; None: all.
        seed: of the bootstrap, which resamples pictures with all their things.
        batch_size: pictures at a time.
        max_skipped: the share of broken records above which this stops.

    Returns:
        `region_accuracy`, the share of boxes whose name has the highest cosine, against chance 1 / K, also
        `by["class"]`; and `pointing`: the place that is most like a thing's name lies in a box of that name (arXiv
        1608.00507), against the boxes' share of the picture. Places are the map's cells; for the head, boxes of a
        quarter of the picture's side around them.

    Raises:
        UserError: a model without maps or a head, data without boxes, or a name that is no class.
    """
    if read not in ("auto", "head", "map"):
        raise UserError(f"read={read!r}: choose auto, head or map")
    has_head = hasattr(encoder, "encode_regions")
    if read == "head" and not has_head:
        raise UserError(f"a {type(encoder).__name__} has no head over regions: read=map takes the mean of its cells")
    if not hasattr(encoder, "encode_image_map"):
        raise UserError(f"a {type(encoder).__name__} gives no maps of pictures, which regions are read from")
    names = list(classes or getattr(source, "classes", None) or _names_in(source, limit))
    number = {name: i for i, name in enumerate(names)}
    skipped, group_of = Skipped(), Groups(source)
    rows: list[tuple[int, bool, bool, float, Any]] = []
    reading = framed_pictures(
        encoder, source, limit=limit, batch_size=batch_size, skipped=skipped, max_skipped=max_skipped
    )
    with evaluating(encoder), torch.no_grad():
        texts = encoder.encode_text(encoder.tokenize([template.format(name) for name in names]), normalize=True)
        for pictures, pixels in reading:
            boxes = padded(pictures)
            head = has_head and read != "map"
            embedded = encoder.encode_regions(pixels, boxes) if head else _of_map(encoder, pixels, boxes)
            chosen = (F.normalize(embedded, dim=-1) @ texts.T).argmax(-1).cpu()
            peaks = _peaks(_around_cells(encoder, pixels) if head else encoder.encode_image_map(pixels), texts, pixels)
            for b, picture in enumerate(pictures):
                for m, thing in enumerate(picture.things):
                    if thing.name not in number:
                        raise UserError(f"record {picture.row} has a {thing.name!r}, which is none of the classes")
                    own = [each.box for each in picture.things if each.name == thing.name]
                    x, y = peaks[b, number[thing.name]].tolist()
                    hit = any(box[0] <= x <= box[2] and box[1] <= y <= box[3] for box in own)
                    share = sum((box[2] - box[0]) * (box[3] - box[1]) for box in own) / encoder.image_size**2
                    label = number[thing.name]
                    group = group_of(source_record(source, picture.row), picture.row, picture.row)
                    rows.append((label, int(chosen[b, m]) == label, hit, min(share, 1.0), group))
    if not rows:
        raise UserError(f"{getattr(source, 'name', 'the data')} has no box in what the model sees of its pictures")
    return _result(rows, names, seed, skipped, "head" if has_head and read != "map" else "map")


def source_record(source: Any, row: int) -> Any:
    """The record of a row, or an empty one of a stream, whose groups are rows."""
    return source[row] if hasattr(source, "__getitem__") else {}


def _of_map(encoder: Any, pixels: Tensor, boxes: Tensor) -> Tensor:
    cells = encoder.encode_image_map(pixels)
    return roi_align(cells, boxes.to(cells), 7, stride=pixels.shape[-1] / cells.shape[-1]).mean((3, 4))


def _around_cells(encoder: Any, pixels: Tensor) -> Tensor:
    """What the head makes of boxes around cells of a grid of 8 x 8, `[B, D, 8, 8]`."""
    side = pixels.shape[-1]
    centres = (torch.arange(GRID) + 0.5) * side / GRID
    y, x = (each.flatten() for each in torch.meshgrid(centres, centres, indexing="ij"))
    half = side / 8
    boxes = clip_boxes(torch.stack([x - half, y - half, x + half, y + half], dim=1), side, side)
    regions = encoder.encode_regions(pixels, boxes.expand(len(pixels), -1, -1))
    return regions.transpose(1, 2).unflatten(2, (GRID, GRID))


def _peaks(cells: Tensor, texts: Tensor, pixels: Tensor) -> Tensor:
    """The centre `[B, K, 2]` (x, y), in pixels, of the cell of `[B, D, H, W]` that is most like each text."""
    best = torch.einsum("bdhw,kd->bkhw", F.normalize(cells, dim=1), texts).flatten(2).argmax(-1).cpu()
    (height, width), size = cells.shape[2:], pixels.shape[-1]
    return torch.stack([(best % width + 0.5) * size / width, (best // width + 0.5) * size / height], dim=-1)


def _names_in(source: Any, limit: int | None) -> list[str]:
    names = set()
    for row, record in enumerate(source):
        if row == limit:
            break
        names |= {str(each.get("name") or each.get("phrase")) for each in record.get("objects") or ()}
    return sorted(names)


def _result(
    rows: list[tuple[int, bool, bool, float, Any]], names: list[str], seed: int, skipped: Skipped, read: str
) -> Result:
    labels, right, hits, shares, groups = (np.array(column) for column in zip(*rows, strict=True))
    cluster = np.unique(groups.astype(str), return_inverse=True)[1]

    def share(values: np.ndarray, chance: float, chosen: Any = slice(None)) -> Metric:
        low, high = mean_interval(values[chosen], cluster=cluster[chosen], seed=seed)
        picked = values[chosen]
        return Metric(float(picked.mean()), float(low[0]), float(high[0]), chance, len(picked), "%")

    by = {names[k]: {"accuracy": share(right, 1 / len(names), labels == k)} for k in np.unique(labels).tolist()}
    metrics = {"region_accuracy": share(right, 1 / len(names)), "pointing": share(hits, float(shares.mean()))}
    details = {"classes": names, "read": read, "skipped": skipped.count}
    return Result("regions", metrics, {"class": by}, details)
