"""Visual entailment and other classes of pairs, fine-tuned as in ALBEF (arXiv 2107.07651): an MLP on the fused summary,
with a momentum teacher's classes mixed into the labels.

    L = (1 - alpha) CE(labels) + alpha CE(teacher's classes)
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nearfar.errors import UserError
from nearfar.methods.base import Batch, Method
from nearfar.methods.parts.distillation import Distillation
from nearfar.models.fusion.fusion_classifier import FusionClassifier
from nearfar.models.fusion.fusion_model import FusionModel


class Entailment(Method):
    """Fine-tunes a classifier of pairs of picture and text. Needs batches with `label`.

    Args:
        model: a `FusionModel`, trained by ALBEF or TCL, say: its weights are copied into a `FusionClassifier`, which is
            `.model`; or such a classifier already.
        classes: how many (3: entailment, neutral, contradiction); a classifier keeps its own.
        momentum: of the teacher.
        alpha: the teacher's share of the targets (paper: 0.4); 0 does without a teacher.
        ramp_steps: steps over which alpha grows from 0 (paper: the first epoch).

    Logs `accuracy`, `alpha`. Raises `UserError` on batches without labels.
    """

    views = "none"  # a mirrored or cropped picture may belong to another class

    def __init__(
        self,
        model: FusionModel,
        *,
        classes: int = 3,
        momentum: float = 0.995,
        alpha: float = 0.4,
        ramp_steps: int = 0,
    ) -> None:
        super().__init__()
        self.model = model if isinstance(model, FusionClassifier) else FusionClassifier.of(model, classes=classes)
        self.distillation = (
            Distillation(self.model, momentum=momentum, alpha=alpha, ramp_steps=ramp_steps) if alpha else None
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        label = batch.get("label")
        if label is None or bool((label < 0).any()):
            raise UserError("entailment needs a label for each pair: name the column of labels, or filter the data")
        logits = self.model.classify(batch["image"], batch["text"])
        loss, alpha = cross_entropy(logits, label), 0.0
        if self.distillation is not None and (alpha := self.distillation.alpha_now()):
            with torch.no_grad():
                soft = self.distillation.teacher.module.classify(batch["image"], batch["text"]).softmax(1)
            loss = (1 - alpha) * loss + alpha * cross_entropy(logits, soft)
        accuracy = (logits.detach().argmax(1) == label).float().mean()
        return {"loss": loss, "accuracy": accuracy, "alpha": torch.tensor(alpha)}

    def after_step(self, step: int) -> None:
        super().after_step(step)
        if self.distillation is not None:
            self.distillation.after_step()
