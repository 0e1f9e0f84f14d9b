"""Augmentation of whole batches, with known geometry, by named presets.

All chance in a step comes from one table of uniform numbers with a row for each sample of the global batch. A process
takes its rows, so one, two or four processes see the same views, and no other random state is touched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from nearfar import lookup
from nearfar.data.pictures import colour
from nearfar.data.pictures import view_geometry as geometry


@dataclass(frozen=True)
class ViewPreset:
    """How a view is made, in this order: crop, flip and RandAugment's movements as one sampling; colour jitter, grey,
    blur, solarise; RandAugment's colours. `dataclasses.replace` changes one.

    Attributes:
        crop: range of the area of a random resized crop; None takes the whole canvas.
        ratio: range of its aspect.
        small_crop: the same of small views (multi-crop); SwAV's unless it says otherwise.
        window: crop a window of the output size from the canvas at random instead (ALIGN).
        flip: chance of a mirror image; `upturn` of one that stands on its head.
        jitter: strengths of brightness, contrast, saturation and hue, and `jitter_chance`.
        grey: chance of losing all colour.
        blur, solarise: chances, one for each view in turn; `sigma` is the blur's range in pixels.
        randaugment: how many operations and how strong (0 to 10); ALBEF's set, without those that change colours.
        canvas: side of the decoded picture as a multiple of the output's: room to crop without losing detail.
        fit: whether the canvas is the picture's central square (`crop`) or all of it (`squash`).
    """

    crop: tuple[float, float] | None = None
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    small_crop: tuple[float, float] = (0.05, 0.14)
    window: bool = False
    flip: float = 0.0
    upturn: float = 0.0
    jitter: tuple[float, float, float, float] | None = None
    jitter_chance: float = 0.8
    grey: float = 0.0
    blur: Sequence[float] = (0.0,)
    sigma: tuple[float, float] = (0.1, 2.0)
    solarise: Sequence[float] = (0.0,)
    randaugment: tuple[int, float] | None = None
    canvas: float = 1.0
    fit: Literal["crop", "squash"] = "squash"


PRESETS = {
    "none": ViewPreset(fit="crop"),
    "mirror": ViewPreset(fit="crop", flip=1.0),
    # The smallest crop has as many pixels as the view; a JPEG of 640 x 480 is decoded at half its size for 224.
    "clip": ViewPreset(crop=(0.9, 1.0), canvas=0.9**-0.5),
    "align": ViewPreset(window=True, flip=0.5, canvas=346 / 289),
    "simclr": ViewPreset(crop=(0.08, 1.0), flip=0.5, jitter=(0.8, 0.8, 0.8, 0.2), grey=0.2, blur=(0.5,), canvas=1.5),
    "swav": ViewPreset(crop=(0.14, 1.0), flip=0.5, jitter=(0.8, 0.8, 0.8, 0.2), grey=0.2, blur=(0.5,), canvas=1.5),
    "moco": ViewPreset(crop=(0.2, 1.0), flip=0.5, jitter=(0.4, 0.4, 0.4, 0.1), grey=0.2, blur=(0.5,), canvas=1.5),
    "sepclr": ViewPreset(crop=(0.2, 1.0), flip=0.5, jitter=(0.4, 0.4, 0.4, 0.1), grey=0.2, canvas=1.5),
    "byol": ViewPreset(
        crop=(0.08, 1.0),
        flip=0.5,
        jitter=(0.4, 0.4, 0.2, 0.1),
        grey=0.2,
        blur=(1.0, 0.1),
        solarise=(0.0, 0.2),
        canvas=1.5,
    ),
    "hydra": ViewPreset(
        crop=(0.4, 1.0),
        flip=0.5,
        jitter=(0.4, 0.4, 0.2, 0.1),
        grey=0.1,
        blur=(1.0,),
        solarise=(0.0, 0.2),
        canvas=1.5,
    ),
    "beclr": ViewPreset(
        crop=(0.2, 1.0),
        flip=0.5,
        upturn=0.5,
        jitter=(0.4, 0.4, 0.2, 0.1),
        grey=0.2,
        blur=(0.5,),
        randaugment=(2, 10),
        canvas=1.5,
    ),
    # A square of 1, .875, .75 or .66 of the shorter side; how strong the jitter is the paper does not say.
    "x-clip": ViewPreset(
        crop=(0.44, 1.0), flip=0.5, jitter=(0.4, 0.4, 0.4, 0.1), grey=0.2, canvas=256 / 224, fit="crop"
    ),
    "domainbed": ViewPreset(
        crop=(0.7, 1.0), flip=0.5, jitter=(0.3, 0.3, 0.3, 0.3), jitter_chance=1.0, grey=0.1, canvas=0.7**-0.5
    ),
    "gist": ViewPreset(crop=(0.08, 1.0), flip=0.5, canvas=1.5),
    "distill-ood": ViewPreset(crop=(0.08, 1.0), flip=0.5, canvas=256 / 224),
    "albef": ViewPreset(crop=(0.2, 1.0), flip=0.5, randaugment=(2, 7), canvas=1.5),
    "tcl": ViewPreset(
        crop=(0.2, 1.0),
        flip=0.5,
        jitter=(0.4, 0.4, 0.4, 0.1),
        grey=0.2,
        blur=(0.5,),
        randaugment=(2, 7),
        canvas=1.5,
    ),
}
# Fine-tuning crops less.
PRESETS |= {f"{name}-fine": replace(PRESETS[name], crop=(0.5, 1.0)) for name in ("albef", "tcl")}
# Of a picture of one thing, 32 or 64 pixels a side, a crop of a tenth shows nothing that tells it from another.
PRESETS |= {
    f"{name}-half": replace(PRESETS[name], crop=(0.5, 1.0), small_crop=(0.25, 0.5))
    for name in ("simclr", "swav", "moco", "byol", "beclr", "distill-ood")
}
"""`none` is for evaluation: resize and centre crop; `mirror` is its mirror image. `clip` (open_clip), `align`
(2102.05918), `simclr` (2002.05709), `swav` (2006.09882), `moco` (version 2, 2003.04297), `byol` (2006.07733), `sepclr`
(2402.11928), `hydra` (2410.18200), `beclr` (2402.02444), `x-clip` (2208.02816), `domainbed` (2007.01434), `gist`
(2307.11315), `distill-ood` (2307.03135), `albef` (2107.07651), `tcl` (2202.10401); `albef-fine` and `tcl-fine` are
theirs for fine-tuning. `simclr-half`, `swav-half`, `moco-half`, `byol-half`, `beclr-half` and `distill-ood-half` keep
half of a picture at least, for small ones of one thing, such as the embedded world's."""

