"""NegCLIP (arXiv 2210.01936, section 4): CLIP whose batch also holds hard negative captions and hard images.

A batch of B items becomes

    X = [x_1..x_B, x_j1..x_jB]          2B images: each item's and one of its visual neighbours
    T = [t_1..t_B, t_j1..t_jB]          2B captions, row by row
    H = [h of each row of T]            2B hard captions: two units of the caption swapped

    loss = ( CE(s X [T;H]^T, y) + CE(s T X^T, y) ) / 2 ,   y = 0..2B-1.

Every hard caption is a negative of every image; no hard caption is ever a query, and a row without one has none in H.
Without hard images and captions this is CLIP bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from nearfar.losses import InfoNCE
from nearfar.losses.temperature import RELEASED_BY_CLIP, Temperature
from nearfar.methods.base import Batch, EmbeddingMethod
from nearfar.methods.parts.pairs import embed_pairs
from nearfar.methods.parts.temperature_start import start_temperature


class NegCLIP(EmbeddingMethod):
    """NegCLIP over any model with `encode_image` and `encode_text`, CLIP checkpoints included.

    Reads `negative_text` beside `image` and `text`: hard captions, made by
    :class:`nearfar.data.mining.swaps.CaptionSwapper`. Hard images are rows of the batch like others: a
    :class:`nearfar.data.PairedOrder` draws them. The three kinds of embeddings are gathered apart, so
    that several processes give the loss of the one big batch (the released code interleaves them).

    Args:
        model: the dual encoder to fine-tune; `.model` is what to evaluate and save.
        temperature: initial temperature, learned on a log scale and kept within [0.01, 1]. None goes on from the
            model's own (0.01 for OpenAI's CLIP), or from 0.07 where it has none.
        exclude_duplicates: leave samples of one `group` out of each other's negatives; neighbour images often share
            captions. The paper does not.

    Logs `temperature`.

    Example:
        >>> import torch
        >>> class Identity(torch.nn.Module):
        ...     def encode_image(self, pixels, normalize=False): return pixels
        ...     def encode_text(self, tokens, normalize=False): return tokens
        >>> eye = torch.eye(2)
        >>> out = NegCLIP(Identity(), temperature=1.0)({"image": eye, "text": eye, "negative_text": eye})
        >>> round(out["loss"].item(), 6)  # (1.0064089 + 0.3132617) / 2
        0.659835
    """

    reads = (*EmbeddingMethod.reads, "has_negative")

    def __init__(self, model: nn.Module, *, temperature: float | None = None, exclude_duplicates: bool = False) -> None:
        super().__init__()
        self.model = model
        start = start_temperature(model, temperature, 0.07, bounds=RELEASED_BY_CLIP)
        self.loss = InfoNCE(Temperature(start, bounds=RELEASED_BY_CLIP))
        self.exclude_duplicates = exclude_duplicates

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        return embed_pairs(self.model, batch)

    def ring_losses(self) -> list[nn.Module]:
        return [self.loss]

    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        hard, has_negative = embeddings.get("negative_text"), batch.get("has_negative")
        if hard is not None and has_negative is not None:
            hard = hard[has_negative.bool().repeat_interleave(len(hard) // len(has_negative))]
        loss = self.loss(
            embeddings["image"],
            embeddings["text"],
            negatives_b=hard if hard is not None and len(hard) else None,
            group=batch.get("group") if self.exclude_duplicates else None,
        )
        return {"loss": loss, "temperature": self.loss.temperature().detach()}
