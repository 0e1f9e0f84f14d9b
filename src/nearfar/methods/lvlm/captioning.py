"""Learning to write captions of pictures: cross-entropy of each token after the picture and the tokens before it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nearfar.distributed import mean_weight
from nearfar.errors import UserError
from nearfar.methods.base import Batch, Method
from nearfar.methods.lvlm.token_weights import Reduction, weighted_next_token_loss


class Captioning(Method):
    """Next-token prediction (NTP) on captions, as vision-language models are pre-trained (LLaVA, arXiv 2304.08485):

        L = - mean over tokens of log P(t_i | picture, prompt, t_<i)

    over the tokens of all captions, their ends among them; picture and prompt have no loss. With several processes the
    mean is over the tokens of all of them, however long each process's captions are.

    Args:
        model: a `nearfar.models.VisionLanguageModel`; its frozen parts stay as they are.
        reduction: "tokens", or "captions" for the mean of each caption's own mean.

    The batch has `image` `[B, 3, S, S]` float32 and `text`, tokens `[B, L]` int64. Logs `token_loss`, the mean over
    tokens without weights: the figure to compare methods by and to choose by (`training.monitor: val_token_loss`).

    Raises:
        UserError: a model that writes no captions.

    Example:
        >>> import torch
        >>> from nearfar.data import train_tokenizer
        >>> from nearfar.models import vision_language_model
        >>> model = vision_language_model("tiny", tokenizer=train_tokenizer(["a red car", "a red cat"], 300))
        >>> batch = {"image": torch.rand(2, 3, 64, 64), "text": model.tokenize(["a red car", "a red cat"])}
        >>> sorted(Captioning(model)(batch))
        ['loss', 'token_loss']
    """

    views = "none"

    def __init__(self, model: Any, *, reduction: Reduction = "tokens") -> None:
        super().__init__()
        if not (hasattr(model, "caption") and hasattr(model, "likelihoods")):
            raise UserError(
                f"a {type(model).__name__} writes no captions: make a model with model.make=vision_language_model, or "
                "nearfar.models.vision_language_model(...)"
            )
        if reduction not in ("tokens", "captions"):
            raise UserError(f"reduction={reduction!r}: choose 'tokens' or 'captions'")
        self.model, self.reduction = model, reduction

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        likelihood, mask = self.model.likelihoods(self.model.picture_tokens(batch["image"]), batch["text"])
        return self.losses(likelihood, mask, self.token_weights(batch, mask))

    def losses(self, likelihood: Tensor, mask: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        """What `forward` returns, of the log-likelihood of each token `[B, T]`, floating point, where `mask` `[B, T]`
        bool says that there is one, and their `weights` `[B, T]`."""
        loss = weighted_next_token_loss(likelihood, mask, weights, reduction=self.reduction)
        plain = weighted_next_token_loss(likelihood.detach(), mask)
        if self.training:  # the mean over the tokens, or captions, of all processes
            loss = loss * mean_weight(mask.sum() if self.reduction == "tokens" else mask.any(1).sum())
            plain = plain * mean_weight(mask.sum())
        return {"loss": loss, "token_loss": plain}

    def token_weights(self, batch: Batch, mask: Tensor) -> Tensor | None:
        """The weight of each token `[B, T]` of the batch, floating point, where `mask` `[B, T]` bool says that there is
        one; None: all 1."""
        return None
