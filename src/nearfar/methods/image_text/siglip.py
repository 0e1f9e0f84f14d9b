"""SigLIP (arXiv 2303.15343): each image-text pair is its own yes or no question; no softmax over the batch."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from nearfar.losses import SigmoidLoss
from nearfar.methods.base import Batch, EmbeddingMethod
from nearfar.methods.parts.pairs import embed_pairs
from nearfar.methods.parts.temperature_start import start_temperature


class SigLIP(EmbeddingMethod):
    """SigLIP over any model with `encode_image` and `encode_text`.

    Args:
        model: the dual encoder to train; `.model` is what to evaluate and save.
        temperature, bias: initial values, both learned. None: the model's own, if it was trained before, else the
            paper's 0.1 and -10.
        share_duplicates: count samples of one `group` as positives of each other.

    Example:
        >>> import torch
        >>> class Identity(torch.nn.Module):
        ...     def encode_image(self, pixels, normalize=False): return pixels
        ...     def encode_text(self, tokens, normalize=False): return tokens
        >>> out = SigLIP(Identity(), temperature=1.0, bias=0.0)({"image": torch.eye(2), "text": torch.eye(2)})
        >>> round(out["loss"].item(), 6)
        1.006409
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        temperature: float | None = None,
        bias: float | None = None,
        share_duplicates: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        own = getattr(model, "bias", None)
        first = bias if bias is not None else -10.0 if own is None else float(own)
        self.loss = SigmoidLoss(start_temperature(model, temperature, 0.1), first)
        self.share_duplicates = share_duplicates

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        return embed_pairs(self.model, batch)

    def ring_losses(self) -> list[nn.Module]:
        return [self.loss]

    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        group = batch.get("group") if self.share_duplicates else None
        loss = self.loss(embeddings["image"], embeddings["text"], group=group)
        logs = {"temperature": self.loss.temperature().detach(), "bias": self.loss.bias.detach()}
        return {"loss": loss, **logs}

    def learned(self) -> dict[str, float]:
        return {**super().learned(), "bias": self.loss.bias.item()}
