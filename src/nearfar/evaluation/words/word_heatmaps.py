"""The drawing of where words are in a picture: the picture, and again under the map of each word."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearfar import files
from nearfar.errors import UserError

COLUMNS = 4
"""Pictures beside one another."""


def draw_word_heatmaps(
    picture: Any,
    words: Sequence[str],
    maps: NDArray[np.floating],
    window: Sequence[float],
    path: str | Path,
    *,
    label: str = "cosine",
) -> Path:
    """Draw a picture, and beside it the picture under the map of each word, to an image file (PNG, SVG, PDF by its
    name). All maps have one scale of colours, so that a word that is nowhere is pale beside one that is there; a ring
    marks where a map peaks, and the title says how high.

    Args:
        picture: PIL.
        words: what the maps are of.
        maps: `[len(words), H, W]`.
        window: left, top, right and bottom of what a map covers, in pixels of the picture.
        path: the file.
        label: what the numbers of the maps are.

    Raises:
        UserError: not one map a word, or a kind of file that is none of pictures.
    """
    from matplotlib.figure import Figure

    if maps.ndim != 3 or len(maps) != len(words) or not len(words):
        raise UserError(f"there are {len(words)} words, and maps {list(maps.shape)}: give [words, rows, columns]")
    path = files.place(path)
    if path.suffix.lower() not in (".png", ".svg", ".pdf", ".jpg", ".webp"):
        raise UserError(f"{path}: name a file that ends in .png, .svg or .pdf")
    rows = -(-(1 + len(words)) // COLUMNS)
    columns = min(COLUMNS, 1 + len(words))
    figure = Figure(figsize=(2.6 * columns + 0.8, 2.7 * rows * picture.height / picture.width + 0.4 * rows))
    figure.set_layout_engine("constrained")
    places = np.atleast_1d(figure.subplots(rows, columns)).reshape(-1)
    left, top, right, bottom = window
    pixels, low, high = np.asarray(picture.convert("RGB")), float(maps.min()), float(maps.max())
    grey = np.asarray(picture.convert("L").convert("RGB"))
    for axes in places:
        axes.set_axis_off()
    places[0].imshow(pixels)
    places[0].set_title("picture", fontsize=10)
    drawn: Any = None
    for axes, word, heat in zip(places[1:], words, maps, strict=False):
        axes.imshow(grey)
        drawn = axes.imshow(
            heat,
            extent=(left, right, bottom, top),
            cmap="inferno",
            vmin=low,
            vmax=max(high, low + 1e-6),
            alpha=0.6,
            interpolation="bilinear",
        )
        row, column = peak(heat)
        x = left + (column + 0.5) / heat.shape[1] * (right - left)
        y = top + (row + 0.5) / heat.shape[0] * (bottom - top)
        axes.plot([x], [y], marker="o", markersize=11, markerfacecolor="none", markeredgecolor="white")
        axes.set_xlim(-0.5, picture.width - 0.5)
        axes.set_ylim(picture.height - 0.5, -0.5)
        axes.set_title(f"{word}  {heat.max():.2f}", fontsize=10)
    figure.colorbar(drawn, ax=list(places), shrink=0.7, label=label)
    drawing = BytesIO()
    figure.savefig(drawing, dpi=150, format=path.suffix.lower().removeprefix("."))
    return files.write(path, drawing.getvalue())


def peak(heat: NDArray[np.floating]) -> tuple[int, int]:
    """Row and column of the largest value of a map `[H, W]`, the first of equal ones.

    >>> peak(np.array([[0.0, 3.0], [1.0, 2.0]]))
    (0, 1)
    """
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    return int(row), int(column)
