"""Where a learned temperature starts: a model that was trained before goes on from its own."""

from __future__ import annotations

from typing import Any


def start_temperature(
    model: Any, stated: float | None, paper: float, *, bounds: tuple[float, float] | None = None
) -> float:
    """The temperature that a method starts with: the stated one; else the model's own, within `bounds`; else the
    paper's.

    >>> from types import SimpleNamespace
    >>> trained = SimpleNamespace(temperature=0.00999)
    >>> start_temperature(trained, None, 0.07, bounds=(0.01, 1.0)), start_temperature(trained, 0.2, 0.07)
    (0.01, 0.2)
    """
    if stated is not None:
        return stated
    own = getattr(model, "temperature", None)
    if own is None:
        return paper
    low, high = bounds or (0.0, float("inf"))
    return min(max(float(own), low), high)
