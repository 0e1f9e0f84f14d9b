"""SimSiam (arXiv 2011.10566): a predictor foretells, from one view, what the same encoder makes of the other. There are
no negatives and no slow copy: the gradient stops at what is foretold."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from nearfar.methods.base import Batch, Method
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


class SimSiam(Method):
    """SimSiam over any model with `encode_image`; it trains through `project_image` where there is one.

    Views go through the encoder one by one, as in the released code: batch norm sees each by itself, which forbids
    chunks of a batch. Small views (multi-crop) foretell the large ones.

    Args:
        model: the image encoder to train; `.model` is what to evaluate and save. The predictor is the method's own.
        predictor_hidden: width of the predictor's hidden layer (paper: 512).
        stop_gradient: whether the gradient stops at what is foretold (paper); without, everything collapses.

    The batch has `views` `[V, B, 3, H, W]`. Logs `spread`, which the paper follows: 0 is collapse.

    Example:
        >>> from nearfar.models import image_encoder
        >>> model = image_encoder("micro-resnet", projector={"hidden": 32, "out": 16, "norm": "all"})
        >>> sorted(SimSiam(model, predictor_hidden=8)({"views": torch.randn(2, 4, 3, 32, 32)}))
        ['loss', 'spread']
    """

    views = "moco"
    n_views = 2
    validation_views = None

    def __init__(self, model: nn.Module, *, predictor_hidden: int = 512, stop_gradient: bool = True) -> None:
        super().__init__()
        self.model, self.stop_gradient = model, stop_gradient
        width = projected_dim(model)
        self.predictor = MLP(width, layers=2, hidden=predictor_hidden, out=width, norm="hidden")

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        large, small = views_of(batch)
        z = apart(partial(project, self.model), [*large, *small])
        p = apart(self.predictor, z)
        targets = [one.detach() if self.stop_gradient else one for one in z[: len(large)]]
        # -cos, the mean over both directions (equations 1 and 2).
        terms = [cosine_distance(one, other) - 1 for one, other in ordered_pairs(p, targets)]
        return {"loss": torch.stack(terms).mean(), "spread": spread(z[0])}
