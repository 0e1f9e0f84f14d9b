"""Small pictures of four known attributes: a class is one combination, so that two classes share none to three. Drawn
by formulas, at another place, on another ground and with other noise each time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

DATA: dict[str, Any] = {"size": 16, "noise": 0.08, "classes": 24, "samples": {"train": 40, "test": 30}}
ATTRIBUTES = ("shape", "colour", "size", "texture")
"""Four values each: 256 combinations."""

COLOURS = torch.tensor([[0.9, 0.25, 0.2], [0.2, 0.75, 0.3], [0.25, 0.35, 0.9], [0.9, 0.8, 0.2]])
RADII = torch.tensor([2.8, 3.7, 4.8, 6.2])


class Classes(NamedTuple):
    """The values `[C, 4]` of each class's attributes, of classes to train on, to choose settings by, and to test on."""

    train: Tensor
    val: Tensor
    test: Tensor


@dataclass(frozen=True)
class Sprites:
    """Pictures `[V, N, 3, S, S]`, V of each sample, and its class `[N]`."""

    views: Tensor
    label: Tensor


def drawn_classes(seed: int) -> Classes:
    """Three sets of classes that have no combination in common."""
    order = torch.randperm(4**4, generator=torch.Generator().manual_seed(seed))
    values = torch.stack([order // 4**place % 4 for place in range(4)], 1)
    return Classes(*values[: 3 * DATA["classes"]].split(DATA["classes"]))


def shared_attributes(values: Tensor) -> Tensor:
    """`[C, C, 4]` bool: which attributes every two classes of values `[C, 4]` share."""
    return values[:, None] == values[None]


def sprites(values: Tensor, count: int, *, n_views: int, seed: int) -> Sprites:
    """So many samples of each class of values `[C, 4]`, each in `n_views` pictures: its tint and its tilt are its own,
    place, light, ground and noise are new for each."""
    g = torch.Generator().manual_seed(seed)
    label = torch.arange(len(values)).repeat_interleave(count)
    own = values[label]
    tint = 0.12 * torch.randn(len(label), 3, generator=g)
    tilt = 0.25 * torch.randn(len(label), generator=g)
    return Sprites(torch.stack([_drawn(own, tint, tilt, g) for _ in range(n_views)]), label)


def _drawn(values: Tensor, tint: Tensor, tilt: Tensor, g: torch.Generator) -> Tensor:
    n, size = len(values), DATA["size"]
    shape, colour, radius, texture = values.T
    r = RADII[radius, None, None] * (1 + 0.05 * torch.randn(n, 1, 1, generator=g))
    centre = size / 2 + 3 * (torch.rand(n, 2, generator=g) - 0.5)
    axis = torch.arange(size) + 0.5
    y, x = (axis[None, :, None] - centre[:, :1, None]), (axis[None, None, :] - centre[:, 1:, None])
    turn = (tilt + 0.1 * torch.randn(n, generator=g))[:, None, None]
    x, y = x * turn.cos() + y * turn.sin(), y * turn.cos() - x * turn.sin()
    # Distances from the edge, above 0 inside; all shapes have about one area.
    shapes = torch.stack(
        [
            r - (x * x + y * y).sqrt(),
            0.89 * r - torch.maximum(x.abs(), y.abs()),
            torch.minimum(0.7 * r - y, 0.6 * (y + 1.5 * r) - x.abs()),
            torch.minimum(0.5 * r - torch.minimum(x.abs(), y.abs()), 1.2 * r - torch.maximum(x.abs(), y.abs())),
        ]
    )
    edge = shapes[shape, torch.arange(n)]
    wave = math.pi / 2
    textures = torch.stack(
        [torch.ones_like(edge), (wave * x).sin() > 0, (wave * y).sin() > 0, edge < 0.3 * r],
    ).float()
    light = 1 + 0.15 * torch.randn(n, 1, 1, 1, generator=g)
    ink = ((COLOURS[colour] + tint)[:, :, None, None] * light).clamp(0, 1)
    ground = 0.35 + 0.3 * torch.rand(n, 1, 1, 1, generator=g)
    solid = (edge.sigmoid() * (0.35 + 0.65 * textures[texture, torch.arange(n)]))[:, None]
    picture = ground * (1 - solid) + ink * solid
    return picture + DATA["noise"] * torch.randn(picture.shape, generator=g)


class ClassBatches:
    """Batches of `p` classes with `k` samples of each, two different views of a sample; drawn anew for each batch."""

    def __init__(self, data: Sprites, *, p: int, k: int, count: int) -> None:
        self.data, self.p, self.k, self.count = data, p, k, count
        classes = int(data.label.max()) + 1
        self.rows = torch.arange(len(data.label)).view(classes, -1)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for _ in range(self.count):
            classes = torch.randperm(len(self.rows))[: self.p]
            chosen = torch.stack([torch.randperm(self.rows.shape[1])[: self.k] for _ in classes])
            rows = self.rows[classes].gather(1, chosen).flatten()
            views = torch.randperm(len(self.data.views))[:2]
            yield {"views": self.data.views[views[:, None], rows], "label": self.data.label[rows], "index": rows}


class SpriteEncoder(nn.Module):
    """Three convolutions and 64 features; a projector of 64, with layer norm at its end as Hydra's code has."""

    projected_dim = embed_dim = 64

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((3, 8), (8, 16), (16, 32)):
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        self.backbone = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 4, 64))
        self.projector = nn.Sequential(
            nn.Linear(64, 64),
            nn.BatchNorm1d(64),
            nn.ReLU(inplace=True),
            nn.Linear(64, 64, bias=False),
            nn.LayerNorm(64),
        )

    def encode_image(self, pixels: Tensor, normalize: bool = False) -> Tensor:
        features = self.backbone((pixels - 0.5).contiguous(memory_format=torch.channels_last))
        return nn.functional.normalize(features, dim=-1) if normalize else features

    def project_image(self, pixels: Tensor) -> Tensor:
        return self.projector(self.encode_image(pixels))


def ridge_accuracy(fit: Tensor, known: Tensor, unseen: Tensor, true: Tensor, *, ridge: float = 1.0) -> float:
    """The accuracy of a linear map to classes, fitted by ridge regression on features `[N, D]` of classes `[N]`."""
    mean, scale = fit.mean(0), fit.std(0).clamp_min(1e-6)
    x, z = (torch.cat([(f - mean) / scale, torch.ones(len(f), 1)], 1).double() for f in (fit, unseen))
    target = nn.functional.one_hot(known).double()
    weight = torch.linalg.solve(x.T @ x + ridge * torch.eye(x.shape[1], dtype=x.dtype), x.T @ target)
    return ((z @ weight).argmax(1) == true).double().mean().item()


def few_shot_accuracy(features: Tensor, label: Tensor, shots: int, *, seed: int, draws: int = 10) -> float:
    """Of a ridge probe fitted on so many samples of each class, on all others; the mean over draws."""
    g = torch.Generator().manual_seed(seed)
    rows = torch.arange(len(label)).view(int(label.max()) + 1, -1)
    values = []
    for _ in range(draws):
        order = torch.stack([own[torch.randperm(len(own), generator=g)] for own in rows])
        fit, rest = order[:, :shots].flatten(), order[:, shots:].flatten()
        values.append(ridge_accuracy(features[fit], label[fit], features[rest], label[rest]))
    return sum(values) / len(values)
