"""SimCLR (arXiv 2002.05709): two augmented views of a picture find each other among all views of the batch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import combinations

import torch
from torch import Tensor, nn

from nearfar.losses import NTXent
from nearfar.methods.base import Batch, EmbeddingMethod
from nearfar.methods.parts.view_projections import Passes, passes, project, spread, views_of


class SimCLR(EmbeddingMethod):
    """SimCLR over any model with `encode_image`; it trains through `project_image` where there is one.

    Of more than two views, all pairs count alike; of small views (multi-crop) those with a large one.

    Args:
        model: the image encoder to train; `.model` is what to evaluate and save.
        temperature: tau (paper: 0.1 on ImageNet, 0.5 on CIFAR-10), fixed.
        normalise: whether batch norm normalises all views "together", in one pass, as the paper's released code does,
            or each view by itself, "apart", as lightly does. With gradient caching (`training.chunk`) it sees each
            chunk by itself.

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
    validation_views = None
    reads = ()

    def __init__(self, model: nn.Module, *, temperature: float = 0.1, normalise: Passes = "together") -> None:
        super().__init__()
        self.model = model
        self.passes = passes(normalise)
        self.loss = NTXent(temperature, learnable=False)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        large, small = views_of(batch)
        encode = partial(project, self.model)
        named = {f"view_{place}": z for place, z in enumerate(self.passes(encode, large))}
        return named | {f"small_view_{place}": z for place, z in enumerate(self.passes(encode, small))}

    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        pairs = [pair for pair in combinations(embeddings, 2) if pair[0].startswith("view_")]
        losses = [self.loss(embeddings[first], embeddings[second]) for first, second in pairs]
        return {"loss": torch.stack(losses).mean(), "spread": spread(embeddings["view_0"])}
