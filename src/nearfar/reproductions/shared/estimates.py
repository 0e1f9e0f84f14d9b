"""A difference between two arms with its uncertainty: between seeds, and between queries where their values are there.

What the interval is about follows from the data:

- **seeds**: each seed trains afresh. The spread of the paired differences over seeds holds all that a seed draws, its
  own test data included; resampling such queries on top would count them twice.
- **seeds and queries**: seeds share queries. Their spread says nothing of other queries, so the variance over groups of
  queries, by a bootstrap of whole groups, is added. What a query does in one seed only is in both: a little too wide.
- **queries**: nothing compared was trained on the seed. All queries are one sample, resampled by group.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearfar.errors import UserError, need
from nearfar.evaluation.measures.bootstrap import clusters, resample
from nearfar.reproductions.shared.claims import Claim
from nearfar.reproductions.shared.per_query import PerQuery

RESAMPLES = 2000


@dataclass(frozen=True)
class Part:
    """A part of the variance of a mean, with its degrees of freedom; whether more seeds make it smaller."""

    variance: float
    freedom: float
    falls: bool


@dataclass(frozen=True)
class Estimate:
    """A mean over `seeds` seeds and the parts of its variance."""

    mean: float
    seeds: int
    parts: tuple[Part, ...]
    about: str

    @property
    def error(self) -> float:
        """The standard error."""
        return math.sqrt(sum(part.variance for part in self.parts))

    @property
    def freedom(self) -> float:
        """Degrees of freedom by Satterthwaite: those of the one part where there is one."""
        below = sum(part.variance**2 / part.freedom for part in self.parts)
        return sum(part.variance for part in self.parts) ** 2 / below if below else self.parts[0].freedom

    def with_seeds(self, seeds: int) -> Estimate:
        """The same spread, measured with another number of seeds."""
        ratio = seeds / self.seeds
        parts = [Part(p.variance / ratio, (p.freedom + 1) * ratio - 1, True) if p.falls else p for p in self.parts]
        return Estimate(self.mean, seeds, tuple(parts), self.about)

    def interval(self, level: float) -> tuple[float, float]:
        """The two-sided interval that leaves `level` outside.

        >>> low, high = of_seeds([2.0, 4.0, 6.0, 8.0]).interval(0.05)
        >>> round(low, 3), round(high, 3)
        (0.891, 9.109)
        """
        half = quantile(level, self.freedom) * self.error
        return self.mean - half, self.mean + half

    def p(self, null: float) -> float:
        """Two-sided p-value of the mean being `null`."""
        if self.error == 0:
            return 1.0 if self.mean == null else 0.0
        return float(2 * special().stdtr(self.freedom, -abs(self.mean - null) / self.error))


def quantile(level: float, freedom: float) -> float:
    """Student's two-sided quantile at any degrees of freedom.

    >>> round(quantile(0.05, 2), 3), round(quantile(0.05, 100), 3)
    (4.303, 1.984)
    """
    return float(special().stdtrit(freedom, 1 - level / 2))


def special() -> Any:
    """scipy's distribution functions, as plain functions: those of `scipy.stats` are the same, and slow to call."""
    return need("scipy.special", "reproductions")


def of_seeds(values: Sequence[float]) -> Estimate:
    """The mean of one figure a seed. Differences below 1e-12 are rounding."""
    values = [round(value, 12) for value in values]
    if len(values) < 2:
        raise UserError("a spread over seeds needs at least 2 seeds")
    part = Part(statistics.variance(values) / len(values), len(values) - 1, True)
    return Estimate(round(statistics.fmean(values), 12), len(values), (part,), "seeds")


def difference(claim: Claim, record: Mapping[str, Any], seeds: Sequence[int]) -> Estimate:
    """How much better the claim's method is than its baseline, in the claimed direction."""
    return _better(claim, claim.method, claim.baseline, record, seeds)


def above_floor(claim: Claim, winner: str, record: Mapping[str, Any], seeds: Sequence[int]) -> Estimate:
    """How much better the arm `winner` is than the claim's floor."""
    assert claim.floor is not None
    return _better(claim, winner, claim.floor, record, seeds)


def _better(claim: Claim, arm: str, other: str | float, record: Mapping[str, Any], seeds: Sequence[int]) -> Estimate:
    runs = [record["runs"][str(seed)] for seed in seeds]

    def figure(run: Mapping[str, Any], name: str | float) -> float:
        if not isinstance(name, str):
            return float(name)
        try:
            return float(run["arms"][name][claim.metric])
        except KeyError:
            raise UserError(
                f"claim {claim.text!r}: no arm {name!r} with the metric {claim.metric!r} was measured; "
                f"there are: {', '.join(run['arms'])}"
            ) from None

    over_seeds = of_seeds([claim.sign * (figure(run, arm) - figure(run, other)) for run in runs])
    rows = [_by_query(claim, arm, other, record, run) for run in runs]
    if any(row is None for row in rows):
        if claim.over == "queries":
            raise UserError(f"claim {claim.text!r} is over queries, but an arm records no values of {claim.metric!r}")
        return over_seeds
    per_query = [row for row in rows if row is not None]
    values, group = np.concatenate([row.values for row in per_query]), np.concatenate([row.group for row in per_query])
    queries = _grouped(claim.sign * values, group)
    if claim.over == "queries":
        part = Part(queries.variance, queries.freedom, True)
        return Estimate(round(claim.sign * float(values.mean()), 12), len(runs), (part,), "queries")
    if sum(len(np.unique(row.group)) for row in per_query) == queries.freedom + 1:
        return over_seeds  # no query comes in two seeds
    parts = (*over_seeds.parts, queries)
    return Estimate(over_seeds.mean, len(runs), parts, "seeds and queries")


def _by_query(
    claim: Claim, arm: str, other: str | float, record: Mapping[str, Any], run: Mapping[str, Any]
) -> PerQuery | None:
    """The paired differences of one seed's queries; None where an arm has only the number."""

    def values(name: str) -> PerQuery | None:
        if claim.metric not in run.get("queries", {}).get(name, {}):
            return None
        named, packed = run["queries"][name][claim.metric]
        return PerQuery.unpacked(packed, record["queries"][named])

    mine = values(arm)
    if mine is None:
        return None
    if not isinstance(other, str) or (claim.constant and other == claim.baseline):
        number = float(other) if not isinstance(other, str) else float(run["arms"][other][claim.metric])
        return PerQuery(mine.values - number, mine.group)
    theirs = values(other)
    return None if theirs is None else mine - theirs


def _grouped(values: NDArray[np.float64], group: NDArray[np.int64]) -> Part:
    """The variance of the mean over other groups of queries, by drawing whole groups."""
    member, count = clusters(group, len(values))
    if count < 2:
        raise UserError("values of queries are of one group only: a spread needs at least 2 groups")
    sums, sizes = np.bincount(member, values, count), np.bincount(member, minlength=count).astype(np.float64)
    means = np.concatenate([w @ sums / (w @ sizes) for w in resample(count, RESAMPLES, seed=0)])
    # Drawing from n groups instead of all there are makes the spread too small by (n - 1) / n.
    return Part(float(means.var()) * count / (count - 1), count - 1, False)
