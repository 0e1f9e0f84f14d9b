"""Points of two hidden factors, one loud and one quiet, and small encoders of them: what a contrastive training leaves
out can be measured to the end, in seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from nearfar.data.batches.cluster_batches import SmallGroups, cluster_batches

HALF = 20
"""Dimensions of each factor's codes."""


class Points(NamedTuple):
    """Samples `[N, ...]` without noise, and the values `[N]` of their factors."""

    x: Tensor
    loud: Tensor
    quiet: Tensor


class Encoder(Protocol):
    """A module with embeddings of `embed_dim` numbers."""

    embed_dim: int

    def encode_image(self, pixels: Tensor, normalize: bool = False) -> Tensor: ...


class World(Protocol):
    """What a seed draws of two factors, and how it is looked at."""

    def samples(self, count: int, part: int) -> Points:
        """Of a part of the data: 0 to train on, 1 to choose on, 2 to test on."""

    def view(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A random view of each sample."""

    def clean(self, x: Tensor) -> Tensor:
        """Each sample without chance."""

    def encoder(self, hidden: int, out: int) -> nn.Module:
        """A fresh encoder, an `Encoder`."""


@dataclass(frozen=True)
class Factors:
    """A code for each value: of the loud factor of length 3, of the quiet one of length `quiet`, all turned by one
    random rotation. Both factors are drawn independently. Views of a point differ by noise."""

    seed: int
    loud_values: int
    quiet: float
    noise: float = 0.15
    quiet_values: int = 10

    def samples(self, count: int, part: int) -> Points:
        """Points `[N, 40]` of a part of the data: 0 to train on, 1 to choose on, 2 to test on."""
        codes, chance = torch.Generator().manual_seed(self.seed), torch.Generator().manual_seed(3 * self.seed + part)
        loud = 3.0 * nn.functional.normalize(torch.randn(self.loud_values, HALF, generator=codes), dim=1)
        quiet = self.quiet * nn.functional.normalize(torch.randn(self.quiet_values, HALF, generator=codes), dim=1)
        rotation = torch.linalg.qr(torch.randn(2 * HALF, 2 * HALF, generator=codes))[0]
        f, g = (torch.randint(kinds, (count,), generator=chance) for kinds in (self.loud_values, self.quiet_values))
        return Points(torch.cat([loud[f], quiet[g]], 1) @ rotation, f, g)

    def view(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return x + self.noise * torch.randn(x.shape, generator=generator)

    def clean(self, x: Tensor) -> Tensor:
        return x

    def encoder(self, hidden: int, out: int) -> SmallEncoder:
        return SmallEncoder(hidden, out)


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
class ViewPairs:
    """Shuffled batches of two views of the same samples, without end, each batch of one group; without groups of all
    samples. What is drawn follows from torch's seed."""

    world: World
    x: Tensor
    size: int
    group: Tensor | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        group = torch.zeros(len(self.x), dtype=torch.long) if self.group is None else self.group
        small: SmallGroups = "drop" if self.group is None else "partial"
        while True:
            made = cluster_batches(group, self.size, seed=int(torch.randint(2**62, ())), small=small)
            for number in range(len(made)):
                x = self.x[made.batch(number)]
                yield self.world.view(x), self.world.view(x)


def side_by_side(encoders: Sequence[Encoder], x: Tensor) -> Tensor:
    """The embeddings of several encoders, each of unit length, one behind the other."""
    with torch.no_grad():
        return torch.cat([encoder.encode_image(x, normalize=True) for encoder in encoders], 1)
