"""Points of two hidden factors, one loud and one quiet, and small encoders of them: what a contrastive training leaves
out can be measured to the end, in seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nearfar.data.batches.cluster_batches import SmallGroups, cluster_batches

HALF = 20
"""Dimensions of each factor's codes."""


class Points(NamedTuple):
    """Points `[N, 40]` without noise, and the values `[N]` of their factors."""

    x: Tensor
    loud: Tensor
    quiet: Tensor


@dataclass(frozen=True)
class Factors:
    """A code for each value: of the loud factor of length 3, of the quiet one of length `quiet`, all turned by one
    random rotation. Both factors are drawn independently."""

    seed: int
    loud_values: int
    quiet: float
    quiet_values: int = 10

    def points(self, count: int, part: int) -> Points:
        """Points of a part of the data: 0 to train on, 1 to choose on, 2 to test on."""
        codes, chance = torch.Generator().manual_seed(self.seed), torch.Generator().manual_seed(3 * self.seed + part)
        loud = 3.0 * nn.functional.normalize(torch.randn(self.loud_values, HALF, generator=codes), dim=1)
        quiet = self.quiet * nn.functional.normalize(torch.randn(self.quiet_values, HALF, generator=codes), dim=1)
        rotation = torch.linalg.qr(torch.randn(2 * HALF, 2 * HALF, generator=codes))[0]
        f, g = (torch.randint(kinds, (count,), generator=chance) for kinds in (self.loud_values, self.quiet_values))
        return Points(torch.cat([loud[f], quiet[g]], 1) @ rotation, f, g)


class SmallEncoder(nn.Module):
    """Two layers, from points `[N, 40]` to embeddings `[N, D]`."""

    def __init__(self, hidden: int, out: int) -> None:
        super().__init__()
        self.embed_dim = out
        self.layers = nn.Sequential(nn.Linear(2 * HALF, hidden), nn.ReLU(), nn.Linear(hidden, out))

    def encode_image(self, pixels: Tensor, normalize: bool = False) -> Tensor:
        embedding = self.layers(pixels)
        return nn.functional.normalize(embedding, dim=-1) if normalize else embedding


@dataclass
class NoisyViews:
    """Shuffled batches of two noisy views `[B, 40]` of the same points, without end, each of one group; without groups
    of all points. What is drawn follows from torch's seed."""

    x: Tensor
    size: int
    noise: float
    group: Tensor | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        group = torch.zeros(len(self.x), dtype=torch.long) if self.group is None else self.group
        small: SmallGroups = "drop" if self.group is None else "partial"
        while True:
            made = cluster_batches(group, self.size, seed=int(torch.randint(2**62, ())), small=small)
            for number in range(len(made)):
                x = self.x[made.batch(number)]
                yield x + self.noise * torch.randn_like(x), x + self.noise * torch.randn_like(x)


def side_by_side(encoders: Sequence[SmallEncoder], x: Tensor) -> Tensor:
    """The embeddings of several encoders, each of unit length, one behind the other."""
    with torch.no_grad():
        return torch.cat([encoder.encode_image(x, normalize=True) for encoder in encoders], 1)
