"""The maps that `nearfar.adapt` tries on frozen features: each brings pictures and captions into one space."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nearfar.adaptation.frozen_features import FrozenFeatures
from nearfar.adaptation.ridge import KernelFeatures, LinearFeatures, RidgePath

PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
GAMMAS = (0.25, 0.5, 1.0, 2.0)
CENTRES, TRIAL_CENTRES = 2000, 1000
"""Known pictures that a kernel map holds, at most: at the end, and while settings are tried."""


@dataclass(frozen=True)
class Pairs:
    """Pictures and what the map has to bring them to.

    Attributes:
        x: `[V * P, W]` unit rows, P different pictures in V views.
        y: `[V * P, T]`, the mean of each picture's captions, about `centre`.
        centre: `[T]`, the mean caption.
    """

    x: Tensor
    y: Tensor
    centre: Tensor

    @classmethod
    def of(cls, features: FrozenFeatures) -> Pairs:
        """The pairs of some features. Rows of one and the same picture are one, with all their captions."""
        data = features.data
        picture = torch.arange(len(data)) if data.picture is None else data.picture
        _, place = picture.unique(return_inverse=True)
        first = torch.full((int(place.max()) + 1,), len(data)).scatter_reduce(0, place, torch.arange(len(data)), "amin")
        owner, count = place[data.image_of_text], len(first)
        total = torch.zeros(count, features.text.shape[1]).index_add(0, owner, features.text)
        captions = torch.bincount(owner, minlength=count)
        known = (captions > 0).nonzero()[:, 0]  # a picture without a caption teaches nothing
        mean = total[known] / captions[known, None]
        centre = mean.mean(0)
        x = features.image[:, first[known]].flatten(0, 1)
        return cls(x, (mean - centre).repeat(features.views, 1), centre)


@dataclass(frozen=True)
class LinearSetting:
    """A linear ridge map; `penalty` is a multiple of the mean variance along the vectors' directions."""

    penalty: float


@dataclass(frozen=True)
class KernelSetting:
    """A kernel ridge map: the kernel's scale as a multiple of the mean squared distance, and the penalty."""

    gamma: float
    penalty: float


Setting = LinearSetting | KernelSetting


class PictureMap(Protocol):
    """Pictures' summaries `[N, W]` to the captions' space `[N, T]`."""

    def __call__(self, x: Tensor) -> Tensor: ...


def linear_path(pairs: Pairs) -> Iterator[tuple[Setting, PictureMap]]:
    """The linear ridge maps of all penalties."""
    path = RidgePath(LinearFeatures.of(pairs.x), pairs.x, pairs.y)
    size = float(path.values.sum()) / min(pairs.x.shape)
    for penalty in PENALTIES:
        yield LinearSetting(penalty), _at(path, penalty * size)


def kernel_path(
    pairs: Pairs, *, gamma: float, centres: int = TRIAL_CENTRES, seed: int = 0
) -> Iterator[tuple[Setting, PictureMap]]:
    """The kernel ridge maps of one scale and all penalties."""
    path = RidgePath(KernelFeatures.of(pairs.x, gamma, centres=centres, seed=seed), pairs.x, pairs.y)
    for penalty in PENALTIES[:-1]:
        yield KernelSetting(gamma, penalty), _at(path, penalty)


def _at(path: RidgePath, penalty: float) -> PictureMap:
    return lambda x: path(x, penalty)
