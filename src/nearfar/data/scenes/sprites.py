"""The cut-out pictures that scenes are made of: scaled, tinted, turned, and kept for the next scene."""

from __future__ import annotations

import io
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from nearfar.data import world
from nearfar.data.scenes.vocabulary import COLOURS, SHAPES, concept_of

OPAQUE = 96
"""Opacity from which a pixel counts as part of the thing, for boxes and masks."""

_LARGEST = 96


class Sprite(NamedTuple):
    """A picture `[side, side]` with its opacity, and which of its pixels count as the thing, `[side, side]` bool."""

    image: Image.Image
    alpha: Image.Image
    solid: np.ndarray


@lru_cache(maxsize=16384)
def sprite(noun: str, style: str, colour: str | None, side: int, turns: int = 0) -> Sprite:
    """A noun's picture, `side` pixels square, in a colour (None: its own), turned by quarter turns anticlockwise."""
    whole, low, high = _cut_out(noun, style)
    scaled = whole.resize((side, side), Image.Resampling.BOX if side < whole.width else Image.Resampling.BILINEAR)
    if turns % 4:
        quarter = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
        scaled = scaled.transpose(quarter[turns % 4 - 1])
    if colour is not None:
        flat = noun in SHAPES or style == "openmoji-line"
        scaled = _tinted(scaled, COLOURS[colour], low, high, flat=flat)
    alpha = scaled.getchannel("A")
    return Sprite(scaled.convert("RGB"), alpha, np.asarray(alpha) >= OPAQUE)


@lru_cache(maxsize=4096)
def _cut_out(noun: str, style: str) -> tuple[Image.Image, int, int]:
    """A noun's picture without its margins, and the least and the greatest brightness in it."""
    if noun in SHAPES:
        return _shape(noun), 0, 255
    picture = _square(Image.open(io.BytesIO(world.picture(concept_of()[noun], style))).convert("RGBA"))
    pixels = np.asarray(picture)
    light = _brightness(pixels)[pixels[..., 3] >= OPAQUE]
    return (picture, int(light.min()), int(light.max())) if light.size else (picture, 0, 255)


def _square(picture: Image.Image) -> Image.Image:
    """Cut to what is drawn and centred, so that a size in a scene is the size of the thing and not of its margins."""
    solid = np.asarray(picture.getchannel("A")) >= OPAQUE
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    if not len(rows):
        return picture
    picture = picture.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
    side = max(picture.size)
    square = Image.new("RGBA", (side, side))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def _tinted(picture: Image.Image, colour: tuple[int, int, int], low: int, high: int, *, flat: bool) -> Image.Image:
    """The picture from a dark to a light shade of the colour by its brightness; line drawings in the colour itself.

    Brightness is spread from `low` and `high` over the whole range first, so that a dark or a pale picture shows its
    parts as well. Whole numbers only, so that every machine gets the same bytes.
    """
    pixels = np.asarray(picture)
    full = np.array(colour, dtype=np.int32)
    dark, bright = (full, full) if flat else (full * 3 // 5, full + (255 - full) // 4)
    light = ((_brightness(pixels) - low) * 255 // max(high - low, 64)).clip(0, 255)[..., None]
    shaded = (dark * (255 - light) + bright * light + 127) // 255
    return Image.fromarray(np.concatenate([shaded.astype(np.uint8), pixels[..., 3:]], 2), "RGBA")


def _brightness(pixels: np.ndarray) -> np.ndarray:
    red, green, blue = (pixels[..., c].astype(np.int32) for c in range(3))
    return (77 * red + 150 * green + 29 * blue) >> 8


@cache
def _shape(name: str) -> Image.Image:
    """A white shape, drawn four times as large and averaged down for smooth edges."""
    side = 4 * _LARGEST
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    end, third = side - 1, side // 3
    if name in ("circle", "ring"):
        draw.ellipse((0, 0, end, end), fill=255)
        if name == "ring":
            draw.ellipse((side // 4, side // 4, end - side // 4, end - side // 4), fill=0)
    elif name == "square":
        draw.rectangle((side // 16, side // 16, end - side // 16, end - side // 16), fill=255)
    elif name == "cross":
        draw.rectangle((third, 0, 2 * third, end), fill=255)
        draw.rectangle((0, third, end, 2 * third), fill=255)
    elif name == "heart":
        draw.ellipse((0, side // 12, side // 2, side * 7 // 12), fill=255)
        draw.ellipse((side // 2, side // 12, end, side * 7 // 12), fill=255)
        draw.polygon([(side * k // 100, side * m // 100) for k, m in ((4, 44), (96, 44), (50, 98))], fill=255)
    else:
        draw.polygon([(end * x // 100, end * y // 100) for x, y in _CORNERS[name]], fill=255)
    picture = Image.new("RGBA", (side, side), "white")
    picture.putalpha(mask)
    return picture.resize((_LARGEST, _LARGEST), Image.Resampling.BOX)


_CORNERS = {
    "triangle": [(50, 4), (100, 96), (0, 96)],
    "diamond": [(50, 0), (88, 50), (50, 100), (12, 50)],
    "star": [(50, 0), (62, 36), (100, 38), (70, 60), (81, 97), (50, 76), (19, 97), (30, 60), (0, 38), (38, 36)],
}
