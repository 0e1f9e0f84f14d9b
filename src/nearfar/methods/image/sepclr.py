"""SepCLR (arXiv 2402.11928): from a background and a target set, what both share and what only the target has."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nearfar.data.batches.data_info import DataInfo
from nearfar.errors import UserError
from nearfar.losses import SepCLRLoss
from nearfar.losses.common_salient import sepclr_terms
from nearfar.methods.base import Batch, Method
from nearfar.methods.parts.view_projections import views_of


class SepCLR(Method):
    """SepCLR over a `CommonSalientEncoder`: the records of one class are the background, all others the target.

    Labels say nothing else: which of the target's classes a sample has is not used. Each view goes through the model by
    itself, as in the released code, so that batch norm sees one view at a time.

    Args:
        model: the two encoders; `.model` is what to evaluate and save.
        background: the class of the background set, by its name in the data's `classes`, or the number of its label.
        variance, beta_salient, beta_infoless, lambda_jem, uniformity_weight: see `nearfar.losses.SepCLRLoss`; the
            released code's on CIFAR-MNIST.

    Logs the four terms before they are weighed, and `salience` of background and target: the mean squared length of the
    salient heads.

    Raises:
        UserError: data without labels, or without the class that is named.

    Example:
        >>> from nearfar.models import common_salient
        >>> model = common_salient(preset="micro-resnet", projector={"hidden": 16, "out": 4})
        >>> batch = {"views": torch.rand(2, 4, 3, 32, 32), "label": torch.tensor([0, 1, 0, 1])}
        >>> sorted(SepCLR(model, background=0)(batch))
        ['common', 'infoless', 'jem', 'loss', 'salience_background', 'salience_target', 'salient']
    """

    views = "sepclr"
    n_views = 2
    validation_views = None

    def __init__(
        self,
        model: Any,
        *,
        background: str | int = "background",
        variance: float = 0.5,
        beta_salient: float = 1000.0,
        beta_infoless: float = 1000.0,
        lambda_jem: float = 10.0,
        uniformity_weight: float = 2.0,
    ) -> None:
        super().__init__()
        if not hasattr(model, "project"):
            raise UserError(
                f"SepCLR trains two encoders, and a {type(model).__name__} is one: make the model by "
                "nearfar.models.common_salient (model.make: common_salient in a recipe)"
            )
        self.model, self.background = model, background
        self.loss = SepCLRLoss(
            variance,
            beta_salient=beta_salient,
            beta_infoless=beta_infoless,
            lambda_jem=lambda_jem,
            uniformity_weight=uniformity_weight,
        )

    def begin(self, data: DataInfo) -> None:
        super().begin(data)
        if isinstance(self.background, int):
            return
        if self.background not in (classes := data.classes or []):
            these = f"has {', '.join(classes[:9])}" if classes else "has no classes"
            raise UserError(
                f"SepCLR needs the class {self.background!r}, its background, and {data.name} {these}: say which it is "
                "by background=... (method.background)"
            )
        self.background = classes.index(self.background)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        if "label" not in batch or isinstance(self.background, str):
            raise UserError("SepCLR needs a label for each sample, that tells the background from the target")
        target = batch["label"] != self.background
        heads = [self.model.project(view) for view in views_of(batch)[0][:2]]
        common, salient = (torch.stack(views) for views in zip(*heads, strict=True))
        terms = sepclr_terms(common, salient, target, **self.loss.options)
        length = salient.detach().square().sum(2).mean(0)
        return {
            "loss": self.loss.weighed(terms),
            **{name: term.detach() for name, term in terms.items()},
            "salience_background": length[~target].sum() / (~target).sum().clamp_min(1),
            "salience_target": length[target].sum() / target.sum().clamp_min(1),
        }
