"""RITUAL's six random changes of a picture (arXiv 2405.17821), and the bank that one is drawn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from random import Random
from types import MappingProxyType

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps

from nearfar import lookup
from nearfar.data.pictures import colour
from nearfar.data.pictures.images import load_image
from nearfar.data.pictures.view_geometry import ATTEMPTS, random_box
from nearfar.errors import UserError

Transform = Callable[[Image.Image, Random, int], Image.Image]
"""`transform(picture, chance, size)`: an upright RGB picture, changed; `size` is the side of those that the model
reads."""


def horizontal_flip(picture: Image.Image, chance: Random, size: int) -> Image.Image:
    return ImageOps.mirror(picture)


def vertical_flip(picture: Image.Image, chance: Random, size: int) -> Image.Image:
    return ImageOps.flip(picture)


def rotation(picture: Image.Image, chance: Random, size: int) -> Image.Image:
    """By an angle from -180 to 180 degrees; corners are cut off, and black where nothing is left."""
    return picture.rotate(chance.uniform(-180, 180))


def colour_jitter(picture: Image.Image, chance: Random, size: int) -> Image.Image:
    """Brightness, contrast and saturation times a factor from 0 to 2 each, the hue turned by up to half the circle, in
    an order of chance. It may leave a picture black, or grey."""
    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    factors = [chance.uniform(0, 2) for _ in kinds]
    turn = chance.uniform(-0.5, 0.5)
    for place in chance.sample(range(len(kinds) + 1), len(kinds) + 1):
        picture = kinds[place](picture).enhance(factors[place]) if place < len(kinds) else _turned_hue(picture, turn)
    return picture


def gaussian_blur(picture: Image.Image, chance: Random, size: int) -> Image.Image:
    """A kernel of 13 pixels with a deviation from 1.5 to 2."""
    sigma = torch.tensor([chance.uniform(1.5, 2.0)])
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float()
    blurred = colour.blur(pixels, sigma, side=min(13, 2 * min(picture.size) - 1))
    return Image.fromarray(blurred[0].permute(1, 2, 0).round().to(torch.uint8).numpy())


def random_resized_crop(picture: Image.Image, chance: Random, size: int) -> Image.Image:
    """A part of 8 to 100 % of the picture, 3/4 to 4/3 as wide as high, at the model's own size."""
    draws = torch.tensor([[chance.random() for _ in range(2 * ATTEMPTS + 2)]], dtype=torch.float64)
    sizes = torch.tensor([picture.size], dtype=torch.float64)
    left, top, width, height = random_box(draws, sizes, (0.08, 1.0), (3 / 4, 4 / 3))[0].tolist()
    right, bottom = min(left + width, 1.0), min(top + height, 1.0)
    box = (left * picture.width, top * picture.height, right * picture.width, bottom * picture.height)
    return picture.resize((size, size), Image.Resampling.BILINEAR, box=box)


SIX: Mapping[str, Transform] = MappingProxyType(
    {
        "horizontal_flip": horizontal_flip,
        "vertical_flip": vertical_flip,
        "rotation": rotation,
        "colour_jitter": colour_jitter,
        "gaussian_blur": gaussian_blur,
        "random_resized_crop": random_resized_crop,
    }
)
"""The paper's transforms, each as likely as the others."""


@dataclass(frozen=True)
class TransformBank:
    """Transforms of which one is drawn for a picture.

    Chance depends on `seed`, the picture and `key` alone, such as the question: one picture and question get the same
    transform, with the same angle or crop, whatever stands beside them.

    Args:
        transforms: by name; the paper's six, or your own.
        exclude: names that are left out. Flips and rotation change what is left of what, what is written and what time
            a clock shows; jitter changes colours.

    Raises:
        UserError: no such transform, or none left.

    >>> bank = TransformBank(exclude=("horizontal_flip", "vertical_flip", "rotation"))
    >>> bank.names
    ('colour_jitter', 'gaussian_blur', 'random_resized_crop')
    >>> name, changed = bank.draw(Image.new("RGB", (40, 30), "red"), 32, key="what colour is it?")
    >>> name in bank.names, changed.mode
    (True, 'RGB')
    """

    transforms: Mapping[str, Transform] = field(default_factory=lambda: SIX)
    exclude: Sequence[str] = ()

    def __post_init__(self) -> None:
        if isinstance(self.exclude, str):
            raise UserError(f"exclude={self.exclude!r}: write a list of names")
        lookup.check("transform", self.exclude, self.transforms)
        if not self.names:
            raise UserError("all transforms are excluded: leave at least one")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in self.transforms if name not in self.exclude)

    def draw(self, picture: Image.Image, size: int, *, key: str = "", seed: int = 0) -> tuple[str, Image.Image]:
        """The name of a transform, each as likely as the others, and the picture changed by it.

        Args:
            picture: a PIL picture of any mode.
            size: side of the pictures that the model reads.
            key: what else decides, such as the question.
            seed: of the draws.
        """
        upright = load_image(picture)
        start = _start(upright, key, seed)
        name = Random(f"{start} name").choice(self.names)
        return name, self._changed(name, upright, size, start)

    def all(self, picture: Image.Image, size: int, *, key: str = "", seed: int = 0) -> dict[str, Image.Image]:
        """The picture under each transform, as `draw` would change it. Arguments as for `draw`."""
        upright = load_image(picture)
        start = _start(upright, key, seed)
        return {name: self._changed(name, upright, size, start) for name in self.names}

    def _changed(self, name: str, picture: Image.Image, size: int, start: str) -> Image.Image:
        return self.transforms[name](picture, Random(f"{start} {name}"), size)


def _start(picture: Image.Image, key: str, seed: int) -> str:
    """What all chance of a picture and key begins with."""
    return sha256(f"{seed} {picture.size} {key}".encode() + picture.tobytes()).hexdigest()


def _turned_hue(picture: Image.Image, turn: float) -> Image.Image:
    """The hue turned by `turn`, where 1 is all the way round."""
    hue, saturation, value = picture.convert("HSV").split()
    turned = hue.point([(level + round(255 * turn)) % 256 for level in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")
