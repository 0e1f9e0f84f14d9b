"""The views of a batch through a model's projector, and how far their projections have collapsed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from nearfar import lookup
from nearfar.errors import UserError
from nearfar.methods.base import Batch

Views = list[Tensor]
"""Views of the same pictures `[B, 3, H, W]`, or their projections `[B, D]`."""

Passes = Literal["together", "apart"]
"""Whether views go through an encoder in one pass or one by one: batch norm normalises what goes together."""


def views_of(batch: Batch, *, least: int = 2) -> tuple[Views, Views]:
    """The views `[B, 3, H, W]` of a batch, float32, in order, and its small ones (multi-crop), if it has any.

    Raises:
        UserError: there are fewer than `least`, the small ones not counted.
    """
    views = batch["views"] if "views" in batch else batch["image"][None]
    if len(views) < least:
        raise UserError(f"this method compares views of a picture, and the batch has {len(views)}: set n_views={least}")
    return list(views), list(batch.get("small_views", ()))


def together(encode: Callable[[Tensor], Tensor], views: Views) -> Views:
    """The projections `[B, D]` of views `[B, 3, H, W]` of one size, floating point, in one pass of `encode`, that makes
    `[N, D]` of `[N, 3, H, W]`: batch norm sees the views together."""
    return list(encode(torch.cat(views)).chunk(len(views))) if views else []


def apart(encode: Callable[[Tensor], Tensor], views: Views) -> Views:
    """The projections `[B, D]` of views `[B, 3, H, W]`, floating point, in a pass of `encode`, which makes `[B, D]` of
    `[B, 3, H, W]`, each: batch norm sees each view by itself."""
    return [encode(view) for view in views]


def passes(normalise: Passes) -> Callable[[Callable[[Tensor], Tensor], Views], Views]:
    """`together` or `apart`, by its name: both take and give views in floating point.

    Raises:
        UserError: no such name.
    """
    return lookup.find("normalise", normalise, {"together": together, "apart": apart})


def project(model: Any, pixels: Tensor) -> Tensor:
    """The projection `[B, D]` of pixels `[B, 3, H, W]`, floating point; without a projector the embedding."""
    return model.project_image(pixels) if hasattr(model, "project_image") else model.encode_image(pixels)


def projected_dim(model: Any) -> int:
    """Width of the projections.

    Raises:
        UserError: the model does not say it.
    """
    width = getattr(model, "projected_dim", None) or getattr(model, "embed_dim", None)
    if not isinstance(width, int):
        raise UserError(f"a {type(model).__name__} does not say how wide its projections are: give it projected_dim")
    return width


def ordered_pairs(of_all: Sequence[Tensor], of_large: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Every view with every large view but itself, as SwAV compares its crops (arXiv 2006.09882), of `of_all` and
    `of_large`, lists of `[B, D]` in floating point: `of_all` has the large views first."""
    for place, one in enumerate(of_all):
        for other, large in enumerate(of_large):
            if place != other:
                yield one, large


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """The mean over rows of 1 - cos(a_i, b_i), of `a` and `b` `[B, D]` in floating point, a scalar.

    >>> cosine_distance(torch.eye(2), -torch.eye(2)).item()
    2.0
    """
    return 1 - F.cosine_similarity(a, b, dim=1).mean()


def spread(z: Tensor) -> Tensor:
    """The mean standard deviation of the dimensions of the unit rows of `z` `[B, D]`, floating point, times sqrt(D): 1
    where they spread evenly over the sphere, 0 where they collapse (SimSiam, arXiv 2011.10566, section 4.1). A scalar
    without gradient.

    >>> spread(torch.ones(4, 8)).item()
    0.0
    """
    return spread_of_unit(F.normalize(z.detach().float(), dim=1))


def spread_of_unit(z: Tensor) -> Tensor:
    """`spread` of unit rows `z` `[B, D]`, floating point, a scalar without gradient.

    >>> round(spread_of_unit(torch.eye(2)).item(), 4)  # each column is 1/2 from its mean, sqrt(1/2) as a norm
    0.7071
    """
    z = z.detach()
    # What `std` gives, which walks down the columns slowly.
    return torch.linalg.vector_norm(z - z.mean(0), dim=0).mean() * math.sqrt(z.shape[1] / len(z))
