"""Power of the two-sided t-test, and what follows: the effect that could be found, the seeds that are needed."""

from __future__ import annotations

import math

from nearfar.reproductions.shared.estimates import Estimate, Part, quantile, special

POWER = 0.8
"""The chance to find an effect that is as large as the one planned for."""


def power(effect: float, estimate: Estimate, level: float) -> float:
    """The chance that a true difference of `effect` beyond the margin, above 0, is decided in the right direction.

    >>> from nearfar.reproductions.shared.estimates import of_seeds
    >>> round(power(1.0, of_seeds([-1.0, 1.0] * 16), 0.05), 2)
    1.0
    """
    if estimate.error == 0:
        return 1.0
    freedom = estimate.freedom
    return float(1 - special().nctdtr(freedom, effect / estimate.error, quantile(level, freedom)))


def detectable(estimate: Estimate, level: float) -> float:
    """The smallest difference beyond the margin that would be decided with 80 % power."""
    freedom = estimate.freedom
    return estimate.error * float(special().nctdtrinc(freedom, 1 - POWER, quantile(level, freedom)))


def cautious(estimate: Estimate, confidence: float = 0.7) -> Estimate:
    """The estimate with the upper `confidence` bound of each part of its variance. A few seeds as often show too small
    a spread as too large a one, and planning on it as it is gives about 70 % power on average in place of 80 %."""

    def raised(part: Part) -> Part:
        below = float(special().chdtri(part.freedom, confidence))
        return Part(part.variance * part.freedom / below, part.freedom, part.falls)

    return Estimate(estimate.mean, estimate.seeds, tuple(map(raised, estimate.parts)), estimate.about)


def seeds_needed(estimate: Estimate, effect: float, level: float, *, least: int, most: int) -> int | None:
    """The smallest number of seeds, `least` to `most`, with 80 % power for `effect`; None where `most` is too few."""
    for seeds in range(least, most + 1):
        if power(effect, estimate.with_seeds(seeds), level) >= POWER:
            return seeds
    return None


def rounded(value: float) -> float:
    """Three significant digits."""
    return float(f"{value:.3g}") if math.isfinite(value) else value
