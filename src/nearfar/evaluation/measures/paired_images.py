"""Two pictures that look alike, two statements: does each statement pick its own picture? The score of MMVP-VLM (arXiv
2401.06209), by which MCL (arXiv 2402.11816) is measured."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nearfar.errors import UserError
from nearfar.evaluation.measures.result import Metric, Result


def paired_images(images: Tensor, texts: Tensor, categories: Sequence[str] | None = None) -> Result:
    """How often both statements of a pair are nearer to their own picture than to the other one.

    A statement picks the first picture if it is strictly nearer, as in the released code: a tie picks the second, so
    that a model for which all pictures are one scores 0. Chance is a quarter.

    Args:
        images: `[N, 2, D]` in floating point, the two pictures of each pair; of any length.
        texts: `[N, 2, D]`, their statements: `texts[i, j]` is of `images[i, j]`.
        categories: of each pair; `accuracy` is the mean over them. None: all are of one.

    Returns:
        A `Result` with `accuracy`, the mean over categories, and `statements`, the share of statements that pick their
        own picture; by category its `accuracy`.

    Raises:
        UserError: shapes that do not fit, no pair.

    >>> eye = torch.eye(2)[None]
    >>> paired_images(eye, eye)["accuracy"], paired_images(eye, eye.flip(1))["accuracy"]
    (1.0, 0.0)
    """
    if images.shape != texts.shape or images.ndim != 3 or images.shape[1] != 2 or not len(images):
        raise UserError(
            f"pairs of pictures {tuple(images.shape)} and statements {tuple(texts.shape)}: both must be [N, 2, D]"
        )
    names = ["all"] * len(images) if categories is None else list(categories)
    if len(names) != len(images):
        raise UserError(f"{len(names)} categories for {len(images)} pairs: one a pair")
    unit_images, unit_texts = (torch.nn.functional.normalize(each.double(), dim=-1) for each in (images, texts))
    cosine = unit_texts @ unit_images.mT  # [N, statement, picture]
    first = cosine[:, :, 0] > cosine[:, :, 1]
    own = torch.stack([first[:, 0], ~first[:, 1]], 1)
    right = own.all(1).double()
    parts = {name: right[torch.tensor([each == name for each in names])] for name in dict.fromkeys(names)}
    of_each = {name: Metric(float(part.mean()), chance=0.25, n=len(part), unit="%") for name, part in parts.items()}
    mean = sum(metric.value for metric in of_each.values()) / len(of_each)
    metrics = {
        "accuracy": Metric(mean, chance=0.25, n=len(right), unit="%"),
        "statements": Metric(float(own.double().mean()), chance=0.5, n=own.numel(), unit="%"),
    }
    by = {"category": {name: {"accuracy": metric} for name, metric in of_each.items()}}
    return Result("paired_images", metrics, by=by)
