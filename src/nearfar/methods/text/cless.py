"""CLESS (arXiv 2010.01061, of the authors of the survey arXiv 2102.12982): a text is held against labels that are texts
as well, first its own words, later its real labels, by one and the same head.

    m = MLP([t; l])     t: the text's vector, l: the mean of the label's word embeddings

    L = -1/(g+b) [ sum over g positives of log sigmoid(m) + sum over b negatives of log(1 - sigmoid(m)) ]

Nothing is changed in the texts, so that no word that turns a meaning round can be lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from nearfar.data.texts.label_texts_field import WORDS, LabelTexts
from nearfar.errors import UserError, at_least
from nearfar.losses.binary_nce import check_choices
from nearfar.methods.base import Batch, EmbeddingMethod

Objective = Literal["binary", "ranking"]
SPREAD = 0x1E3779B97F4A7C15
"""Odd, so that numbers of rows times it are far apart."""
LEAST = -1e30
"""The logit of a negative that there is not."""
ROUNDS = 8
"""How often a negative that is one of the text's own labels is drawn anew; then it is left out."""


class CLESS(EmbeddingMethod):
    """CLESS over a `LabelMatcher`, or a `TextEncoder`, which gets a fresh head.

    Args:
        model: what to train; `.model` is what to evaluate and save.
        labels: what a text's labels are: its own "words", without any labelling; "classes", the name of its class; or
            the records' column that holds a text, or several (`LabelTexts`). Train on words first, then load the model
            and train on its real labels: the head stays.
        positives: g, labels of a text that are held against it, at most; other ones each epoch.
        negatives: b, labels of other texts for each text. They are drawn from all labels of the batch, so that a label
            comes as often as in the batch; none is the text's own.
        objective: "binary" (CLESS) judges each label by itself: its logits have a zero, and any number of labels may
            be right. "ranking" holds each positive against the text's negatives (InfoNCE): its logits order labels.

    Logs `positive` and `negative`, the mean logits, and `ahead`, the share of negatives below a positive of their text.

    Raises:
        UserError: no such objective, numbers below 1, a model that is neither; in training, a batch without labels to
            hold against.

    Example:
        >>> from nearfar.data import Loader, Records
        >>> from nearfar.data.fields.usual import settings_of
        >>> from nearfar.models.language.label_matcher import label_matcher
        >>> texts = Records([{"text": text} for text in ("a red car", "two dogs", "rain at sea")])
        >>> method = CLESS(label_matcher("minilm"), positives=2, negatives=4)
        >>> reading = settings_of(method.model) | {"label_texts": method.label_texts}
        >>> batch = next(iter(Loader(texts, batch_size=3, **reading)))
        >>> sorted(method(batch))
        ['ahead', 'loss', 'negative', 'positive']
    """

    views = "none"
    reads = ("label_key",)

    def __init__(
        self,
        model: nn.Module,
        *,
        labels: str = WORDS,
        positives: int = 8,
        negatives: int = 32,
        objective: Objective = "binary",
    ) -> None:
        super().__init__()
        check_choices(objective=(objective, Objective))
        at_least(1, positives=positives, negatives=negatives)
        self.model = as_matcher(model)
        self.label_texts = LabelTexts(labels, positives)
        self.negatives, self.binary = negatives, objective == "binary"

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        return {"text": self.model.encode_text(batch["text"]), "label": self.model.encode_label(batch["label_text"])}

    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        text, label, own = embeddings["text"], embeddings["label"], batch["label_key"]
        count = len(label) // len(text)  # g
        real = own[:, :count] > 0  # [B, g]
        drawn, valid = draw_negatives(own, count, self.negatives)  # [B, b]
        near = self.model.match(text[:, None], label.unflatten(0, (-1, count))).float()
        far = self.model.match(text[:, None], label[drawn]).float()
        pairs = real.sum(1).clamp(min=1)
        if self.binary:
            each = (softplus(-near) * real).sum(1) + (softplus(far) * valid).sum(1)
            each = each / (real.sum(1) + valid.sum(1)).clamp(min=1)
        else:
            # A text without negatives is sure: a loss of 0.
            others = far.masked_fill(~valid, LEAST).logsumexp(1, keepdim=True)
            each = (softplus(others - near) * real).sum(1) / pairs
        texts = real.any(1)
        if self.training and not valid.any():
            raise UserError(
                "no text of a batch has a label that another has not: name the column of the labels (labels=...), or "
                "take larger batches"
            )
        below = (far[:, None] < near[..., None]) & real[..., None] & valid[:, None]
        held = (real[..., None] & valid[:, None]).sum()
        return {
            "loss": (each * texts).sum() / texts.sum().clamp(min=1),
            "positive": (near.detach() * real).sum() / real.sum().clamp(min=1),
            "negative": (far.detach() * valid).sum() / valid.sum().clamp(min=1),
            "ahead": below.sum() / held.clamp(min=1),
        }


def as_matcher(model: Any) -> Any:
    """A model with `match` and `encode_label`: `model` itself, or a `LabelMatcher` of a `TextEncoder`.

    Raises:
        UserError: it is neither.
    """
    if hasattr(model, "match") and hasattr(model, "encode_label"):
        return model
    from nearfar.models.language.label_matcher import LabelMatcher
    from nearfar.models.language.text_model import TextEncoder

    if not isinstance(model, TextEncoder):
        raise UserError(
            f"cless needs a model that matches texts with labels, and a {type(model).__name__} does not: make one with "
            "nearfar.models.label_matcher, in recipes model: {make: label_matcher}"
        )
    return LabelMatcher(model)


@torch.no_grad()
def draw_negatives(own: Tensor, count: int, negatives: int) -> tuple[Tensor, Tensor]:
    """Labels of other texts for each text, by how often the batch has them.

    The draw depends on `own` alone: it is the same on every process, and leaves the random state as it was.

    Args:
        own: `[B, K]` int64, keys of each text's labels, 0 for none; the first `count` are those that may be drawn.
        count: g.
        negatives: b.

    Returns:
        Numbers `[B, b]` int64 of labels, text by text, `count` a text; and which of them are none of the text's own,
        `[B, b]` bool.
    """
    keys = own[:, :count].flatten()
    pool = (keys > 0).nonzero().flatten()
    shape = (len(own), negatives)
    if not len(pool):
        return own.new_zeros(shape), torch.zeros(shape, dtype=torch.bool, device=own.device)
    generator = torch.Generator().manual_seed(int(keys.sum()) & (2**63 - 1))

    def draw() -> Tensor:
        return pool[torch.randint(len(pool), shape, generator=generator).to(own.device)]

    row = torch.arange(len(own), device=own.device)[:, None] * SPREAD  # a text's labels are numbers of their own
    labels_of_texts = own ^ row

    def is_own(drawn: Tensor) -> Tensor:
        return torch.isin(keys[drawn] ^ row, labels_of_texts)

    drawn = draw()
    for _ in range(ROUNDS):
        drawn = torch.where(is_own(drawn), draw(), drawn)
    return drawn, ~is_own(drawn)
