"""SimCLR (arXiv 2002.05709): two augmented views of a picture find each other among all views of the batch."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor, nn

from nearfar.losses import NTXent
from nearfar.methods.base import Batch, EmbeddingMethod
from nearfar.methods.parts.view_projections import project_together, spread, views_of


class SimCLR(EmbeddingMethod):
    """SimCLR over any model with `encode_image`; it trains through `project_image` where there is one.

    All views go through the model in one pass, as in the released code: batch norm sees them together. With gradient
    caching (`training.chunk`) it sees each chunk by itself. Of more than two views, all pairs count alike.

    Args:
        model: the image encoder to train; `.model` is what to evaluate and save.
        temperature: tau (paper: 0.1 on ImageNet, 0.5 on CIFAR-10), fixed.

    The batch has `views` `[V, B, 3, H, W]`. Logs `spread` (see `nearfar.methods.parts.view_projections`).

    Example:
        >>> class Identity(nn.Module):
        ...     def encode_image(self, pixels): return pixels
        >>> out = SimCLR(Identity(), temperature=1.0)({"views": torch.eye(2).expand(2, 2, 2)})
        >>> round(out["loss"].item(), 6)  # log(1 + 2 / e)
        0.551445
    """

    views = "simclr"
    n_views = 2
    reads = ()

    def __init__(self, model: nn.Module, *, temperature: float = 0.1) -> None:
        super().__init__()
        self.model = model
        self.loss = NTXent(temperature, learnable=False)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        projections = project_together(self.model, views_of(batch))
        return {f"view_{place}": z for place, z in enumerate(projections)}

    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        losses = [self.loss(a, b) for a, b in combinations(embeddings.values(), 2)]
        return {"loss": torch.stack(losses).mean(), "spread": spread(embeddings["view_0"])}
