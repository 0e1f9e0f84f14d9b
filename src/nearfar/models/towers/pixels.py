"""From pictures to the pixels a tower was trained on: size, crop, mean and standard deviation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nearfar.errors import UserError
from nearfar.models.towers import naflex
from nearfar.rgb import to_rgb

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

LONGEST = 64
"""Of a picture of which the middle square is taken, how many times as long as wide it may be before it is scaled."""

FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # in the order of PIL's own numbers


@dataclass(frozen=True)
class Pixels:
    """How pictures become pixels: `Pixels(...)([picture, ...]) -> [B, 3, size, size]` float32.

    `fit` says what happens to a picture that is not square: `"crop"` scales its shorter side to `resize` (default
    `size`) and crops the middle, `"squash"` scales both sides to `resize` and crops the middle, `"pad"` adds white;
    `"naflex"` keeps its shape and gives patches, `[B, patches, 3 * patch * patch + 2]` (see `towers.naflex`).
    Transparent pictures lie on white; EXIF rotation is applied.

    >>> from PIL import Image
    >>> Pixels(size=8)([Image.new("RGB", (20, 10), "white")]).shape
    torch.Size([1, 3, 8, 8])
    """

    size: int
    mean: tuple[float, ...] = HALF[0]
    std: tuple[float, ...] = HALF[1]
    fit: str = "crop"
    resize: int | None = None
    resample: str = "bicubic"
    patch: int | None = None
    patches: int | None = None

    def __post_init__(self) -> None:
        if self.fit not in ("crop", "squash", "pad", "naflex"):
            raise UserError(f"fit={self.fit!r}: choose 'crop', 'squash', 'pad' or 'naflex'")
        if self.fit == "naflex" and not (self.patch and self.patches):
            raise UserError("fit='naflex' needs patch, the side of a patch, and patches, the most of a picture")
        if self.resample not in FILTERS:
            raise UserError(f"resample={self.resample!r}: choose one of {', '.join(FILTERS)}")
        for name in ("mean", "std"):
            values = tuple(float(v) for v in getattr(self, name))
            if len(values) != 3 or (name == "std" and min(values) <= 0):
                raise UserError(f"{name}={values}: three numbers, one a colour channel (std above 0)")
            object.__setattr__(self, name, values)

    def __call__(self, pictures: Sequence[Image]) -> Tensor:
        if not isinstance(pictures, Sequence):
            raise UserError(f"preprocess takes a list of pictures, not one {type(pictures).__name__}: write [picture]")
        if self.fit == "naflex":
            return self._patches(pictures)
        if not pictures:
            return torch.empty(0, 3, self.size, self.size)
        stack = np.stack([np.asarray(self._fit(rgb(picture))) for picture in pictures])  # (B, size, size, 3)
        return self._normalised(stack).contiguous()

    def _normalised(self, stack: NDArray[np.uint8]) -> Tensor:
        pixels = torch.from_numpy(stack).permute(0, 3, 1, 2).float().div_(255)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return (pixels - mean) / std

    def _patches(self, pictures: Sequence[Image]) -> Tensor:
        from PIL import Image

        patch, most = self.patch or 1, self.patches or 1
        method, made = Image.Resampling(FILTERS.index(self.resample)), []
        for picture in map(rgb, pictures):
            rows, columns = naflex.grid(picture.height, picture.width, patch, most)
            resized = np.array(picture.resize((columns * patch, rows * patch), method))
            made.append(naflex.packed(self._normalised(resized[None]), patch, most))
        return torch.cat(made) if made else torch.empty(0, most, 3 * patch**2 + 2)

    def resized(self, size: int) -> Pixels:
        """The same for pictures of another size; what is cropped off keeps its share.

        >>> Pixels(size=224, resize=256).resized(112).resize
        128
        """
        resize = self.resize and round(self.resize * size / self.size)
        patches = self.patches and (size // (self.patch or 1)) ** 2
        return replace(self, size=size, resize=resize, patches=patches)

    def window(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, top, right and bottom, in a picture's own coordinates, of the square that becomes its pixels; beyond
        its edges where white is added.

        >>> Pixels(size=8).window(20, 10), Pixels(size=8, fit="pad").window(20, 10)
        ((5.0, 0.0, 15.0, 10.0), (0.0, -5.0, 20.0, 15.0))
        """
        if self.fit == "naflex":
            return 0.0, 0.0, float(width), float(height)
        share = self.size / (self.resize or self.size)
        if self.fit == "squash":
            left, top = width * (1 - share) / 2, height * (1 - share) / 2
            return left, top, left + width * share, top + height * share
        across = max(width, height) if self.fit == "pad" else min(width, height) * share
        left, top = (width - across) / 2, (height - across) / 2
        return left, top, left + across, top + across

    def _fit(self, picture: Image) -> Image:
        from PIL import Image

        method = Image.Resampling(FILTERS.index(self.resample))
        side = self.resize or self.size
        if self.fit == "squash":
            return self._middle(picture.resize((side, side), method))
        width, height = picture.size
        if self.fit == "pad":
            long = max(width, height)
            inner = (max(1, self.size * width // long), max(1, self.size * height // long))
            ground = Image.new("RGB", (self.size, self.size), "white")
            ground.paste(picture.resize(inner, method), ((self.size - inner[0]) // 2, (self.size - inner[1]) // 2))
            return ground
        short = min(width, height)
        if max(width, height) > LONGEST * short:  # scaled as a whole, a strip of a few bytes would be gigabytes
            width, height = min(width, LONGEST * short), min(height, LONGEST * short)
            picture = _middle(picture, width, height)
        # Whole-number division, as in the image processors these models were trained with.
        picture = picture.resize((max(1, side * width // short), max(1, side * height // short)), method)
        return self._middle(picture)

    def _middle(self, picture: Image) -> Image:
        return _middle(picture, self.size, self.size)


class PreparesPictures:
    """What a model that reads pictures says of them, by its `pixels`."""

    pixels: Pixels

    @property
    def image_size(self) -> int:
        """Side of the pictures in pixels."""
        return self.pixels.size

    @property
    def mean(self) -> tuple[float, ...]:
        """What is subtracted of each channel."""
        return self.pixels.mean

    @property
    def std(self) -> tuple[float, ...]:
        """What each channel is divided by."""
        return self.pixels.std

    def preprocess(self, pictures: Sequence[Image]) -> Tensor:
        """Pixels `[B, 3, image_size, image_size]` float32 of a list of PIL pictures."""
        return self.pixels(pictures)


def _middle(picture: Image, width: int, height: int) -> Image:
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def rgb(picture: Image) -> Image:
    """The picture upright, in RGB, on white where it is transparent, 32-bit and floating-point ones scaled, as a loader
    reads them."""
    from PIL import ImageOps

    return to_rgb(ImageOps.exif_transpose(picture))
