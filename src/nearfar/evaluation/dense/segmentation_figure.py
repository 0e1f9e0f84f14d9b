"""The drawing of segmentation: the IoU of each class, and pictures beside their true and their predicted masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from colorsys import hls_to_rgb
from typing import Any

import numpy as np
from PIL import Image

from nearfar.evaluation.measures.result import Metric, Result
from nearfar.evaluation.report.blocks import Block, Example, Examples, Figure, Figures, Note, Picture
from nearfar.evaluation.report.examples import picture_of
from nearfar.evaluation.report.figures import PALETTE, draw
from nearfar.evaluation.report.retrieval_gallery import data_url

SIDE = 160
MOST_BARS = 40
"""Classes that have a bar: the names of more would lie over each other."""

GROUND, IGNORED = (240, 240, 240), (255, 255, 255)


def segmentation_figure(results: Mapping[str, Result], source: Any) -> list[Block]:
    """Bars of the classes' IoU with their intervals, then the first pictures: as they are, their true mask, and the
    predicted one."""
    result = results["segmentation"]
    metrics = {name: each["iou"] for name, each in result.by.get("class", {}).items()}
    if not metrics:
        return []
    examples = [_example(entry, source, result.details["classes"]) for entry in result.details.get("examples", ())]
    return [
        Note(_about(result)),
        Figures([_bars(metrics)], wide=len(metrics) > 12),
        *([Examples(examples)] if examples else []),
    ]


def _bars(metrics: Mapping[str, Metric]) -> Figure:
    title = "IoU by class, %"
    if len(metrics) > MOST_BARS:
        title += f": the {MOST_BARS} highest of {len(metrics)}"
        metrics = dict(sorted(metrics.items(), key=lambda item: -item[1].value)[:MOST_BARS])
    names = list(metrics)

    def paint(axes: Any) -> None:
        values = [100 * metric.value for metric in metrics.values()]
        below = [100 * (m.value - (m.value if m.low is None else m.low)) for m in metrics.values()]
        above = [100 * ((m.value if m.high is None else m.high) - m.value) for m in metrics.values()]
        spread = np.clip([below, above], 0, None)
        axes.bar(range(len(names)), values, yerr=spread, color=PALETTE[0], width=0.7, error_kw={"elinewidth": 0.8})
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
        axes.set_ylim(0, 100)
        axes.set_title(title)
        axes.grid(axis="y")

    words = ", ".join(f"{name} {metric.show(metric.value)}" for name, metric in metrics.items())
    width = min(9.0, 2.0 + 0.24 * len(names))
    return Figure(draw(paint, width=width, height=3.2, describe=f"IoU by class in %: {words}", name="segmentation"), {})


def _example(entry: Mapping[str, Any], source: Any, classes: Sequence[str]) -> Example:
    true, predicted = (np.asarray(entry[name]) for name in ("true", "predicted"))
    shown = [classes[i] for i in np.unique(true) if i > 0]
    right = (true == predicted)[true >= 0].mean()
    pictures = [
        Picture(picture_of(entry, source), alt="the picture", title="picture"),
        Picture(data_url(coloured(true)), alt=f"its true mask: {', '.join(shown)}", title="true"),
        Picture(
            data_url(coloured(predicted)), alt=f"the predicted mask, right at {right:.0%} of pixels", title="predicted"
        ),
    ]
    return Example(", ".join(shown) or "ground alone", [f"{right:.0%} of pixels right"], pictures)


def coloured(mask: np.ndarray) -> Image.Image:
    """A mask `[H, W]` of classes as a picture: a colour for each class, the ground pale, what does not count white.

    >>> coloured(np.array([[0, 1], [1, -1]])).size
    (160, 160)
    """
    table = np.array([GROUND, *(_colour(i) for i in range(max(1, int(mask.max()))))], np.uint8)
    pixels = np.where(mask[..., None] < 0, np.array(IGNORED, np.uint8), table[mask.clip(0)])
    return Image.fromarray(pixels.astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.NEAREST)


def _colour(number: int) -> tuple[int, int, int]:
    """Hues by steps of the golden angle, none near another before it, in three shades by turns."""
    red, green, blue = hls_to_rgb(number * 0.618034 % 1, (0.38, 0.55, 0.7)[number % 3], 0.65)
    return int(255 * red), int(255 * green), int(255 * blue)


def _about(result: Result) -> str:
    details = result.details
    height, width = details["grid"]
    return (
        f"A linear map of the frozen {height} x {width} cells, fitted on {details['train']:,} pictures, whose logits "
        f"are drawn out to {details['side']} x {details['side']} pixels. Beside each picture: its true and predicted "
        "mask; a class has one colour throughout. The row of cells is what the cells' true shares would reach: the "
        "grid's own limit."
    )
