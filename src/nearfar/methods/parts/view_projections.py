"""The views of a batch through a model's projector, and how far their projections have collapsed."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nearfar.errors import UserError
from nearfar.methods.base import Batch


def views_of(batch: Batch, *, least: int = 2) -> list[Tensor]:
    """The views `[B, 3, H, W]` of a batch, float32, in order.

    Raises:
        UserError: there are fewer than `least`.
    """
    views = batch["views"] if "views" in batch else batch["image"][None]
    if len(views) < least:
        raise UserError(f"this method compares views of a picture, and the batch has {len(views)}: set n_views={least}")
    return list(views)


def project_together(model: Any, views: list[Tensor]) -> list[Tensor]:
    """The projections `[B, D]` of views `[B, 3, H, W]` float32, in the weights' dtype, through the model in one pass:
    batch norm sees the views together."""
    return list(project(model, torch.cat(views)).chunk(len(views)))


def project_apart(model: Any, views: list[Tensor]) -> list[Tensor]:
    """The projections `[B, D]` of views `[B, 3, H, W]` float32, in the weights' dtype, through the model one after the
    other: batch norm sees each view by itself."""
    return [project(model, view) for view in views]


def project(model: Any, pixels: Tensor) -> Tensor:
    """The projection `[B, D]` of pixels `[B, 3, H, W]` float32, in the weights' dtype; of a model without a projector
    its embedding."""
    return model.project_image(pixels) if hasattr(model, "project_image") else model.encode_image(pixels)


def spread(z: Tensor) -> Tensor:
    """The mean standard deviation of the dimensions of the unit rows of `z` `[B, D]`, floating point, times sqrt(D): 1
    where they spread evenly over the sphere, 0 where they collapse (SimSiam, arXiv 2011.10566, section 4.1). A scalar
    without gradient.

    >>> spread(torch.ones(4, 8)).item()
    0.0
    """
    z = F.normalize(z.detach().float(), dim=1)
    return z.std(dim=0, correction=0).mean() * math.sqrt(z.shape[1])
