"""From whatever a record calls an image to pixels: one robust decoder, and the resizing that follows it."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from nearfar import files
from nearfar.data.sources.skipped import BadRecord
from nearfar.rgb import to_rgb

EXTENSIONS = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".png",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".jp2",
    ".ppm",
    ".pgm",
    ".avif",
)
"""File names taken for images."""

MAX_PIXELS = 89_478_485
"""Larger pictures are refused: a small file may unpack to more memory than there is."""


class BadImage(BadRecord):
    """An image that cannot be used. The message says which and why."""


def load_image(
    image: Any, *, root: str | os.PathLike[str] | None = None, max_pixels: int = MAX_PIXELS, near: int | None = None
) -> Image.Image:
    """Decode an image to upright 8-bit RGB.

    Transparency is laid on white, EXIF rotation applied, an animation gives its first frame, 16-bit and floating point
    pictures are scaled to 8 bits (not cut off), CMYK, palette, grey and bilevel pictures are converted.

    Args:
        image: a path, bytes, a `PIL.Image`, a uint8 array `[H, W]` or `[H, W, 3]`, a dict with `bytes` or `path`
            (as `datasets` has them), or anything with `read() -> bytes`.
        root: folder that relative paths start from.
        max_pixels: refuse pictures with more pixels than this.
        near: decode a large JPEG no finer than its shorter side needs to be this long: many times faster, and as good
            if it is scaled down to this size afterwards.

    Raises:
        BadImage: a missing, empty, broken, truncated or too large file, or one that is no image.

    >>> load_image(Image.new("RGBA", (2, 2), (255, 0, 0, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
    return decode(image, root=root, max_pixels=max_pixels, near=near)[0]


def reading_size(encoder: Any) -> int | None:
    """The shorter side, in pixels, at which an encoder's pictures may be decoded (`load_image`'s `near`): no shorter
    than what it scales them to, of which it may crop the middle. None where it does not say.

    >>> from types import SimpleNamespace
    >>> reading_size(SimpleNamespace(image_size=224, pixels=SimpleNamespace(resize=256)))
    256
    """
    size, scaled = getattr(encoder, "image_size", None), getattr(getattr(encoder, "pixels", None), "resize", None)
    return max(size, scaled or 0) if isinstance(size, int) else None


def decode(
    image: Any, *, root: str | os.PathLike[str] | None = None, max_pixels: int = MAX_PIXELS, near: int | None = None
) -> tuple[Image.Image, tuple[int, int]]:
    """As `load_image`, with the upright `(width, height)` of the original, which `near` may have made smaller."""
    where = describe(image)
    try:
        opened = _open(image, root)
        width, height = opened.size
        if width * height > max_pixels:
            raise BadImage(f"{where}: {width} x {height} pixels are more than the {max_pixels} allowed")
        if near is not None and opened is not image:
            opened.draft("RGB", _draft_size(opened.size, near))
        opened.load()
        turned = ImageOps.exif_transpose(opened) or opened
        swapped = _is_turned(opened)
        return to_rgb(turned), ((height, width) if swapped else (width, height))
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage(f"{where}: not an image that can be read") from None
    except Image.DecompressionBombError:
        raise BadImage(f"{where}: more pixels than the {max_pixels} allowed") from None
    except FileNotFoundError:
        raise BadImage(f"{where}: no such file") from None
    except Exception as error:  # Decoders meet broken data with nearly every kind of exception.
        raise BadImage(f"{where}: broken ({str(error) or type(error).__name__})") from error


def numbers_of_pixels(image: Any) -> np.ndarray:
    """The numbers `[H, W]` of a picture of one channel, those of a palette's colours among them; with colours
    `[H, W, 3]`. For masks: nothing is scaled, blended or turned.

    Raises:
        BadImage: a missing, broken or too large file, or one that is no image.

    >>> numbers_of_pixels(Image.new("P", (3, 2), 7)).tolist()
    [[7, 7, 7], [7, 7, 7]]
    """
    where = describe(image)
    try:
        opened = _open(image, None)
        if opened.width * opened.height > MAX_PIXELS:
            raise BadImage(f"{where}: {opened.width} x {opened.height} pixels are more than the {MAX_PIXELS} allowed")
        return np.array(opened)
    except BadImage:
        raise
    except FileNotFoundError:
        raise BadImage(f"{where}: no such file") from None
    except Exception as error:  # as above
        raise BadImage(f"{where}: not an image that can be read") from error


def resize(image: Image.Image, size: int, *, fit: Literal["crop", "squash"] = "crop") -> np.ndarray:
    """A square of `size` pixels, uint8 `[size, size, 3]`: its central square (`crop`), or all of it with the aspect
    changed (`squash`). Bicubic with antialiasing, as CLIP's own preprocessing.

    >>> resize(Image.new("RGB", (40, 20)), 8).shape
    (8, 8, 3)
    """
    if image.size == (size, size):
        return np.array(image, dtype=np.uint8)
    if fit == "squash" or image.width == image.height:
        return _whole(image, size)
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)  # torch's kernel knows no edge between two pixels
    return np.array(image.resize((size, size), Image.Resampling.BICUBIC, box=box), dtype=np.uint8)


def _whole(image: Image.Image, size: int) -> np.ndarray:
    """All of a picture. Where the processor has AVX, by PyTorch's kernel for bytes, which takes 0.4 of the time of
    Pillow's. Both resample rows, then columns, and round after each: they are at most 2 levels of 255 apart, 0.01 on
    average (but for pictures more than a hundred times as high as wide, whose columns Pillow takes first)."""
    import torch
    from torch.nn.functional import interpolate

    if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return np.array(image.resize((size, size), Image.Resampling.BICUBIC), dtype=np.uint8)
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1)
    square = interpolate(pixels[None], (size, size), mode="bicubic", antialias=True)[0]
    return square.permute(1, 2, 0).numpy()


def image_size(image: Any, *, root: str | os.PathLike[str] | None = None) -> tuple[int, int]:
    """Upright `(width, height)`, read from the header without decoding. Raises `BadImage`."""
    try:
        opened = _open(image, root)
        return (opened.height, opened.width) if _is_turned(opened) else opened.size
    except BadImage:
        raise
    except Exception as error:
        raise BadImage(f"{describe(image)}: not an image that can be read") from error


def describe(image: Any) -> str:
    """A few words that say which image this is."""
    if isinstance(image, str | os.PathLike):
        path = files.one_line(os.fsdecode(image))
        return path if len(path) < 300 else f"{path[:60]}..."
    if isinstance(image, dict):
        return str(image.get("path") or "image")
    if isinstance(image, bytes | bytearray | memoryview):
        return f"image of {len(image)} bytes"
    name = getattr(image, "name", None) or getattr(image, "filename", None)
    return str(name) if name else "image"


def _open(image: Any, root: str | os.PathLike[str] | None) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray):
        try:
            return Image.fromarray(image)
        except TypeError as error:
            shape = ", ".join(map(str, image.shape))
            raise BadImage(f"an array [{shape}] of {image.dtype}, not uint8 [H, W] or [H, W, 3]") from error
    if isinstance(image, dict):
        image = image["bytes"] if image.get("bytes") is not None else image.get("path")
    if image is None or image == "":
        raise BadImage("image: there is none")
    if isinstance(image, str | os.PathLike):
        text = os.fspath(image)
        if files.is_address(text):
            raise BadImage(f"{text}: an address, not a file: download the images first")
        path = Path(root or "") / text
        if path.is_dir():
            raise BadImage(f"{path}: a folder, not an image")
        if path.exists() and not path.is_file():  # a pipe or device would be waited for, or read, without end
            raise BadImage(f"{path}: not a regular file")
        # Pillow opens a path lazily and would keep it open until it is decoded; reading it whole leaves no handle.
        data = path.read_bytes()
    else:
        data = image.read() if hasattr(image, "read") else bytes(image)
    if not data:
        raise BadImage(f"{describe(image)}: the file is empty")
    if data[:256].lstrip().startswith((b"<svg", b"<?xml")):
        raise BadImage(f"{describe(image)}: a drawing (SVG), not a picture: render it to PNG first")
    if data.startswith((b"%!PS", b"\xc5\xd0\xd3\xc6")):  # which Pillow would hand to Ghostscript: a program run on it
        raise BadImage(f"{describe(image)}: a drawing (PostScript), not a picture: render it to PNG first")
    return Image.open(io.BytesIO(data))


def _is_turned(image: Image.Image) -> bool:
    """Whether EXIF says that the picture lies on its side (orientations 5 to 8)."""
    return image.getexif().get(0x0112, 1) in (5, 6, 7, 8)


def _draft_size(size: tuple[int, int], near: int) -> tuple[int, int]:
    scale = near / min(size)
    return (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
