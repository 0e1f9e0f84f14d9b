"""ConSERT (arXiv 2105.11741): two views of a sentence, made of the embeddings of its tokens, find each other among all
views of the batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from nearfar.errors import UserError
from nearfar.losses.alignment_uniformity import alignment
from nearfar.losses.nt_xent import NTXent
from nearfar.methods.base import Batch, EmbeddingMethod
from nearfar.methods.parts.view_projections import spread
from nearfar.methods.text import token_views
from nearfar.methods.text.token_views import View, changed, check_view
from nearfar.modes import evaluating

Directions = Literal["sum", "mean"]


class ConSERT(EmbeddingMethod):
    """ConSERT over a model with a text tower, on texts without pairs or labels: NT-Xent (equation 1) of two views.

    Args:
        model: the encoder to train, with `text` (a `TextTower`), `tokenizer` and `encode_text`; `.model` is what to
            evaluate and save.
        first, second: what makes each view: "feature_cutoff" (released code, first), "shuffle" (released code,
            second), "token_cutoff", "dropout", "adversarial" or "none". One at most is "adversarial", against another
            that changes something. See `nearfar.methods.text.token_views`, with the risk of each for the meaning.
        temperature: tau (released code: 0.1), fixed.
        token_rate: share of the tokens that "token_cutoff" erases (paper: 0.15).
        feature_rate: share of the features that "feature_cutoff" erases (released code: 0.2).
        dropout_rate: chance of each number that "dropout" erases (paper: 0.2).
        noise: length of the step of "adversarial" in each token (released code: 1).
        model_dropout: keep the model's own dropout in training; released code: off.
        directions: the "sum" of the losses of both views (released code) or their "mean", which is NT-Xent.

    Logs `alignment` of the two views, and `spread` (see `nearfar.methods.parts.view_projections`). In validation
    nothing is changed: the loss says how far the texts spread.

    Raises:
        UserError: a view, rate or direction that is none; two views that nothing makes differ; in training, a model
            without a text tower.

    Example:
        >>> from nearfar.models import text_encoder
        >>> method = ConSERT(text_encoder("minilm")).train()
        >>> sorted(method({"text": method.model.tokenize(["a red car", "two dogs"])}))
        ['alignment', 'loss', 'spread']
    """

    views = "none"
    reads = ()

    def __init__(
        self,
        model: nn.Module,
        *,
        first: View = "feature_cutoff",
        second: View = "shuffle",
        temperature: float = 0.1,
        token_rate: float = 0.15,
        feature_rate: float = 0.2,
        dropout_rate: float = 0.2,
        noise: float = 1.0,
        model_dropout: bool = False,
        directions: Directions = "sum",
    ) -> None:
        super().__init__()
        self.made_by = (check_view("first", first), check_view("second", second))
        for name, share in (("token_rate", token_rate), ("feature_rate", feature_rate), ("dropout_rate", dropout_rate)):
            if not 0 < share < 1:
                raise UserError(f"{name}={share}: a share that is erased is above 0 and below 1")
        if not 0 < noise < float("inf"):
            raise UserError(f"noise={noise}: the length of a step is above 0")
        if directions not in get_args(Directions):
            raise UserError(f"directions={directions!r}: choose sum or mean")
        if self.made_by == ("none", "none") and not model_dropout:
            raise UserError("first=none, second=none: two equal views teach nothing; change one, or set model_dropout")
        if "adversarial" in self.made_by and {*self.made_by} <= {"adversarial", "none"}:
            raise UserError("an adversarial view works against another that is changed: choose another kind for that")
        self.model = model
        self.token_rate, self.feature_rate, self.dropout_rate = token_rate, feature_rate, dropout_rate
        self.noise, self.model_dropout, self.directions = noise, model_dropout, directions
        self.loss = NTXent(temperature, learnable=False)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        model: Any = self.model
        tokens: Mapping[str, Tensor] = batch["text"]
        if not self.training:
            z = model.encode_text(tokens)
            return {"view_0": z, "view_1": z}
        if self.model_dropout:
            return self._views(tokens)
        graph = torch.is_grad_enabled()
        with evaluating(model), torch.set_grad_enabled(graph):
            return self._views(tokens)

    def _views(self, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Both views; the adversarial one after the other, which it works against."""
        views: dict[str, Tensor] = {}
        for place in sorted((0, 1), key=lambda place: self.made_by[place] == "adversarial"):
            views[f"view_{place}"] = self._view(self.made_by[place], tokens, views)
        return dict(sorted(views.items()))

    def _view(self, made_by: View, tokens: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> Tensor:
        model: Any = self.model
        change: token_views.Change
        if made_by == "none":
            return model.encode_text(tokens)
        if made_by == "shuffle":
            return model.encode_text(token_views.shuffled(tokens, model.tokenizer))
        if made_by == "token_cutoff":
            change = lambda e: token_views.cut_tokens(e, tokens["attention_mask"].to(e.device), self.token_rate)  # noqa: E731
        elif made_by == "feature_cutoff":
            change = lambda e: token_views.cut_features(e, self.feature_rate)  # noqa: E731
        elif made_by == "dropout":
            change = lambda e: token_views.drop_numbers(e, self.dropout_rate)  # noqa: E731
        else:
            (other,) = before.values()
            change = token_views.away_from(other, lambda: model.encode_text(tokens), model, self.noise)
        with changed(model, change):
            return model.encode_text(tokens)

    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        a, b = embeddings["view_0"], embeddings["view_1"]
        loss = self.loss(a, b) * (2 if self.directions == "sum" else 1)
        return {"loss": loss, "alignment": alignment(a.detach(), b.detach()), "spread": spread(a)}
