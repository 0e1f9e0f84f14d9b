"""CLIP (arXiv 2103.00020): the two-way softmax over pairs; the baseline of every image-text method here."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from nearfar.losses import InfoNCE
from nearfar.losses.temperature import RELEASED_BY_CLIP, Temperature
from nearfar.methods.base import Batch, EmbeddingMethod
from nearfar.methods.parts.pairs import embed_pairs
from nearfar.methods.parts.temperature_start import start_temperature


class CLIP(EmbeddingMethod):
    """CLIP over any model with `encode_image` and `encode_text`.

    Args:
        model: the dual encoder to train; `.model` is what to evaluate and save.
        temperature: initial temperature, learned on a log scale and kept within [0.01, 1]. None: the model's own, if
            it was trained before, else the paper's 0.07.
        learn_temperature: whether it is trained.
        label_smoothing: the paper has none.
        exclude_duplicates: leave samples of one `group` out of each other's negatives.

    Example:
        >>> import torch
        >>> class Identity(torch.nn.Module):
        ...     def encode_image(self, pixels, normalize=False): return pixels
        ...     def encode_text(self, tokens, normalize=False): return tokens
        >>> out = CLIP(Identity(), temperature=1.0)({"image": torch.eye(2), "text": torch.eye(2)})
        >>> round(out["loss"].item(), 6)
        0.313262
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        temperature: float | None = None,
        learn_temperature: bool = True,
        label_smoothing: float = 0.0,
        exclude_duplicates: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        start = start_temperature(model, temperature, 0.07, bounds=RELEASED_BY_CLIP)
        tau = Temperature(start, learnable=learn_temperature, bounds=RELEASED_BY_CLIP)
        self.loss = InfoNCE(tau, label_smoothing=label_smoothing)
        self.exclude_duplicates = exclude_duplicates

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        return embed_pairs(self.model, batch)

    def ring_losses(self) -> list[nn.Module]:
        return [self.loss] if self.loss.goes_round else []

    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        group = batch.get("group") if self.exclude_duplicates else None
        loss = self.loss(embeddings["image"], embeddings["text"], group=group)
        return {"loss": loss, "temperature": self.loss.temperature().detach()}
