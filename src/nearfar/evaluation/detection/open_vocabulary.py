"""Detection of what texts name: COCO's average precision, of base and of novel classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from nearfar.data.boxes.objects import Box
from nearfar.data.sources.skipped import Skipped
from nearfar.errors import UserError
from nearfar.evaluation.detection.average_precision import average_precision
from nearfar.evaluation.detection.framed_pictures import framed_pictures
from nearfar.evaluation.measures.result import Metric, Result
from nearfar.modes import evaluating

EXAMPLES, SHOWN = 8, 6
"""Pictures that are kept for the report, and the most detections of each."""


def detection(
    encoder: Any,
    source: Any,
    *,
    classes: Sequence[str] | None = None,
    base: Sequence[str] | None = None,
    template: str = "{}",
    frozen: str | None = None,
    proposals: int = 300,
    limit: int | None = None,
    batch_size: int = 16,
    max_skipped: float = 0.1,
) -> Result:
    """Average precision of a detector's boxes for names, as COCO counts it.

    Args:
        encoder: anything with `preprocess`, `tokenize`, `encode_text` and `detect`: a `nearfar.models.detector`.
        source: records with `image` and `objects`, a list of dicts with `name`, `box` (left, top, right, bottom in
            pixels) and `crowd` where a box is around many. Where a record has `checked` names, detections of others do
            not count in it, and those of its `not_exhaustive` names that meet no box are not wrong (LVIS).
        classes: the names to look for; None: the source's own.
        base: those that it was fine-tuned on; the others are novel, and both are measured apart.
        template: what a name is put into.
        frozen: the folder of the detector before fine-tuning, whose scores are joined with its own.
        proposals: boxes of each picture that are looked at (paper: 1000).
        limit: records that are used, from the first; None: all.
        batch_size: pictures at a time.
        max_skipped: the share of broken records above which this stops.

    Returns:
        `AP`, the mean over overlaps from 0.5 to 0.95, `AP50`, and where `base` is named `AP50_base`, `AP50_novel`;
        `by["class"]`. Boxes are compared in the frame that the model sees.

    Raises:
        UserError: no detector, no names, a base class or a thing that is none of them; pycocotools is not there.
    """
    if not hasattr(encoder, "detect"):
        raise UserError(
            f"a {type(encoder).__name__} detects nothing: train a detector with the methods dito and detection"
        )
    names = list(classes or getattr(source, "classes", None) or ())
    if not names:
        raise UserError(f"{getattr(source, 'name', 'the data')} names no classes: give them as classes=[...]")
    if unknown := [name for name in base or () if name not in names]:
        some = ", ".join(names[:9]) + ", ..." * (len(names) > 9)
        raise UserError(f"base has {unknown[0]!r}, which is none of the classes: {some}")
    number, is_base = {name: i for i, name in enumerate(names)}, None
    if base is not None:
        is_base = torch.tensor([name in set(base) for name in names])
    if frozen is not None:
        encoder.keep_frozen(frozen)
    skipped, truth, detected, examples = (
        Skipped(),
        list[dict[str, Any]](),
        list[dict[str, Any]](),
        list[dict[str, Any]](),
    )
    reading = framed_pictures(
        encoder, source, limit=limit, batch_size=batch_size, skipped=skipped, max_skipped=max_skipped
    )
    try:
        with evaluating(encoder), torch.no_grad():
            texts = encoder.encode_text(encoder.tokenize(["", *(template.format(name) for name in names)]))
            for pictures, pixels in reading:
                outputs = encoder.detect(pixels, texts, is_base=is_base, proposals=proposals)
                for picture, output in zip(pictures, outputs, strict=True):
                    if other := [thing.name for thing in picture.things if thing.name not in number]:
                        raise UserError(f"record {picture.row} has a {other[0]!r}, which is none of the classes")
                    truth.append(
                        {
                            "boxes": [thing.box for thing in picture.things],
                            "labels": [number[thing.name] for thing in picture.things],
                            "crowd": [thing.crowd for thing in picture.things],
                            "not_exhaustive": [number[name] for name in picture.not_exhaustive if name in number],
                        }
                    )
                    detected.append(_checked({key: value.tolist() for key, value in output.items()}, picture, number))
                    if len(examples) < EXAMPLES:
                        examples.append(_example(picture, detected[-1], names, encoder.image_size))
    finally:
        if frozen is not None:
            encoder.keep_frozen(None)
    scored = average_precision(truth, detected, len(names))
    n = sum(len(each["labels"]) for each in truth)
    both = scored.mean()
    metrics = {"AP": Metric(both[0], n=n, unit="%"), "AP50": Metric(both[1], n=n, unit="%")}
    for kind, value in (("base", True), ("novel", False)) if is_base is not None else ():
        chosen = [i for i, name in enumerate(names) if (name in set(base or ())) == value]
        metrics[f"AP50_{kind}"] = Metric(scored.mean(chosen)[1], n=len(chosen), unit="%")
    by = {
        name: {"AP": Metric(float(scored.ap[i]), unit="%"), "AP50": Metric(float(scored.ap50[i]), unit="%")}
        for i, name in enumerate(names)
        if scored.ap[i] == scored.ap[i]
    }
    details = {"classes": names, "base": base and list(base), "frozen": frozen, "skipped": skipped.count}
    return Result("detection", metrics, {"class": by}, {**details, "examples": examples})


def _checked(output: dict[str, Any], picture: Any, number: dict[str, int]) -> dict[str, Any]:
    """Without detections of names that were not looked for in this picture."""
    if picture.checked is None:
        return output
    looked_for = {number[name] for name in picture.checked if name in number}
    kept = [i for i, label in enumerate(output["labels"]) if label in looked_for]
    return {key: [values[i] for i in kept] for key, values in output.items()}


def _example(picture: Any, output: dict[str, Any], names: list[str], size: int) -> dict[str, Any]:
    """What the report draws: things and the best detections, in shares of the frame."""
    boxes = [
        {"name": names[label], "score": round(score, 3), "box": _shares(box, size)}
        for box, score, label in list(zip(output["boxes"], output["scores"], output["labels"], strict=True))[:SHOWN]
    ]
    things = [{"name": thing.name, "box": _shares(thing.box, size)} for thing in picture.things]
    return {"row": picture.row, "window": list(picture.window), "things": things, "detections": boxes}


def _shares(box: Box | list[float], size: int) -> list[float]:
    return [round(float(side) / size, 4) for side in box]
