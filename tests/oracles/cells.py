"""Near cells by loops in float64, from what was done to each view and nothing else."""

from __future__ import annotations

import math


def cell_centers(box, flip, grid):
    """Centres and diagonal of a crop `(left, top, width, height)`, in shares of the picture, then mirrored or not."""
    left, top, width, height = box
    rows, columns = grid
    centers = []
    for r in range(rows):
        for s in range(columns):
            x = (s + 0.5) / columns
            x = 1 - x if flip else x
            centers.append((left + x * width, top + (r + 0.5) / rows * height))
    return centers, math.hypot(width / columns, height / rows)


def near(q, k, threshold):
    """`[P][Q]` of 0 and 1, of two `(centers, diagonal)`."""
    (ones, one), (others, other) = q, k
    reach = max(one, other)
    return [[int(math.dist(a, b) / reach < threshold) for b in others] for a in ones]


def consistency(y, k, mask):
    """- the mean cosine over near pairs, of maps as nested lists of cells."""
    total, pairs = 0.0, 0
    for a, row in zip(y, mask, strict=True):
        for b, counts in zip(k, row, strict=True):
            if counts:
                total += sum(p * q for p, q in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))
                pairs += 1
    return -total / (pairs + 1e-6)


def contrast(q, k, mask, tau):
    """PixContrast of one picture."""
    ells = []
    for a, row in zip(q, mask, strict=True):
        if not any(row):
            continue
        terms = [
            math.exp(sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b)) / tau) for b in k
        ]
        ells.append(-math.log(sum(t for t, counts in zip(terms, row, strict=True) if counts) / sum(terms)))
    return sum(ells) / len(ells) if ells else 0.0
