"""A metric as the values of its queries: what lets an interval speak of other queries, too."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class PerQuery:
    """Values of the queries of a metric that is their mean.

    Args:
        values: `[Q]`, hits or any figures.
        group: `[Q]` integers that name the queries: the same number is the same query, or another of its kind (caption
            of one picture), in every arm and every seed. Queries of one group are resampled together.

    >>> float(PerQuery([1, 0, 1, 1], [0, 1, 2, 3]))
    0.75
    """

    values: NDArray[np.float64] = field()
    group: NDArray[np.int64] = field()

    def __init__(self, values: ArrayLike, group: ArrayLike) -> None:
        values, group = np.asarray(values, dtype=np.float64), np.asarray(group, dtype=np.int64)
        if values.ndim != 1 or values.shape != group.shape or not len(values) or not np.isfinite(values).all():
            raise ValueError(f"a metric by query needs finite values and groups of one length, got {values.shape}")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "group", group)

    def __float__(self) -> float:
        return float(self.values.mean())

    def __sub__(self, other: PerQuery) -> PerQuery:
        """The difference, query by query.

        >>> float(PerQuery([1, 1], [0, 1]) - PerQuery([0, 1], [0, 1]))
        0.5
        """
        if not np.array_equal(self.group, other.group):
            raise ValueError("two metrics that are subtracted must have the same queries, in the same order")
        return PerQuery(self.values - other.values, self.group)

    def packed(self) -> tuple[str, str]:
        """Values and groups as texts: a digit a value where all are 0 or 1, else numbers with blanks between.

        >>> PerQuery([1, 0, 1], [7, 8, 9]).packed()
        ('101', '7 8 9')
        """
        whole = np.isin(self.values, (0.0, 1.0)).all()
        values = "".join("01"[int(v)] for v in self.values) if whole else _joined(f"{v:.6g}" for v in self.values)
        return values, _joined(str(g) for g in self.group)

    @staticmethod
    def unpacked(values: str, group: str) -> PerQuery:
        """What `packed` made.

        >>> PerQuery.unpacked("0.5 1 0", "7 8 9").values
        array([0.5, 1. , 0. ])
        """
        groups = [int(each) for each in group.split()]
        apart = values.split() if len(groups) == len(values.split()) else list(values)
        return PerQuery([float(each) for each in apart], groups)


def split(arms: Any) -> tuple[dict[str, dict[str, float]], dict[str, Any], dict[str, str]]:
    """Arms as they are recorded: the numbers; packed values, each with the name of its groups; the groups by name."""
    figures: dict[str, dict[str, float]] = {}
    queries: dict[str, dict[str, list[str]]] = {}
    named: dict[str, str] = {}
    for arm, metrics in arms.items():
        figures[arm] = {metric: float(value) for metric, value in metrics.items()}
        for metric, value in metrics.items():
            if isinstance(value, PerQuery):
                values, group = value.packed()
                name = sha256(group.encode()).hexdigest()[:8]
                named[name] = group
                queries.setdefault(arm, {})[metric] = [name, values]
    return figures, queries, named


def _joined(words: Iterable[str]) -> str:
    return " ".join(words)