SMALL_SHARE = 96 / 224
"""The side of SwAV's small views (arXiv 2006.09882) beside the large ones'."""

JITTER = ("brightness", "contrast", "saturation", "hue")
MOVES = (
    "identity",
    "autocontrast",
    "equalise",
    "brightness",
    "sharpness",
    "shear x",
    "shear y",
    "shift x",
    "shift y",
    "turn",
)
CHANCE_OF_MOVE = 0.5
GREY = 0.5

_CROP = slice(0, 2 * geometry.ATTEMPTS + 2)
_FLIP, _JITTER, _GREY, _BLUR, _SIGMA, _SOLARISE = range(_CROP.stop, _CROP.stop + 6)
_FACTORS = slice(_SOLARISE + 1, _SOLARISE + 5)
_MOVES = _FACTORS.stop


@dataclass(frozen=True)
class ViewDraws:
    """The chance of one step: `uniform` `[V, N, K]`, a row a sample, and the `order` `[V, 4]` of the jitter."""

    uniform: Tensor
    order: Tensor

    def rows(self, start: int, stop: int) -> ViewDraws:
        """Those of samples `start:stop`."""
        return ViewDraws(self.uniform[:, start:stop], self.order)

    def take(self, places: Sequence[int]) -> ViewDraws:
        """Those of the samples at these places."""
        return ViewDraws(self.uniform[:, list(places)], self.order)


