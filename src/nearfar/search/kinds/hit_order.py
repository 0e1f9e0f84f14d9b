"""The order of hits."""

from __future__ import annotations

import numpy as np


def ordered(scores: np.ndarray, rows: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """The `top` best of candidates `[Q, C]`. The same order whatever found them, and however many queries came at once:
    of equal scores the first row."""
    order = np.lexsort((rows, -scores), axis=1)[:, :top]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
