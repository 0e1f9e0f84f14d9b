"""Ridge maps from one space to another, worked out in closed form for every penalty at once.

`A = argmin |phi(X) A - Y|^2 + penalty |A|^2`, where `phi` is the vectors about their mean (linear ridge regression), or
the kernel values to a set of centres, made white (kernel ridge regression; with fewer centres than vectors that is
Nystrom's approximation, with all of them it is exact). Everything in float64, data in blocks: memory does not grow with
their number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nearfar.models.dual.blended import kernel

BLOCK = 1024
"""Vectors whose features are held at a time: with 2,000 centres in float64 16 MB, of which a step makes several."""

JITTER = 1e-7
"""Directions of the kernel matrix that are smaller than this, beside its largest, are left out: they are rounding."""


@dataclass(frozen=True)
class LinearFeatures:
    """`phi(x) = (x - mean) Q` of vectors `[N, W]`. Q `[W, F]` is a basis of the directions that N < W vectors span, in
    which a ridge map's weights lie, so that N and not W decides the cost; None else."""

    mean: Tensor
    basis: Tensor | None = None

    @classmethod
    def of(cls, x: Tensor) -> LinearFeatures:
        mean = x.mean(0, dtype=torch.double)
        few = len(x) < x.shape[1]
        return cls(mean, torch.linalg.qr((x.double() - mean).T).Q if few else None)

    def __call__(self, x: Tensor) -> Tensor:
        about_mean = x.double() - self.mean
        return about_mean if self.basis is None else about_mean @ self.basis

    def widen(self, weight: Tensor) -> Tensor:
        """The weights `[W, D]` for vectors about their mean, of weights `[F, D]` for features."""
        return weight if self.basis is None else self.basis @ weight


@dataclass(frozen=True)
class KernelFeatures:
    """`phi(x) = k(x, C) V e^(-1/2)`, with `k(C, C) = V e V^T`: inner products of features are kernel values."""

    centres: Tensor
    scale: float
    whiten: Tensor

    @classmethod
    def of(cls, x: Tensor, gamma: float, *, centres: int, seed: int = 0) -> KernelFeatures:
        """Centres drawn among unit vectors `x` `[N, W]`; the kernel's scale is `gamma` times the mean squared distance
        between vectors and centres."""
        drawn = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:centres]
        chosen = x[drawn.sort().values].double()
        scale = gamma * float(2 - 2 * x.mean(0, dtype=torch.double) @ chosen.mean(0))
        values, vectors = torch.linalg.eigh(kernel(chosen, chosen, scale))
        kept = values > JITTER * values[-1]
        return cls(chosen, scale, vectors[:, kept] / values[kept].sqrt())

    def __call__(self, x: Tensor) -> Tensor:
        return kernel(x.double(), self.centres, self.scale) @ self.whiten


class RidgePath:
    """The ridge maps of features to targets, for all penalties.

    Args:
        features: `phi`.
        x: vectors `[N, W]`.
        y: targets `[N, D]`, about their mean.

    >>> x = torch.randn(50, 4)
    >>> path = RidgePath(LinearFeatures.of(x), x, x @ torch.eye(4)[:, :2])
    >>> torch.dist(path.weight(1e-9).float(), torch.eye(4)[:, :2]).item() < 1e-4
    True
    """

    def __init__(self, features: LinearFeatures | KernelFeatures, x: Tensor, y: Tensor) -> None:
        self.features = features
        width = features(x[:1]).shape[1]
        gram, product = (
            torch.zeros(width, width, dtype=torch.double),
            torch.zeros(width, y.shape[1], dtype=torch.double),
        )
        for rows in _blocks(len(x)):
            phi = features(x[rows])
            gram += phi.T @ phi
            product += phi.T @ y[rows].double()
        self.values, self.vectors = torch.linalg.eigh(gram)
        self.values = self.values.clamp(min=0)
        self._product = self.vectors.T @ product

    def weight(self, penalty: float) -> Tensor:
        """`A` `[F, D]` float64."""
        return self.vectors @ (self._product / (self.values + penalty)[:, None])

    def __call__(self, x: Tensor, penalty: float) -> Tensor:
        """`phi(x) A` `[N, D]` float32."""
        weight = self.weight(penalty)
        return torch.cat([(self.features(x[rows]) @ weight).float() for rows in _blocks(len(x))])


def _blocks(count: int) -> Iterator[slice]:
    return (slice(first, first + BLOCK) for first in range(0, count, BLOCK))