class Views:
    """Augmented, normalised views of a batch, with the matrix that made each.

    Args:
        preset: a name in `PRESETS` (`none`, `clip`, `align`, `simclr`, `moco`, `byol`, `albef`, `tcl`, ...), or a
            `ViewPreset`.
        size: side of the output in pixels.
        n_views: how many views of each picture.
        mean, std: three numbers each, for colours from 0 to 1; the default changes nothing.

    >>> views = Views("clip", size=32, n_views=2)
    >>> images = torch.zeros(4, 3, views.canvas, views.canvas, dtype=torch.uint8)
    >>> pixels, matrices = views(images, views.draw(4, torch.Generator().manual_seed(0)))
    >>> pixels.shape, matrices.shape
    (torch.Size([2, 4, 3, 32, 32]), torch.Size([2, 4, 3, 3]))
    """

    def __init__(
        self,
        preset: str | ViewPreset = "clip",
        *,
        size: int,
        n_views: int = 1,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> None:
        if n_views < 1 or size < 1:
            raise ValueError(f"size and n_views must be at least 1, not {size} and {n_views}")
        self.preset = lookup.find("views", preset, PRESETS) if isinstance(preset, str) else preset
        self.size, self.n_views = size, n_views
        self.canvas = math.ceil(size * self.preset.canvas - 1e-6)
        self._mean, self._std = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)

    def draw(self, count: int, generator: torch.Generator) -> ViewDraws:
        """The chance of a step with `count` samples in all. `generator` lives on the CPU, wherever the pictures do."""
        moves = self.preset.randaugment[0] if self.preset.randaugment else 0
        uniform = torch.rand(self.n_views, count, _MOVES + 3 * moves, generator=generator)
        return ViewDraws(uniform, torch.rand(self.n_views, 4, generator=generator).argsort(1))

    def __call__(self, images: Tensor, draws: ViewDraws, *, sizes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Make the views.

        Args:
            images: `[B, 3, S, S]`, uint8 or floats from 0 to 1.
            draws: from `draw`, with B rows.
            sizes: `[B, 2]` width and height of the original pictures, of which `images` are squashed (or, with a preset
                that says so, centrally cropped) copies; by default `images` are the originals.

        Returns:
            pixels `[V, B, 3, size, size]`, and geometry `[V, B, 3, 3]`: pixels of the original, homogeneous, to pixels
            of the view.
        """
        original_sizes = (
            sizes if sizes is not None else torch.tensor([images.shape[3], images.shape[2]]).expand(len(images), 2)
        )
        original_sizes = original_sizes.to(device=images.device, dtype=torch.float32)
        made = []
        kind = geometry.shares(images[:0])
        matrices = kind.new_empty(self.n_views, len(images), 3, 3)
        mean, std = self._mean.to(kind), self._std.to(kind)
        for view in range(self.n_views):
            chance = draws.uniform[view].to(images.device)
            pixels, matrix = self._move(images, chance, original_sizes)
            pixels = self._colour(pixels, chance, draws.order[view].tolist(), view)
            made.append(pixels.sub_(mean).div_(std))
            cropped = self.preset.fit == "crop" and sizes is not None
            matrices[view] = geometry.pixel_matrix(matrix, original_sizes, self.size, cropped=cropped)
        # A single view is not copied: it may be the largest tensor of a step.
        return (made[0][None] if self.n_views == 1 else torch.stack(made)), matrices

    def _move(self, source: Tensor, chance: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Crop, flip and RandAugment's movements, sampled once; the matrix takes places in the view to the canvas."""
        preset, side = self.preset, source.shape[-1]
        if preset.window:
            box = geometry.window(chance, side, min(self.size, side))
        elif preset.crop is not None:
            proportions = sizes if preset.fit == "squash" else torch.ones_like(sizes)
            box = geometry.random_box(chance[:, _CROP], proportions, preset.crop, preset.ratio)
        else:
            box = chance.new_tensor([0, 0, 1, 1]).expand(len(source), 4)
        matrix = geometry.from_box(box, chance[:, _FLIP] < preset.flip)
        if preset.upturn:
            matrix = matrix @ self._upturned(chance[:, _FLIP])
        if preset.randaugment is not None:
            return self._randaugment_moves(source, chance, matrix)
        if preset == PRESETS["none"] and source.shape[-2:] == (self.size, self.size):
            return geometry.shares(source).clone(), matrix
        return geometry.sample(source, matrix, self.size), matrix

    def _upturned(self, chance: Tensor) -> Tensor:
        """`[B, 3, 3]`: upside down, or as it is. What is left of the number that chose the mirror image is as even, so
        that no further one is drawn, and other presets keep theirs."""
        flip = self.preset.flip
        left = torch.where(chance < flip, chance / max(flip, 1e-9), (chance - flip) / max(1 - flip, 1e-9))
        linear = torch.eye(2, device=chance.device).repeat(len(chance), 1, 1)
        linear[:, 1, 1] = torch.where(left < self.preset.upturn, -1.0, 1.0)
        return geometry.about_centre(linear, torch.zeros(len(chance), 2, device=chance.device))

    def _randaugment_moves(self, source: Tensor, chance: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
        assert self.preset.randaugment is not None
        level = self.preset.randaugment[1] / 10
        for operation, sign in self._moves(chance):
            linear = torch.eye(2, device=chance.device).repeat(len(chance), 1, 1)
            shift = torch.zeros(len(chance), 2, device=chance.device)
            linear[:, 0, 1] += (operation == MOVES.index("shear x")) * sign * 0.3 * level
            linear[:, 1, 0] += (operation == MOVES.index("shear y")) * sign * 0.3 * level
            shift[:, 0] = (operation == MOVES.index("shift x")) * sign * level * 10 / 256
            shift[:, 1] = (operation == MOVES.index("shift y")) * sign * level * 10 / 256
            angle = (operation == MOVES.index("turn")) * sign * math.radians(30) * level
            cosine, sine = angle.cos(), angle.sin()
            turn = torch.stack([cosine, -sine, sine, cosine], dim=1).view(-1, 2, 2)
            matrix = matrix @ geometry.about_centre(linear @ turn, shift)
        return geometry.sample(source, matrix, self.size, ground=GREY), matrix

    def _colour(self, pixels: Tensor, chance: Tensor, order: list[int], view: int) -> Tensor:
        preset = self.preset
        if preset.jitter is not None:
            rows = (chance[:, _JITTER] < preset.jitter_chance).nonzero()[:, 0]
            spread = 2 * chance[rows, _FACTORS] - 1
            factors = {n: spread[:, i] * s for i, (n, s) in enumerate(zip(JITTER, preset.jitter, strict=True)) if s}
            factors = {n: f if n == "hue" else (1 + f).clamp_min(0) for n, f in factors.items()}
            pixels[rows] = colour.jitter_(pixels[rows], factors, [JITTER[i] for i in order])
        if preset.grey:
            rows = (chance[:, _GREY] < preset.grey).nonzero()[:, 0]
            pixels[rows] = colour.grey(pixels[rows]).expand(-1, 3, -1, -1)
        if blurred := preset.blur[view % len(preset.blur)]:
            rows = (chance[:, _BLUR] < blurred).nonzero()[:, 0]
            if len(rows):
                low, high = preset.sigma
                pixels[rows] = colour.blur(pixels[rows], low + (high - low) * chance[rows, _SIGMA])
        if negative := preset.solarise[view % len(preset.solarise)]:
            rows = (chance[:, _SOLARISE] < negative).nonzero()[:, 0]
            pixels[rows] = colour.solarise(pixels[rows])
        if preset.randaugment is not None:
            factor = preset.randaugment[1] / 10 * 1.8 + 0.1
            changes = {
                "autocontrast": colour.autocontrast,
                "equalise": colour.equalise,
                "brightness": lambda x: x.mul(factor).clamp_(0, 1),
                "sharpness": lambda x: colour.sharpness(x, factor),
            }
            for operation, _ in self._moves(chance):
                for name, change in changes.items():
                    rows = (operation == MOVES.index(name)).nonzero()[:, 0]
                    if len(rows):
                        pixels[rows] = change(pixels[rows])
        return pixels

    def _moves(self, chance: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each of RandAugment's rounds: which operation a picture gets `[B]`, and its sign `[B]`."""
        assert self.preset.randaugment is not None
        rounds = []
        for i in range(self.preset.randaugment[0]):
            operation, happens, sign = chance[:, _MOVES + 3 * i : _MOVES + 3 * i + 3].unbind(1)
            operation = (operation * len(MOVES)).long().clamp(max=len(MOVES) - 1)
            operation = torch.where(happens < CHANCE_OF_MOVE, operation, MOVES.index("identity"))
            rounds.append((operation, torch.where(sign < 0.5, -1.0, 1.0)))
        return rounds
