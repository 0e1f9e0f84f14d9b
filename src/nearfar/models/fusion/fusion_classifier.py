"""A fusion model that sorts pairs of picture and text into classes: visual entailment and similar tasks
(ALBEF, arXiv 2107.07651)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from nearfar.errors import UserError
from nearfar.models.fusion.fusion_encoder import FusionEncoder
from nearfar.models.fusion.fusion_model import FusionModel
from nearfar.models.towers.tower import ImageTower
from nearfar.modes import evaluating


class FusionClassifier(FusionModel):
    """A `FusionModel` with one head more: an MLP from the fused summary to `classes` logits, as ALBEF has it for visual
    entailment (entailment, neutral, contradiction). `FusionClassifier.of(trained)` goes on from a trained model.

    Attributes:
        classes: how many.
        classifier: width to width, ReLU, width to classes.
    """

    def __init__(self, image: ImageTower, text: FusionEncoder, *, classes: int = 3, **settings: Any) -> None:
        super().__init__(image, text, **settings)
        if classes < 2:
            raise UserError(f"classes={classes}: a classifier has at least 2")
        self.classes = classes
        self.classifier = nn.Sequential(nn.Linear(text.width, text.width), nn.ReLU(), nn.Linear(text.width, classes))

    @classmethod
    def of(cls, model: FusionModel, *, classes: int = 3) -> Self:
        """A classifier with a copy of a model's weights, adapters and frozen parts, and a fresh head."""
        return cls._grown(model, classes=classes)

    def classify(self, pixels: Tensor, tokens: Mapping[str, Tensor]) -> Tensor:
        """Logits `[B, classes]` of pairs: pixels `[B, 3, H, W]`, floating point, and tokens `[B, L]` int64, row by
        row."""
        fused = self.text.fuse(self.text_tokens(tokens), tokens.get("attention_mask"), self.image_tokens(pixels))
        return self.classifier(fused[:, 0])

    def judge(self, pictures: Any, texts: Sequence[str], *, batch_size: int = 64) -> Tensor:
        """Probabilities `[N, classes]` float32 of pairs, on the CPU: N pictures (PIL, or pixels `[N, 3, H, W]`) and N
        texts.

        Raises:
            UserError: not one picture a text.
        """
        if isinstance(texts, str) or len(pictures) != len(texts):
            raise UserError(f"{len(pictures)} pictures, {len(texts)} texts: give lists, with one picture a text")
        probabilities = [torch.zeros(0, self.classes)]
        with evaluating(self):
            for start in range(0, len(texts), batch_size):
                part = slice(start, start + batch_size)
                pixels = pictures[part] if isinstance(pictures, Tensor) else self.preprocess(pictures[part])
                tokens = {name: value.to(self.device) for name, value in self.tokenize(texts[part]).items()}
                probabilities.append(self.classify(pixels.to(self.device), tokens).softmax(1).cpu())
        return torch.cat(probabilities)

    def config(self) -> dict[str, Any]:
        return {**super().config(), "classes": self.classes}
