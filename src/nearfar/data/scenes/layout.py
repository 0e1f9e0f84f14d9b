"""Where things stand: a relation between the first two, sizes, places, boxes and masks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

from nearfar.data.scenes.draw import SeededDraw
from nearfar.data.scenes.sprites import sprite

RELATIONS = ("left of", "right of", "above", "below", "inside", "bigger than", "smaller than")
INVERSE = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
    "bigger than": "smaller than",
    "smaller than": "bigger than",
    "inside": "around",
}
_PLACED = {"left of": (0, 1), "right of": (0, -1), "above": (1, 0), "below": (-1, 0)}


@dataclass
class SceneObject:
    """One thing in a scene. Without a `colour` it has its own; `size` and `turned` are None where the scene is not
    about them."""

    name: str
    colour: str | None = None
    size: str | None = None
    turned: str | None = None
    style: str = "noto"
    box: tuple[int, int, int, int] = (0, 0, 0, 0)
    mask: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), bool), repr=False)


def arrange(
    things: list[SceneObject], relation: str | None, size: int, ground: tuple[int, int, int], draw: SeededDraw
) -> Image.Image:
    """Paint the things so that the relation holds between the first and the second, and fill in boxes and masks."""
    canvas = Image.new("RGB", (size, size), ground)
    sides = [_side(thing, len(things), size, draw) for thing in things]
    if relation == "inside":
        sides[:2] = [size * 5 // 16, size * 15 // 16]
        places = _nested(sides, size, draw)
    else:
        if relation in ("bigger than", "smaller than"):
            large, small = _extent(size, len(things), 100), _extent(size, len(things), 52)
            sides[:2] = [large, small] if relation == "bigger than" else [small, large]
        places = _cells(sides, relation, size, draw)
    if relation == "inside":
        _paint(canvas, things, 1, sides[1], places[1])
        things[1].mask &= ~_hole(canvas, sides[0], places[0], ground)
        _paint(canvas, things, 0, sides[0], places[0])
        return canvas
    for i in range(len(things)):
        _paint(canvas, things, i, sides[i], places[i])
    return canvas


def _hole(canvas: Image.Image, side: int, place: tuple[int, int], ground: tuple[int, int, int]) -> np.ndarray:
    """Cut a round hole with a margin, so that what is inside something stands out against the ground."""
    margin = max(2, side // 8)
    x, y = place[0] - margin, place[1] - margin
    hole = Image.new("L", canvas.size)
    ImageDraw.Draw(hole).ellipse((x, y, x + side + 2 * margin, y + side + 2 * margin), fill=255)
    canvas.paste(ground, (0, 0), hole)
    return np.asarray(hole) > 0


def _paint(canvas: Image.Image, things: list[SceneObject], number: int, side: int, place: tuple[int, int]) -> None:
    thing, (x, y) = things[number], place
    cut = sprite(thing.name, thing.style, thing.colour, side, 2 if thing.turned == "upside-down" else 0)
    canvas.paste(cut.image, (x, y), cut.alpha)
    thing.mask = np.zeros((canvas.height, canvas.width), bool)
    thing.mask[y : y + side, x : x + side] = cut.solid
    rows, columns = np.flatnonzero(cut.solid.any(1)), np.flatnonzero(cut.solid.any(0))
    thing.box = (x + int(columns[0]), y + int(rows[0]), x + int(columns[-1]) + 1, y + int(rows[-1]) + 1)
    for other in things:
        if other is not thing and other.mask.size:
            other.mask &= ~thing.mask


def _side(thing: SceneObject, count: int, size: int, draw: SeededDraw) -> int:
    if thing.size == "big":
        return _extent(size, count, 100)
    if thing.size == "small":
        return _extent(size, count, 52)
    return _extent(size, count, draw.one((76, 84, 92)))


def _extent(size: int, count: int, percent: int) -> int:
    """Pixels of a thing that fills so much of its cell."""
    return size // _grid(count) * percent // 100


def _grid(count: int) -> int:
    return 1 if count == 1 else 2 if count == 2 else 3


def _cells(sides: list[int], relation: str | None, size: int, draw: SeededDraw) -> list[tuple[int, int]]:
    """Each thing in a cell of its own, shaken within it; the first two in one row or column where the relation says
    so. With two things the row or column itself lies anywhere."""
    grid = _grid(len(sides))
    cell = size // grid
    free = [(row, column) for row in range(grid) for column in range(grid)]
    step = _PLACED.get(relation or "")
    pairs = [(a, b) for a in free for b in free if a != b and (step is None or _direction(a, b) == step)]
    chosen = list(draw.one(pairs)) if len(sides) > 1 else [(0, 0)]
    chosen += draw.some([place for place in free if place not in chosen], len(sides) - len(chosen))
    places = []
    band = draw.between(0, size - cell) if step and grid == 2 else None
    for (row, column), side in zip(chosen, sides, strict=True):
        corner = [row * cell, column * cell]
        if band is not None and step is not None:
            corner[0 if step[0] == 0 else 1] = band
        places.append((corner[1] + draw.between(0, cell - side), corner[0] + draw.between(0, cell - side)))
    return places


def _direction(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    down, right = b[0] - a[0], b[1] - a[1]
    return ((down > 0) - (down < 0), (right > 0) - (right < 0))


def _nested(sides: list[int], size: int, draw: SeededDraw) -> list[tuple[int, int]]:
    """The first at the middle of the second."""
    corner = [draw.between(0, size - sides[1]) for _ in range(2)]
    slack = size // 32
    inner = [c + (sides[1] - sides[0]) // 2 + draw.between(-slack, slack) for c in corner]
    return [(inner[0], inner[1]), (corner[0], corner[1])]
