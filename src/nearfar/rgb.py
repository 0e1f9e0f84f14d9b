"""Pictures of every depth in RGB of 8 bits: one way for loaders and for encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture in RGB of 8 bits: transparency lies on white; 16-bit, 32-bit and floating-point ones are scaled, not
    cut off.

    >>> from PIL import Image
    >>> to_rgb(Image.new("F", (1, 1), 0.5)).getpixel((0, 0))
    (128, 128, 128)
    """
    from PIL import Image

    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _scale_to_8_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    """Grey pictures of 16 bits or floats. `convert` would cut off everything above 255."""
    from PIL import Image

    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    top = values.max(initial=0)
    if image.mode == "F" and top <= 1:
        values = values * 255
    elif image.mode.startswith("I;16") or top > 255:
        values = values * (255 / 65535)
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8)).convert("RGB")
