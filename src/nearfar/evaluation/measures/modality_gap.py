"""How far apart pictures and their texts lie in a shared space, beside how far apart texts lie (arXiv 2203.02053)."""

from __future__ import annotations

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import normalize

from nearfar.errors import UserError


def modality_gap(image: Tensor | ArrayLike, text: Tensor | ArrayLike) -> dict[str, float]:
    """The gap between pictures and texts that are pairs, row by row.

    Args:
        image, text: `[N, D]`, floating point, of any length; they are scaled to unit length.

    Returns:
        `paired_cosine`, the mean cosine of a picture and its own text; `unpaired_cosine`, of a picture and another's
        text; `text_cosine` and `image_cosine`, of two different texts, and pictures; `centroid_distance`, between the
        mean picture and the mean text. Where `paired_cosine` is below `text_cosine`, a text lies nearer to any other
        text than to its picture: there a head that was trained on texts needs help on pictures (CLOSE, arXiv
        2211.09778).

    Raises:
        UserError: no pairs, or fewer than two.

    >>> modality_gap(torch.eye(2), torch.eye(2))["paired_cosine"]
    1.0
    """
    x, y = (normalize(torch.as_tensor(side, dtype=torch.float64), dim=-1) for side in (image, text))
    if x.ndim != 2 or x.shape != y.shape or len(x) < 2:
        raise UserError(f"pictures {list(x.shape)} and texts {list(y.shape)} must be pairs, two or more: [N, D] each")
    own, n = (x * y).sum(1), len(x)

    def between(first: Tensor, second: Tensor, same: Tensor) -> float:
        """The mean cosine of rows of different numbers, where `same` are those of the same."""
        return float((first.sum(0) @ second.sum(0) - same.sum()) / (n * (n - 1)))

    return {
        "paired_cosine": float(own.mean()),
        "unpaired_cosine": between(x, y, own),
        "text_cosine": between(y, y, (y * y).sum(1)),
        "image_cosine": between(x, x, (x * x).sum(1)),
        "centroid_distance": float(torch.linalg.vector_norm(x.mean(0) - y.mean(0))),
    }
