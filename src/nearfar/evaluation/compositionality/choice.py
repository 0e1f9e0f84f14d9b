"""Multiple choice: one image, K captions, which is the true one? Exact scoring, fair to ties."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nearfar.evaluation.measures.bootstrap import mean_interval
from nearfar.evaluation.measures.result import Metric, Result


@dataclass(frozen=True)
class ChoiceQuestion:
    """One question.

    Args:
        image: what `nearfar.data.pictures.images.load_image` takes, or a PIL image.
        captions: the options; `captions[0]` is the true one.
        group: what macro accuracy averages over: the relation, the pair of attributes.
        box: `(left, top, right, bottom)` in pixels to crop the image to first, or None.
        kinds: what is wrong with each of `captions[1:]`, where that has a name; empty otherwise.
        row: the record's place in its source, so that a report can show its image.
    """

    image: Any
    captions: tuple[str, ...]
    group: str = ""
    box: tuple[int, int, int, int] | None = None
    kinds: tuple[str, ...] = ()
    row: int | None = None

    @property
    def flawed(self) -> bool:
        """Whether a false caption is the true one again: such a case can only be tied."""
        return self.captions[0] in self.captions[1:]


def choice_accuracy(
    scores: Sequence[Sequence[float]],
    groups: Sequence[str],
    *,
    name: str = "choice",
    cluster: Sequence[int] | None = None,
    fewest: int = 1,
    ties: str = "fair",
    seed: int = 0,
) -> Result:
    """How often the true caption scores highest.

    Args:
        scores: for each case the scores of its options, the true one first.
        groups: for each case its group.
        name: of the result.
        cluster: for each case a number, equal for cases that are not independent (of one image); the bootstrap
            resamples whole clusters.
        fewest: groups of fewer cases are left out of the macro mean (ARO's attribution task counts pairs of attributes
            with at least 25).
        ties: "fair" gives a tie of t best options 1/t when the true one is among them, so that a bag of words, which
            ties exactly, scores at chance. "first" and "last" take the first or last of the best in the order of the
            released benchmark: true first gives such a model 100 %, true last 0 %.
        seed: of the bootstrap.

    Returns a `Result` with `accuracy` (the paper's: macro, the mean over groups), `micro` (over cases), `tied` (share
    of cases that a tie decides), and by group its accuracy.

    Example:
        >>> result = choice_accuracy([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], ["a", "b", "b"])
        >>> result["accuracy"], result["micro"]
        (0.625, 0.5)
    """
    if not len(scores):
        raise ValueError("no cases to score")
    if ties not in ("fair", "first", "last"):
        raise ValueError(f"ties must be 'fair', 'first' or 'last', got {ties!r}")
    right = np.array([_credit(np.asarray(s, dtype=np.float64), ties) for s in scores])
    chance = np.array([1 / len(s) for s in scores])
    tied = np.array([float((np.asarray(s) == np.max(s)).sum() > 1) for s in scores])
    group = np.asarray(groups)
    names, member, sizes = np.unique(group, return_inverse=True, return_counts=True)
    counted = sizes >= fewest
    if not counted.any():
        raise ValueError(f"no group has {fewest} cases; the largest has {sizes.max()}")
    # The macro mean as a weighted mean over cases, so that one bootstrap serves both.
    weight = np.where(counted, 1 / sizes, 0.0)[member] * len(group) / counted.sum()
    low, high = mean_interval(np.stack([right * weight, right], axis=1), cluster=cluster, seed=seed)
    metrics = {
        "accuracy": Metric(
            float((right * weight).mean()),
            float(low[0]),
            float(high[0]),
            float((chance * weight).mean()),
            int(counted[member].sum()),
            "%",
        ),
        "micro": Metric(float(right.mean()), float(low[1]), float(high[1]), float(chance.mean()), len(group), "%"),
        "tied": Metric(float(tied.mean()), n=len(group), unit="%"),
    }
    parts = {
        str(part): {
            "accuracy": Metric(
                float(right[member == i].mean()), chance=float(chance[member == i].mean()), n=int(sizes[i]), unit="%"
            )
        }
        for i, part in enumerate(names)
    }
    return Result(name, metrics, by={"group": parts}, details={"ties": ties, "fewest": fewest})


def _credit(scores: np.ndarray, ties: str) -> float:
    if np.isnan(scores).any():
        raise ValueError("a score is NaN")
    best = scores == scores.max()
    if ties == "fair":
        return float(best[0]) / best.sum()
    # Released order: the true caption stands first (order tasks) or last (attribution and relation).
    return float(best[0]) if ties == "first" else float(best[0] and best.sum() == 1)
