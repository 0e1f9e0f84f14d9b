"""Small pictures of two factors drawn independently, an emoji on a coloured ground, and small convolutional networks of
them: crops keep the colour, so that contrast can do with it alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.reproductions.setups.two_factors import Points

DATA: dict[str, Any] = {
    "canvas": 26,
    "view": 20,
    "emoji": 12,
    "style": "noto",
    "opacity": 0.5,
    "levels": [0.1, 0.37, 0.63, 0.9],
    "tint": 0.02,
    "noise": 0.05,
}


@dataclass(frozen=True)
class EmojiGrounds:
    """Emojis and colours of the ground that a seed draws; every picture has one of each, the emoji at its own place.

    Args:
        seed: of what is drawn.
        loud_values: colours, of the 64 of a lattice.
        quiet_values: emojis, of those that training may show.
    """

    seed: int
    loud_values: int
    quiet_values: int = 10

    def samples(self, count: int, part: int) -> Points:
        """Pictures `[N, 3, S, S]` of a part of the data: 0 to train on, 1 to choose on, 2 to test on."""
        codes, chance = torch.Generator().manual_seed(self.seed), torch.Generator().manual_seed(3 * self.seed + part)
        lattice = torch.tensor(list(product(DATA["levels"], repeat=3)))
        colours = lattice[torch.randperm(len(lattice), generator=codes)[: self.loud_values]]
        shown = torch.randperm(len(_concepts()), generator=codes)[: self.quiet_values].tolist()
        cut_out = torch.stack([_cut_out(_concepts()[each]) for each in shown])
        loud, quiet = (torch.randint(k, (count,), generator=chance) for k in (self.loud_values, self.quiet_values))
        side, room = DATA["emoji"], DATA["canvas"] - DATA["view"]
        # Wherever a view is cut, the emoji is in it.
        first, last = room, DATA["view"] - side
        corner = torch.randint(first, last + 1, (count, 2), generator=chance)
        pictures = colours[loud][:, :, None, None].repeat(1, 1, DATA["canvas"], DATA["canvas"])
        inside = _windows(pictures, corner, side)
        drawn = DATA["opacity"] * cut_out[quiet]
        _put(pictures, corner, inside * (1 - drawn[:, 3:]) + drawn[:, :3])
        return Points(pictures, loud, quiet)

    def view(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A random view `[N, 3, S, S]` of each picture: a crop of it, a little tinted, with noise."""
        room = DATA["canvas"] - DATA["view"]
        corner = torch.randint(room + 1, (len(x), 2), generator=generator)
        tint = DATA["tint"] * torch.randn(len(x), 3, 1, 1, generator=generator)
        crop = _windows(x, corner, DATA["view"]) + tint
        return crop + DATA["noise"] * torch.randn(crop.shape, generator=generator)

    def clean(self, x: Tensor) -> Tensor:
        """The middle of each picture."""
        start = (DATA["canvas"] - DATA["view"]) // 2
        return x[:, :, start : start + DATA["view"], start : start + DATA["view"]]

    def encoder(self, hidden: int, out: int) -> SmallConvolutions:
        return SmallConvolutions(hidden, out)


class SmallConvolutions(nn.Module):
    """Three convolutions, from pictures `[N, 3, S, S]` to embeddings `[N, D]`. No normalisation: that of a batch would
    see one cluster at a time."""

    def __init__(self, hidden: int, out: int) -> None:
        super().__init__()
        self.embed_dim = out
        layers: list[nn.Module] = []
        for before, after in ((3, hidden), (hidden, 2 * hidden), (2 * hidden, 4 * hidden)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.ReLU()]
        side = -(-DATA["view"] // 8)
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * hidden * side**2, out))

    def encode_image(self, pixels: Tensor, normalize: bool = False) -> Tensor:
        embedding = self.layers((2 * pixels - 1).contiguous(memory_format=torch.channels_last))
        return nn.functional.normalize(embedding, dim=-1) if normalize else embedding


def _places(corner: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Rows `[N, side, 1]` and columns `[N, 1, side]` of windows."""
    axis = torch.arange(side)
    return (corner[:, 0, None] + axis)[:, :, None], (corner[:, 1, None] + axis)[:, None, :]


def _windows(pictures: Tensor, corner: Tensor, side: int) -> Tensor:
    """The windows `[N, 3, side, side]` at corners `[N, 2]`."""
    row, column = _places(corner, side)
    return pictures.movedim(1, -1)[torch.arange(len(corner))[:, None, None], row, column].movedim(-1, 1)


def _put(pictures: Tensor, corner: Tensor, windows: Tensor) -> None:
    row, column = _places(corner, windows.shape[-1])
    pictures.movedim(1, -1)[torch.arange(len(corner))[:, None, None], row, column] = windows.movedim(1, -1)


@cache
def _concepts() -> list[int]:
    """The numbers of the emojis that training may show."""
    from nearfar.data import world

    return world.emoji("train", styles=[DATA["style"]]).column("group")


@cache
def _cut_out(concept: int) -> Tensor:
    """An emoji `[4, side, side]` float32: its colours times its opacity, and the opacity."""
    import io

    import numpy as np
    from PIL import Image

    from nearfar.data import world

    picture = Image.open(io.BytesIO(world.picture(concept, DATA["style"]))).convert("RGBa")
    small = picture.resize((DATA["emoji"], DATA["emoji"]), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(small, dtype=np.float32) / 255).movedim(-1, 0).contiguous()
