"""Supervised contrast (arXiv 2004.11362): all views of all pictures of a class are positives of one another."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from nearfar import losses
from nearfar.methods.base import Batch, EmbeddingMethod
from nearfar.methods.parts.view_projections import Passes, passes, project, spread, views_of


class SupCon(EmbeddingMethod):
    """Supervised contrast over any model with `encode_image`; it trains through `project_image` where there is one.

    A picture whose `label` is negative has none: its own views alone are its positives, as in SimCLR. Without any
    labels two views give SimCLR's loss.

    Args:
        model: the image encoder to train; `.model` is what to evaluate and save.
        temperature: tau (paper: 0.1), fixed.
        normalise: whether batch norm normalises all views "together", in one pass, as the paper's released code does,
            or each view by itself, "apart".

    The batch has `views` `[V, B, 3, H, W]` and `label` `[B]`. Logs `spread`.

    Example:
        >>> class Identity(nn.Module):
        ...     def encode_image(self, pixels): return pixels
        >>> batch = {"views": torch.eye(2).expand(2, 2, 2), "label": torch.tensor([0, 1])}
        >>> round(SupCon(Identity(), temperature=1.0)(batch)["loss"].item(), 6)  # log(1 + 2 / e)
        0.551445
    """

    views = "simclr"
    n_views = 2
    validation_views = None
    reads = ("label",)

    def __init__(self, model: nn.Module, *, temperature: float = 0.1, normalise: Passes = "together") -> None:
        super().__init__()
        self.model = model
        self.passes = passes(normalise)
        self.loss = losses.SupCon(temperature, learnable=False)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        large, small = views_of(batch)
        encode = partial(project, self.model)
        views = [*self.passes(encode, large), *self.passes(encode, small)]
        return {f"view_{place}": z for place, z in enumerate(views)}

    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        label = batch["label"]
        own = -1 - torch.arange(len(label), device=label.device)
        z, label = torch.cat(list(embeddings.values())), label.where(label >= 0, own).repeat(len(embeddings))
        return {"loss": self.loss(z, label), "spread": spread(embeddings["view_0"])}
