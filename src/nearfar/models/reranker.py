"""Re-ranking: a fast first stage keeps k candidates a query, a slow second look puts them in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nearfar.errors import UserError
from nearfar.models.fusion_model import FusionModel

PairScores = Callable[[Tensor, Tensor], Tensor]
"""Scores `[n]` of pairs, given their query rows `[n]` and gallery rows `[n]`, long."""


@dataclass(frozen=True)
class Reranked:
    """For N queries the k kept gallery items, best first: `index` `[N, k]` long and `score` `[N, k]`. `pairs` is how
    many pairs took the second look: what it cost."""

    index: Tensor
    score: Tensor
    pairs: int

    def matrix(self, similarity: Tensor) -> Tensor:
        """Scores `[N, M]` to rank by: the kept items by the second stage, then all others by the first."""
        lowest = self.score.min() if self.score.numel() else similarity.new_zeros(())
        below = similarity - similarity.max() + lowest.to(similarity.dtype) - 1
        return below.scatter(1, self.index, self.score.to(similarity.dtype))


@torch.no_grad()
def rerank(similarity: Tensor, pair_scores: PairScores, *, k: int = 128, batch_size: int = 256) -> Reranked:
    """Keep the k most similar gallery items of each query and put them in the order of `pair_scores`.

    Args:
        similarity: `[N, M]` of the first stage.
        pair_scores: the second stage, called with at most `batch_size` pairs at a time.
        k: candidates a query; more than M means all.

    >>> similarity = torch.tensor([[0.9, 0.8, 0.1]])
    >>> rerank(similarity, lambda query, item: item.float(), k=2).index
    tensor([[1, 0]])
    """
    if k < 1 or batch_size < 1:
        raise UserError(f"k={k}, batch_size={batch_size}: both are at least 1")
    queries, gallery = similarity.shape
    kept = similarity.topk(min(k, gallery), dim=1).indices  # (N, k), the first stage's order
    rows = torch.arange(queries, device=similarity.device).repeat_interleave(kept.shape[1])
    pairs = zip(rows.split(batch_size), kept.flatten().split(batch_size), strict=True)
    scores = [pair_scores(query, item).float().to(similarity.device) for query, item in pairs]
    score = (torch.cat(scores) if scores else similarity.new_zeros(0)).view_as(kept)
    # Stable, so that pairs the second stage cannot tell apart keep the first stage's order.
    order = score.argsort(dim=1, descending=True, stable=True)
    return Reranked(kept.gather(1, order), score.gather(1, order), kept.numel())


class MatchScorer:
    """The second look of a `FusionModel`, over pictures and texts that went through the towers once.

    >>> scorer = MatchScorer(model, pixels, tokens)                                     # doctest: +SKIP
    >>> rerank(similarity, scorer.image_to_text, k=64).index                            # doctest: +SKIP
    """

    def __init__(self, model: FusionModel, pixels: Tensor, tokens: Mapping[str, Tensor], *, batch_size: int = 64):
        self.model = model
        with torch.no_grad():
            self.images = torch.cat([model.image_tokens(part) for part in pixels.split(batch_size)])
            ids, mask = tokens["input_ids"].split(batch_size), tokens["attention_mask"].split(batch_size)
            texts = [model.text_tokens({"input_ids": i, "attention_mask": m}) for i, m in zip(ids, mask, strict=True)]
        self.texts, self.mask = torch.cat(texts), tokens["attention_mask"].to(self.images.device)

    def image_to_text(self, image: Tensor, text: Tensor) -> Tensor:
        """Matching logits `[n]` of pairs of rows: queries are pictures."""
        image, text = image.to(self.images.device), text.to(self.images.device)
        with torch.no_grad():
            return self.model.match(self.images[image], self.texts[text], self.mask[text])[:, 1]

    def text_to_image(self, text: Tensor, image: Tensor) -> Tensor:
        """Matching logits `[n]` of pairs of rows: queries are texts."""
        return self.image_to_text(image, text)
