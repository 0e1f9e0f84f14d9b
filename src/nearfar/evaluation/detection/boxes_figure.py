"""The drawing of detections: pictures with the boxes of their things, and the best of a detector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nearfar.evaluation.measures.result import Result
from nearfar.evaluation.report.blocks import Block, Example, Examples, Picture
from nearfar.evaluation.report.examples import picture_of

SIDE = 200
TRUE, DETECTED = (30, 130, 60), (200, 60, 30)


def boxes_figure(results: Mapping[str, Result], source: Any) -> list[Block]:
    """The first pictures with their things' boxes, and beside them with the detections of the highest scores."""
    examples = results["detection"].details.get("examples", ())
    return [Examples([_example(entry, source) for entry in examples])] if examples else []


def _example(entry: Mapping[str, Any], source: Any) -> Example:
    things, detections = entry["things"], entry["detections"]
    names = ", ".join(each["name"] for each in things) or "nothing"
    best = ", ".join(f"{each['name']} {each['score']:.2f}" for each in detections) or "none"
    pictures = [
        Picture(_drawn(entry, source, things, TRUE), alt=f"boxes of {names}", title="true"),
        Picture(_drawn(entry, source, detections, DETECTED), alt=f"detections: {best}", title="detected"),
    ]
    return Example(names, [f"detected: {best}"], pictures)


def _drawn(entry: Mapping[str, Any], source: Any, boxes: Any, colour: tuple[int, int, int]) -> str:
    """The part of the picture that the model sees, with boxes over it."""

    def draw(picture: Any) -> Any:
        from PIL import Image, ImageDraw

        frame = picture.transform((SIDE, SIDE), Image.Transform.EXTENT, tuple(entry["window"]), fillcolor="white")
        drawing = ImageDraw.Draw(frame)
        for each in boxes:
            x0, y0, x1, y1 = (SIDE * side for side in each["box"])
            drawing.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colour, width=2)
            drawing.text((x0 + 3, y0 + 1), each["name"], fill=colour)
        return frame

    return picture_of(entry, source, draw)
