"""ALIGN (arXiv 2102.05918): a dual encoder trained from noisy image and alt-text pairs; scale makes up for noise.

What sets it apart from CLIP: label smoothing 0.1, a plain (not log) temperature that starts at 1, the sum of the two
directions, and queries that add a text to an image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import overload

from torch import Tensor, nn
from torch.nn.functional import normalize

from nearfar.losses import InfoNCE, Temperature
from nearfar.methods.base import Batch, EmbeddingMethod
from nearfar.methods.parts.pairs import embed_pairs
from nearfar.methods.parts.temperature_start import start_temperature


class ALIGN(EmbeddingMethod):
    """ALIGN over any model with `encode_image` and `encode_text`.

    Args:
        model: the dual encoder to train; `.model` is what to evaluate and save.
        temperature: initial sigma, a divisor. None: the model's own, if it was trained before, else the paper's 1.0.
        label_smoothing: eps, spread over the columns of the global batch (paper: 0.1).
        bounds: keeps sigma within them after each step. The paper leaves sigma free, which is the default; a large
            learning rate can then drive it through zero.
        exclude_duplicates: leave samples of one `group` out of each other's negatives. The paper does not.

    Logs `temperature`, the current sigma.

    Example:
        >>> import torch
        >>> class Identity(torch.nn.Module):
        ...     def encode_image(self, pixels, normalize=False): return pixels
        ...     def encode_text(self, tokens, normalize=False): return tokens
        >>> out = ALIGN(Identity())({"image": torch.eye(2), "text": torch.eye(2)})
        >>> round(out["loss"].item(), 6)  # 2 x 0.363262
        0.726523
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        temperature: float | None = None,
        label_smoothing: float = 0.1,
        bounds: tuple[float, float] | None = None,
        exclude_duplicates: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        start = start_temperature(model, temperature, 1.0, bounds=bounds)
        sigma = Temperature(start, parametrisation="divisor", bounds=bounds)
        self.loss = InfoNCE(sigma, directions="sum", label_smoothing=label_smoothing)
        self.exclude_duplicates = exclude_duplicates

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        return embed_pairs(self.model, batch)

    def ring_losses(self) -> list[nn.Module]:
        return [self.loss] if self.loss.goes_round else []

    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        x, y = embeddings["image"], embeddings["text"]
        group = batch.get("group") if self.exclude_duplicates else None
        return {"loss": self.loss(x, y, group=group), "temperature": self.loss.temperature().detach()}


def compose_query(image: Tensor, text: Tensor, *, weight: float = 1.0, sign: int = 1) -> Tensor:
    """ALIGN's composed query: `norm(x ± weight * y)` of unit image and text embeddings `[..., D]`.

    Args:
        image, text: embeddings `[..., D]`, floating point; brought to unit length here.
        weight: of the text against the image.
        sign: +1 adds the text ("this car, but red"), -1 takes it away.

    Example:
        >>> import torch
        >>> compose_query(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0]), sign=-1).tolist()
        [0.7071067690849304, -0.7071067690849304]
    """
    return normalize(normalize(image, dim=-1) + sign * weight * normalize(text, dim=-1), dim=-1)


@overload
def logit_scale(sigma: float) -> float: ...
@overload
def logit_scale(sigma: Tensor) -> Tensor: ...
def logit_scale(sigma: float | Tensor) -> float | Tensor:
    """ALIGN's divisor `sigma`, a number or a scalar float tensor, as CLIP's `logit_scale`: `-ln sigma`.

    >>> round(logit_scale(1 / 64), 4)
    4.1589
    """
    return -sigma.log() if isinstance(sigma, Tensor) else -math.log(sigma)
