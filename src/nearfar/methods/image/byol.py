"""BYOL (arXiv 2006.07733): a predictor foretells, from one view, what a slow copy of the encoder makes of the other.
There are no negatives."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from nearfar.data.batches.data_info import DataInfo
from nearfar.methods.base import Batch, Method
from nearfar.methods.parts.mean_teacher import MeanTeacher, Normalise, Statistics
from nearfar.methods.parts.view_projections import (
    apart,
    cosine_distance,
    ordered_pairs,
    project,
    projected_dim,
    spread,
    views_of,
)
from nearfar.models.image.projector import MLP


class BYOL(Method):
    """BYOL over any model with `encode_image`; it trains through `project_image` where there is one.

    Views go through encoder and slow copy one by one, as in the released code: batch norm sees each by itself, which
    forbids chunks of a batch. Small views (multi-crop) foretell the large ones.

    Args:
        model: the image encoder to train; `.model` is what to evaluate and save. The predictor is the method's own.
        momentum: the old share of the slow copy at the first step (paper: 0.996); it rises to 1 along a cosine.
        total_steps: the steps until it is 1; None: those of the run, or in a loop of your own it stays as it is.
        predictor_hidden: width of the predictor's hidden layer (paper: 4096).
        normalise: what batch norm in the slow copy normalises by: the statistics of its own "batch" (paper), or the
            "running" ones of the encoder.

    The batch has `views` `[V, B, 3, H, W]`. Logs `spread` (of the encoder's projections) and `momentum`.

    Example:
        >>> from nearfar.models import image_encoder
        >>> model = image_encoder("micro-resnet", projector={"hidden": 32, "out": 16, "norm": "hidden"})
        >>> sorted(BYOL(model, predictor_hidden=32)({"views": torch.randn(2, 4, 3, 32, 32)}))
        ['loss', 'momentum', 'spread']
    """

    views = "byol"
    n_views = 2
    validation_views = None

    def __init__(
        self,
        model: nn.Module,
        *,
        momentum: float = 0.996,
        total_steps: int | None = None,
        predictor_hidden: int = 4096,
        normalise: Normalise = "batch",
    ) -> None:
        super().__init__()
        self.model = model
        width = projected_dim(model)
        self.predictor = MLP(width, layers=2, hidden=predictor_hidden, out=width, norm="hidden")
        statistics: Statistics = "own" if normalise == "batch" else "copied"
        self.teacher = MeanTeacher(model, momentum, total_steps=total_steps, normalise=normalise, statistics=statistics)

    def begin(self, data: DataInfo) -> None:
        super().begin(data)
        self.teacher.total_steps = self.teacher.total_steps or data.steps

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        large, small = views_of(batch)
        z = apart(partial(project, self.model), [*large, *small])
        with self.teacher.teaching() as slow:
            z_slow = apart(partial(project, slow), large)
        q = apart(self.predictor, z)
        # 2 - 2 cos, summed over both directions (equations 2 and 3); of more pairs twice their mean.
        distances = [cosine_distance(one, other) for one, other in ordered_pairs(q, z_slow)]
        momentum = torch.tensor(self.teacher.momentum)
        loss = sum(distances[1:], distances[0]) * (4 / len(distances))
        return {"loss": loss, "spread": spread(z[0]), "momentum": momentum}

    def before_step(self) -> None:
        self.teacher.forget()

    def after_step(self, step: int) -> None:
        super().after_step(step)
        self.teacher.update()
