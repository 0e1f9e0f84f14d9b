"""Learning to write the class and the words of a sound: cross-entropy of each token after those before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nearfar.errors import UserError
from nearfar.methods.base import Batch, EmbeddingMethod


class Transcription(EmbeddingMethod):
    """Trains a model of sounds to write the class of what was said, and then its words (L_ASR of COCONUT, arXiv
    2310.02699). With samples of earlier tasks among the batch it is experience replay (ER).

    Args:
        model: a `nearfar.models.SoundTranscriber`, or any model with its `encode`, `decode` and `sequences`.
        smoothing: of the targets.

    Raises:
        UserError: the model writes no words.

    Example:
        >>> import torch
        >>> from nearfar.data import train_tokenizer
        >>> from nearfar.models import sound_transcriber
        >>> model = sound_transcriber(tokenizer=train_tokenizer(["stop now"], 300), classes=2)
        >>> batch = {"audio": {"input_features": torch.rand(2, 40, 40)}, "text": model.tokenize(["stop now", "now"])}
        >>> Transcription(model)({**batch, "label": torch.tensor([0, 1])})["loss"].shape
        torch.Size([])
    """

    def __init__(self, model: Any, *, smoothing: float = 0.0) -> None:
        super().__init__()
        check_transcribes(model)
        if not 0 <= smoothing < 1:
            raise UserError(f"smoothing={smoothing}: choose a number from 0 to below 1")
        self.model, self.smoothing = model, smoothing

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        states, mask = self.model.encode(batch["audio"])
        return token_losses(self.model, states, mask, batch, smoothing=self.smoothing)

    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return {"loss": mean_token_loss(embeddings)}


def token_losses(
    model: Any, states: Tensor, mask: Tensor, batch: Batch, *, smoothing: float = 0.0
) -> dict[str, Tensor]:
    """Of each sound of a batch the summed cross-entropy of its class and words, `token_loss` `[B, 1]`, and their
    number, `tokens` `[B, 1]`, both floating point, of states `[B, L, W]` and mask `[B, L]` as the model's `encode`
    gives them."""
    before, following = model.sequences(batch["text"], batch["label"])
    logits = model.decode(states, mask, before).mT  # [B, words + classes, L]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.cross_entropy(logits, following, label_smoothing=smoothing, reduction="none")
    return {
        "token_loss": losses.sum(1, keepdim=True),
        "tokens": (following >= 0).sum(1, keepdim=True).to(losses),
    }


def mean_token_loss(embeddings: Mapping[str, Tensor]) -> Tensor:
    """The mean over all tokens of a batch, a scalar in their dtype, of `embeddings` as `token_losses` gives them, each
    `[B, 1]`, floating point."""
    return embeddings["token_loss"].sum() / embeddings["tokens"].sum()


def check_transcribes(model: Any) -> None:
    """Raise a `UserError` for a model that writes no words."""
    if not all(hasattr(model, name) for name in ("encode", "decode", "embed", "sequences")):
        raise UserError(
            f"a {type(model).__name__} writes no words of sounds: make a model with model.make=sound_transcriber, or "
            "nearfar.models.sound_transcriber(...)"
        )
