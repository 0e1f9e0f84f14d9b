"""Marked emojis as a frozen tower reads them: augmented views to train on, clean pictures to probe, and two small
encoders of what was read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

CONFIG: dict[str, Any] = {
    "tower": "efficientnet-lite0",
    "size": 64,
    "seed": 1,
    "pictures": {"train": 3000, "val": 800, "test": 1600},
    "views": 4,
    "kept": 256,
    "width": 32,
}


@dataclass(frozen=True)
class MarkedFeatures:
    """What the tower makes of pictures: `clean` `[N, D]` as they are, `views` `[V, N, D]` augmented (of training
    alone); the number of each one's mark (0: none), of its style, and of the thing that it shows."""

    clean: Tensor
    views: Tensor
    mark: Tensor
    style: Tensor
    thing: Tensor

    @property
    def target(self) -> Tensor:
        """`[N]` bool: which bear a mark."""
        return self.mark > 0


@cache
def features(split: str) -> MarkedFeatures:
    """The pictures of a split, read once, in the first principal components of the training pictures."""
    raw = _read(split)
    mean, scale, axes = _axes()
    clean, views = (((x - mean) / scale) @ axes for x in (raw.clean, raw.views))
    return MarkedFeatures(clean, views, raw.mark, raw.style, raw.thing)


@cache
def _axes() -> tuple[Tensor, Tensor, Tensor]:
    """Mean and scale of each channel, and the axes `[D, kept]`, so scaled that components have a spread of 1."""
    clean = _read("train").clean
    mean, scale = clean.mean(0), clean.std(0).clamp_min(1e-6)
    standard = (clean - mean) / scale
    axes = torch.linalg.svd(standard, full_matrices=False).Vh[: CONFIG["kept"]].T
    return mean, scale, axes / (standard @ axes).std()


@cache
def _read(split: str) -> MarkedFeatures:
    import numpy as np

    from nearfar.data.pictures.views import Views
    from nearfar.data.scenes import marks
    from nearfar.models import image_encoder
    from nearfar.modes import evaluating

    tower = image_encoder(image=CONFIG["tower"], image_size=CONFIG["size"])
    records = list(marks(split, n=CONFIG["pictures"][split], seed=CONFIG["seed"], size=CONFIG["size"]))
    pixels = torch.from_numpy(np.stack([np.asarray(record["image"]) for record in records])).movedim(3, 1)
    kinds = {"size": CONFIG["size"], "mean": tower.mean, "std": tower.std}
    plain, augmented = Views("none", **kinds), Views("sepclr", n_views=CONFIG["views"], **kinds)

    def read(views: Views, part: Tensor) -> Tensor:
        made, _ = views(part, views.draw(len(part), torch.Generator().manual_seed(0)))
        return torch.stack([torch.cat([tower.encode_image(x) for x in view.split(128)]) for view in made])

    with evaluating(tower), torch.no_grad():
        clean = read(plain, pixels)[0]
        views = read(augmented, pixels) if split == "train" else clean[None, :0]
    numbers = torch.tensor([[record["label"], record["domain"], record["group"]] for record in records])
    return MarkedFeatures(clean, views, *numbers.T)


@dataclass(frozen=True)
class ViewPairs:
    """Shuffled batches of two of the views that were read, one pass an iteration; another order each time."""

    data: MarkedFeatures
    batch_size: int

    def __len__(self) -> int:
        return len(self.data.mark) // self.batch_size

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for rows in torch.randperm(len(self.data.mark)).split(self.batch_size)[: len(self)]:
            pair = torch.randperm(len(self.data.views))[:2]
            yield {"views": self.data.views[pair][:, rows], "label": self.data.mark[rows], "index": rows}


class TwoSpaces(nn.Module):
    """Two small encoders `[B, D] -> [B, width]`, each with the projector that SepCLR's code has."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.common, self.salient = (self._encoder(width) for _ in range(2))
        self.common_head, self.salient_head = (self._projector(width) for _ in range(2))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.common_head(self.common(x)), self.salient_head(self.salient(x))

    @staticmethod
    def _encoder(width: int) -> nn.Sequential:
        kept = CONFIG["kept"]
        return nn.Sequential(nn.Linear(kept, kept), nn.ReLU(), nn.Linear(kept, width))

    @staticmethod
    def _projector(width: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(width, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, width))
