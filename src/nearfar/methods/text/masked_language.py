"""Masked language modelling alone (BERT, arXiv 1810.04805): what contrastive pretraining is held against."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from nearfar.methods.base import Batch, EmbeddingMethod
from nearfar.methods.text.masked_words import MaskedWords, masked_loss


class MaskedLanguage(EmbeddingMethod):
    """An encoder tells which tokens of a text are hidden. Nothing is contrasted.

    Args:
        model: a `TextEncoder`, a `LabelMatcher`, or a model of texts and pictures of which the texts are trained;
            `.model` is what to evaluate and save.
        probability: the share of tokens that is hidden (paper: 0.15).

    The loss is the mean over the hidden tokens of the whole batch, however many processes share it.

    Raises:
        UserError: a model that gives no states of its tokens, or a tokenizer without a mask token.

    Example:
        >>> from nearfar.models import text_encoder
        >>> method = MaskedLanguage(text_encoder("minilm"))
        >>> sorted(method({"text": method.model.tokenize(["a red car", "two dogs"])}))
        ['loss']
    """

    views = "none"
    reads = ()

    def __init__(self, model: nn.Module, *, probability: float = 0.15) -> None:
        super().__init__()
        self.model = model
        self.masked = MaskedWords(model, probability=probability)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        return {"masked": self.masked(self.model, batch["text"])}

    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return {"loss": masked_loss(embeddings["masked"])}
