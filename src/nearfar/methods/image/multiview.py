"""Contrast of any number of views in one term a sample: MV-InfoNCE and MV-DHEL (arXiv 2507.06979), and what they are
compared with."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nearfar import lookup
from nearfar.errors import UserError
from nearfar.losses import MVDHEL, MVInfoNCE, NTXent, PairwiseViews, PolyView
from nearfar.methods.base import Batch, EmbeddingMethod
from nearfar.methods.parts.view_projections import project, spread, together, views_of

Loss = Literal["mv_dhel", "mv_info_nce", "poly_view", "pairs"]
LOSSES: dict[str, Any] = {"mv_dhel": MVDHEL, "mv_info_nce": MVInfoNCE, "poly_view": PolyView, "pairs": PairwiseViews}
"""What `loss` may be. "pairs" is NT-Xent, its mean over all pairs of views, or of each view against the mean of the
others with the option `against: mean`."""


class MultiView(EmbeddingMethod):
    """MV-DHEL, MV-InfoNCE or a baseline over any model with `encode_image`; it trains through `project_image` where
    there is one. All views go through the model in one pass, as in the released code.

    A model that has `encode_text` as well, with texts in the batch, is trained on the text as one view more: another
    modality. MV-DHEL never compares a picture with the text of another sample, so that it learns retrieval by alignment
    alone: take "mv_info_nce" there.

    Args:
        model: the encoder to train; `.model` is what to evaluate and save.
        loss: "mv_dhel", "mv_info_nce", "poly_view" or "pairs".
        temperature: tau, fixed (paper: 0.5 on CIFAR and ImageNet-100, 0.1 on ImageNet). Tune it for each number of
            views.
        options: further arguments of the loss, such as `{"same_view_negatives": True}`, the authors' code of
            MV-InfoNCE, or `{"uniformity_weight": 0.25}`.
        exclude_duplicates: leave samples of one `group` out of each other's negatives, as where one text belongs to
            several pictures.

    The batch has `views` `[V, B, 3, H, W]`. Logs `spread` (see `nearfar.methods.parts.view_projections`). The loss of
    MV-DHEL may be negative and grows with V.

    Raises:
        UserError: no such loss or option.

    Example:
        >>> class Identity(nn.Module):
        ...     def encode_image(self, pixels): return pixels
        >>> out = MultiView(Identity())({"views": torch.eye(4).expand(3, 4, 4)})
        >>> round(out["loss"].item(), 6)  # 3 ln 3 - 1 / tau - ln 3
        0.197225
    """

    views = "simclr"
    n_views = 4
    validation_views = None
    reads = ("group",)

    def __init__(
        self,
        model: nn.Module,
        *,
        loss: Loss = "mv_dhel",
        temperature: float = 0.5,
        options: Mapping[str, Any] | None = None,
        exclude_duplicates: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = _loss(loss, temperature, dict(options or {}))
        if exclude_duplicates and loss == "pairs":
            raise UserError("exclude_duplicates=True: pairs of NT-Xent have no groups; take another loss")
        self.exclude_duplicates = exclude_duplicates

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        text = batch.get("text") if hasattr(self.model, "encode_text") else None
        large, _ = views_of(batch, least=2 if text is None else 1)
        views = together(partial(project, self.model), large)
        if text is not None:
            views.append(self.model.encode_text(text))
        return {f"view_{place}": z for place, z in enumerate(views)}

    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        views = torch.stack(list(embeddings.values()))
        groups = {"group": batch["group"]} if self.exclude_duplicates else {}
        return {"loss": self.loss(views, **groups), "spread": spread(views[0])}


def _loss(name: str, temperature: float, options: dict[str, Any]) -> nn.Module:
    kind = lookup.find("loss", name, LOSSES)
    taken = set(inspect.signature(kind).parameters) - {"temperature", "learnable", "loss", "backend"}
    lookup.check(f"option of {name}", options, sorted(taken))
    if name == "pairs":
        return PairwiseViews(NTXent(temperature, learnable=False), **options)
    return kind(temperature, learnable=False, **options)
