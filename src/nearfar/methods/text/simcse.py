"""SimCSE (arXiv 2104.08821): a sentence must find itself, passed through the encoder once more with other dropout,
among the sentences of the batch; or its pair, among those and hard negatives."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from nearfar.errors import UserError
from nearfar.losses.alignment_uniformity import alignment
from nearfar.losses.first_view import FirstViewInfoNCE, NegativesOf
from nearfar.methods.base import Batch, EmbeddingMethod
from nearfar.methods.parts.view_projections import spread
from nearfar.methods.text.masked_words import MaskedWords, masked_loss
from nearfar.methods.text.sentence_views import (
    Head,
    check_apart,
    embed_sentences,
    hard_negatives,
    training_head,
    views_in,
)


class SimCSE(EmbeddingMethod):
    """SimCSE over any model with `encode_text`.

    On texts it is the paper's unsupervised form: the views of a sentence differ by the model's dropout alone. On pairs
    of texts (records with `text2`) it is the supervised one: `text` must find its `text2`; with hard negatives
    (`negative_text`), any number a record, those of all records are wrong for each. Only the first view asks.

    Args:
        model: the encoder to train; `.model` is what to evaluate and save.
        temperature: tau (paper: 0.05), fixed.
        copies: passes of each sentence where there are no pairs; of more than two, the first must find each other.
        head: "mlp", a layer and tanh that training alone has, as the paper's unsupervised models; "none" trains the
            embeddings themselves. The paper's supervised models keep their head: give the model a dense layer, and
            take "none".
        hard_negative_weight: added to the logit of a hard negative in its own row (paper: 0).
        negatives_for: whether a hard negative counts in "all" rows (paper), or in its "own" alone.
        exclude_duplicates: leave samples of one `group` out of each other's negatives. The paper does not.
        masked_language: weight of masked language modelling of the first texts, in a pass of its own, added to the
            contrast (paper: 0, or 0.1 for transfer tasks; CLEAR and DeCLUTR: 1). 0 leaves it out.

    `text_views` of the data makes pairs of texts alone: see `nearfar.data.texts.text_views`.

    Logs `alignment` of the first two views, and `spread` (see `nearfar.methods.parts.view_projections`). In validation,
    where nothing is dropped, the head is left out and the loss of plain texts says how far they spread.
    `contrastive` and `masked_language` are the two losses where there are both.
    Where `text_views` leaves words out, `negation_changed` is the share of texts whose negations changed.

    Raises:
        UserError: fewer than two copies, no such head; in training, a model whose passes do not differ.

    Example:
        >>> import torch
        >>> class Identity(nn.Module):
        ...     embed_dim = 4
        ...     def encode_text(self, tokens): return tokens
        >>> pairs = {"text": torch.eye(4), "text2": torch.eye(4)}
        >>> out = SimCSE(Identity(), head="none", temperature=1.0)(pairs)
        >>> round(out["loss"].item(), 6)  # log(e + 3) - 1
        0.743668
    """

    views = "none"
    text_pairs = True
    reads = ("group", "negative_count", "has_negative", "negation_changed")

    def __init__(
        self,
        model: nn.Module,
        *,
        temperature: float = 0.05,
        copies: int = 2,
        head: Head = "mlp",
        hard_negative_weight: float = 0.0,
        negatives_for: NegativesOf = "all",
        exclude_duplicates: bool = False,
        masked_language: float = 0.0,
    ) -> None:
        super().__init__()
        if copies < 2:
            raise UserError(f"copies={copies}: a sentence needs two passes at least")
        if not 0 <= masked_language < float("inf"):
            raise UserError(f"masked_language={masked_language}: a weight is 0 or above")
        self.model, self.copies = model, copies
        self.head = training_head(model.embed_dim, head)  # type: ignore[arg-type]
        self.loss = FirstViewInfoNCE(
            temperature, learnable=False, negative_weight=hard_negative_weight, negatives_for=negatives_for
        )
        self.exclude_duplicates = exclude_duplicates
        self.masked_language = masked_language
        self.masked = MaskedWords(model) if masked_language else None

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        embeddings = embed_sentences(self.model, batch, self.copies)
        if self.training:
            check_apart(views_in(embeddings), "text2" in batch)
            embeddings = {name: self.head(z) for name, z in embeddings.items()}
        if self.masked is not None:
            embeddings["masked"] = self.masked(self.model, batch["text"])
        return embeddings

    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        views = views_in(embeddings)
        group = batch.get("group") if self.exclude_duplicates else None
        loss = self.loss(views, group=group, **hard_negatives(embeddings, batch))
        out = {"loss": loss, "alignment": alignment(views[0].detach(), views[1].detach()), "spread": spread(views[0])}
        if "negation_changed" in batch:
            out["negation_changed"] = batch["negation_changed"].float().mean()
        if self.masked is not None:
            masked = masked_loss(embeddings["masked"])
            out |= {"contrastive": loss.detach(), "masked_language": masked.detach()}
            out["loss"] = loss + self.masked_language * masked
        return out
