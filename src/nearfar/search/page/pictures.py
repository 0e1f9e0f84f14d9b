"""Pictures for people: thumbnails, and what to keep of a picture that is no file."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

from nearfar.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

    from nearfar.search.index.items import Hit

KEEP = 64 * 1024
"""Bytes up to which a picture is kept as it came; a larger one is kept as a thumbnail."""
SIDE = 256

ANIMATION = 1 << 20
"""Bytes up to which a page holds an animation; of a larger one it shows the first frame."""


def keep(image: Image, original: bytes | None = None) -> bytes:
    """What an index keeps of a picture that is no file: its own bytes where they are few, else a thumbnail."""
    if original is not None and len(original) <= KEEP:
        return original
    return to_webp(thumbnail(image))


def thumbnail(image: Image, side: int = SIDE) -> Image:
    """A copy whose longer side is at most `side`."""
    small = image.copy()
    small.thumbnail((side, side))
    return small


def to_webp(image: Image) -> bytes:
    """The picture as a WebP file."""
    sink = io.BytesIO()
    image.save(sink, "WEBP", quality=85)
    return sink.getvalue()


def hit_thumbnail(hit: Hit, side: int = SIDE) -> Image:
    """The hit's picture, small; a text on a card; a grey card where a file has gone or broken since."""
    if hit.is_text:
        return text_card(hit.caption, side)
    try:
        return thumbnail(hit.image(), side)
    except UserError:
        return missing(side)


def animation(hit: Hit) -> bytes | None:
    """The animation that an index keeps of a video, unless it is too large to be shown beside others."""
    try:
        kept = hit.picture() if hit.picture is not None and hit.moves else None
    except UserError:  # its file has gone since
        return None
    return kept if kept and len(kept) <= ANIMATION else None


def hit_uri(hit: Hit) -> str:
    """The hit's picture, small, as an address that holds it; of a video its animation."""
    if kept := animation(hit):
        return "data:image/webp;base64," + base64.b64encode(kept).decode()
    return data_uri(hit_thumbnail(hit))


def text_card(text: str, side: int = SIDE) -> Image:
    """The beginning of a text, on a white card."""
    import textwrap

    from PIL import Image, ImageDraw, ImageFont

    card = Image.new("RGB", (side, side), "white")
    font = ImageFont.load_default(size=side / 14)
    lines = textwrap.wrap(text, 26, max_lines=10, placeholder=" ...", break_long_words=True)
    pen = ImageDraw.Draw(card)
    pen.multiline_text((side * 0.07, side * 0.07), "\n".join(lines), fill=(30, 30, 35), font=font, spacing=side / 50)
    return card


def missing(side: int = SIDE) -> Image:
    """A grey card with a stroke through it."""
    from PIL import Image, ImageDraw

    card = Image.new("RGB", (side, side), (235, 235, 235))
    ImageDraw.Draw(card).line(
        (side * 0.2, side * 0.8, side * 0.8, side * 0.2), fill=(190, 190, 190), width=max(2, side // 60)
    )
    return card


def data_uri(image: Image) -> str:
    """The picture as an address that holds it."""
    return "data:image/webp;base64," + base64.b64encode(to_webp(image)).decode()
