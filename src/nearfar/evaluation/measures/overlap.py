"""Intersection over union of predicted and true masks, class by class, over all pixels of a data set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from nearfar.evaluation.measures.bootstrap import clusters, resample


@dataclass(frozen=True)
class Overlaps:
    """Pixels by picture and class, `[N, K]` each: in both masks, in the predicted one, in the true one."""

    both: NDArray[np.float64]
    predicted: NDArray[np.float64]
    true: NDArray[np.float64]

    @classmethod
    def of(cls, predicted: Tensor, true: Tensor, classes: int) -> Overlaps:
        """Of `predicted` and `true` masks `[N, H, W]` long; pixels whose truth is negative do not count.

        >>> Overlaps.of(torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 1, -1]]]), 2).iou().tolist()
        [1.0, 1.0]
        """
        counted = true >= 0
        place = torch.arange(len(true))[:, None, None] * classes

        def count(mask: Tensor, where: Tensor) -> NDArray[np.float64]:
            numbers = (place.expand_as(mask) + mask.clamp_min(0))[where]
            return torch.bincount(numbers, minlength=len(mask) * classes).view(-1, classes).double().numpy()

        return cls(count(true, counted & (predicted == true)), count(predicted, counted), count(true, counted))

    @classmethod
    def joined(cls, parts: list[Overlaps]) -> Overlaps:
        """Those of all pictures of several parts."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("both", "predicted", "true")))

    def iou(self) -> NDArray[np.float64]:
        """`[K]`: pixels in both masks over those in either, over all pictures; NaN for a class that none has."""
        return _ratio(self.both.sum(0), self.predicted.sum(0), self.true.sum(0))

    def mean_iou(self) -> float:
        """The mean over the classes that the truth shows.

        >>> masks = torch.tensor([[[0, 0, 1, 1]]])
        >>> Overlaps.of(torch.zeros_like(masks), masks, 3).mean_iou()  # 2 / 4 and 0; the third is nowhere
        0.25
        """
        return float(self.iou()[self.true.sum(0) > 0].mean())

    def accuracy(self) -> float:
        """The share of pixels that are right."""
        return float(self.both.sum() / self.true.sum())

    def intervals(
        self, *, cluster: ArrayLike | None = None, seed: int = 0, resamples: int = 1000
    ) -> tuple[tuple[float, float], NDArray[np.float64]]:
        """95 % intervals over other pictures, by a bootstrap of whole clusters: of the mean IoU, and of each class's,
        `[2, K]`."""
        member, count = clusters(cluster, len(self.true))
        shown = self.true.sum(0) > 0
        tables = [
            np.stack([np.bincount(member, column, count) for column in table.T], axis=1)
            for table in (self.both, self.predicted, self.true)
        ]
        ious = np.concatenate(
            [_ratio(*(weights @ table for table in tables)) for weights in resample(count, resamples, seed)]
        )
        with np.errstate(invalid="ignore"):
            means = np.nanmean(ious[:, shown], axis=1)
        low, high = np.percentile(means, [2.5, 97.5])
        return (float(low), float(high)), np.nanpercentile(np.where(shown, ious, 0.0), [2.5, 97.5], axis=0)


def _ratio(both: NDArray, predicted: NDArray, true: NDArray) -> NDArray[np.float64]:
    either = predicted + true - both
    return np.divide(both, either, out=np.full_like(either, np.nan), where=either > 0)
